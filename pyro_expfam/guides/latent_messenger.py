"""Running a model so that it becomes the guide of its own latents."""

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
from pyro_expfam.models import Answer, RowPlace
from pyro_expfam.runtime.particles import with_particles

LatentPosterior = Callable[[str, LatentProblem, RowPlace | None], dist.TorchDistribution]
"""What answers the latent site of a block."""


class _AllAnswered(Exception):
    """Ends the run of a model whose block latents have all been answered."""


class LatentMessenger(Messenger):
    """Answers the latent sites of blocks, given values of all that is upstream of them.

    Inside this handler a model samples the latents of each block from ``posterior`` and takes
    ``values`` for its other latents. Only these block latents, in their plates and with their
    scales, are seen outside, so that the model's run is the guide's. After the last of them the
    rest of the model has nothing to say to the guide, and the run ends.

    Args:
        sites: the names of the block latents to answer.
        posterior: makes a distribution over latents, of the name of a site, the problem of its
            block and what is known of the rows.
        values: values by name of all other latent sites that come before a block's.
        plates: plates that exist already, by name.
    """

    def __init__(
        self,
        sites: Collection[str],
        posterior: LatentPosterior,
        values: Mapping[str, Tensor],
        plates: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.sites = sites
        self.posterior = posterior
        self.values = values
        self.plates = plates
        self.latents: dict[str, Tensor] = {}

    def run(self, model: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Runs a model as the guide of its block latents; returns these by site name."""
        with contextlib.suppress(_AllAnswered), self:
            model(*args, **kwargs)
        return self.latents

    def _process_message(self, msg: Any) -> None:
        # What is not a sample site, such as a parameter, is the model's own affair.
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
        if "coefficient" in msg["infer"]:
            # A block knows what to make of the dimensions of its own.
            return value
        return with_particles(msg["name"], value, msg["fn"].event_dim)

    def _answer(self, msg: Any) -> None:
        problem = msg["infer"]["latent_problem"]
        if problem is None:
            raise ValueError(
                f"y must be given for the guide to find the latents {msg['name']!r}, got None"
            )
        posterior = self.posterior(msg["name"], problem, msg["infer"]["rows"])
        if posterior.batch_shape == msg["fn"].batch_shape:
            msg["fn"] = posterior
        else:
            shape = torch.broadcast_shapes(posterior.batch_shape, msg["fn"].batch_shape)
            msg["fn"] = posterior.expand(shape)
        # Of the model's annotations: what the run that is replayed may take for checked.
        checked = {name: msg["infer"][name] for name in ("block", "arguments")}
        msg["infer"] = {"answer": Answer(problem.distinct(), posterior), **checked}
        msg["stop"] = False
        # After all other handlers have seen the site.
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
    return site["type"] == "sample" and "latent_problem" in site["infer"]


def without_block_latents(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model with the latents of its blocks hidden, for a guide of all its other sites."""
    return poutine.block(model, hide_fn=is_block_latent)
