"""Directions from the curvature seen along the way, on top of a preconditioner."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from torch import Tensor

MEMORY = 12


class QuasiNewton:
    r"""Limited-memory BFGS on top of steps of Fisher scoring.

    The information of each feature ignores that the latents follow; what the following changes is
    learnt from differences of gradients.

    Source: Nocedal and Wright, *Numerical optimization* (2006), algorithm 7.4.
    """

    def __init__(self) -> None:
        self._pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=MEMORY)

    def remember(self, step: Tensor, change_of_gradient: Tensor) -> None:
        """Learns from a step, unless the curvature along it is not positive."""
        curvature = float((step * change_of_gradient).sum())
        size = float(step.norm()) * float(change_of_gradient.norm())
        if curvature > 1e-8 * size:
            self._pairs.append((step, change_of_gradient, curvature))

    def forget(self) -> None:
        """Drops everything: the next direction is that of Fisher scoring."""
        self._pairs.clear()

    def direction(self, gradient: Tensor, scoring_step: Callable[[Tensor], Tensor]) -> Tensor:
        """The direction from a gradient ``(d, l + 1)``, with the inverse information by feature."""
        q = gradient.clone()
        shares = []
        for step, change, curvature in reversed(self._pairs):
            share = float((step * q).sum()) / curvature
            shares.append(share)
            q.sub_(change, alpha=share)
        p = scoring_step(q)
        for (step, change, curvature), share in zip(self._pairs, reversed(shares), strict=True):
            p.add_(step, alpha=share - float((change * p).sum()) / curvature)
        return -p
