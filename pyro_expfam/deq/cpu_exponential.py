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
def _float_of_bits(typing_context: Any, bits: Any) -> Any:
    result = {numba.int32: numba.float32, numba.int64: numba.float64}[bits]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(result))

    return result(bits), generate


def exponential(x: Any) -> Any:
    r"""The exponential to about a rounding, by operations that run on vectors.

    With the nearest integer :math:`n` to :math:`x / \log 2`, it is :math:`2^n` times the Taylor
    series of the rest. Above the largest exponent of the format it is infinite; below the
    smallest it stays there, which is as good as 0.
    """
    raise NotImplementedError("only for compiled functions")


@overload(
    exponential, inline="always", jit_options={"error_model": "numpy", "fastmath": {"contract"}}
)
def _exponential(x):  # type: ignore[no-untyped-def]
    return {numba.float32: _exponential_32, numba.float64: _exponential_64}[x]


# Log 2 in two parts, the first of which has few enough bits for its multiples to be exact.
_HIGH, _LOW = 0.693359375, -2.121944400546905827679e-4


def _floats(dtype: Any, mantissa_bits: int) -> tuple[Any, ...]:
    # Adding the last rounds to an integer.
    return tuple(map(dtype, (1 / math.log(2), _HIGH, _LOW, 1.5 * 2.0**mantissa_bits)))


def _inverse_factorials(dtype: Any, degree: int) -> tuple[Any, ...]:
    return tuple(dtype(1 / math.factorial(k)) for k in range(degree + 1))


_PER_32, _HIGH_32, _LOW_32, _ROUND_32 = _floats(np.float32, 23)
_LARGEST_32, _INFINITY_32 = np.float32(88), np.float32(np.inf)
_A0, _A1, _A2, _A3, _A4, _A5, _A6, _A7 = _inverse_factorials(np.float32, 7)


def _exponential_32(x):  # type: ignore[no-untyped-def]
    inside = _LARGEST_32 if x > _LARGEST_32 else x
    inside = -_LARGEST_32 if inside < -_LARGEST_32 else inside
    n = (inside * _PER_32 + _ROUND_32) - _ROUND_32
    r = inside - n * _HIGH_32 - n * _LOW_32
    series = _A3 + r * (_A4 + r * (_A5 + r * (_A6 + r * _A7)))
    series = _A0 + r * (_A1 + r * (_A2 + r * series))
    power = _float_of_bits(np.int32((np.int32(n) + 127) << 23))
    return _INFINITY_32 if x > _LARGEST_32 else series * power


_PER_64, _HIGH_64, _LOW_64, _ROUND_64 = _floats(np.float64, 52)
_B0, _B1, _B2, _B3, _B4, _B5, _B6, _B7, _B8, _B9, _B10, _B11, _B12, _B13 = _inverse_factorials(
    np.float64, 13
)


def _exponential_64(x):  # type: ignore[no-untyped-def]
    inside = 709.0 if x > 709.0 else x
    inside = -709.0 if inside < -709.0 else inside
    n = (inside * _PER_64 + _ROUND_64) - _ROUND_64
    r = inside - n * _HIGH_64 - n * _LOW_64
    series = _B9 + r * (_B10 + r * (_B11 + r * (_B12 + r * _B13)))
    series = _B4 + r * (_B5 + r * (_B6 + r * (_B7 + r * (_B8 + r * series))))
    series = _B0 + r * (_B1 + r * (_B2 + r * (_B3 + r * series)))
    power = _float_of_bits((np.int64(n) + 1023) << 52)
    return np.inf if x > 709.0 else series * power
