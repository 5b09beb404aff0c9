"""Copying a guide of Pyro without damage to the original.

Pyro's guides forget their model when they are asked for their state, and so does the original of a
copy. A guide that has not seen the model yet could then never be used.
"""

from __future__ import annotations

from typing import Any

from pyro.infer.autoguide import AutoCallable, AutoGuide
from torch import nn


def disposable(guide: Any) -> Any:
    """The same guide once more, with the same parameters, which may forget its model."""
    new = object.__new__(type(guide))
    parts = {name: _disposable_part(part) for name, part in guide._modules.items()}
    vars(new).update(vars(guide), _modules=parts)
    return new


def _disposable_part(part: nn.Module | None) -> Any:
    return disposable(part) if isinstance(part, AutoGuide) else part


def models_of_unseen(guide: AutoGuide) -> dict[str, Any]:
    """The models of those parts of a guide that have not seen theirs yet, by name of the part.

    Parts that have seen their model need it no more. It may be a closure that cannot be pickled.
    """
    return {
        name: part._model
        for name, part in guide.named_modules()
        if isinstance(part, AutoGuide)
        and type(part) is not AutoCallable
        and part.prototype_trace is None
    }
