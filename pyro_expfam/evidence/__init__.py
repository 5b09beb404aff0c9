"""The evidence of a table: the density of its rows with the latents integrated out."""

from pyro_expfam.evidence.adaptive import Draws
from pyro_expfam.evidence.determinant import mode_log_density
from pyro_expfam.evidence.importance import (
    ImportanceEvidence,
    importance_evidence,
    importance_latents,
    khat_threshold,
    resample_latents,
    sample_evidence,
)
from pyro_expfam.evidence.lanczos import LogDeterminant, log_determinant
from pyro_expfam.evidence.laplace import laplace_evidence
from pyro_expfam.evidence.quadrature import (
    evidence_with_error,
    integrate_evidence,
    quadrature_evidence,
)
from pyro_expfam.evidence.row_evidence import (
    evidence_at_root,
    log_evidence,
    posterior_covariance,
    posterior_mean,
    second_order_evidence,
)
from pyro_expfam.evidence.second_order import (
    is_beyond_expansion,
    second_order_covariance,
    second_order_mean,
    second_order_term,
)

__all__ = [
    "Draws",
    "ImportanceEvidence",
    "LogDeterminant",
    "evidence_at_root",
    "evidence_with_error",
    "importance_evidence",
    "importance_latents",
    "integrate_evidence",
    "is_beyond_expansion",
    "khat_threshold",
    "laplace_evidence",
    "log_determinant",
    "log_evidence",
    "mode_log_density",
    "posterior_covariance",
    "posterior_mean",
    "quadrature_evidence",
    "resample_latents",
    "sample_evidence",
    "second_order_covariance",
    "second_order_evidence",
    "second_order_mean",
    "second_order_term",
]
