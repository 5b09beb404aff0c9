"""The second order of the evidence of tables whose numbers are made some rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.cpu import second_order_sums as kernels
from pyro_expfam.deq.cpu.laplace_by_parts import joined, parts_of, reduced, total
from pyro_expfam.deq.cpu.laplace_sums import NO_OTHERS, OtherGradients
from pyro_expfam.deq.cpu.second_order_sums import SecondOrderRows, SecondOrderSums
from pyro_expfam.deq.problem import LatentProblem


def second_order_rows(problem: LatentProblem, z: Tensor) -> SecondOrderRows:
    """As :func:`pyro_expfam.deq.cpu.second_order_sums.second_order_rows`, in any dtype."""
    found: SecondOrderRows = joined(
        [kernels.second_order_rows(part, z[rows]) for rows, part in parts_of(problem)]
    )
    return found


def second_order_sums(
    problem: LatentProblem,
    z: Tensor,
    grad: Tensor,
    wanted: OtherGradients = NO_OTHERS,
) -> SecondOrderSums:
    """As :func:`pyro_expfam.deq.cpu.second_order_sums.second_order_sums`, in any dtype.

    The gradient of the offset is summed over the dimensions along which it broadcasts.
    """
    found = []
    for rows, part in parts_of(problem):
        sums = kernels.second_order_sums(part, z[rows], grad[rows], wanted)
        found.append(sums._replace(offset=reduced(sums.offset, part.offset)))
    by_row = problem.offset is not None and problem.offset.shape[-2] > 1
    return SecondOrderSums(
        joined([sums.rows for sums in found]),
        total([sums.coefficients for sums in found]),
        total([sums.parameters for sums in found]),
        (torch.cat if by_row else total)([sums.offset for sums in found]),
    )
