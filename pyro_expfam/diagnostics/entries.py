"""The variables of an observed site, without its masked entries."""

from __future__ import annotations

import numpy as np

from pyro_expfam.diagnostics.container import Variable
from pyro_expfam.diagnostics.labels import Labels
from pyro_expfam.diagnostics.sites import SAMPLE_DIMS, Site

TIE_BREAK = 1e-10
"""Far below what single precision resolves, and far above the digits of double precision."""


class Entries:
    """Variables of a group and the coordinates of what is left of tables with missing entries.

    Attributes:
        variables: the variables by name.
        coords: coordinates by name: sums of the variables over events, and the places of entries
            that are listed.
    """

    def __init__(self, labels: Labels) -> None:
        self.variables: dict[str, Variable] = {}
        self.coords: dict[str, Variable] = {}
        self._labels = labels

    def add_observations(self, site: Site, values: np.ndarray) -> None:
        """Adds the entries that are present of a site's observations ``shape``."""
        self._add(self.variables, site.name, site, (), values, site.present)

    def add_draws(self, site: Site, values: np.ndarray) -> None:
        """Adds draws ``(S, *shape)`` of the entries that are present."""
        self._add(self.variables, site.name, site, SAMPLE_DIMS, values[None], site.present)

    def add_missing_draws(self, site: Site, values: np.ndarray) -> None:
        """Adds draws ``(S, *shape)`` of the entries that are masked, if any."""
        self._add(self.variables, site.name, site, SAMPLE_DIMS, values[None], ~site.present)

    def add_log_likelihood(self, site: Site, values: np.ndarray) -> None:
        """Adds the log likelihood ``(S, *present.shape)`` of each entry that is present.

        Where entries make up events, their sums over each event that has any are a coordinate:
        with two variables, ArviZ would not know which of them is the log likelihood.
        """
        values = _without_ties(values)
        self._add(self.variables, site.name, site, SAMPLE_DIMS, values[None], site.present)
        if site.entry_ndim:
            axes = tuple(range(-site.entry_ndim, 0))
            total = np.where(site.present, values, 0).sum(axes)
            self._add_events(f"{site.name}_row", site, total)

    def add_marginal(self, site: Site, values: np.ndarray) -> None:
        """Adds the log density ``(S, ...)`` of each event with its own latents integrated out.

        It is a coordinate, as are the sums over events.
        """
        self._add_events(f"{site.name}_marginal", site, _without_ties(values))

    def _add_events(self, name: str, site: Site, values: np.ndarray) -> None:
        """Adds values ``(S, ...)`` of each event that has any entry."""
        present = np.asarray(site.present.any(tuple(range(-site.entry_ndim, 0))))
        self._add(self.coords, name, site, SAMPLE_DIMS, values[None], present)

    def _add(
        self,
        into: dict[str, Variable],
        name: str,
        site: Site,
        before: tuple[str, ...],
        values: np.ndarray,
        keep: np.ndarray,
    ) -> None:
        """Adds values ``(before, *keep.shape, ...)`` where ``keep`` says so, if anywhere.

        Where all are kept they stay a table; otherwise they are listed along one dimension.
        """
        if not keep.any():
            return
        lead, ndim = values.shape[: len(before)], values.ndim - len(before)
        if keep.all():
            sizes = site.sizes_of(ndim)
            into[name] = Variable((*before, *sizes), values.reshape(lead + tuple(sizes.values())))
            return
        entry_dim = f"{name}_entry"
        inside = [dim for dim in site.dims[keep.ndim : ndim] if dim is not None]
        kept = values[(slice(None),) * len(before) + (keep,)]
        into[name] = Variable((*before, entry_dim, *inside), kept)
        for dim, size, places in zip(site.dims, keep.shape, keep.nonzero(), strict=False):
            if dim is not None:
                labels = self._labels.along(dim, size)[places]
                self.coords[f"{entry_dim}_{dim}"] = Variable((entry_dim,), labels)


def _without_ties(log_likelihood: np.ndarray) -> np.ndarray:
    """Log likelihoods ``(S, ...)`` in double precision, no two draws of which are the same.

    Those of a nearly certain entry differ by less than their digits. Importance sampling looks at
    the largest differences: where there are none, ArviZ 1.x refuses, and 0.23 returns NaN.
    """
    draws = np.arange(len(log_likelihood)).reshape(-1, *(1,) * (log_likelihood.ndim - 1))
    # Fractions of multiples of the golden ratio are evenly spread, however many there are.
    return log_likelihood.astype(np.float64) + TIE_BREAK * (draws * 0.6180339887498949 % 1)
