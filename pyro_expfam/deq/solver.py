"""The interface of a solver of the equilibrium layer."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from pyro_expfam.deq.limits import check_positive, check_size
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution


class Solver(ABC):
    """A way to find the root of the score of every row of a table.

    A solver is a small immutable value that holds its settings. It sees one table at a time,
    without batch dimensions; the layer takes care of those and of gradients.

    Attributes:
        compiled: whether gradients through the root may use compiled kernels where there are any.
    """

    compiled: bool = True

    def _check_limits(self, tol: float | None, max_iter: int) -> None:
        """An error unless a tolerance is positive and iterations are a number of them."""
        if tol is not None:
            check_positive("tol", tol)
        check_size("max_iter", max_iter)

    @abstractmethod
    def solve(self, problem: LatentProblem, start: Tensor) -> Solution:
        """Latents of all rows of ``problem``, from latents ``start`` ``(N, l)``."""
