"""Saving, loading, pickling and copying a guide."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_expfam.guides.saved_state import (
    GLOBALS,
    PREFIX,
    block_parameters,
    load_block_parameters,
    take_out,
)
from pyro_expfam.guides.structured_guide import StructuredGuide
from pyro_expfam.guides.table_fit import one_row
from pyro_expfam.guides.warm_start import WarmStart
from pyro_expfam.models import ExpFamPCA


class SavedGuide(StructuredGuide):
    """The part of a guide that saves its state, with the point parameters of its blocks."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        saved = dict(self._unloaded_state or {})
        if not saved and self._trained_guide() is self:
            saved = dict(block_parameters(self._named_blocks()))
        for name, value in saved.items():
            destination[prefix + name] = value if keep_vars else value.detach()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        is_unseen = self.prototype_trace is None and self._trained_guide() is self
        if is_unseen and not self._see_without_data():
            # Until the first call shows the structure.
            self._unloaded_state = take_out(state_dict, prefix, (PREFIX, GLOBALS))
            return
        saved = take_out(state_dict, prefix, (PREFIX,))
        blocks = self._named_blocks() if self._trained_guide() is self else {}
        load_block_parameters(blocks, saved, prefix, missing_keys, unexpected_keys, error_msgs)
        self._begin_training()
        self._trained_on = None
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _see_without_data(self) -> bool:
        """Looks at the structure of the model, if it takes no observations to show it."""
        block = self.model
        if not isinstance(block, ExpFamPCA) or block.family.differs_by_row:
            return False
        self._see(one_row(block))
        return True

    def __getstate__(self) -> dict[str, Any]:
        # This guide runs its model, and keeps it. Other guides forget their model here.
        state = {**self.__dict__, "master": None, "_earlier_values": {}}
        state["_warm_start"] = WarmStart()
        if self.prototype_trace is not None:
            # Pyro's parameter store keeps weak references here, and makes them anew.
            for site in self.prototype_trace.nodes.values():
                if isinstance(site.get("value"), Tensor):
                    vars(site["value"]).pop("unconstrained", None)
            # A guide in a list was made from a part of the model. This part may be a closure that
            # cannot be pickled, and it is needed no more.
            state["_model"] = self._whole_model
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # As at construction, the guide of all other latents makes its own plates.
        self.global_guide.master = None
