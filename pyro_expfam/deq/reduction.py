"""Problems whose losses are losses of a canonical family of other numbers."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import SUMMED, Gradients
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.step_rules import StepRules

if TYPE_CHECKING:
    from pyro_expfam.deq.backend import Kernels


def canonical_problem(problem: LatentProblem) -> tuple[LatentProblem, float] | None:
    r"""The same problem with a canonical family, and the sign of its latents, or None.

    With :math:`\ell(\eta; y) = \omega \ell'(s \eta + o; y')` and the sign ``s``, the latents of the
    canonical problem are :math:`s z`, its intercept is :math:`s b`, and its loading is the same.
    """
    form = problem.family.canonical_form(problem.y)
    if form is None:
        return None
    offset, weights = form.offset, torch.atleast_2d(form.weights)
    if offset is not None:
        offset = torch.atleast_2d(offset)
    if problem.offset is not None:
        own = form.sign * problem.offset
        offset = own if offset is None else offset + own
    if problem.weights is not None:
        weights = weights * problem.weights
    canonical = LatentProblem(
        form.family,
        form.y.expand(problem.y.shape),
        problem.map,
        form.sign * problem.b,
        problem.precision,
        offset,
        weights,
        None if problem.loc is None else form.sign * problem.loc,
    )
    return canonical, form.sign


@dataclass(frozen=True)
class ReducedKernels:
    """Kernels for a canonical family, applied to a law that has its form.

    Attributes:
        kernels: the kernels.
        canonical: the problem in canonical form.
        sign: the sign of its latents.
    """

    kernels: Kernels
    canonical: LatentProblem
    sign: float

    def solve(self, problem: LatentProblem, start: Tensor, rules: StepRules) -> Solution:
        """Latents of all rows, from latents ``start`` ``(N, l)``."""
        del problem
        solution = self.kernels.solve(self.canonical, self.sign * start, rules)
        return solution._replace(value=self.sign * solution.value)

    def gradients(
        self, problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
    ) -> Gradients | None:
        """Gradients of loading, intercept and precision; None if others are needed too."""
        del problem
        if not needed <= SUMMED | {"loc"}:
            return None
        found = self.kernels.gradients(self.canonical, self.sign * z, self.sign * grad, needed)
        if found is None:
            return None
        signed = {name: self.sign * found[name] for name in ("b", "loc") if name in found}
        return found | signed
