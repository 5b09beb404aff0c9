"""Which guide has trained the point parameters of a block that several guides share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class PointParameters:
    """The point parameters of a block, such as a flat intercept, as one guide has trained them.

    They belong to the block, and so to all of its guides. A guide that trains them moves them for
    the other guides too, whose loadings then no longer go with them.

    Attributes:
        left: the parameters by name as this guide left them when another guide began to train
            them; None while no other guide has.
    """

    def __init__(self) -> None:
        self.left: dict[str, Tensor] | None = None

    def begin_training(self, block: Any) -> None:
        """Notes that this guide trains the parameters of a block from now on.

        The block keeps what its last guide has of them as ``_trained_by``.
        """
        last: PointParameters | None = block._trained_by
        if last is self:
            return
        if last is not None:
            last.left = {name: x.detach().clone() for name, x in block.named_parameters()}
        self.left, block._trained_by = None, self

    def have_moved(self, block: Any) -> bool:
        """Whether the parameters are no longer as this guide has trained them."""
        if self.left is None:
            return False
        now = dict(block.named_parameters())
        # As numbers: a model may have changed its dtype since.
        return any(
            name in now and not torch.equal(value.to(now[name]), now[name])
            for name, value in self.left.items()
        )
