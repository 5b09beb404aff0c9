"""A guide and its model out of a file."""

from __future__ import annotations

import os
from functools import partial

import torch
from pyro.infer import autoguide
from torch import Tensor

from pyro_expfam.guides.block_guide import BlockGuide
from pyro_expfam.guides.coefficient_guide import CoefficientGuide
from pyro_expfam.guides.described_block import described_block
from pyro_expfam.guides.guide_file import refused_as_file, set_state
from pyro_expfam.guides.laplace_guide import LaplaceGuide
from pyro_expfam.guides.map_guide import DEQMAPGuide
from pyro_expfam.guides.plain_data import Plain, from_plain
from pyro_expfam.guides.point_guide import point_guide
from pyro_expfam.guides.tensor_file import FileError, read_tensors

_GUIDES: dict[str, type[DEQMAPGuide | LaplaceGuide]] = {
    guide.__name__: guide for guide in (DEQMAPGuide, LaplaceGuide)
}


def load(path: str | os.PathLike[str]) -> BlockGuide:
    """The guide in a file that :meth:`LaplaceGuide.save` has written, with a model of its own.

    The model is ``load(path).model``. The guide is on the CPU and in the dtype that it was saved
    in. What it computes from a table equals what the saved guide computes.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, is cut short, has changed since it was written, or is in
            the format of another version; if its model is not a single block, or holds functions or
            priors of the user. Then make model and guide in Python, and call ``guide.restore``.

    Example:
        >>> import tempfile, pathlib
        >>> import torch
        >>> import pyro_expfam as pef
        >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 3, latent_dim=1))
        >>> _ = guide.fit(torch.poisson(torch.full((20, 3), 2.0)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     guide.save(pathlib.Path(folder, "counts.safetensors"))
        ...     loaded = pef.load(pathlib.Path(folder, "counts.safetensors"))
        >>> loaded.model
        ExpFamPCA(Poisson(), num_features=3, latent_dim=1)
    """
    tensors, plain = read_tensors(path)
    with refused_as_file(path):
        found = dict(plain["guide"])
    if "reason" in found:
        raise FileError(
            f"{path} holds the state of a guide that a file cannot describe: {found['reason']}. "
            "Make model and guide in Python as they were, and call guide.restore(path)"
        )
    with refused_as_file(path):
        guide = _described_guide(found, tensors)
    set_state(guide, tensors, plain, path)
    return guide


def _described_guide(found: Plain, tensors: dict[str, Tensor]) -> BlockGuide:
    """A new guide with a model of its own, from its description."""
    # A number is kept in the dtype of the model.
    dtype = getattr(torch, found["dtype"])
    block = described_block(found["model"], tensors).to(dtype)
    trained = point_guide
    if found["global_guide"] is not None:
        trained = getattr(autoguide, found["global_guide"])
    make = partial(CoefficientGuide, trained=trained) if found["coefficients"] else trained
    guide = _GUIDES[found["class"]](
        block,
        global_guide=make,
        solver=from_plain(found["solver"], tensors),
        warm_start=found["warm_start"],
    )
    guide._see_without_data()
    return guide
