"""All latents that are not a block's, as another guide of the same model has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_expfam.guides.medians import LiveMedians
from pyro_expfam.guides.upstream import UpstreamLatents


class SharedGlobals(LiveMedians):
    """A guide of all latents that are not a block's, without parameters of its own.

    Args:
        model: the model without the latents of its blocks.
        params: the guide of the same model that has the parameters.
    """

    def __init__(self, model: Callable[..., Any], params: UpstreamLatents) -> None:
        super().__init__(model)
        # In a tuple, so that the parameters keep the name that they were trained under.
        self._params = (params,)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples the latents from the other guide, by site name."""
        return self._params[0].sample_globals(*args, **kwargs)

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The medians of the other guide, by site name."""
        return self._params[0].global_medians(*args, **kwargs)

    def live_medians(self) -> dict[str, Tensor]:
        """The same medians, differentiable in the parameters of the other guide."""
        return self._params[0].live_global_medians()
