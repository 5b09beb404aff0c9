"""A file that keeps where a fit is, so that a fit that was killed goes on from there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import pyro_expfam
from pyro_expfam.coefficients import EvidenceProblem
from pyro_expfam.deq.limits import check_positive
from pyro_expfam.deq.processes import Processes, Sums
from pyro_expfam.guides.tensor_file import FileError, read_tensors, write_tensors
from pyro_expfam.joint import LearntParametersProblem, NoiseScaleProblem, Objective, Sweep, Table
from pyro_expfam.joint.row_effect import RowEffect
from pyro_expfam.joint.table import TableRows
from pyro_expfam.user_warning import warn_user

KIND = "checkpoint of a fit"

COEFFICIENTS, OF_FAMILY, OF_TABLE = "coefficients", "family.", "table."
"""Names of tensors in the file, and the beginnings of names."""

SAME = 1e-9
"""Sums in double precision of the same numbers in another order differ by less than this part."""


class Place(NamedTuple):
    """Where a fit is.

    Attributes:
        theta: loading, intercept and what else the coefficients of a column are, in the units of
            the linear predictors.
        of_family: the parameters of the family that are learnt, by name.
    """

    theta: Tensor
    of_family: dict[str, Tensor]


class Kept(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        place: where the fit was.
        sweeps: the sweeps that it had taken.
    """

    place: Place
    sweeps: tuple[Sweep, ...]


