"""The table of a block: its checked observations, and the problem of the latents that they make."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_expfam.deq.covariates import Covariates
from pyro_expfam.deq.observations import (
    Missing,
    Observations,
    check_observations,
    convert_observations,
    encoded,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.transformed import check_traced, is_traced
from pyro_expfam.families import Family
from pyro_expfam.models.annotations import Answer, answer
from pyro_expfam.models.latent_prior import LatentPrior
from pyro_expfam.models.named_sites import NamedSites
from pyro_expfam.models.shared_rows import SharedRows
from pyro_expfam.runtime.handlers import replayed_traces


class TableOfBlock(NamedSites):
    """The part of a block that checks its table, and makes the problem of the latents of it.

    Attributes:
        missing: ``"nan"`` if NaN is a missing entry, or None.
    """

    missing: Missing

    def _check(
        self, arguments: tuple[Any, ...], like: Tensor, family: Family, known: Answer | None
    ) -> Observations:
        """Checked observations.

        A model that is replayed against its guide's trace takes over the verdict on the values,
        and reads the values themselves again. Nothing is kept between calls: a table that shares
        memory with an array can change unseen.
        """
        y, offset, mask, weights, covariates = arguments
        if is_traced():
            for name, value in zip(Observations._fields, arguments, strict=True):
                check_traced(name, value)
        if known is not None and known.observed is not None and known.observed.is_alone(y):
            return known.observed
        check = check_observations if known is None else convert_observations
        return check(
            family,
            y,
            self.num_features,
            like,
            offset,
            mask,
            weights,
            covariates,
            missing=self.missing,
            num_covariates=self.num_covariates,
        )

    def _answer_to(self, arguments: tuple[Any, ...]) -> Answer | None:
        """The answer of the guide whose trace this run is replayed against to the same arguments.

        The guide's run has checked them.
        """
        for trace in replayed_traces():
            for site in trace.nodes.values():
                found = answer(site)
                if found is not None and found.has_checked(self, arguments):
                    return found
        return None

    def latent_problem(
        self,
        observed: Observations,
        W: Tensor,
        b: Tensor,
        prior: LatentPrior,
        family: Family,
        part: Covariates | None = None,
    ) -> LatentProblem:
        """What the equilibrium layer has to solve for the latents of checked observations.

        Args:
            observed: the observations.
            W: the value of the site ``loading``.
            b: the intercept.
            prior: the prior of the latents.
            family: the law of the observations.
            part: the covariates with their coefficients and the offset, if there are any.
        """
        check_alike(W, b, prior.precision)
        observed = encoded(family, observed)
        return LatentProblem(
            family,
            observed.y,
            self.map_of(W),
            b,
            prior.precision,
            observed.offset if part is None else part.total(),
            observed.entry_weights,
            prior.loc,
            prior.factor,
            covariates=part,
        )

    def _view(
        self,
        observed: Observations | None,
        W: Tensor,
        b: Tensor,
        family: Family,
        part: Covariates | None,
        shared: SharedRows,
    ) -> LatentProblem | None:
        """The problem of the table for latents that another block has."""
        if observed is None:
            return None
        observed = encoded(family, observed)
        weights = shared.weights(observed.entry_weights, observed.y)
        offset = None if observed.offset is None else shared.of_latents(observed.offset)
        if part is not None:
            part = Covariates(shared.of_latents(part.x), part.C, offset)
            offset = part.total()
        return LatentProblem(
            family,
            shared.of_latents(observed.y),
            self.map_of(W),
            b,
            torch.ones_like(b[..., 0]),
            offset,
            weights,
            covariates=part,
        )


def check_alike(W: Tensor, b: Tensor, precision: Tensor) -> None:
    """An error unless loading, intercept and precision have one dtype and device.

    Raises:
        TypeError: if they differ, as after ``model.double()``, which leaves a guide as it is.
    """
    if W.dtype == b.dtype == precision.dtype and W.device == b.device == precision.device:
        return
    raise TypeError(
        "loading, intercept and latent_precision must have one dtype and device, got "
        f"{W.dtype} on {W.device}, {b.dtype} on {b.device}, and {precision.dtype} on "
        f"{precision.device}: model and guide hold parameters of their own, so that "
        "model.double() or model.to(...) wants the same of the guide, guide.double() or "
        "guide.to(...)"
    )
