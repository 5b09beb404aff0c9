"""The result of a solver, and the warning that rows did not converge."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.user_warning import warn_user


class ConvergenceWarning(UserWarning):
    """Some rows of a table did not reach the root within the solver's iterations."""


class Solution(NamedTuple):
    r"""Latents at the root of the score, with an account of how it was reached.

    Attributes:
        value: latents, ``(..., N, l)``.
        converged: whether each row reached the solver's tolerance, ``(..., N)``.
        num_iter: iterations that each row took, ``(..., N)``.
        residual: an upper bound of the score at ``value`` in the norm of the inverse
            information, :math:`\sqrt{g^\top H^{-1} g}`, ``(..., N)``. To first order it is the
            distance from the root in posterior standard deviations.
        is_unique: whether the root is the only one, ``(..., N)``. It is where the loss of the
            family is convex. Elsewhere a root is a stationary point, and there may be others. The
            layer sets it, whatever the solver.
    """

    value: Tensor
    converged: Tensor
    num_iter: Tensor
    residual: Tensor
    is_unique: Tensor = torch.tensor(True)

    def all_converged(self) -> bool:
        """Whether all rows reached the tolerance."""
        if self.converged.device.type == "cpu":
            # NumPy uses one thread. PyTorch's threads would spin afterwards and slow others down.
            return np.count_nonzero(self.converged.numpy()) == self.converged.numel()
        return bool(self.converged.all())


def unwritten(start: Tensor) -> Solution:
    """Uninitialised memory for the solution of rows with latents ``(N, l)`` like ``start``."""
    num_rows, device = len(start), start.device
    return Solution(
        value=torch.empty(start.shape, dtype=start.dtype, device=device),
        converged=torch.empty(num_rows, dtype=torch.bool, device=device),
        num_iter=torch.empty(num_rows, dtype=torch.int64, device=device),
        residual=torch.empty(num_rows, dtype=start.dtype, device=device),
    )


def _everywhere(flag: bool, like: Tensor) -> Tensor:
    # No memory is written: PyTorch's threads would spin afterwards and slow others down.
    known = _FLAGS[flag] if like.device.type == "cpu" else torch.tensor(flag, device=like.device)
    return known.expand(like.shape)


_FLAGS = {flag: torch.tensor(flag) for flag in (False, True)}


def with_uniqueness(solution: Solution, is_unique: bool) -> Solution:
    """A solution that says of all rows whether their root is the only one."""
    return solution._replace(is_unique=_everywhere(is_unique, solution.converged))


def unsolved(start: Tensor) -> Solution:
    """A solution to write into: no row of latents ``(..., N, l)`` like ``start`` has converged."""
    return Solution(
        value=start.clone(),
        converged=torch.zeros_like(start[..., 0], dtype=torch.bool),
        num_iter=torch.zeros_like(start[..., 0], dtype=torch.int64),
        residual=torch.full_like(start[..., 0], torch.inf),
        is_unique=_everywhere(True, start[..., 0]),
    )


def warn_unless_converged(solution: Solution, solver: object) -> None:
    """Warn of the rows that did not converge: how many, and how far from the root."""
    if solution.all_converged():
        return
    failed = ~solution.converged
    warn_user(
        f"{int(failed.sum())} of {failed.numel()} rows did not converge with {solver}: their "
        f"largest residual is {float(solution.residual[failed].max()):.3g} posterior standard "
        "deviations. Their latents are not at the root of the score.",
        ConvergenceWarning,
    )
