"""Rows and features in one plane: latents as points, loadings as arrows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_expfam.diagnostics.container import is_container
from pyro_expfam.plots.arguments import Array, as_array
from pyro_expfam.plots.containers import centred_loading, variable_of
from pyro_expfam.plots.groups import as_groups, draw_points
from pyro_expfam.plots.latents import as_dims, latent_moments
from pyro_expfam.plots.loading import feature_names
from pyro_expfam.plots.name_places import place_names
from pyro_expfam.plots.style import GREY, axes_or_new, set_equal_units, set_title, short_names

REACH = 0.9
"""The length of the longest arrow, relative to the distance of the farthest row from the origin."""

MARGIN = 0.12
"""The margin around rows and arrows, which has room for names, relative to their range."""


def plot_biplot(
    latents: Any,
    loading: Any = None,
    labels: Any = None,
    dims: Sequence[int] = (0, 1),
    names: Sequence[Any] | None = None,
    num_arrows: int = 8,
    variable: str = "z",
    ax: Any = None,
) -> Any:
    r"""Rows as points in the plane of two latents, and the longest loadings as arrows.

    The natural parameter of row :math:`s` and feature :math:`i` is
    :math:`w_i^\top z_s + b_i`. It is large if the row is far in the direction of the feature's
    arrow (Gabriel, *The biplot graphic display of matrices with application to principal component
    analysis*, 1971). All arrows are drawn at one scale, given in the title.

    Args:
        latents: a container of ArviZ from :func:`~pyro_expfam.align`, which has the loading too; or
            latents in any form that :func:`plot_latents` takes.
        loading: the loading, ``(d, l)``, such as ``guide.loading``, or draws of it,
            ``(..., d, l)``; left out for a container.
        labels: names of groups or numbers, ``(N,)``, as for :func:`plot_latents`.
        dims: the two latents, numbered from 0.
        names: names of the features; by default the labels of the container, or positions.
        num_arrows: the largest number of features with an arrow.
        variable: the variable of the container that has the latents, such as ``"genes.z"``; the
            loading is ``"genes.loading"`` then.
        ax: axes to draw on.

    Returns:
        The axes.

    Raises:
        TypeError: if an argument does not hold numbers, or the loading is left out.
        ValueError: if a shape, position or name does not fit; the message names the argument.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(torch.randn(50, 2) @ torch.randn(2, 4)))
        >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 4, latent_dim=2))
        >>> fit = guide.fit(y)
        >>> ax = pef.plots.plot_biplot(guide.posterior(y), guide.loading, names=list("abcd"))
        >>> sorted(text.get_text() for text in ax.texts if text.get_text())
        ['a', 'b', 'c', 'd']
    """
    if is_container(latents):
        array = variable_of(latents, "posterior", variable.removesuffix("z") + "loading")
        names = list(array[array.dims[-2]].values) if names is None else names
        loading = centred_loading(array)
    elif loading is None:
        raise TypeError(
            "loading must be given if latents is not a container of ArviZ, got latents of type "
            f"{type(latents).__name__} alone"
        )
    z, _ = latent_moments(latents, None, variable)
    W = _mean(as_array("loading", loading), z.shape[1])
    shown = as_dims(dims, z.shape[1])
    if len(shown) != 2:
        raise ValueError(f"dims must be two different latents, got {dims}")
    texts = feature_names(names, len(W))
    if num_arrows < 1:
        raise ValueError(f"num_arrows must be at least 1, got {num_arrows}")
    groups = as_groups(labels, len(z))

    ax = axes_or_new(ax, figsize=(5.5, 4.6))
    points, arrows = z[:, shown], W[:, shown]
    length = np.linalg.norm(arrows, axis=1)
    longest = np.argsort(-length, kind="stable")[:num_arrows]
    longest = longest[length[longest] > 0]
    scale = _scale(points, length)
    for position in (ax.axhline, ax.axvline):
        position(0, color=GREY, linewidth=0.6, zorder=0)
    draw_points(ax, points, groups)
    set_equal_units(ax)
    ax.set(xlabel=f"latent {shown[0]}", ylabel=f"latent {shown[1]}")
    of_some = f" {len(longest)} longest of {len(W):,}" if len(longest) < len(W) else ""
    set_title(ax, f"Latents, and the{of_some} loadings (scale {scale:.2g})")
    _draw_arrows(ax, scale * arrows[longest], short_names(texts[feature] for feature in longest))
    return ax


def _mean(loading: Array, latent_dim: int) -> Array:
    """The mean over draws, ``(d, l)``."""
    if loading.ndim < 2 or loading.size == 0 or loading.shape[-1] != latent_dim:
        raise ValueError(
            f"loading must be of shape (..., d, {latent_dim}), not empty, got {loading.shape}"
        )
    return loading.reshape(-1, *loading.shape[-2:]).mean(0)


def _scale(points: Array, length: Array) -> float:
    """The length of arrows relative to loadings."""
    radius = np.linalg.norm(points, axis=1).max()
    return float(REACH * radius / length.max()) if radius and length.max() else 1.0


def _draw_arrows(ax: Any, ends: Array, names: list[str]) -> None:
    """Draws arrows from the origin, the longest first, with names that do not overlap."""
    from matplotlib.patheffects import withStroke

    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "linewidth": 1.1, "color": "0.15"}
    style = {"textcoords": "offset points", "fontsize": "small", "zorder": 4}
    halo = [withStroke(linewidth=2.5, foreground="white")]
    texts = []
    for (x, y), name in zip(ends, names, strict=True):
        ax.annotate("", (x, y), (0, 0), arrowprops=arrow, zorder=3)
        texts.append(ax.annotate(name, (x, y), (0, 0), path_effects=halo, **style))
    ax.margins(MARGIN)
    ax.update_datalim(ends)
    ax.autoscale_view()
    place_names(ax, texts, ends)
