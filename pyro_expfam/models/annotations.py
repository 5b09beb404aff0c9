"""What a block writes into the ``infer`` of its sites, for guides and losses.

Everything that belongs to blocks alone is one record under the one key :data:`RECORD`: a
:class:`LatentSite`, an :class:`ObservedSite` or a :class:`CoefficientSite`, which the block writes,
or an :class:`Answer`, which a guide writes. A reader calls the function of the record that it
wants, such as :func:`latent_site`.

``event_dims``, ``plate_dims``, ``level_dims``, ``levels``, ``columns``, ``kinds``,
``columns_of_parameters``, ``names``, ``argument_dims``, ``rows_of``, ``marginal`` and
``parameters`` have keys of their own. ``diagnostics`` reads them at the sites of any model, and
does not know blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from pyro_expfam.deq.observations import Observations
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence import second_order_evidence
from pyro_expfam.models.row_plate import RowPlace

RECORD = "pyro_expfam"
"""The key of ``infer`` under which the record of a site stands."""


# Records are compared by identity: tensors have no truth value.
@dataclass(frozen=True, eq=False)
class LatentSite:
    """The latents of a block.

    Attributes:
        block: the block.
        problem: the problem of the latents, or None without observations.
        arguments: observations, offset, mask, weights and covariates, as the block was called with
            them.
        rows: the place of the rows in the whole table, or None if it is not known.
        is_normal: whether the prior is the normal one of the problem.
    """

    block: PyroModule
    problem: LatentProblem | None
    arguments: tuple[Any, ...]
    rows: RowPlace | None
    is_normal: bool = True

    def structure(self) -> LatentSite:
        """The same site without what belongs to one table."""
        return replace(self, problem=None, arguments=(), rows=None)


@dataclass(frozen=True, eq=False)
class ObservedSite:
    """The observations of a block.

    Attributes:
        block: the block.
        z: the latents of the rows, or None where only the structure is known.
        view: the problem of the table, whose prior does not count, if another block has the
            latents; None for the latents of the block itself.
        arguments: observations, offset, mask, weights and covariates, as the block was called with
            them.
        latent_rows: the row of the view for each row of the table, or None where they are the same.
    """

    block: PyroModule
    z: Tensor | None
    view: LatentProblem | None = None
    arguments: tuple[Any, ...] = ()
    latent_rows: Tensor | None = None

    def structure(self) -> ObservedSite:
        """The same site without what belongs to one table."""
        return ObservedSite(self.block, None)


@dataclass(frozen=True, eq=False)
class CoefficientSite:
    """A loading, an intercept or a hyperparameter that has a prior.

    Attributes:
        block: the block.
        attribute: its name in the block, such as ``"loading"``.
        starts_at_zero: whether training should start it at zero, which is its prior median.
    """

    block: PyroModule
    attribute: str
    starts_at_zero: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """What a guide says of a block's latents.

    Attributes:
        problem: the problem of the latents, without repetitions; None where the latents are a
            part of the problem of an earlier site.
        root: the root of the problem, ``(..., N, l)``.
        posterior: the distribution of the latents of the site, around the root.
        checked: the blocks whose observations, offset, mask, weights and covariates the guide's
            run has checked, with these arguments.
        log_likelihood: the log likelihoods of the rows of the table at the root, ``(N,)``, where
            the latents are the root and the guide has found them.
        log_prior: the log prior densities of the latents at the root, likewise.
        observed: the checked table, or None where there are several.
    """

    problem: LatentProblem | None
    root: Tensor
    posterior: dist.TorchDistribution
    checked: tuple[tuple[PyroModule, tuple[Any, ...]], ...]
    log_likelihood: Tensor | None = None
    log_prior: Tensor | None = None
    observed: Observations | None = None

    def has_checked(self, block: PyroModule, arguments: tuple[Any, ...]) -> bool:
        """Whether the guide's run has checked the same arguments of a block."""
        return any(
            known is block and all(a is b for a, b in zip(arguments, others, strict=True))
            for known, others in self.checked
        )


Record = TypeVar("Record", LatentSite, ObservedSite, CoefficientSite, Answer)


def infer(record: LatentSite | ObservedSite | CoefficientSite | Answer, **annotations: Any) -> Any:
    """The annotations of a site: its record, and what ``diagnostics`` reads.

    Pyro types a few annotations of its own, and passes on all others.
    """
    return {RECORD: record, **annotations}


def latent_site(site: Any) -> LatentSite | None:
    """The record of the latents of a block; None at any other site."""
    return _record(site, LatentSite)


def observed_site(site: Any) -> ObservedSite | None:
    """The record of the observations of a block; None at any other site."""
    return _record(site, ObservedSite)


def coefficient_site(site: Any) -> CoefficientSite | None:
    """The record of a coefficient or hyperparameter of a block; None at any other site."""
    return _record(site, CoefficientSite)


def answer(site: Any) -> Answer | None:
    """What a guide has answered at a site of its own run; None at any other site."""
    return _record(site, Answer)


def _record(site: Any, kind: type[Record]) -> Record | None:
    # Sites that are no samples, such as the arguments of a trace, may have no annotations.
    found = (site.get("infer") or {}).get(RECORD)
    return found if isinstance(found, kind) else None


def structure_of(annotations: Any) -> Any:
    """Annotations of a site, without the table of the run and numbers computed from it."""
    of_run = ("marginal", "parameters", "rows_of")
    kept = {key: value for key, value in annotations.items() if key not in of_run}
    record = kept.get(RECORD)
    if isinstance(record, LatentSite | ObservedSite):
        kept[RECORD] = record.structure()
    return kept


def marginal(problem: LatentProblem) -> Tensor:
    """The log density of every row with its latents integrated out, ``(..., N)``."""
    return second_order_evidence(problem.distinct())


def is_enumerated(site: Any) -> bool:
    """Whether a discrete site is summed over rather than drawn."""
    return not site["is_observed"] and (site.get("infer") or {}).get("enumerate") == "parallel"
