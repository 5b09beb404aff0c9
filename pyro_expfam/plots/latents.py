"""Latents of rows with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pyro_expfam.diagnostics.container import is_container
from pyro_expfam.plots.arguments import Array, as_array, as_level, as_position, as_shape
from pyro_expfam.plots.containers import latents_of
from pyro_expfam.plots.groups import as_groups, draw_points
from pyro_expfam.plots.strip import draw_strip
from pyro_expfam.plots.style import axes_or_new, set_equal_units, set_title

UNUSED = 0.01
"""A latent is used if at least this part of its total variance is variance between rows."""

FEWEST_ROWS = 10
"""The least number of rows for which the variance between rows is meaningful."""


def plot_latents(
    latents: Any,
    covariance: Any = None,
    labels: Any = None,
    dims: Sequence[int] | None = None,
    level: float = 0.9,
    variable: str = "z",
    num_regions: int = 40,
    ax: Any = None,
) -> Any:
    r"""Rows in the plane of two latents, with the regions that hold a given probability.

    The region of a row is the ellipse
    :math:`(z - \mu)^\top \Sigma^{-1} (z - \mu) \le -2 \log(1 - \text{level})` of the two latents,
    with the quantile of their chi-squared law on the right-hand side. If there are more than
    ``num_regions`` rows, a selection that is spread over the picture has regions.

    A single latent, of a model with one or if ``dims`` names one, is drawn as a strip: rows in
    order, by group, or against a number, with intervals. A latent is not used if less than 1% of
    its variance is between rows, and the rest within the posterior of each row, as for a loading of
    zero. The title then names it, and the other latent is drawn as a strip.

    Args:
        latents: the normal over latents that ``guide.posterior(y)`` returns, or any distribution
            with a mean and a covariance; or a container of ArviZ from :func:`~pyro_expfam.align`,
            or aligned draws ``(..., N, l)``, for the normal with their moments; or means,
            ``(N, l)``.
        covariance: covariances of means, ``(N, l, l)``; without them there are no ellipses.
        labels: names of groups, ``(N,)``, drawn as colours with a legend; or floating-point
            numbers, drawn as a colour scale. Rows with a missing label are grey rings.
        dims: the two latents, numbered from 0, or a single one; by default the first two.
        level: probability of a region.
        variable: the variable of the container, such as ``"genes.z"``; a table that shares the
            latents of another block is named likewise.
        num_regions: the largest number of rows with a region.
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
    z, covariance = latent_moments(latents, covariance, variable)
    rows, latent_dim = z.shape
    if covariance is not None:
        covariance = as_shape("covariance", covariance, (rows, latent_dim, latent_dim))
    shown = as_dims(dims, latent_dim)
    groups = as_groups(labels, rows)
    as_level(level)
    if num_regions < 0:
        raise ValueError(f"num_regions must not be negative, got {num_regions}")

    usage = _usage(z, covariance, shown)
    used = [dim for dim in shown if dim not in usage.unused]
    ax = axes_or_new(ax, figsize=(5.0, 4.2))
    if len(used) == 1:
        (dim,) = used
        sd = None if covariance is None else np.sqrt(covariance[:, dim, dim].clip(min=0))
        draw_strip(ax, z[:, dim], sd, groups, level)
        ax.set_xlabel(f"latent {dim}")
        title = f"Latent {dim}" if sd is None else f"Latent {dim}, with {level:.0%} intervals"
        set_title(ax, usage.title(title), usage.failed)
        return ax

    points = z[:, shown]
    colours = draw_points(ax, points, groups)
    title = "Latents"
    if covariance is not None and num_regions and not usage.failed:
        shapes = -2 * math.log(1 - level) * covariance[:, shown][:, :, shown]
        some = _spread(points, shapes, num_regions)
        _draw_ellipses(ax, points[some], shapes[some], colours[some])
        of_some = "" if len(some) == rows else f" of {len(some)} of {rows:,} rows"
        title = f"Latents, with {level:.0%} regions{of_some}"
    set_equal_units(ax)
    ax.set(xlabel=f"latent {shown[0]}", ylabel=f"latent {shown[1]}")
    set_title(ax, usage.title(title), usage.failed)
    return ax


