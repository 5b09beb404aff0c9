"""Random problems of any family, and their posterior by the log density alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from all_families import ON_THE_REAL_LINE, one_of_each_kind
from quick_cases import name_of
from torch import Tensor

from pyro_expfam.deq import LatentProblem
from pyro_expfam.families import Family, Linked
from pyro_expfam.families.beta import open_unit_interval
from pyro_expfam.links import ReLU

NUM_ROWS, NUM_FEATURES = 7, 6
EVERY_FIELD = ("offset", "mask", "weights")


def has_kink(family: Family) -> bool:
    """Whether the loss has a kink, at which an optimum may lie that is no stationary point."""
    return isinstance(family, Linked) and isinstance(family.link, ReLU)


SMOOTH = [family for family in ON_THE_REAL_LINE if not has_kink(family)]
"""Families whose rows have a stationary point, which the solver must find."""


def every(
    families: list[Family],
    one_of_each: Callable[[list[Family]], list[Family]] = one_of_each_kind,
    **others: list[Any],
) -> pytest.MarkDecorator:
    """A test of each family, with all values of other arguments.

    Quick are the last family of each kind, whose parameters differ by column where there is one,
    or what else ``one_of_each`` chooses, and one value of each other argument in turn. The rest is
    slow. Numbers in the ids tell apart families of one name.
    """
    quickly = one_of_each(families)
    cases = []
    for number, family in enumerate(families):
        for places in itertools.product(*(range(len(values)) for values in others.values())):
            turns = [number % len(values) for values in others.values()]
            quick = family in quickly and list(places) == turns
            chosen = [values[k] for values, k in zip(others.values(), places, strict=True)]
            cases.append(
                pytest.param(
                    family,
                    *chosen,
                    marks=() if quick else pytest.mark.slow,
                    id="-".join(map(name_of, [number, family, *chosen])),
                )
            )
    return pytest.mark.parametrize(("family", *others), cases)


def widened(family: Family, dtype: torch.dtype = torch.float64) -> Family:
    """The family with as many columns as the tables here, in a dtype."""
    wide = {}
    for name, value in family.parameters.items():
        value = value.repeat(NUM_FEATURES // len(value))
        wide[name] = value.to(dtype) if value.is_floating_point() else value
    return family.with_parameters(wide)


def random_problem(
    family: Family,
    latent_dim: int = 2,
    given: tuple[str, ...] = EVERY_FIELD,
    dtype: torch.dtype = torch.float64,
    num_rows: int = NUM_ROWS,
) -> LatentProblem:
    """A table drawn from the model, with an offset, missing entries and weights."""
    draw = {"dtype": torch.float64}
    family = widened(family, torch.float64)
    W = 0.7 * torch.randn(NUM_FEATURES, latent_dim, **draw)
    b = 0.3 * torch.randn(NUM_FEATURES, **draw)
    offset = 0.4 * torch.randn(num_rows, 1, **draw) if "offset" in given else None
    eta = torch.randn(num_rows, latent_dim, **draw) @ W.T + b
    y = family.sample((eta if offset is None else eta + offset).clamp(-3, 3))
    weights = None
    if "weights" in given:
        weights = 0.5 + torch.rand(num_rows, NUM_FEATURES, **draw)
    if "mask" in given:
        present = (torch.rand(num_rows, NUM_FEATURES) < 0.8).double()
        weights = present if weights is None else weights * present
    problem = LatentProblem(family, y, W, b, torch.tensor(0.8, **draw), offset, weights)
    return in_dtype(problem, dtype)


def in_dtype(problem: LatentProblem, dtype: torch.dtype) -> LatentProblem:
    """The problem with its floating-point tensors in a dtype."""
    fields = {name: x.to(dtype) for name, x in problem.fields.items() if x.is_floating_point()}
    if problem.family.support is open_unit_interval:
        fields["y"] = fields["y"].clamp(max=1 - torch.finfo(dtype).eps / 2)
    return problem.with_fields(fields)


def log_joint(problem: LatentProblem, z: Tensor) -> Tensor:
    """The log density of every row and its latents, up to the normaliser of the prior."""
    eta = z @ problem.map.loading.mT + problem.b.unsqueeze(-2)
    if problem.offset is not None:
        eta = eta + problem.offset
    entries = problem.family.log_prob(problem.y, eta)
    if problem.weights is not None:
        # A missing entry may have a log density of any size.
        entries = torch.where(problem.weights > 0, entries * problem.weights, 0.0)
    return entries.sum(-1) - 0.5 * problem.precision * z.square().sum(-1)


def score_outside(problem: LatentProblem, z: Tensor) -> Tensor:
    """The score by autograd through the log densities, in float64."""
    exact = problem.double()
    at = z.detach().double().requires_grad_()
    return torch.autograd.grad(log_joint(exact, at).sum(), at)[0]


def information_outside(problem: LatentProblem, z: Tensor, distance: float = 1e-4) -> Tensor:
    """Minus the Hessian of every row by differences of scores, in float64."""
    exact, z = problem.double(), z.detach().double()
    columns = []
    for k in range(z.shape[-1]):
        step = torch.zeros_like(z)
        step[..., k] = distance
        difference = score_outside(exact, z - step) - score_outside(exact, z + step)
        columns.append(difference / (2 * distance))
    return torch.stack(columns, -1)


def distance_outside(problem: LatentProblem, z: Tensor) -> Tensor:
    """The score in the norm of the inverse information of every row, without the package.

    Where the loss is not convex, the prior's information stands for the information, which can
    only make the distance larger.
    """
    score = score_outside(problem, z)
    if not problem.family.is_convex:
        return score.norm(dim=-1) / problem.precision.double().sqrt()
    solved = torch.linalg.solve(information_outside(problem, z), score)
    return (score * solved).sum(-1).clamp(min=0).sqrt()


def differentiable_fields(problem: LatentProblem) -> dict[str, Tensor]:
    """Fields that a root is a smooth function of; observations where they are continuous."""
    fields = {name: x for name, x in problem.fields.items() if x.is_floating_point()}
    if problem.family.support.is_discrete:
        del fields["y"]
    return fields


def of_fields(
    problem: LatentProblem, function: Callable[[LatentProblem], Tensor]
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """A function of a problem as a function of its differentiable fields, and their values."""
    fields = differentiable_fields(problem)

    def of_tensors(*tensors: Tensor) -> Tensor:
        return function(problem.with_fields(dict(zip(fields, tensors, strict=True))))

    return of_tensors, tuple(x.clone().requires_grad_() for x in fields.values())
