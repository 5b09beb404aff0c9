"""The normal law about zero of coefficients and latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class CentredNormal(dist.Normal):
    """A normal law about zero, whose log density takes two operations.

    Args:
        scale: the standard deviation, of any shape; it is not checked.
    """

    _log_peak: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__(torch.zeros_like(scale), scale, validate_args=False)
        self._log_peak = -scale.log() - 0.5 * math.log(2 * math.pi)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CentredNormal:
        """The same law with its batch dimensions expanded to ``batch_shape``."""
        new = type(self).__new__(type(self)) if _instance is None else _instance
        new._log_peak = self._log_peak.expand(torch.Size(batch_shape))
        expanded: CentredNormal = super().expand(batch_shape, new)
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value``."""
        x = value / self.scale
        return torch.addcmul(self._log_peak, x, x, value=-0.5)


class CentredNormals(dist.Independent):
    """Independent normal laws about zero of all entries of an event.

    Args:
        laws: the laws of the entries.
        event_dim: how many dimensions the event has.
    """

    base_dist: CentredNormal
    _of_one_scale: tuple[Tensor, Tensor] | None = None
    """The log density at zero and the precision, where all entries have one known scale."""

    def __init__(self, laws: CentredNormal, event_dim: int) -> None:
        super().__init__(laws, event_dim)
        scale, log_peak = laws.scale, laws._log_peak
        if not self.batch_shape and not any(scale.stride()) and not scale.requires_grad:
            first = (0,) * scale.dim()
            count = self.event_shape.numel()
            self._of_one_scale = count * log_peak[first], scale[first].square().reciprocal()

    def expand(self, batch_shape: Any, _instance: Any = None) -> CentredNormals:
        """The same law with its batch dimensions expanded to ``batch_shape``."""
        new = type(self).__new__(type(self)) if _instance is None else _instance
        expanded: CentredNormals = super().expand(batch_shape, new)
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value``."""
        if self._of_one_scale is None or value.shape != self.event_shape:
            found: Tensor = super().log_prob(value)
            return found
        # One sum takes fewer operations than a density of each entry.
        log_peak, precision = self._of_one_scale
        return torch.addcmul(log_peak, (value * value).sum(), precision, value=-0.5)


class KnownLaw:
    """A law of one known number, which is made again when the number has changed.

    The number itself is compared: what is written through ``Tensor.data``, or by an array that
    shares the memory, leaves no trace in the version of a tensor.
    """

    def __init__(self) -> None:
        self._made: tuple[Tensor, Tensor, Any] | None = None

    def of(self, number: Tensor, make: Callable[[Tensor], Any]) -> Any:
        """The law that ``make`` makes of a number.

        A number with a gradient belongs to one run, and so does its law.
        """
        if number.requires_grad or number.grad_fn is not None or number.is_inference():
            return make(number)
        if self._made is not None:
            known, value, law = self._made
            if known is number and torch.equal(value, number):
                return law
        law = make(number)
        if not torch.is_inference_mode_enabled():
            self._made = number, number.clone(), law
        return law

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": None}
