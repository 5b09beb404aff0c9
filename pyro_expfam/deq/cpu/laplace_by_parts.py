"""The Laplace evidence of tables whose numbers are made for the kernels, some rows at a time.

They are made in float64: so large a count times the rounding of its slope would be an error of the
evidence. So would be the rounding of a real number in units of little noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.deq.cpu import laplace_sums as kernels
from pyro_expfam.deq.cpu.laplace_sums import NO_OTHERS, LaplaceRows, LaplaceSums, OtherGradients
from pyro_expfam.deq.problem import LatentProblem

ENTRIES_AT_ONCE = 1 << 20
"""Entries of rows whose numbers are in memory at once."""


def laplace_rows(problem: LatentProblem, z: Tensor) -> LaplaceRows:
    """As :func:`pyro_expfam.deq.cpu.laplace_sums.laplace_rows`, of a problem in any dtype."""
    return joined([kernels.laplace_rows(part, z[rows]) for rows, part in parts_of(problem)])


def laplace_sums(
    problem: LatentProblem,
    z: Tensor,
    of_likelihood: Tensor,
    of_log_det: Tensor,
    wanted: OtherGradients = NO_OTHERS,
) -> LaplaceSums:
    """As :func:`pyro_expfam.deq.cpu.laplace_sums.laplace_sums`, of a problem in any dtype.

    The gradient of the offset is summed over the dimensions along which it broadcasts.
    """
    found = []
    for rows, part in parts_of(problem):
        sums = kernels.laplace_sums(part, z[rows], of_likelihood[rows], of_log_det[rows], wanted)
        found.append(sums._replace(offset=reduced(sums.offset, part.offset)))
    by_row = problem.offset is not None and problem.offset.shape[-2] > 1
    return LaplaceSums(
        joined([sums.rows for sums in found]),
        total([sums.coefficients for sums in found]),
        total([sums.information for sums in found]),
        total([sums.parameters for sums in found]),
        (torch.cat if by_row else total)([sums.offset for sums in found]),
    )


def parts_of(problem: LatentProblem) -> Iterator[tuple[slice, LatentProblem]]:
    """Some rows of a problem at a time, in float64, for which alone the kernels are compiled."""
    size = max(1, ENTRIES_AT_ONCE // problem.num_features)
    for begin in range(0, problem.num_rows, size):
        rows = slice(begin, min(begin + size, problem.num_rows))
        yield rows, problem.rows(rows).double()


def joined(parts: list[Any]) -> Any:
    """The numbers of all rows, from named tuples of the numbers of some."""
    return type(parts[0])(*(torch.cat(x) for x in zip(*parts, strict=True)))


def total(parts: list[Tensor]) -> Tensor:
    """The sum of the parts."""
    return torch.stack(parts).sum(0)


def reduced(gradient: Tensor, offset: Tensor | None) -> Tensor:
    """The gradient of an offset from the gradients of linear predictors, if there are any."""
    if offset is None or gradient.numel() == 0:
        return gradient
    return gradient.sum_to_size(offset.shape)
