"""The variables of an observed site: tables, and lists of present entries."""

from __future__ import annotations

import numpy as np

from pyro_expfam.diagnostics.container import Variable
from pyro_expfam.diagnostics.labels import Labels
from pyro_expfam.diagnostics.sites import SAMPLE_DIMS, Site

TIE_BREAKS = {"float64": 1e-10, "float32": 4e-6}
"""The difference that separates equal log likelihoods. It is larger than the rounding of numbers
near 1, in which precision ArviZ computes exponentials, and far smaller than a difference between
draws that matters."""


class GroupVariables:
    """Variables of a group, and coordinates of events and of lists of entries.

    A table ``y`` with missing entries keeps its shape, with NaN for a missing entry. The list
    ``y_present`` of the other entries is added beside it. Log likelihoods have only the list, since
    a missing entry has none.

    Attributes:
        variables: the variables by name.
        coords: coordinates by name: sums of log likelihoods over events, and the places of listed
            entries.
    """

    def __init__(self, labels: Labels) -> None:
        self.variables: dict[str, Variable] = {}
        self.coords: dict[str, Variable] = {}
        self._labels = labels

    def add_observations(self, site: Site, values: np.ndarray) -> None:
        """Adds a site's observations ``shape``, and the list of present ones."""
        self._add_table(site, (), values)
        self._add_present(site, (), values)

    def add_predictions(self, site: Site, values: np.ndarray) -> None:
        """Adds draws ``(S, *shape)``, and the list of draws of present entries."""
        self._add_table(site, SAMPLE_DIMS, values[None])
        self._add_present(site, SAMPLE_DIMS, values[None])

    def add_draws(self, site: Site, values: np.ndarray) -> None:
        """Adds draws ``(S, *shape)``."""
        self._add_table(site, SAMPLE_DIMS, values[None])

    def add_missing_draws(self, site: Site, values: np.ndarray) -> None:
        """Adds draws ``(S, *shape)`` of masked entries, if any, as a list."""
        missing = ~site.present
        if missing.any():
            self._add_list(self.variables, site.name, site, SAMPLE_DIMS, values[None], missing)

    def add_log_likelihood(self, site: Site, values: np.ndarray, dtype: np.dtype) -> None:
        """Adds the log likelihood ``(S, *present.shape)`` of each present entry.

        If entries make up events, the sum over each event with a present entry is a coordinate. As
        a second variable, ArviZ would not know which of the two is the log likelihood.
        """
        values = without_ties(values, dtype)
        if site.present.all():
            self._add_table(site, SAMPLE_DIMS, values[None])
        else:
            self._add_present(site, SAMPLE_DIMS, values[None])
        if site.entry_ndim:
            axes = tuple(range(-site.entry_ndim, 0))
            total = values.sum(axes, dtype=np.float64, where=site.present)
            self._add_events(f"{site.name}_row", site, total.astype(dtype))

    def add_marginal(self, name: str, site: Site, values: np.ndarray, dtype: np.dtype) -> None:
        """Adds the log density ``(S, ...)`` of each event with its own latents integrated out.

        It is a coordinate, like the sums over events.
        """
        self._add_events(name, site, without_ties(values, dtype))

    def _add_events(self, name: str, site: Site, values: np.ndarray) -> None:
        """Adds values ``(S, ...)`` of each event with a present entry."""
        present = events_present(site)
        if present.all():
            sizes = site.sizes_of(values.ndim - 1)
            shape = (1, len(values), *sizes.values())
            self.coords[name] = Variable((*SAMPLE_DIMS, *sizes), values.reshape(shape))
        elif present.any():
            self._add_list(self.coords, name, site, SAMPLE_DIMS, values[None], present)

    def _add_table(self, site: Site, before: tuple[str, ...], values: np.ndarray) -> None:
        """Adds values ``(before, *shape)``, with NaN for missing entries."""
        if not site.present.all():
            ndim = values.ndim - len(before) - site.present.ndim
            present = site.present.reshape(site.present.shape + (1,) * ndim)
            if values.dtype.kind != "f":
                values = values.astype(np.float64)
            values = np.where(present, values, values.dtype.type(np.nan))
        lead = values.shape[: len(before)]
        sizes = site.sizes_of(values.ndim - len(before))
        table = values.reshape(lead + tuple(sizes.values()))
        self.variables[site.name] = Variable((*before, *sizes), table)

    def _add_present(self, site: Site, before: tuple[str, ...], values: np.ndarray) -> None:
        """Lists values ``(before, *shape)`` of the present entries, if some are missing."""
        if site.present.any() and not site.present.all():
            name = f"{site.name}_present"
            entry_dim = f"{site.name}_entry"
            self._add_list(self.variables, name, site, before, values, site.present, entry_dim)

    def _add_list(
        self,
        into: dict[str, Variable],
        name: str,
        site: Site,
        before: tuple[str, ...],
        values: np.ndarray,
        keep: np.ndarray,
        entry_dim: str | None = None,
    ) -> None:
        """Adds those values ``(before, *keep.shape, ...)`` that ``keep`` selects, as a list.

        The coordinates of the list are the places of the values.
        """
        entry_dim = entry_dim or f"{name}_entry"
        inside = [dim for dim in site.dims[keep.ndim : values.ndim - len(before)] if dim]
        kept = values[(slice(None),) * len(before) + (keep,)]
        into[name] = Variable((*before, entry_dim, *inside), kept)
        for dim, size, places in zip(site.dims, keep.shape, keep.nonzero(), strict=False):
            if dim is not None:
                labels = self._labels.along(dim, size)[places]
                self.coords[f"{entry_dim}_{dim}"] = Variable((entry_dim,), labels)


def events_present(site: Site) -> np.ndarray:
    """Which events of a site have a present entry."""
    return np.asarray(site.present.any(tuple(range(-site.entry_ndim, 0))))


def without_ties(log_likelihood: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Log likelihoods ``(S, ...)`` of this type, with no two draws equal.

    Log likelihoods of a nearly certain entry differ by less than their digits. Pareto smoothing in
    importance sampling needs differences between the largest weights. Without any, ArviZ 1.x raises
    an error, and 0.23 returns NaN.
    """
    draws = np.arange(len(log_likelihood)).reshape(-1, *(1,) * (log_likelihood.ndim - 1))
    # Fractions of multiples of the golden ratio are evenly spread, however many there are. They are
    # centred, since their mean would add up over the entries of a table.
    spread = draws * 0.6180339887498949 % 1 - 0.5
    broken = log_likelihood.astype(dtype)
    # In place: log likelihoods are the largest of all arrays.
    broken += (TIE_BREAKS[dtype.name] * spread).astype(dtype)
    return broken