def latent_moments(latents: Any, covariance: Any, variable: str) -> tuple[Array, Any]:
    """Means ``(N, l)``, and covariances if they are known."""
    if hasattr(latents, "covariance_matrix"):
        latents, covariance = latents.mean, latents.covariance_matrix
    if is_container(latents):
        latents = latents_of(latents, variable).values
    z = as_array("latents", latents)
    if z.ndim < 3 or z.size == 0:
        return as_shape("latents", z, ("N", "l")), covariance
    if covariance is not None:
        raise ValueError("covariance must be left out if latents has draws, got both")
    draws = z.reshape(-1, *z.shape[-2:])
    centred = draws - draws.mean(0)
    return draws.mean(0), np.einsum("snk,snl->nkl", centred, centred) / max(len(draws) - 1, 1)


def as_dims(dims: Sequence[int] | None, latent_dim: int) -> list[int]:
    """The latents to draw, two or a single one."""
    if dims is None:
        return list(range(min(latent_dim, 2)))
    positions = [as_position("dims", dim, latent_dim) for dim in dims]
    if len(positions) not in (1, 2) or len(set(positions)) != len(positions):
        raise ValueError(f"dims must be one or two different latents, got {dims}")
    return positions


class _Usage(NamedTuple):
    """The latents in a picture that are not used, and a note on them for the title."""

    unused: list[int]
    note: str

    @property
    def failed(self) -> bool:
        return bool(self.note)

    def title(self, text: str) -> str:
        return f"{text}\n{self.note}" if self.note else text


def _usage(z: Array, covariance: Any, dims: Sequence[int]) -> _Usage:
    """Looks for latents, or directions of a plane, that hardly vary between rows."""
    if covariance is None or len(z) < FEWEST_ROWS:
        return _Usage([], "")
    between = np.atleast_2d(np.cov(z[:, dims], rowvar=False))
    total = between + covariance.mean(0)[np.ix_(dims, dims)]
    parts = between.diagonal() / total.diagonal().clip(min=1e-300)
    unused = [dim for dim, part in zip(dims, parts, strict=True) if part < UNUSED]
    if len(unused) > 1:
        return _Usage(unused, f"latents {unused[0]} and {unused[1]} are not used")
    if unused:
        return _Usage(unused, f"latent {unused[0]} is not used")
    smallest = np.linalg.eigvals(np.linalg.solve(total, between)).real.min()
    if smallest < UNUSED:
        return _Usage([], f"a direction of latents {dims[0]} and {dims[1]} is not used")
    return _Usage([], "")


def _spread(points: Array, shapes: Array, count: int) -> Array:
    """Which points to draw with their ellipses, at most ``count``.

    Each chosen point is far from the points before it, and outside their ellipses.
    """
    if len(points) <= count:
        return np.arange(len(points))
    chosen = [int(np.linalg.norm(points - points.mean(0), axis=1).argmin())]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        away = points - points[chosen[-1]]
        distance = np.minimum(distance, np.linalg.norm(away, axis=1))
        inside = np.einsum("nk,kl,nl->n", away, np.linalg.pinv(shapes[chosen[-1]]), away) <= 1
        distance[inside] = 0
        if not distance.any():
            break
        chosen.append(int(distance.argmax()))
    return np.array(chosen)


def _opacities(count: int) -> tuple[float, float]:
    """The opacity of ellipses and of their edges, which decreases with their number.

    Where half of many ellipses overlap, two thirds of the background is covered.
    """
    fill = float(np.clip(2.0 / count, 0.005, 0.12))
    return fill, float(np.clip(20.0 / count, 0.05, 0.6))


def _draw_ellipses(ax: Any, centres: Array, shapes: Array, colours: Array) -> None:
    """Draws ellipses with the matrices ``shapes``."""
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
            linewidths=0.8,
            zorder=1,
        )
    )
    reach = np.sqrt(shapes.diagonal(axis1=1, axis2=2))
    ax.update_datalim(np.concatenate([centres - reach, centres + reach]))
    ax.autoscale_view()
