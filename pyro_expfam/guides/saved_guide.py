"""Saving, loading, pickling and copying a guide."""

from __future__ import annotations

import copy
import os
import weakref
from typing import Any, Self

from pyro.infer.autoguide import AutoGuide

from pyro_expfam.deq.inference_mode import outside_inference_mode
from pyro_expfam.guides.coefficient_guide import trained_part
from pyro_expfam.guides.column_labels import ColumnLabels
from pyro_expfam.guides.errors import UnseenError
from pyro_expfam.guides.global_copies import disposable, models_of_unseen
from pyro_expfam.guides.guide_file import restore_guide, write_guide
from pyro_expfam.guides.saved_state import (
    GLOBALS,
    PREFIX,
    block_parameters,
    load_block_parameters,
    take_out,
)
from pyro_expfam.guides.structure_rows import for_structure, one_row
from pyro_expfam.guides.structured_guide import StructuredGuide
from pyro_expfam.guides.warm_start import WarmStart
from pyro_expfam.models import ExpFamPCA


class SavedGuide(StructuredGuide):
    """The part of a guide that saves its state, with the point parameters of its blocks."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the guide in one file, from which :func:`pyro_expfam.load` makes it again.

        The file is in the format of safetensors: numbers, and JSON for the settings. Reading it
        runs no code. It holds the parameters of the guide, the point parameters of its model, the
        posterior of a :class:`CoefficientGuide`, the labels of columns that are texts or numbers,
        and a checksum. It does not hold the table or its latents. The file appears whole or not at
        all: an earlier file of this name stays until the new one is written.

        A model that is more than one block, or that has functions or priors of the user, cannot be
        made again from a file. Its state is saved all the same: make the guide in Python, and call
        :meth:`restore`.

        Args:
            path: the file, by custom with the ending ``.safetensors``.

        Raises:
            RuntimeError: if the guide has not seen data yet.
            OSError: if the file cannot be written.

        Example:
            >>> import tempfile, pathlib
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.bernoulli(torch.full((20, 6), 0.5))
            >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 6, latent_dim=2))
            >>> _ = guide.fit(y)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     file = pathlib.Path(folder, "bits.safetensors")
            ...     guide.save(file)
            ...     loaded = pef.load(file)
            >>> torch.equal(loaded.latents(y), guide.latents(y))
            True
        """
        if self._trained_guide().prototype_trace is None:
            raise UnseenError("the guide has not seen data yet, and has nothing to save: fit it")
        write_guide(self, path)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Takes the parameters of a guide of the same model from a file of :meth:`save`.

        Args:
            path: the file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, is of another format, or is of a guide of another
                model. The guide is then as it was.
        """
        restore_guide(self, path)

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
        # A state does not say which columns it was trained on.
        self._columns = ColumnLabels()
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _see_without_data(self) -> bool:
        """Looks at the structure of the model, if it takes no observations to show it."""
        block = self.model
        if not isinstance(block, ExpFamPCA) or block.family.differs_by_row:
            return False
        self._see(*for_structure(block, one_row(block)))
        return True

    def __getstate__(self) -> dict[str, Any]:
        # This guide runs its model, and keeps it. Other guides forget their model here.
        state = {**self.__dict__, "master": None, "_earlier_values": {}}
        state["_warm_start"] = WarmStart()
        state["_modules"] = {**self._modules, "global_guide": disposable(self.global_guide)}
        state["_unseen_models"] = models_of_unseen(self.global_guide)
        if self.prototype_trace is not None:
            # A guide in a list was made from a part of the model. This part may be a closure that
            # cannot be pickled, and it is needed no more.
            state["_model"] = self._whole_model
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        models = state.pop("_unseen_models", {})
        super().__setstate__(state)
        for name, model in models.items():
            self.global_guide.get_submodule(name)._model = model
        # As at construction, the guide of all other latents makes its own plates.
        outermost = trained_part(self.global_guide)
        self.global_guide.master = outermost.master = None
        for part in outermost.modules():
            if part is not outermost and isinstance(part, AutoGuide):
                part._update_master(weakref.ref(outermost))

    def __copy__(self) -> Self:
        """Another guide with the same parameters, which it shares with this one."""
        new = type(self).__new__(type(self))
        vars(new).update(vars(self), _warm_start=WarmStart(), _earlier_values={})
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        # A parameter that is copied in an inference mode could not be trained outside of it.
        with outside_inference_mode():
            new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return new
