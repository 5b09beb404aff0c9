"""The handler that turns the run of a model into the run of its guide."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.models import RowPlace
from pyro_expfam.models.annotations import Answer, coefficient_site, infer, latent_site
from pyro_expfam.runtime.particles import with_particles

TableCheck = Callable[[str, Any], None]
"""Checks a block's observations, given the name of the site of its latents."""

LatentPosterior = Callable[[str, LatentProblem, RowPlace | None], dist.TorchDistribution]
"""Makes the distribution of a block's latents from the site's name, problem and rows."""


class _AllAnswered(Exception):
    """Ends the run of a model whose block latents have all been answered."""


class LatentMessenger(Messenger):
    """Answers the latent sites of blocks, given the values of all latents upstream of them.

    Inside this handler a model samples the latents of each block from ``posterior``, and takes
    ``values`` for its other latents. Only the block latents, in their plates and with their
    scales, are seen outside: the model's run is the guide's run. It ends after the last block,
    since the guide needs nothing from the rest of the model.

    Args:
        sites: the names of the block latents to answer.
        posterior: makes a distribution over latents from the name of a site, the problem of its
            block, and the place of the rows in the table.
        values: values by name of all other latent sites that come before the last block.
        plates: plates that exist already, by name.
        check: raises an error if the observations of a block do not fit the guide.
    """

    def __init__(
        self,
        sites: Collection[str],
        posterior: LatentPosterior,
        values: Mapping[str, Tensor],
        plates: Mapping[str, Any],
        check: TableCheck,
    ) -> None:
        super().__init__()
        self.sites = sites
        self.posterior = posterior
        self.values = values
        self.plates = plates
        self.check = check
        self.latents: dict[str, Tensor] = {}

    def run(self, model: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Runs a model as the guide of its block latents; returns these by site name."""
        with contextlib.suppress(_AllAnswered), self:
            model(*args, **kwargs)
        return self.latents

    def _process_message(self, msg: Any) -> None:
        # Other sites, such as parameters, stay inside the model.
        msg["stop"] = True
        super()._process_message(msg)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            return
        name = msg["name"]
        if site_is_subsample(msg):
            self._use_plate(msg)
        elif name in self.sites:
            self._answer(msg)
        elif name in self.values:
            msg["value"] = self._upstream_value(msg)
        else:
            raise ValueError(
                f"the guide must know {name!r} before the latents of a block, got values of "
                f"{sorted(self.values)}; in an AutoGuideList, append the guide of {name!r} first"
            )

    def _upstream_value(self, msg: Any) -> Tensor:
        value = self.values[msg["name"]]
        if coefficient_site(msg) is not None:
            # A block knows the dimensions of its own coefficients.
            return value
        return with_particles(msg["name"], value, msg["fn"].event_dim)

    def _answer(self, msg: Any) -> None:
        site: Any = latent_site(msg)
        problem = site.problem
        if problem is None:
            raise ValueError(
                f"y must be given for the guide to find the latents {msg['name']!r}, got None"
            )
        self.check(msg["name"], site.arguments[0])
        posterior = self.posterior(msg["name"], problem, site.rows)
        if posterior.batch_shape == msg["fn"].batch_shape:
            msg["fn"] = posterior
        else:
            shape = torch.broadcast_shapes(posterior.batch_shape, msg["fn"].batch_shape)
            msg["fn"] = posterior.expand(shape)
        msg["infer"] = infer(Answer(site.block, problem.distinct(), posterior, site.arguments))
        msg["stop"] = False
        # A continuation runs after all other handlers have seen the site.
        msg["continuation"] = self._remember

    def _remember(self, msg: Any) -> None:
        self.latents[msg["name"]] = msg["value"]
        if len(self.latents) == len(self.sites):
            raise _AllAnswered

    def _use_plate(self, msg: Any) -> None:
        plate = self.plates.get(msg["name"])
        if plate is None:
            msg["stop"] = False
        elif msg["value"] is None:
            msg["value"] = plate.indices


def is_block_latent(site: Any) -> bool:
    """Whether a site is the latents of a block."""
    return latent_site(site) is not None


class WithoutBlockLatents:
    """A model with the latents of its blocks hidden, for a guide of all its other latents.

    Args:
        model: the whole model, which stays an attribute.
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model."""
        with poutine.block(hide_fn=is_block_latent):
            return self.model(*args, **kwargs)
