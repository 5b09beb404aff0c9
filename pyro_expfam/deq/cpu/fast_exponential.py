"""The exponential for compiled functions, by operations that run on vectors of the processor.

Numba's own calls a library for one number at a time.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic, overload


@intrinsic
def float_of_bits(typing_context: Any, bits: Any) -> Any:
    """The float with the bits of an integer, for compiled functions."""
    result = {numba.int32: numba.float32, numba.int64: numba.float64}[bits]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(result))

    return result(bits), generate


@intrinsic
def bits_of_float(typing_context: Any, number: Any) -> Any:
    """The bits of a float as an integer, for compiled functions."""
    result = {numba.float32: numba.int32, numba.float64: numba.int64}[number]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(result))

    return result(number), generate


def power_of_two(x: Any) -> Any:
    r""":math:`2^x` to about a rounding, by operations that run on vectors.

    With :math:`n` the nearest integer to :math:`x`, the Taylor series in :math:`x - n` is summed
    and :math:`n` is added to its exponent. Arguments beyond :data:`LARGEST_EXPONENT`, on either
    side, give the value there. NaN gives NaN.
    """
    raise NotImplementedError("only for compiled functions")


@overload(
    power_of_two, inline="always", jit_options={"error_model": "numpy", "fastmath": {"contract"}}
)
def _power_of_two(x):
    return {numba.float32: _power_of_two_32, numba.float64: _power_of_two_64}[x]


def rough_log(x: Any) -> Any:
    """The natural logarithm of a positive number to about 0.03.

    The bits of a number, as an integer, are about linear in its logarithm (Mitchell, 1962).
    """
    raise NotImplementedError("only for compiled functions")


@overload(
    rough_log, inline="always", jit_options={"error_model": "numpy", "fastmath": {"contract"}}
)
def _rough_log(x):
    return {numba.float32: _rough_log_32, numba.float64: _rough_log_64}[x]


def _coefficients(dtype: Any, degree: int) -> tuple[Any, ...]:
    """Coefficients of the Taylor series, exact to rounding for arguments up to one half."""
    return tuple(dtype(math.log(2) ** k / math.factorial(k)) for k in range(degree + 1))


LARGEST_EXPONENT: dict[Any, int] = {np.float32: 126, np.float64: 1022}
"""The largest exponent per format whose negative also gives a normal number."""

# Adding this number rounds to an integer, which then stands in the last bits.
_ROUND_32, _ROUND_64 = np.float32(1.5 * 2.0**23), np.float64(1.5 * 2.0**52)
_LARGEST_32, _LARGEST_64 = (dtype(exponent) for dtype, exponent in LARGEST_EXPONENT.items())
_A0, _A1, _A2, _A3, _A4, _A5, _A6 = _coefficients(np.float32, 6)
_B0, _B1, _B2, _B3, _B4, _B5, _B6, _B7, _B8, _B9, _B10, _B11, _B12 = _coefficients(np.float64, 12)


def _power_of_two_32(x):
    inside = _LARGEST_32 if x > _LARGEST_32 else x
    inside = -_LARGEST_32 if inside < -_LARGEST_32 else inside
    shifted = inside + _ROUND_32
    r = inside - (shifted - _ROUND_32)
    series = _A0 + r * (_A1 + r * (_A2 + r * (_A3 + r * (_A4 + r * (_A5 + r * _A6)))))
    exponent = np.int32(bits_of_float(shifted) << 23)
    return float_of_bits(np.int32(bits_of_float(series) + exponent))


def _power_of_two_64(x):
    inside = _LARGEST_64 if x > _LARGEST_64 else x
    inside = -_LARGEST_64 if inside < -_LARGEST_64 else inside
    shifted = inside + _ROUND_64
    r = inside - (shifted - _ROUND_64)
    series = _B6 + r * (_B7 + r * (_B8 + r * (_B9 + r * (_B10 + r * (_B11 + r * _B12)))))
    series = _B0 + r * (_B1 + r * (_B2 + r * (_B3 + r * (_B4 + r * (_B5 + r * series)))))
    return float_of_bits(bits_of_float(series) + (bits_of_float(shifted) << 52))


# The mean of log2(1 + x) - x for x between 0 and 1.
_MEAN_ERROR = 0.0573
_SLOPE_32, _CONSTANT_32 = (
    np.float32(math.log(2) / 2**23),
    np.float32(math.log(2) * (_MEAN_ERROR - 127)),
)
_SLOPE_64, _CONSTANT_64 = math.log(2) / 2**52, math.log(2) * (_MEAN_ERROR - 1023)


def _rough_log_32(x):
    return np.float32(bits_of_float(x)) * _SLOPE_32 + _CONSTANT_32


def _rough_log_64(x):
    return np.float64(bits_of_float(x)) * _SLOPE_64 + _CONSTANT_64
