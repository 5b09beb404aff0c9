"""Exponential-family PCA for Pyro.

PCA for tables of bits, counts, proportions and categories: a block :class:`ExpFamPCA` to write
into any Pyro model, guides whose latents are the root of the score (:class:`DEQMAPGuide`) or
normal around it (:class:`LaplaceGuide`), the equilibrium layer beneath them (:class:`DEQLayer`,
:func:`solve_latents`), the evidence of a table (:func:`log_evidence`), an account of what of a fit
can be trusted (:func:`check`), and the way from there to ArviZ (:func:`to_arviz`), with draws and
chains in one basis of the latents (:func:`align`) and pictures (:mod:`plots`).
"""

from pyro_expfam import (
    checks,
    coefficients,
    deq,
    diagnostics,
    distributions,
    evidence,
    families,
    guides,
    joint,
    plots,
)
from pyro_expfam.checks import check
from pyro_expfam.deq import ConvergenceWarning, DEQLayer, Solution, solve_latents
from pyro_expfam.diagnostics import align, concat_chains, to_arviz
from pyro_expfam.evidence import log_evidence
from pyro_expfam.guides import DEQMAPGuide, LaplaceGuide
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.selection import LatentDims, compare_latent_dims

__all__ = [
    "ConvergenceWarning",
    "DEQLayer",
    "DEQMAPGuide",
    "ExpFamPCA",
    "LaplaceEvidence",
    "LaplaceGuide",
    "LatentDims",
    "Solution",
    "align",
    "check",
    "checks",
    "coefficients",
    "compare_latent_dims",
    "concat_chains",
    "deq",
    "diagnostics",
    "distributions",
    "evidence",
    "families",
    "guides",
    "joint",
    "log_evidence",
    "plots",
    "solve_latents",
    "to_arviz",
]
