"""Latents of two dimensions with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pyro_expfam.diagnostics.container import is_container
from pyro_expfam.plots.arguments import Array, as_array, as_level, as_position, as_shape
from pyro_expfam.plots.containers import variable_of
from pyro_expfam.plots.style import BLUE, CATEGORIES, SEQUENCE, axes_or_new, pyplot


def plot_latents(
    latents: Any,
    covariance: Any = None,
    labels: Any = None,
    dims: tuple[int, int] = (0, 1),
    level: float = 0.9,
    variable: str = "z",
    ax: Any = None,
) -> Any:
    r"""Rows in the plane of two latents, with the regions that hold a given probability.

    The region of a row is the ellipse
    :math:`(z - \mu)^\top \Sigma^{-1} (z - \mu) \le -2 \log(1 - \text{level})` of the two latents,
    the right-hand side being the quantile of their chi-squared law.

    Args:
        latents: the normal over latents that ``guide.posterior(y)`` returns, or any distribution
            with a mean and a covariance; a container of ArviZ from :func:`~pyro_expfam.align`, or
            draws that are aligned, ``(..., N, l)``, for the normal of their moments; or means,
            ``(N, l)``.
        covariance: covariances of means, ``(N, l, l)``; without them there are no ellipses.
        labels: names of groups, ``(N,)``, which become colours and a legend; or floating-point
            numbers, which become a colour scale.
        dims: the two latents.
        level: probability of a region.
        variable: the variable of the container.
        ax: axes to draw on.

    Returns:
        The axes.

    Raises:
        TypeError: if an argument does not hold numbers.
        ValueError: if a shape, level or position does not fit; the message names the argument.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(torch.randn(50, 2) @ torch.randn(2, 6)))
        >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, latent_dim=2))
        >>> fit = guide.fit(y)
        >>> ax = pef.plots.plot_latents(guide.posterior(y), labels=["a", "b"] * 25)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['a', 'b']
    """
    z, covariance = _moments(latents, covariance, variable)
    rows, latent_dim = z.shape
    first, second = _two(dims, latent_dim)
    ellipses = None
    if covariance is not None:
        whole = as_shape("covariance", covariance, (rows, latent_dim, latent_dim))
        ellipses = whole[:, [first, second]][:, :, [first, second]]
    quantile = -2 * math.log(1 - as_level(level))
    groups = None if labels is None else _labels(labels, rows)

    ax = axes_or_new(ax, figsize=(5.0, 4.2))
    points = z[:, [first, second]]
    colours = _draw_points(ax, points, groups)
    if ellipses is not None:
        _draw_ellipses(ax, points, quantile * ellipses, colours)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set(xlabel=f"latent {first + 1}", ylabel=f"latent {second + 1}")
    ax.set_title("Latents" if ellipses is None else f"Latents, with {level:.0%} regions")
    return ax


def _moments(latents: Any, covariance: Any, variable: str) -> tuple[Array, Any]:
    """Means ``(N, l)``, and covariances if they are known."""
    if hasattr(latents, "covariance_matrix"):
        latents, covariance = latents.mean, latents.covariance_matrix
    if is_container(latents):
        latents = variable_of(latents, "posterior", variable).values
    z = as_array("latents", latents)
    if z.ndim < 3 or z.size == 0:
        return as_shape("latents", z, ("N", "l")), covariance
    if covariance is not None:
        raise ValueError("covariance must be left out where latents has draws, got both")
    draws = z.reshape(-1, *z.shape[-2:])
    centred = draws - draws.mean(0)
    return draws.mean(0), np.einsum("snk,snl->nkl", centred, centred) / max(len(draws) - 1, 1)


def _two(dims: Sequence[int], latent_dim: int) -> tuple[int, int]:
    """The two latents of a plane."""
    if latent_dim < 2:
        raise ValueError(f"latents must have at least two dimensions to draw, got {latent_dim}")
    if len(dims) != 2:
        raise ValueError(f"dims must be two different latents, got {dims}")
    first, second = (as_position("dims", dim, latent_dim) for dim in dims)
    if first == second:
        raise ValueError(f"dims must be two different latents, got {dims}")
    return first, second


def _labels(labels: Any, rows: int) -> Array:
    values = np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels)
    if values.shape != (rows,):
        raise ValueError(f"labels must be of shape ({rows},), one a row, got {values.shape}")
    return values


def _draw_points(ax: Any, points: Array, labels: Array | None) -> Array:
    """Draws the rows; returns their colours, ``(N, 4)``."""
    from matplotlib.colors import to_rgba_array

    size = float(np.clip(3000 / len(points), 3, 20))
    if labels is None:
        ax.scatter(*points.T, s=size, color=BLUE, linewidths=0, zorder=2)
        return to_rgba_array([BLUE] * len(points))
    if labels.dtype.kind == "f":
        drawn = ax.scatter(*points.T, s=size, c=labels, cmap=SEQUENCE, linewidths=0, zorder=2)
        ax.figure.colorbar(drawn, ax=ax)
        return drawn.to_rgba(labels)
    names, group = np.unique(labels, return_inverse=True)
    palette = to_rgba_array(_palette(len(names)))
    for position, name in enumerate(names):
        ax.scatter(
            *points[group == position].T,
            s=size,
            color=[palette[position]],
            linewidths=0,
            label=str(name),
            zorder=2,
        )
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.5)
    return palette[group]


def _palette(size: int) -> Any:
    if size <= len(CATEGORIES):
        return CATEGORIES[:size]
    return pyplot().get_cmap(SEQUENCE)(np.linspace(0, 0.95, size))


def _opacities(count: int) -> tuple[float, float]:
    """How opaque ellipses and their edges are: less the more of them there are.

    Where half of many ellipses overlap, two thirds of what is below them is covered.
    """
    fill = float(np.clip(2.0 / count, 0.005, 0.12))
    return fill, float(np.clip(10.0 / count, 0.05, 0.5))


def _draw_ellipses(ax: Any, centres: Array, shapes: Array, colours: Array) -> None:
    """Draws the ellipses whose matrices are ``shapes``."""
    from matplotlib.collections import EllipseCollection

    squares, axes = np.linalg.eigh(shapes)
    fill, edge = _opacities(len(shapes))
    diameters = 2 * np.sqrt(squares.clip(min=0))
    angles = np.degrees(np.arctan2(axes[:, 1, 1], axes[:, 0, 1]))
    ax.add_collection(
        EllipseCollection(
            diameters[:, 1],
            diameters[:, 0],
            angles,
            units="xy",
            offsets=centres,
            offset_transform=ax.transData,
            facecolors=np.column_stack([colours[:, :3], np.full(len(colours), fill)]),
            edgecolors=np.column_stack([colours[:, :3], np.full(len(colours), edge)]),
            linewidths=0.6,
            zorder=1,
        )
    )
    reach = np.sqrt(shapes.diagonal(axis1=1, axis2=2))
    ax.update_datalim(np.concatenate([centres - reach, centres + reach]))
    ax.autoscale_view()
