"""The Laplace evidence of laws whose losses are losses of bits and counts of other numbers.

The numbers are made in float64, some rows at a time: the weight of a large count times the rounding
of its share would be an error of the evidence. So would be the rounding of a real number in units
of little noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.activation import activation_of, evidence_activation_of
from pyro_expfam.deq.cpu import laplace_levels as of_levels
from pyro_expfam.deq.cpu import laplace_sums as of_entries
from pyro_expfam.deq.cpu.laplace_sums import LaplaceRows, LaplaceSums
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.reduction import canonical_problem

ENTRIES_AT_ONCE = 1 << 20
"""Entries of rows whose numbers are in memory at once."""


class Part(NamedTuple):
    """Some rows in canonical form.

    Attributes:
        rows: which rows.
        problem: their problem in canonical form, in float64.
        sign: the sign of its latents.
        constant: the losses of the rows less their canonical losses, ``(N,)``.
    """

    rows: slice
    problem: LatentProblem
    sign: float
    constant: Tensor


def is_reduced(problem: LatentProblem) -> bool:
    """Whether the numbers that the kernels read are made in float64, some rows at a time."""
    # The kernels are compiled for float64 alone.
    return problem.b.dtype != torch.float64 or _is_of_other_numbers(problem)


def _is_of_other_numbers(problem: LatentProblem) -> bool:
    """Whether losses are the losses of a canonical family of other numbers, or may be."""
    return problem.entries.statistic is None or activation_of(problem.family) is None


def _kernels(problem: LatentProblem) -> Any:
    return of_levels if problem.levels > 1 else of_entries


def laplace_rows(problem: LatentProblem, z: Tensor) -> LaplaceRows:
    """As :func:`pyro_expfam.deq.cpu.laplace_sums.laplace_rows`."""
    if not is_reduced(problem):
        return _kernels(problem).laplace_rows(problem, z)
    return _joined(
        [
            (part, _kernels(part.problem).laplace_rows(part.problem, part.sign * z[part.rows]))
            for part in parts_of(problem)
        ]
    )


def laplace_sums(
    problem: LatentProblem,
    z: Tensor,
    of_likelihood: Tensor,
    of_log_det: Tensor,
    with_parameters: bool = False,
) -> LaplaceSums:
    """As :func:`pyro_expfam.deq.cpu.laplace_sums.laplace_sums`."""
    if not is_reduced(problem):
        kernels = _kernels(problem)
        return kernels.laplace_sums(problem, z, of_likelihood, of_log_det, with_parameters)
    found = []
    for part in parts_of(problem):
        of_rows = (x[part.rows] for x in (of_likelihood, of_log_det))
        kernels = _kernels(part.problem)
        at = part.sign * z[part.rows]
        sums = kernels.laplace_sums(part.problem, at, *of_rows, with_parameters)
        # In canonical form the intercept has the sign of the latents.
        sums.coefficients[:, -1] *= part.sign
        sums.information[:, -1, :-1] *= part.sign
        sums.information[:, :-1, -1] *= part.sign
        found.append((part, sums))
    return LaplaceSums(
        _joined([(part, sums.rows) for part, sums in found]),
        torch.stack([sums.coefficients for _, sums in found]).sum(0),
        torch.stack([sums.information for _, sums in found]).sum(0),
        torch.stack([sums.parameters for _, sums in found]).sum(0),
    )


def parts_of(problem: LatentProblem) -> Iterator[Part]:
    """Some rows of a problem at a time, in canonical form."""
    size = max(1, ENTRIES_AT_ONCE // problem.num_features)
    for begin in range(0, problem.num_rows, size):
        rows = slice(begin, min(begin + size, problem.num_rows))
        exact = problem.rows(rows).double()
        is_other = _is_of_other_numbers(exact)
        form = exact.family.canonical_form(exact.y) if is_other else None
        reduced = None if form is None else canonical_problem(exact)
        constant = exact.y.new_zeros(len(exact.y))
        if form is not None and form.constant is not None:
            constant = exact.weighted(form.constant.expand(exact.y.shape)).sum(-1)
        if exact.family.kind == "beta":
            exact, constant = _in_log_odds(exact)
        yield Part(rows, *(reduced or (exact, 1.0)), constant)


def _in_log_odds(problem: LatentProblem) -> tuple[LatentProblem, Tensor]:
    """A table of proportions by their log odds, and the parts of the losses free of predictors."""
    y, activation = problem.y, evidence_activation_of(problem.family)
    assert activation is not None
    precision = torch.as_tensor(activation.size).to(y)
    of_failure = torch.log1p(-y)
    constant = torch.log(y) + of_failure - precision * of_failure - torch.lgamma(precision)
    return replace(problem, y=torch.logit(y)), problem.weighted(constant).sum(-1)


def _joined(parts: list[tuple[Part, LaplaceRows]]) -> LaplaceRows:
    """The numbers of all rows, with their own losses and latents."""
    joined = LaplaceRows(*(torch.cat(x) for x in zip(*(rows for _, rows in parts), strict=True)))
    constant = torch.cat([part.constant for part, _ in parts])
    # The sign is the same for all rows, or differs by what is large in them.
    u = torch.cat([part.sign * rows.u for part, rows in parts])
    return joined._replace(loss=joined.loss + constant, u=u)
