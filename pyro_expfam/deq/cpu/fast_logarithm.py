"""The natural logarithm for compiled functions, by operations that run on vectors.

Numba's own calls a library for one number at a time.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.cpu.fast_exponential import bits_of_float, float_of_bits
from pyro_expfam.deq.cpu.polynomial import polynomial

_FRACTION = np.int64(52)
_HALF = np.int64(np.float64(math.sqrt(0.5)).view(np.int64))
_BIAS = np.int64(1023) << _FRACTION
# These bits below the last places of an integer make it a float, less this float.
_OF_INTEGER, _SUBTRACTED = np.int64(0x433) << _FRACTION, np.float64(2.0**52 + 1023)

_LOG_2_HIGH, _LOG_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10

_series = polynomial(
    (
        6.666666666666735130e-01,
        3.999999999940941908e-01,
        2.857142874366239149e-01,
        2.222219843214978396e-01,
        1.818357216161805012e-01,
        1.531383769920937332e-01,
        1.479819860511658591e-01,
    )
)


@numba.njit(**INLINED)
def natural_log(x: Any) -> Any:
    r"""The logarithm of a positive normal number of float64, to about a rounding.

    With :math:`x = 2^k (1 + f)` and :math:`s = f / (2 + f)`, the logarithm of :math:`1 + f` is
    :math:`2 \operatorname{artanh} s`, an odd polynomial in ``s``.

    Source: FreeBSD's ``e_log.c`` (Sun Microsystems, 1993), whose coefficients these are.
    """
    bits = bits_of_float(x)
    # One half to the second root of one half counts as a part of the power above.
    shifted = bits - _HALF + _BIAS
    exponent = shifted >> _FRACTION
    power = float_of_bits(exponent | _OF_INTEGER) - _SUBTRACTED
    f = float_of_bits(bits - (exponent << _FRACTION) + _BIAS) - 1.0
    s = f / (2.0 + f)
    z = s * s
    half = 0.5 * f * f
    return power * _LOG_2_HIGH - ((half - (s * (half + z * _series(z)) + power * _LOG_2_LOW)) - f)
