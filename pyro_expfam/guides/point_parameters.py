"""Point parameters that several guides of a block share, and the guide that trained them last."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.models import ExpFamPCA


class PointParameters:
    """The point parameters of a block, such as a flat intercept, as one guide has trained them.

    They belong to the block, and so to all of its guides. A guide that trains them changes them for
    the other guides too, and the loadings of the other guides then no longer match.

    Attributes:
        left: the parameters by name as this guide left them when another guide began to train
            them, or None if no other guide has trained them.
    """

    def __init__(self) -> None:
        self.left: dict[str, Tensor] | None = None

    def begin_training(self, block: ExpFamPCA) -> None:
        """Notes that this guide trains the parameters of a block from now on.

        The block keeps the :class:`PointParameters` of its last guide as ``_trained_by``.
        """
        last: PointParameters | None = block._trained_by
        if last is self:
            return
        if last is not None:
            last.left = {name: x.detach().clone() for name, x in block.named_parameters()}
        self.left, block._trained_by = None, self

    def refuse_if_moved(self, block: ExpFamPCA) -> None:
        """An error if another guide has trained the parameters of a block since this guide did.

        Raises:
            RuntimeError: if the parameters have other values than this guide has left.
        """
        if not self._have_moved(block):
            return
        shared = ", ".join(key.removesuffix("_unconstrained") for key in self.left or {})
        raise RuntimeError(
            f"{shared} of the model have been trained by another guide since this one was "
            "trained, and no longer go with its loading: point parameters belong to the "
            "model. Give each guide a model of its own, as by copy.deepcopy(model), make "
            "the second guide with params= the first, or train this one again"
        )

    def _have_moved(self, block: ExpFamPCA) -> bool:
        if self.left is None:
            return False
        now = dict(block.named_parameters())
        # Compared as numbers: the model may have changed its dtype since.
        return any(
            name in now and not torch.equal(value.to(now[name]), now[name])
            for name, value in self.left.items()
        )
