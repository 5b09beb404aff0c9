"""Polynomials for compiled functions, written out so that they run on vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from pyro_expfam.deq.cpu.registers import CONTRACTED


def polynomial(coefficients: Sequence[float]) -> Any:
    """A function for compiled functions: the polynomial with coefficients, lowest power first.

    Numba does not unroll a loop over coefficients, and a loop inside of a loop over lanes keeps
    the lanes from running on vectors.
    """

    @intrinsic
    def value(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (at,) = arguments
            *lower, total = (ir.Constant(at.type, c) for c in coefficients)
            for c in reversed(lower):
                total = builder.fmul(total, at, flags=CONTRACTED)
                total = builder.fadd(total, c, flags=CONTRACTED)
            return total

        return x(x), generate

    return value