@dataclass
class FitCheckpoint:
    """The file of a fit.

    The first process reads and writes it; what it has read goes to the others. The file holds the
    coefficients with the least objective so far, and is replaced at once or not at all. A file that
    cannot be written ends no fit: the last one that could be stays.

    Attributes:
        path: the file.
        every: seconds between two files.
        processes: the processes of the fit.
    """

    path: Path
    every: float
    processes: Processes

    def __post_init__(self) -> None:
        check_positive("every", self.every)
        self._problem: Objective | None = None
        self._about: dict[str, Any] = {}
        self._sums: dict[str, Tensor] = {}
        self._earlier: tuple[Sweep, ...] = ()
        self._latest: tuple[tuple[Sweep, ...], Tensor] | None = None
        self._written, self._has_warned = time.monotonic(), False
        if self.processes.number:
            return  # The folder may be on the machine of the first process alone.
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"checkpoint must be in a folder that exists, got {str(self.path)!r}"
            )
        if self.path.is_dir():
            raise IsADirectoryError(f"checkpoint must be a file, got the folder {str(self.path)!r}")

    @torch.no_grad()
    def begin(self, problem: Objective, latent_dim: int) -> Kept | None:
        """What an earlier fit of the same problem has kept, or None if there is no file.

        Raises:
            FileError: if the file is damaged, or of another model or table.
        """
        self._about = {"latent_dim": latent_dim, **_about(problem)}
        self._sums = {OF_TABLE + name: x.cpu() for name, x in _sums_of_table(problem.table).items()}
        kept = self.processes.of_first(self._read)
        if kept is not None:
            self._earlier = kept.sweeps
            like = problem.table.like
            theta, of_family = kept.place
            place = Place(theta.to(like), {name: x.to(like) for name, x in of_family.items()})
            kept = kept._replace(place=place)
        return kept

    def of(self, problem: Objective) -> None:
        """Tells what problem the coefficients are of, once it has its start."""
        self._problem = problem

    def keep(self, sweeps: Sequence[Sweep], coefficients: Tensor) -> None:
        """Takes note of where the fit is after a sweep, and writes it if it is time."""
        if self.processes.number:
            return
        if self._latest is None or not self._latest[0][-1].objective < sweeps[-1].objective:
            self._latest = (*self._earlier[:-1], *sweeps), coefficients
        if time.monotonic() - self._written >= self.every:
            self.write()

    @torch.no_grad()
    def write(self) -> None:
        """Writes where the fit was last."""
        if self._latest is None or self._problem is None:
            return
        sweeps, coefficients = self._latest
        if not bool(coefficients.isfinite().all()):
            return
        theta, of_family = place_of(self._problem, coefficients)
        tensors = {COEFFICIENTS: theta, **self._sums}
        tensors |= {OF_FAMILY + name: x for name, x in of_family.items()}
        plain = {"about": self._about, "sweeps": [list(sweep) for sweep in sweeps]}
        try:
            write_tensors(self.path, tensors, plain, KIND)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                warn_user(
                    f"the checkpoint {self.path} could not be written: {error}. The fit goes on, "
                    "and tries again"
                )
        self._written = time.monotonic()

    def _read(self) -> Kept | None:
        if not self.path.exists():
            return None
        try:
            tensors, plain = read_tensors(self.path, KIND)
            self._refuse_other(tensors, plain["about"])
        except FileError as error:
            raise FileError(
                f"checkpoint must be a file of an earlier fit of the same model to the same table, "
                f"or no file: {error}. It is kept as it is"
            ) from error
        of_family = {
            name.removeprefix(OF_FAMILY): x
            for name, x in tensors.items()
            if name.startswith(OF_FAMILY)
        }
        sweeps = tuple(Sweep(*x) for x in plain["sweeps"])
        return Kept(Place(tensors[COEFFICIENTS], of_family), sweeps)

    def _refuse_other(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        for name, own in self._about.items():
            # A checkpoint of another version of the package is as good.
            if name != "version" and about.get(name) != own:
                raise FileError(
                    f"{self.path} is of a fit with {name} {about.get(name)}, and this one has {own}"
                )
        for name, own in self._sums.items():
            theirs = tensors.get(name)
            if theirs is None or theirs.shape != own.shape or not _are_same(own, theirs):
                raise FileError(f"{self.path} is of a fit to another table")


def place_of(problem: Objective, coefficients: Tensor) -> Place:
    """Where a fit is, from the coefficients in its own form."""
    if isinstance(problem, NoiseScaleProblem):
        theta, scale = problem.natural(coefficients)
        return Place(theta, {"scale": scale})
    if isinstance(problem, LearntParametersProblem):
        theta, free = problem.parts(coefficients)
        return Place(theta, problem.values(free))
    return Place(coefficients, {})


def _about(problem: Objective) -> dict[str, Any]:
    """What of a fit, beside its table, decides about its estimate."""
    known = problem
    if isinstance(problem, NoiseScaleProblem | LearntParametersProblem):
        known = problem.known
    table = problem.table
    return {
        "version": pyro_expfam.__version__,
        "loss": f"order {known.order}, {known.nodes}"
        if isinstance(known, EvidenceProblem)
        else "the joint density",
        "family": [type(kind.family).__name__ for kind in table.family.kinds(table.num_features)],
        "learnt parameters": _learnt(problem),
        "known parameters": _known_parameters(problem),
        "dtype": str(table.like.dtype),
        "rows": table.num_rows,
        "columns": table.num_features,
        "latent_precision": float(known.latent_precision),
        "prior precisions": [
            torch.as_tensor(x, dtype=torch.float64).tolist()
            for x in (
                known.loading_precision,
                known.intercept_precision,
                known.covariate_precision,
            )
        ],
        "covariates": table.num_covariates,
        **_row_effect(known.row_effect),
    }


def _row_effect(effect: RowEffect | None) -> dict[str, float | None]:
    """The loading of a row effect; where the fit of one starts decides about nothing."""
    if effect is None:
        return {}
    return {"row effect": None if effect.is_learnt else effect.common_loading}


def _learnt(problem: Objective) -> list[str]:
    if isinstance(problem, NoiseScaleProblem):
        return ["scale by column" if problem.by_column else "scale"]
    if isinstance(problem, LearntParametersProblem):
        return [x.name for x in problem.parameters]
    return []


def _known_parameters(problem: Objective) -> dict[str, list[float]]:
    """The parameters that stay as they are. Those of a row belong to the process of the row."""
    family = problem.table.family
    learnt = {"scale"} if isinstance(problem, NoiseScaleProblem) else set(_learnt(problem))
    return {
        name: x.detach().double().flatten().tolist()
        for name, x in family.parameters.items()
        if name not in learnt and not family.differs_by_row
    }


def _sums_of_table(table: Table) -> dict[str, Tensor]:
    """Sums over all rows that tell tables apart, whatever processes or batches hold the rows."""

    def of_rows(place: slice, rows: TableRows) -> Sums:
        del place
        y = rows.y.double()
        weights = torch.ones_like(y) if rows.weights is None else rows.weights.double()
        weighted = y * weights
        sums = [weights.expand(y.shape).sum(0), weighted.sum(0), (weighted * y).sum(0)]
        # What belongs to a row is summed together with its observations: another sign, or another
        # order of the rows, is another table.
        others = [_with_observations(x.double(), y) for x in _others(rows)]
        return torch.stack(sums), *others

    of_columns, *others = table.sum(of_rows)
    found = {"columns": of_columns}
    if others:
        found["others"] = torch.cat(others)
    return found


def _with_observations(x: Tensor, y: Tensor) -> Tensor:
    """Sums of the columns of an argument of some rows, of their squares and with observations."""
    x, total = x.expand(len(y), -1), y.sum(1, keepdim=True)
    return torch.cat([x.sum(0), x.square().sum(0), (x * total).sum(0)])


def _others(rows: TableRows) -> Iterator[Tensor]:
    """Offsets and whatever else there is of rows beside observations and their weights."""
    for field in fields(rows):
        value = getattr(rows, field.name)
        if field.name not in ("y", "weights") and isinstance(value, Tensor):
            yield value


def _are_same(own: Tensor, theirs: Tensor) -> bool:
    if own.dim() == 1:
        # A sum of standardised numbers is rounding of what has been added.
        return torch.allclose(own, theirs, rtol=SAME, atol=SAME * float(own.abs().max()))
    # The sum of a standardised column is rounding of what has been added.
    size = (own[0] * own[2]).sqrt().clamp(min=torch.finfo(own.dtype).tiny)
    is_near = (own[:2] - theirs[:2]).abs() <= SAME * torch.stack([own[0], size])
    return bool(is_near.all()) and torch.allclose(own[2], theirs[2], rtol=SAME, atol=0.0)
