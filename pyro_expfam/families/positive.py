"""Positive parameters of families, and functions of them that are accurate for large values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.links.polynomial import polynomial

_STIRLING = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760)
"""The coefficients of ``x ** (-2 - 2 j)`` in ``log x - digamma(x) - 1 / (2 x)``."""

_FEW = 16
"""From this argument on, the series has the accuracy of double precision."""


def positive(name: str, value: object) -> float | Tensor:
    """A parameter that was given as a positive number, or as a tensor or array of such numbers.

    Raises:
        TypeError: it holds no real numbers.
        ValueError: it is not positive and finite.
    """
    value = as_parameter(name, value)
    if isinstance(value, Tensor):
        if value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name} must be real numbers, got a tensor of dtype {value.dtype}")
        fits = (value > 0) & value.isfinite()
        if not bool(fits.all()):
            at = tuple((~fits).nonzero()[0].tolist())
            raise ValueError(
                f"{name} must be positive and finite, got {float(value[at]):g}"
                + (f" at position {at}" if at else "")
            )
        return value
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a positive number or an array of them, got {value!r}")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return float(value)


SHARED = "shared"
"""What stands for a parameter that is to be learnt, one for all columns."""


def known_or_learnt(name: str, value: object) -> float | Tensor | str | None:
    """A positive parameter, or None or ``"shared"`` for one that is to be learnt.

    Raises:
        TypeError: it holds no real numbers.
        ValueError: it is not positive and finite.
    """
    if value is None or (isinstance(value, str) and value == SHARED):
        return value
    return positive(name, value)


def as_parameter(name: str, value: object) -> object:
    """A tensor of an array, a series or a sequence of numbers; anything else unchanged.

    Raises:
        TypeError: an array or sequence does not hold real numbers.
    """
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if isinstance(value, Tensor) or not (is_sequence or hasattr(value, "__array__")):
        return value
    try:
        array = np.asarray(value)
        if array.dtype == object:
            array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must hold real numbers, got {value!r}") from None
    if array.ndim == 0:
        return array.item()
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold real numbers, got an array of dtype {array.dtype}")
    # A copy: a family does not change with the array that it was made of.
    kept = np.float32 if array.dtype.itemsize == 4 and array.dtype.kind == "f" else np.float64
    return torch.from_numpy(array.astype(kept, order="C"))


def as_like(value: float | Tensor | str | None, like: Tensor, name: str) -> Tensor:
    """A parameter in the dtype and on the device of another tensor; errors say its name.

    Raises:
        ValueError: it is still to be learnt.
    """
    value = known(value, name)
    if isinstance(value, Tensor):
        return value.to(like)
    return torch.full((), value, dtype=like.dtype, device=like.device)


def known(value: float | Tensor | str | None, name: str) -> float | Tensor:
    """A parameter that is not to be learnt; errors say its name.

    Raises:
        ValueError: it is.
    """
    if value is None or isinstance(value, str):
        raise ValueError(
            f"{name} must be known where nothing is learnt, got {value!r}: only a block, "
            "pyro_expfam.ExpFamPCA, learns it"
        )
    return value


def log_minus_digamma(x: Tensor) -> Tensor:
    r"""The difference :math:`\log x - \psi(x)`, about ``1 / (2 x)``, for positive ``x``.

    Source: Abramowitz and Stegun (1964), 6.3.18.
    """
    few, many = x.clamp(max=_FEW), x.clamp(min=_FEW)
    inverse = many.reciprocal()
    series = 0.5 * inverse + inverse.square() * polynomial(_STIRLING, inverse.square())
    return torch.where(x < _FEW, torch.log(few) - torch.digamma(few), series)
