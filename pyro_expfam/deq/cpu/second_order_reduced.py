"""The second order of the evidence of laws whose losses are losses of bits and counts."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.cpu import second_order_sums as kernels
from pyro_expfam.deq.cpu.laplace_reduced import Part, is_reduced, parts_of
from pyro_expfam.deq.cpu.second_order_sums import SecondOrderRows, SecondOrderSums
from pyro_expfam.deq.problem import LatentProblem


def second_order_rows(problem: LatentProblem, z: Tensor) -> SecondOrderRows:
    """As :func:`pyro_expfam.deq.cpu.second_order_sums.second_order_rows`."""
    if not is_reduced(problem):
        return kernels.second_order_rows(problem, z)
    return _joined(
        [
            (part, kernels.second_order_rows(part.problem, part.sign * z[part.rows]))
            for part in parts_of(problem)
        ]
    )


def second_order_sums(problem: LatentProblem, z: Tensor, grad: Tensor) -> SecondOrderSums:
    """As :func:`pyro_expfam.deq.cpu.second_order_sums.second_order_sums`."""
    if not is_reduced(problem):
        return kernels.second_order_sums(problem, z, grad)
    found = []
    for part in parts_of(problem):
        sums = kernels.second_order_sums(part.problem, part.sign * z[part.rows], grad[part.rows])
        # In canonical form the intercept has the sign of the latents.
        sums.coefficients[:, -1] *= part.sign
        found.append((part, sums))
    return SecondOrderSums(
        _joined([(part, sums.rows) for part, sums in found]),
        torch.stack([sums.coefficients for _, sums in found]).sum(0),
    )


def _joined(parts: list[tuple[Part, SecondOrderRows]]) -> SecondOrderRows:
    """The numbers of all rows, with their own latents."""
    joined = SecondOrderRows(
        *(torch.cat(x) for x in zip(*(rows for _, rows in parts), strict=True))
    )
    return joined._replace(u=torch.cat([part.sign * rows.u for part, rows in parts]))
