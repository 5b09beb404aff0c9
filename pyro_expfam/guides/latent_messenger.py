"""The handler that turns the run of a model into the run of its guide."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_expfam.deq.likelihood_at_root import AtRoot
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.guides.group_posterior import given_earlier
from pyro_expfam.guides.group_problem import GroupProblem
from pyro_expfam.guides.other_sites import KnownSites
from pyro_expfam.models import RowPlace
from pyro_expfam.models.annotations import (
    Answer,
    LatentSite,
    infer,
    is_enumerated,
    latent_site,
    observed_site,
)

TableCheck = Callable[[str, Any], None]
"""Checks a block's observations, given the name of the site of its latents."""

SolveLatents = Callable[[str, LatentProblem, RowPlace | None, torch.Size], Solution]
"""Finds the latents of a problem.

Its arguments are the name of the site, or the names of several sites; the problem; the place of the
rows; and the batch shape of the sites without their rows.
"""

SolveWithLikelihood = Callable[[str, LatentProblem, RowPlace | None], AtRoot]
"""Finds the latents of a problem, and log densities of its rows, which may be None."""

LatentPosterior = Callable[[LatentProblem, Solution], dist.TorchDistribution]
"""Makes the distribution of latents from a problem and its root."""


class Answers(NamedTuple):
    """How a guide answers the sites of latents.

    Attributes:
        solve: finds the latents.
        posterior: makes their distribution.
        solve_with_likelihood: finds the latents of a single table with the log likelihoods of its
            rows there, for latents that are the root; None for others.
    """

    solve: SolveLatents
    posterior: LatentPosterior
    solve_with_likelihood: SolveWithLikelihood | None = None


class GroupAnswer(NamedTuple):
    """The posterior of the latents of several sites that belong together.

    Attributes:
        found: the problem of the group.
        root: its root.
        posterior: the distribution of the latents of all sites, side by side.
    """

    found: GroupProblem
    root: Tensor
    posterior: dist.TorchDistribution


class _AllAnswered(Exception):
    """Ends the run of a model whose block latents have all been answered."""


class LatentMessenger(KnownSites):
    """Answers the latent sites of blocks, given the values of all latents upstream of them.

    Inside this handler a model samples the latents of each block from ``posterior``, and takes
    ``values`` for its other latents. Only the block latents, in their plates and with their
    scales, are seen outside: the model's run is the guide's run. It ends after the last block,
    since the guide needs nothing from the rest of the model.

    Args:
        sites: the names of the block latents to answer.
        answers: how to answer a site whose latents depend on one table alone.
        groups: the answers for all other sites, by name.
        values: values by name of all other latent sites that come before the last block.
        plates: plates that exist already, by name.
        check: raises an error if the observations of a block do not fit the guide.
    """

    def __init__(
        self,
        sites: Collection[str],
        answers: Answers,
        groups: Mapping[str, GroupAnswer],
        values: Mapping[str, Tensor],
        plates: Mapping[str, Any],
        check: TableCheck,
    ) -> None:
        super().__init__(values, plates)
        self.sites = sites
        self.answers, self.groups = answers, groups
        self.check = check
        self.latents: dict[str, Tensor] = {}

    def run(self, model: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Runs a model as the guide of its block latents; returns these by site name."""
        with contextlib.suppress(_AllAnswered), self:
            model(*args, **kwargs)
        return self.latents

    def _latent(self, msg: Any) -> None:
        if msg["name"] in self.sites:
            self._answer(msg)
        elif not is_enumerated(msg):
            raise ValueError(
                f"the guide must know {msg['name']!r} before the latents of a block, got values of "
                f"{sorted(self.values)}; in an AutoGuideList, append the guide of {msg['name']!r} "
                "first"
            )

    def _answer(self, msg: Any) -> None:
        name, site = msg["name"], latent_site(msg)
        assert site is not None
        if name in self.groups:
            posterior, record = self._of_group(name)
        else:
            posterior, record = self._of_table(name, site)
        if posterior.batch_shape == msg["fn"].batch_shape:
            msg["fn"] = posterior
        else:
            shape = torch.broadcast_shapes(posterior.batch_shape, msg["fn"].batch_shape)
            msg["fn"] = posterior.expand(shape)
        msg["infer"] = infer(record)
        msg["stop"] = False
        # A continuation runs after all other handlers have seen the site.
        msg["continuation"] = self._remember

    def _of_table(self, name: str, site: LatentSite) -> tuple[Any, Answer]:
        """The answer for latents that depend on one table alone."""
        if site.problem is None:
            raise ValueError(
                f"y must be given for the guide to find the latents {name!r}, got None"
            )
        self.check(name, site.arguments)
        problem = site.problem.distinct()
        solution = self.answers.solve(name, problem, site.rows, torch.Size())
        posterior = self.answers.posterior(problem, solution)
        checked = ((site.block, site.arguments),)
        return posterior, Answer(problem, solution.value, posterior, checked)

    def _of_group(self, name: str) -> tuple[Any, Answer]:
        """The answer for latents of a group, given the latents of its earlier sites."""
        found, root, joint = self.groups[name]
        place = found.group.latents.index(name)
        earlier = [self.latents[other] for other in found.group.latents[:place]]
        posterior = given_earlier(joint, found.sizes, earlier)
        problem = found.problem if place == 0 else None
        return posterior, Answer(problem, root, posterior, found.checked)

    def _remember(self, msg: Any) -> None:
        self.latents[msg["name"]] = msg["value"]
        if len(self.latents) == len(self.sites):
            raise _AllAnswered

    def _use_plate(self, msg: Any) -> None:
        if msg["name"] in self.plates:
            super()._use_plate(msg)
        else:
            # The guide makes this plate.
            msg["stop"] = False


def is_block_latent(site: Any) -> bool:
    """Whether a site is the latents of a block."""
    return latent_site(site) is not None


def _is_hidden(msg: Any) -> bool:
    """Whether a site is none that the guide of all other latents has."""
    if msg["type"] != "sample" or msg["is_observed"]:
        return False
    is_table = observed_site(msg) is not None
    return is_block_latent(msg) or is_table or is_enumerated(msg)


class WithoutBlockLatents:
    """A model for a guide of all latents but the latents of its blocks and enumerated sites.

    Args:
        model: the whole model, which stays an attribute.
        predictions: the names of further sites to leave out, which predict from the latents; they
            may be added later.
    """

    def __init__(self, model: Callable[..., Any], predictions: Collection[str] = ()) -> None:
        self.model = model
        self.predictions = predictions

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model."""
        with poutine.block(hide_fn=self._is_hidden):
            return self.model(*args, **kwargs)

    def _is_hidden(self, msg: Any) -> bool:
        return _is_hidden(msg) or msg["name"] in self.predictions
