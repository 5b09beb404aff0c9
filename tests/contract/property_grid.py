"""Tables over a wide grid of settings, solved by the layer and checked by formulas written here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import log_ndtr

from pyro_expfam.deq import FisherScoring, LatentProblem
from pyro_expfam.deq.layer import solve
from pyro_expfam.families import Bernoulli, Family, Gamma, NegativeBinomial
from pyro_expfam.links import ComplementaryLogLog, Probit

SCALES = (0.1, 0.5, 1.0, 2.0, 5.0)
PRECISIONS = (0.01, 0.1, 1.0, 10.0, 100.0)
LATENT_DIMS = (1, 2, 5, 10, 32)
DTYPES = (torch.float32, torch.float64)

ALLOWED = {torch.float32: 2e-2, torch.float64: 1e-7}
"""What rounding leaves of a score, in posterior standard deviations, at most."""

Loss = Callable[[Tensor, Tensor], Tensor]


class Law(NamedTuple):
    """A family, and its loss by a formula that the package does not share.

    Attributes:
        family: the family.
        loss: minus the log density of ``(eta, y)``, up to what is free of ``eta``.
    """

    family: Family
    loss: Loss


def probit_loss(eta: Tensor, y: Tensor) -> Tensor:
    """Minus the log normal distribution function."""
    return -log_ndtr((2 * y - 1) * eta)


def log_log_loss(eta: Tensor, y: Tensor) -> Tensor:
    """The rate for a zero, and minus the log of one minus its exponential for a one."""
    rate = torch.exp(eta)
    return torch.where(y > 0, -torch.log(-torch.expm1(-rate)), rate)


def negative_binomial_loss(size: float) -> Loss:
    """The loss with the log of the sum of mean and size."""
    log_size = torch.tensor(size, dtype=torch.float64).log()
    return lambda eta, y: (y + size) * torch.logaddexp(eta, log_size) - y * eta


def gamma_loss(shape: float) -> Loss:
    """The loss by log mean."""
    return lambda eta, y: shape * (eta + y * torch.exp(-eta))


LAWS = {
    "probit": Law(Bernoulli(link=Probit()), probit_loss),
    "complementary log-log": Law(Bernoulli(link=ComplementaryLogLog()), log_log_loss),
    "negative binomial, size 0.5": Law(NegativeBinomial(0.5), negative_binomial_loss(0.5)),
    "negative binomial, size 20": Law(NegativeBinomial(20.0), negative_binomial_loss(20.0)),
    "gamma, shape 0.5": Law(Gamma(0.5), gamma_loss(0.5)),
    "gamma, shape 20": Law(Gamma(20.0), gamma_loss(20.0)),
}


class Setting(NamedTuple):
    """One point of the grid."""

    scale: float
    precision: float
    latent_dim: int
    dtype: torch.dtype


class Outcome(NamedTuple):
    """What became of the rows of one table.

    Attributes:
        rows: how many there are.
        converged: how many are called converged.
        wrong: how many of these have a score left, by the formula.
        farthest: the largest score of a row that is called converged, in standard deviations.
        iterations: the most that a row took.
    """

    rows: int
    converged: int
    wrong: int
    farthest: float
    iterations: int


def grid() -> Iterator[Setting]:
    """All settings."""
    return (Setting(*x) for x in itertools.product(SCALES, PRECISIONS, LATENT_DIMS, DTYPES))


def outcome(law: Law, setting: Setting, num_rows: int = 25, num_features: int = 30) -> Outcome:
    """Draws a table, solves it, and checks the scores of its rows."""
    draw = {"dtype": torch.float64}
    W = setting.scale * torch.randn(num_features, setting.latent_dim, **draw)
    b = 0.5 * torch.randn(num_features, **draw)
    z = setting.precision**-0.5 * torch.randn(num_rows, setting.latent_dim, **draw)
    y = law.family.sample((z @ W.T + b).clamp(-12, 12))
    fields = [x.to(setting.dtype) for x in (y, W, b, torch.tensor(setting.precision))]
    problem = LatentProblem(law.family, *fields)
    found = solve(problem, FisherScoring())
    distance = score_by_formula(law.loss, problem, found.value)
    # A comparison with NaN is False.
    good = distance <= ALLOWED[setting.dtype]
    return Outcome(
        num_rows,
        int(found.converged.sum()),
        int((found.converged & ~good).sum()),
        float(distance[found.converged].max()) if bool(found.converged.any()) else 0.0,
        int(found.num_iter.max()),
    )


def score_by_formula(loss: Loss, problem: LatentProblem, z: Tensor) -> Tensor:
    """The score in the norm of the inverse information per row, by autograd in float64."""
    y, W, b = (x.double() for x in (problem.y, problem.W, problem.b))
    precision, z = problem.precision.double(), z.double()
    eta = (z @ W.T + b).requires_grad_()
    (slope,) = torch.autograd.grad(loss(eta, y).sum(), eta, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), eta)
    score = -(slope.detach() @ W) - precision * z
    eye = torch.eye(z.shape[1], dtype=torch.float64)
    information = torch.einsum("ni,ij,ik->njk", curvature, W, W) + precision * eye
    solved = torch.linalg.solve(information, score)
    return (score * solved).sum(-1).clamp(min=0).sqrt()
