"""Alignment of the posterior in a container to one basis of the latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray

from pyro_expfam.diagnostics.container import datasets, with_datasets
from pyro_expfam.diagnostics.procrustes import align_draws


def align(idata: Any, reference: Any = None, also: Sequence[str] = ()) -> Any:
    r"""A posterior in which every draw has the same basis of the latents.

    Draws and chains determine their latents only up to a rotation, and summaries of single
    coordinates, such as R-hat, would measure this rotation. Here the loading and the latents of
    every block, the variables ``loading`` and ``z`` or ``genes.loading`` and ``genes.z``, are
    rotated together as by :func:`~pyro_expfam.diagnostics.align_draws`. Their product, the natural
    parameters, does not change. Other variables and groups stay as they are. Variables are found by
    name, so that chains of NUTS in a container made by ArviZ itself are aligned as well.

    Tables that share their latents are rotated together: their loadings have the latent dimension
    of the latents. If a block has only a loading, the loading alone is rotated. If it has only
    latents, the loading was a point estimate that all draws of a chain share. Each chain then gets
    one rotation, from the means of its latents.

    Other variables that depend on the basis are rotated only if ``also`` names them. An example are
    the weights :math:`w` of a head :math:`w^\top z`, which turn with the loading. A model that is
    not invariant to rotations cannot be aligned, such as one with a prior that gives each latent a
    precision of its own. Shifts of the latents that an intercept compensates are not aligned.

    Args:
        idata: a container of ArviZ, such as from :func:`to_arviz` or :func:`concat_chains`.
        reference: the loading ``(d, l)`` to align to, such as ``guide.loading``; or latents, for a
            block without a loading; or, for several tables, a mapping from names of variables such
            as ``"genes.loading"`` to their references. By default the mean of the aligned draws, in
            its principal axes.
        also: names of further variables to rotate. Each has the latent dimension of a block once,
            such as a head's weight with the dimensions ``(chain, draw, label, latent)``.

    Returns:
        A new container of the same kind; variables that do not change are not copied.

    Raises:
        TypeError: if ``idata`` is not an ``InferenceData`` or a :class:`xarray.DataTree`.
        ValueError: if it has no loading or latents, or a name or shape does not fit.

    Example:
        >>> import pyro
        >>> import torch
        >>> from pyro.infer.autoguide import AutoNormal
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.full((20, 6), 2.0))
        >>> model = pef.ExpFamPCA(pef.families.Poisson(), num_features=6, latent_dim=2)
        >>> guide = pef.LaplaceGuide(model, global_guide=AutoNormal)
        >>> idata = pef.align(pef.to_arviz(model, guide, y, num_samples=100))
        >>> mean = idata["posterior"]["loading"].mean(("chain", "draw")).values
        >>> bool(abs(mean[:, 0] @ mean[:, 1]) < 1e-4)  # the principal axes
        True
    """
    groups = datasets(idata)
    if "posterior" not in groups:
        raise ValueError(f"idata must have a group posterior, got one with {sorted(groups)}")
    posterior = groups["posterior"]
    blocks = _blocks(posterior)
    references = _references(reference, blocks)
    turned: dict[str, xarray.DataArray] = {}
    rotations: dict[str, np.ndarray] = {}
    for block in blocks:
        rotation = _rotation(posterior, references, block)
        for name in block.variables:
            dim = str(posterior[name].dims[-1])
            rotations[dim] = rotation
            turned[name] = _rotate(posterior[name], dim, rotation)
    for name in also:
        turned[name] = _rotate(*_further(posterior, name, rotations))
    return with_datasets(idata, {**groups, "posterior": posterior.assign(turned)})


class _Block(NamedTuple):
    """The variables of latents that turn together, by name.

    Attributes:
        loadings: the loadings of their tables.
        latents: the latents.
    """

    loadings: tuple[str, ...]
    latents: tuple[str, ...]

    @property
    def variables(self) -> tuple[str, ...]:
        return self.loadings + self.latents

    @property
    def leading(self) -> tuple[str, ...]:
        """The variables that determine the rotation."""
        return self.loadings or self.latents


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _blocks(posterior: xarray.Dataset) -> list[_Block]:
    names = {str(name) for name in posterior.data_vars if _kind(str(name)) in ("loading", "z")}
    if not names:
        raise ValueError(
            "idata must have a variable loading or z in its posterior, got "
            f"{sorted(map(str, posterior.data_vars))}"
        )
    for name in sorted(names):
        dims = posterior[name].dims
        if len(dims) < 4 or dims[:2] != ("chain", "draw"):
            raise ValueError(
                f"{name} must be of dimensions (chain, draw, ..., latent), with one before the "
                f"last for features or rows, got {dims}"
            )
    prefixes = sorted({name.removesuffix(_kind(name)) for name in names})
    blocks = [
        _Block(*(tuple({prefix + kind} & names) for kind in ("loading", "z")))
        for prefix in prefixes
    ]
    return _joined(posterior, blocks)


def _joined(posterior: xarray.Dataset, blocks: list[_Block]) -> list[_Block]:
    """The blocks, where a block without latents has joined the only one with its latents.

    Its loading then has the latent dimension of the latents of the other block.
    """
    owners = {block: list[str]() for block in blocks if block.latents}
    alone = []
    for block in blocks:
        if block.latents:
            continue
        dim = posterior[block.loadings[0]].dims[-1]
        sharing = [x for x in owners if posterior[x.latents[0]].dims[-1] == dim]
        if len(sharing) == 1 and sharing[0].loadings:
            owners[sharing[0]].extend(block.loadings)
        else:
            alone.append(block)
    joined = [
        block._replace(loadings=(*block.loadings, *shared)) for block, shared in owners.items()
    ]
    return sorted([*joined, *alone], key=lambda block: block.leading)


def _references(reference: Any, blocks: Sequence[_Block]) -> Mapping[str, Any]:
    leading = [name for block in blocks for name in block.leading]
    if reference is None:
        return {}
    if isinstance(reference, Mapping):
        if unknown := sorted(set(reference) - set(leading)):
            raise ValueError(f"reference must be of variables among {leading}, got {unknown}")
        return reference
    if len(leading) > 1:
        raise ValueError(
            f"reference must be a mapping from names among {leading} if there are several "
            f"blocks, got {type(reference).__name__}"
        )
    return {leading[0]: reference}


def _rotation(
    posterior: xarray.Dataset, references: Mapping[str, Any], block: _Block
) -> np.ndarray:
    """The rotation of every draw, ``(chain, draw, l, l)``.

    Tables that share their latents count together; where some have a reference, only these.
    """
    for name in block.leading:
        if posterior[name].ndim != 4:
            raise ValueError(
                f"{name} must be of four dimensions, chain, draw, features or rows, and "
                f"latents, got {posterior[name].dims}"
            )
    given = [name for name in block.leading if name in references]
    draws = [posterior[name] for name in given or block.leading]
    if not block.loadings:
        draws = [variable.mean("draw", keepdims=True) for variable in draws]
    wanted = [references[name] for name in given]
    try:
        reference = torch.cat([torch.as_tensor(x) for x in wanted]) if len(wanted) > 1 else None
        reference = wanted[0] if len(wanted) == 1 else reference
        together = torch.cat([torch.tensor(variable.values) for variable in draws], -2)
        aligned = align_draws(together, reference=reference)
    except (TypeError, ValueError, RuntimeError) as error:
        raise type(error)(f"{block.leading[0]} cannot be aligned: {error}") from error
    return aligned.rotation.numpy()


def _rotate(variable: xarray.DataArray, dim: str, rotation: np.ndarray) -> xarray.DataArray:
    """The variable ``(chain, draw, ...)`` with one dimension multiplied by a rotation."""
    last = variable.transpose("chain", "draw", ..., dim)
    vectors = last.values.reshape(*last.shape[:2], -1, last.shape[-1])
    turned = (vectors @ rotation.astype(vectors.dtype)).reshape(last.shape)
    return last.copy(data=turned).transpose(*variable.dims)


def _further(
    posterior: xarray.Dataset, name: str, rotations: Mapping[str, np.ndarray]
) -> tuple[xarray.DataArray, str, np.ndarray]:
    if name not in posterior.data_vars:
        raise ValueError(
            f"also must be of variables among {sorted(map(str, posterior.data_vars))}, got {name!r}"
        )
    dims = [str(dim) for dim in posterior[name].dims if dim in rotations]
    if len(dims) != 1:
        raise ValueError(
            f"also must be of variables with one dimension among {sorted(rotations)}, got "
            f"{name!r} with {posterior[name].dims}: name it with dims in to_arviz"
        )
    return posterior[name], dims[0], rotations[dims[0]]
