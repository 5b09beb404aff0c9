"""Quasi-Newton directions, on top of a preconditioner."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

MEMORY = 12

Inners = Callable[[Sequence[tuple[Tensor, Tensor]]], list[float]]
"""The inner products of pairs of vectors."""


def inner(x: Tensor, y: Tensor) -> float:
    """The inner product of two tensors of one shape."""
    return float((x * y).sum())


def _inners(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    return [inner(x, y) for x, y in pairs]


class _Pair(NamedTuple):
    """A step and what it did to the gradient.

    Attributes:
        step: the step.
        change: the change of the gradient along it.
        curvature: their inner product.
        with_earlier: inner products of the change with the steps remembered before it.
    """

    step: Tensor
    change: Tensor
    curvature: float
    with_earlier: list[float]


class QuasiNewton:
    r"""Limited-memory BFGS, preconditioned by steps of Fisher scoring.

    The information of each feature holds the latents constant, although they change with the
    coefficients. The effect of that change is learnt from differences of gradients.

    Products of steps with changes are kept, so that a direction asks for inner products twice, each
    time for all of them. Between processes every question is a message.

    Args:
        memory: how many steps are remembered.
        inners: the inner products of pairs of vectors.

    Source: Nocedal and Wright, *Numerical optimization* (2006), algorithm 7.4.
    """

    def __init__(self, memory: int = MEMORY, inners: Inners = _inners) -> None:
        self._inners = inners
        self._pairs: deque[_Pair] = deque(maxlen=memory)

    def remember(self, step: Tensor, change_of_gradient: Tensor) -> None:
        """Learns from a step if the curvature along it is positive."""
        change = change_of_gradient
        asked = [(step, change), (step, step), (change, change)]
        asked += [(pair.step, change) for pair in self._pairs]
        curvature, of_step, of_change, *with_earlier = self._inners(asked)
        if curvature > 1e-8 * math.sqrt(of_step * of_change):
            self._pairs.append(_Pair(step, change, curvature, with_earlier))

    def forget(self) -> None:
        """Forgets all steps: the next direction is the Fisher scoring direction."""
        self._pairs.clear()

    def direction(self, gradient: Tensor, scoring_step: Callable[[Tensor], Tensor]) -> Tensor:
        """The direction from a gradient, given what makes it a scoring step."""
        pairs = list(self._pairs)
        if not pairs:
            return scoring_step(gradient.clone()).neg_()
        shares = self._inners([(pair.step, gradient) for pair in pairs])
        q = gradient.clone()
        for k in reversed(range(len(pairs))):
            shares[k] /= pairs[k].curvature
            q.sub_(pairs[k].change, alpha=shares[k])
            for j in range(k):
                # The first of the earlier steps may have been dropped since.
                shares[j] -= shares[k] * pairs[k].with_earlier[j - k]
        p = scoring_step(q)
        along = self._inners([(pair.change, p) for pair in pairs])
        for k, pair in enumerate(pairs):
            for j in range(k):
                along[k] += shares[j] * pair.with_earlier[j - k]
            shares[k] -= along[k] / pair.curvature
            p.add_(pair.step, alpha=shares[k])
        return p.neg_()
