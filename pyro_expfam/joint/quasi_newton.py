"""Quasi-Newton directions, on top of a preconditioner."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from torch import Tensor

MEMORY = 12


def _inner(x: Tensor, y: Tensor) -> float:
    return float((x * y).sum())


class QuasiNewton:
    r"""Limited-memory BFGS, preconditioned by steps of Fisher scoring.

    The information of each feature holds the latents constant, although they change with the
    coefficients. The effect of that change is learnt from differences of gradients.

    Args:
        memory: how many steps are remembered.
        inner: the inner product of two vectors.

    Source: Nocedal and Wright, *Numerical optimization* (2006), algorithm 7.4.
    """

    def __init__(
        self, memory: int = MEMORY, inner: Callable[[Tensor, Tensor], float] = _inner
    ) -> None:
        self._inner = inner
        self._pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=memory)

    def remember(self, step: Tensor, change_of_gradient: Tensor) -> None:
        """Learns from a step if the curvature along it is positive."""
        curvature = self._inner(step, change_of_gradient)
        square = self._inner(step, step) * self._inner(change_of_gradient, change_of_gradient)
        if curvature > 1e-8 * math.sqrt(square):
            self._pairs.append((step, change_of_gradient, curvature))

    def forget(self) -> None:
        """Forgets all steps: the next direction is the Fisher scoring direction."""
        self._pairs.clear()

    def direction(self, gradient: Tensor, scoring_step: Callable[[Tensor], Tensor]) -> Tensor:
        """The direction from a gradient, given what makes it a scoring step."""
        q = gradient.clone()
        shares = []
        for step, change, curvature in reversed(self._pairs):
            share = self._inner(step, q) / curvature
            shares.append(share)
            q.sub_(change, alpha=share)
        p = scoring_step(q)
        for (step, change, curvature), share in zip(self._pairs, reversed(shares), strict=True):
            p.add_(step, alpha=share - self._inner(change, p) / curvature)
        return p.neg_()
