"""The interface of a solver of the equilibrium layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
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

    def search_limits(self, dtype: torch.dtype) -> tuple[float, int]:
        """Tolerance and most iterations of a line search, for a problem with a term.

        Raises:
            ValueError: if the solver cannot solve such a problem, which is the default.
        """
        del dtype
        raise ValueError(
            "solver must be pyro_expfam.deq.FisherScoring where other sites of a model depend on "
            f"the latents of a block, got {self}"
        )

    def __repr__(self) -> str:
        """The class of a solver without settings, as in a warning of rows that did not converge."""
        return f"{type(self).__name__}()"

    def _check_limits(self, tol: float | None, max_iter: int) -> None:
        """An error unless a tolerance is positive and iterations are a number of them."""
        if tol is not None:
            check_positive("tol", tol)
        check_size("max_iter", max_iter)

    def at(self, tol: float, dtype: torch.dtype) -> Self:
        """The same solver, no more exact than ``tol``, in posterior standard deviations.

        A fit asks for inexact latents while its coefficients are far from their optimum. A solver
        without a tolerance stays as it is.

        Args:
            tol: the tolerance that suffices; 0 asks for the solver's own.
            dtype: the dtype of the latents, by which solvers choose their default tolerance.
        """
        del tol, dtype
        return self

    @abstractmethod
    def solve(self, problem: LatentProblem, start: Tensor) -> Solution:
        """Latents of all rows of ``problem``, from latents ``start`` ``(N, l)``."""
