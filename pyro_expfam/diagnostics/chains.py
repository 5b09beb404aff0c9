"""Joins several fits as the chains of one container."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray

from pyro_expfam.diagnostics.container import datasets, with_datasets


def concat_chains(containers: Sequence[Any]) -> Any:
    """Joins fits of one model to the same data, such as restarts of SVI, as chains.

    Variables that differ per fit are joined along the dimension ``chain``, such as draws and the
    convergence of each row. Groups without draws, such as ``observed_data``, are taken from the
    first fit. Call :func:`align` before computing R-hat, since every fit has its own rotation.

    Args:
        containers: the container of each fit, from :func:`to_arviz` or ArviZ itself, with one or
            more chains and the same number of draws.

    Returns:
        A container of the same kind, with chains ``0, 1, ...``.

    Raises:
        TypeError: if one is not an ``InferenceData`` or a :class:`xarray.DataTree`.
        ValueError: if ``containers`` is empty, or they differ in groups, variables, labels, draws
            or data.

    Example:
        >>> import pyro
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.full((20, 6), 2.0))
        >>> fits = []
        >>> for seed in (0, 1):
        ...     pyro.set_rng_seed(seed)
        ...     pyro.clear_param_store()
        ...     model = pef.ExpFamPCA(pef.families.Poisson(), num_features=6, latent_dim=2)
        ...     guide = pef.LaplaceGuide(model)
        ...     fit = guide.fit(y)
        ...     fits.append(pef.to_arviz(model, guide, y, num_samples=50))
        >>> idata = pef.align(pef.concat_chains(fits))
        >>> dict(idata["posterior"]["z"].sizes)
        {'chain': 2, 'draw': 50, 'row': 20, 'latent': 2}
    """
    containers = list(containers)
    if not containers:
        raise ValueError("containers must be one or more, got none")
    parts = [datasets(container) for container in containers]
    for part in parts:
        if set(part) != set(parts[0]):
            raise ValueError(
                f"containers must have the same groups, got {sorted(parts[0])} and {sorted(part)}"
            )
    joined = {name: _join(name, [part[name] for part in parts]) for name in parts[0]}
    return with_datasets(containers[0], joined)


def _join(group: str, parts: Sequence[xarray.Dataset]) -> xarray.Dataset:
    for part in parts:
        if set(part.variables) != set(parts[0].variables):
            raise ValueError(
                f"containers must have the same variables in {group}, got "
                f"{sorted(map(str, parts[0].variables))} and {sorted(map(str, part.variables))}"
            )
    if "chain" not in parts[0].dims:
        if not all(part.equals(parts[0]) for part in parts):
            raise ValueError(f"containers must be of the same {group}, got different values")
        return parts[0]
    try:
        joined = xarray.concat(
            parts,
            dim="chain",
            data_vars="all",
            coords="minimal",
            compat="equals",
            join="exact",
            combine_attrs="override",
        )
    except ValueError as error:
        raise ValueError(
            f"containers must have the same draws and labels in {group}, got different ones: "
            f"{error}"
        ) from error
    return joined.assign_coords(chain=np.arange(joined.sizes["chain"]))
