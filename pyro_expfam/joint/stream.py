"""A table that comes in batches and is never held in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from pyro_expfam.deq.arrays import refuse_no_table
from pyro_expfam.deq.covariates import as_covariates
from pyro_expfam.deq.frames import EntryError
from pyro_expfam.deq.observations import Missing, Observations, absent_columns
from pyro_expfam.deq.processes import ONE, Processes
from pyro_expfam.deq.sparse_rows import checked_rows, is_sparse, tiles_of
from pyro_expfam.families import Family
from pyro_expfam.joint import frame_names
from pyro_expfam.joint.fingerprint import Fingerprint, fingerprint
from pyro_expfam.joint.frame_names import FrameNames
from pyro_expfam.joint.in_memory import as_rows
from pyro_expfam.joint.table import Table


class StreamedTable(Table):
    """A table in batches of rows, with one batch at a time in memory.

    Every pass must give the same batches in the same order, since the solver starts from the
    latents that it found for the same row in the last pass. The table keeps a fingerprint of each
    batch. A pass that differs in one bit of an observation, offset, mask, weight or covariate is an
    error.
    Entries that a mask marks as missing are not read and may differ.

    Args:
        family: the law of the observations.
        num_features: columns ``d``.
        like: a tensor of the dtype and device of the fit; batches are moved there.
        batches: an iterable that gives all batches every time it is iterated over, such as a
            :class:`~torch.utils.data.DataLoader`. A batch holds the arguments of the block:
            observations ``(n, d)``, dense or sparse, or a tuple or list of observations, offset,
            mask, weights and covariates, or a mapping from the names ``y``, ``offset``, ``mask``,
            ``weights`` and ``covariates``.
        missing: ``"nan"`` if NaN in observations is a missing entry.
        num_covariates: covariates of a row.
        processes: the processes that hold the rows, each of them with batches of its own.

    Raises:
        TypeError: if ``batches`` can be iterated over only once, or a batch has another form.
        ValueError: if a batch does not fit, or a pass differs from the first.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader(torch.poisson(torch.ones(100, 6)), batch_size=30)
        >>> table = pef.joint.StreamedTable(pef.families.Poisson(), 6, torch.zeros(()), loader)
        >>> table.num_rows
        100
    """

    def __init__(
        self,
        family: Family,
        num_features: int,
        like: Tensor,
        batches: Iterable[Any],
        *,
        missing: Missing = None,
        num_covariates: int = 0,
        processes: Processes = ONE,
    ) -> None:
        refuse_no_table("y", batches)
        if isinstance(batches, Iterator):
            raise TypeError(
                "y must be a table, or batches that can be iterated over again and again such as "
                f"a DataLoader, got a {type(batches).__name__}, which ends after one pass"
            )
        self._loader, self._missing = batches, missing
        # Covariates are rounded once, also where a later pass is in double precision.
        self._dtype_of_covariates = like.dtype
        self._seen: list[dict[str, Any]] = []
        self._frame: Any = None
        self._first_names: FrameNames | None = None
        self._named_rows: tuple[Any, Any] | None = None
        self._absent: set[int] | None = None
        self._is_first_pass, self._total = True, 0.0
        try:
            super().__init__(family, num_features, like, num_covariates, processes)
        except (TypeError, ValueError) as found:
            error = found.of_frame(self._frame) if isinstance(found, EntryError) else found
            if self._frame is not None:
                error.add_note(f"in batch {len(self._seen)} of the loader")
            raise error from None
        self._frame, self._is_first_pass = None, False
        if self.num_rows == 0:
            raise ValueError("y must have at least one row, got a loader without a batch")

    def _look_at(self, begin: int, observed: Observations) -> None:
        # A further pass over the batches would be slow.
        self._total += self._log_base_measure_of(begin, observed)

    def _own_log_base_measure(self) -> float:
        return self._total

    def _batches(self) -> Iterator[tuple[int, Observations]]:
        is_first = self._is_first_pass
        number, begin = 0, 0
        for batch in self._loader:
            y, *entries = _arguments(batch)
            self._frame = y
            if is_first:
                self._check_names(FrameNames.of(self.family, y, entries[-1]))
                if self._named_rows is None:
                    named = frame_names.without_rows(self.family, y, entries[-1])
                    self._named_rows = frame_names.with_names_of(self._loader, named)
            if is_sparse(y):
                fingerprints, parts = self._of_sparse(y, entries)
            else:
                observed = self._observations(y, entries)
                fingerprints, parts = _fingerprints(self.family, observed), iter((observed,))
            if not is_first:
                self._check_same(number, fingerprints)
            for part in parts:
                if is_first:
                    own = set(absent_columns(part.mask, part.weights))
                    self._absent = own if self._absent is None else self._absent & own
                yield begin, part.on(self.like.device)
                begin += len(part.y)
            if is_first:
                self._seen.append(fingerprints)
            number += 1
        if number != len(self._seen):
            raise self._differs(f"{number} batches where it had {len(self._seen)}")

    @property
    def absent_columns(self) -> list[int]:
        """Columns that mask and weights leave no entry of in any batch."""
        return sorted(self._absent or ())

    @property
    def named_rows(self) -> tuple[Any, Any] | None:
        """The first frames of ``y`` and of covariates, without their rows."""
        return self._named_rows

    @property
    def _names(self) -> FrameNames | None:
        return self._first_names

    def _check_names(self, names: FrameNames) -> None:
        """An error if a batch has other names than the first. Its numbers are compared later."""
        if self._first_names is None:
            self._first_names = names
        names.check(self._first_names, "batch")

    def _of_sparse(
        self, y: Any, entries: list[Any]
    ) -> tuple[dict[str, Any], Iterator[Observations]]:
        """The fingerprints of a sparse batch, and the batch, of which a tile at a time is dense."""
        like = self.like.cpu()
        *others, covariates = map(_on_cpu, entries)
        rows, checked = checked_rows(self.family, y, self.num_features, like, *others)
        x = as_covariates(covariates, self.num_covariates, rows.shape[0], like)
        known = (*checked, self._rounded(x))
        found: dict[str, Any] = {"y": tuple(map(fingerprint, rows.arrays))}
        for name, x in zip(Observations._fields[1:], known, strict=False):
            found[name] = None if x is None else fingerprint(x)
        tiles = tiles_of(rows, known, self.num_predictors, like)
        return found, (Observations(*tile) for tile in tiles)

    def _observations(self, y: Any, entries: list[Any]) -> Observations:
        """A batch in the memory of the CPU, where loaders leave it."""
        y, *others = map(_on_cpu, (y, *entries))
        observed = as_rows(
            y,
            self.family,
            self.num_features,
            self.like.cpu(),
            *others,
            missing=self._missing,
            num_covariates=self.num_covariates,
        )
        return observed._replace(covariates=self._rounded(observed.covariates))

    def _rounded(self, covariates: Tensor | None) -> Tensor | None:
        return None if covariates is None else covariates.to(self._dtype_of_covariates)

    def _check_same(self, number: int, fingerprints: dict[str, Any]) -> None:
        if number >= len(self._seen):
            raise self._differs(f"more than the {len(self._seen)} batches that it had")
        for name, before in self._seen[number].items():
            if fingerprints[name] != before:
                raise self._differs(f"other {'rows' if name == 'y' else name} in batch {number}")

    def _differs(self, got: str) -> ValueError:
        return ValueError(
            "y must give the same rows in the same order at every pass, as a DataLoader with "
            f"shuffle=False does, got {got}"
        )


def _on_cpu(x: Any) -> Any:
    return x.cpu() if isinstance(x, Tensor) else x


def _fingerprints(family: Family, observed: Observations) -> dict[str, Fingerprint | None]:
    """The fingerprints of a batch, one per argument."""
    return {
        name: None if entries is None else fingerprint(entries)
        for name, entries in observed.filled(family)._asdict().items()
    }


def _arguments(batch: Any) -> tuple[Any, ...]:
    """The arguments ``y, offset, mask, weights, covariates`` that a batch holds."""
    try:
        if isinstance(batch, Mapping):
            return _named(**batch)
        if isinstance(batch, tuple | list):
            return _named(*batch)
    except TypeError:
        got = sorted(batch) if isinstance(batch, Mapping) else f"{len(batch)} items"
        raise TypeError(
            "a batch must be y, or hold y, offset, mask, weights and covariates in this order or "
            f"by name, got {got}"
        ) from None
    return _named(batch)


def _named(
    y: Any, offset: Any = None, mask: Any = None, weights: Any = None, covariates: Any = None
) -> tuple[Any, ...]:
    return y, offset, mask, weights, covariates
