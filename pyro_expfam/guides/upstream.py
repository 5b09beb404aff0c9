"""The latents that are not a block's, from which the latents of a block follow.

They come from the guide's own ``global_guide`` and, where the guide is a part of an
``AutoGuideList``, from the earlier parts of the list.
"""

from __future__ import annotations

from typing import Any

import pyro.poutine as poutine
from pyro.infer.autoguide import AutoGuide
from pyro.nn.module import pyro_method
from torch import Tensor

from pyro_expfam.guides.medians import live_medians
from pyro_expfam.guides.structured_guide import StructuredGuide
from pyro_expfam.runtime.ownership import claim_when_called


class UpstreamLatents(StructuredGuide):
    """The part of a guide that samples all other latents, and knows their medians."""

    @pyro_method
    def sample_globals(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples all latents that are not a block's, by site name."""
        return self.global_guide(*args, **kwargs) if self._trained_guide()._has_globals else {}

    @pyro_method
    def global_medians(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The medians of all latents that are not a block's, by site name."""
        if not self._trained_guide()._has_globals:
            return {}
        with poutine.block():
            return self.global_guide.median(*args, **kwargs)

    def _upstream_medians(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        medians: dict[str, Tensor] = {}
        for part in self._earlier_parts():
            with poutine.block():
                medians.update(part.median(*args, **kwargs))
        self._earlier_values = {}
        return {**medians, **self.global_medians(*args, **kwargs)}

    def live_medians(self) -> dict[str, Tensor]:
        """The medians of all latents upstream of a block, differentiable in their parameters."""
        self._claim()
        self._refuse_moved_parameters()
        medians: dict[str, Tensor] = {}
        for part in self._earlier_parts():
            medians.update(live_medians(part))
        return {**medians, **self.live_global_medians()}

    def live_global_medians(self) -> dict[str, Tensor]:
        """The medians of all latents that are not a block's, differentiable likewise."""
        return live_medians(self.global_guide) if self._trained_guide()._has_globals else {}

    # ---------------------------------------------------------- as a part of an AutoGuideList

    def _update_master(self, master_ref: Any) -> None:
        self.master = master_ref
        # A list forgets its model when it is pickled.
        if master_ref()._model is not None:
            self._whole_model = master_ref()._model
        claim_when_called(master_ref())
        for part in self._earlier_parts():
            claim_when_called(part)
            if self._remember not in part._forward_hooks.values():
                part.register_forward_hook(self._remember)

    def _earlier_parts(self) -> list[AutoGuide]:
        parts = [] if self.master is None else list(self.master())
        return parts[: parts.index(self)] if self in parts else parts

    def _remember(self, part: AutoGuide, args: Any, values: dict[str, Tensor]) -> None:
        """Keeps what an earlier part of the list sampled: latents may depend on it."""
        self._earlier_values.update(values)

    def _existing_plates(self) -> dict[str, Any]:
        plates = dict(getattr(self.global_guide, "plates", None) or {})
        if self.master is not None:
            plates.update(self.master().plates)
        return plates
