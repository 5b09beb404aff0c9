"""Gaussian tables beside probabilistic PCA, which has closed forms (Tipping and Bishop, 1999)."""

from typing import NamedTuple

import pyro
import torch
from simulations import Setting, simulate
from torch import Tensor
from torch.distributions import MultivariateNormal

import pyro_expfam as pef

NUM_ROWS = 500
FAMILY = pef.families.Gaussian(1.0)


class PCAError(NamedTuple):
    """How far Gaussian tables are from the closed forms.

    Attributes:
        evidence: the largest relative difference of the log evidence of a row.
        intercept: the largest difference of a trained intercept.
        loading: the difference of a trained ``W W'``, relative to its norm: no rotation of the
            latents changes it.
        lost: what training lacks of the largest evidence, in nats a row.
    """

    evidence: float
    intercept: float
    loading: float
    lost: float


def pca_error(setting: Setting, num_rows: int = NUM_ROWS) -> PCAError:
    """Evidence at the loading that made a table, and training on it, in float64."""
    problem, _ = simulate(setting, num_rows)
    y, W, b = problem.y, problem.W, problem.b
    expected = marginal_likelihood(y, W, b)
    evidence = pef.log_evidence(FAMILY, y, W, b)
    best_W, best_b = maximum_likelihood(y, setting.latent_dim)
    found_W, found_b = trained(y, setting.latent_dim)
    best, found = best_W @ best_W.T, found_W @ found_W.T
    lost = marginal_likelihood(y, best_W, best_b) - marginal_likelihood(y, found_W, found_b)
    return PCAError(
        float(((evidence - expected) / expected).abs().max()),
        float((found_b - best_b).abs().max()),
        float((found - best).norm() / best.norm()),
        float(lost.mean()),
    )


def marginal_likelihood(y: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """The log density of rows: normal with the latents integrated out, of noise variance one."""
    return MultivariateNormal(b, W @ W.T + torch.eye(len(W)).to(W)).log_prob(y)


def maximum_likelihood(y: Tensor, latent_dim: int) -> tuple[Tensor, Tensor]:
    """Loading and intercept from the spectrum of the covariance, of noise variance one."""
    values, vectors = torch.linalg.eigh(torch.cov(y.T, correction=0))
    scale = (values[-latent_dim:] - 1.0).clamp(min=0.0).sqrt()
    return vectors[:, -latent_dim:] * scale, y.mean(0)


def trained(y: Tensor, latent_dim: int) -> tuple[Tensor, Tensor]:
    """Loading and intercept at the maximum of the evidence, as the package finds it."""
    pyro.clear_param_store()
    model = pef.ExpFamPCA(
        FAMILY, y.shape[1], latent_dim, loading_scale=None, intercept_scale=None
    ).double()
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, loss=pef.LaplaceEvidence())
    return guide.loading.detach(), guide.intercept.detach()
