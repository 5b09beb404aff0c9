"""Losses that are losses of a canonical family of other numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from pyro_expfam.families.base import Family


class CanonicalForm(NamedTuple):
    r"""A loss as a canonical loss, :math:`\ell(\eta; y) = \omega\, \ell'(\pm \eta + o; y')`.

    The equation holds up to a constant. Compiled kernels for the canonical family then compute with
    this law too. Tensors broadcast against the table.

    Attributes:
        family: the canonical family.
        y: its observations :math:`y'`, ``(..., N, d)``; they need not be in its support.
        offset: :math:`o`, in addition to the table's own, or None for zero.
        weights: :math:`\omega`, in addition to the table's own.
        sign: 1, or -1 where the linear predictor enters with the other sign.
        constant: the loss less the canonical loss, or None for zero.
    """

    family: Family
    y: Tensor
    offset: Tensor | None
    weights: Tensor
    sign: float = 1.0
    constant: Tensor | None = None
