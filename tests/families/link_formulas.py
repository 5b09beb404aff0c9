"""Losses of bits and counts under a link, by formulas that the package does not share."""

import math

import torch
from torch import Tensor

from pyro_expfam.deq import LatentProblem
from pyro_expfam.links import Probit


def success_and_failure(link, eta: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the log probabilities of a success and of a failure."""
    if isinstance(link, Probit):
        return -torch.special.log_ndtr(eta), -torch.special.log_ndtr(-eta)
    rate = eta.exp()
    return -torch.log(-torch.expm1(-rate)), rate


def slopes(link, eta: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of both."""
    if isinstance(link, Probit):
        of_success, of_failure = (
            math.sqrt(2 / math.pi) / torch.special.erfcx(-x / math.sqrt(2)) for x in (eta, -eta)
        )
        return -of_success, of_failure
    rate = eta.exp()
    share = rate / torch.expm1(rate.clamp(1e-300, 700))
    return -torch.where(rate > 700, 0.0, torch.where(rate < 1e-300, 1.0, share)), rate


def over_entries(problem: LatentProblem, functions, z: Tensor) -> Tensor:
    """A function of both outcomes for every entry, with counts and weights."""
    exact = problem.double()
    of_success, of_failure = functions(problem.family.link, exact.predictor(z.double()))
    total, y = getattr(problem.family.base, "total_count", 1), exact.y
    value = torch.where(y > 0, y * of_success, 0.0)
    value = value + torch.where(y < total, (total - y) * of_failure, 0.0)
    if exact.weights is None:
        return value
    return torch.where(exact.weights > 0, exact.weights * value, 0.0)


def objective(problem: LatentProblem, z: Tensor) -> Tensor:
    """Minus the log posterior of the latents of every row, up to a constant."""
    losses = over_entries(problem, success_and_failure, z)
    return losses.sum(-1) + problem.double().prior.objective(z.double())


def score(problem: LatentProblem, z: Tensor) -> Tensor:
    """Minus its gradient."""
    exact = problem.double()
    return exact.prior.score(z.double()) - over_entries(problem, slopes, z) @ exact.W


def distance(problem: LatentProblem, z: Tensor, step: float = 1e-5) -> Tensor:
    """The score in the norm of the inverse information, which differences of scores give."""
    z = z.double()
    columns = []
    for k in range(z.shape[1]):
        along = torch.zeros_like(z)
        along[:, k] = step
        columns.append((score(problem, z - along) - score(problem, z + along)) / (2 * step))
    g = score(problem, z)
    information = torch.stack(columns, -1)
    return (g * torch.linalg.solve(information, g)).sum(-1).clamp(min=0).sqrt()
