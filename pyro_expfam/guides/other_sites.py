"""The log density of the other sites of a model as a function of the latents of its blocks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.ops.provenance import detach_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_expfam.guides.dependence import LatentGroup
from pyro_expfam.models.annotations import coefficient_site, is_enumerated
from pyro_expfam.runtime.handlers import no_handlers
from pyro_expfam.runtime.known_tables import only_blocks
from pyro_expfam.runtime.particles import with_particles

MOST_PLATES = 6
"""The most nested plates of a model, those for particles among them."""

COUPLED = 1e-4
"""A log density that changes by more than this part where another row's latents change, couples."""


class _AllSeen(Exception):
    """Ends the run of a model whose terms have all been seen."""


class KnownSites(Messenger):
    """A run of a model in which all sites upstream of its blocks have known values.

    Nothing of the run is seen outside.

    Args:
        values: values by name of latent sites that are not a block's.
        plates: plates that exist already, by name.
    """

    def __init__(self, values: Mapping[str, Tensor], plates: Mapping[str, Any]) -> None:
        super().__init__()
        self.values, self.plates = values, plates

    def _process_message(self, msg: Any) -> None:
        msg["stop"] = True
        super()._process_message(msg)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            return
        name = msg["name"]
        if site_is_subsample(msg):
            self._use_plate(msg)
        elif name in self.values:
            msg["value"] = known_value(msg, self.values[name])
        else:
            self._latent(msg)

    def _use_plate(self, msg: Any) -> None:
        """Gives a plate the rows that it has elsewhere already."""
        plate = self.plates.get(msg["name"])
        if plate is not None and msg["value"] is None:
            msg["value"] = plate.indices

    def _latent(self, msg: Any) -> None:
        """Gives a value to a latent site that is not among the known ones."""


def known_value(msg: Any, value: Tensor) -> Tensor:
    """A known value of a site of the model, marked if it differs per particle."""
    if coefficient_site(msg) is not None:
        # A block knows the dimensions of its own coefficients.
        return value
    return with_particles(msg["name"], value, msg["fn"].event_dim)


def _generator_state(device: torch.device) -> Tensor:
    is_cuda = device.type == "cuda"
    return torch.cuda.get_rng_state(device) if is_cuda else torch.get_rng_state()


def _set_generator_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@dataclass(eq=False)
class OtherSites:
    r"""The log density of the terms of a group of latents, ``(..., N)``.

    It is the sum of the log densities of the terms, relative to the scale of the plate of the
    latents, less the standard normal log density of latents whose prior is among the terms.
    Discrete sites that are enumerated are summed over.

    Attributes:
        model: the whole model.
        args: its arguments.
        kwargs: its arguments by name.
        group: the group of latents.
        sizes: the number of latents per row of each site of the group.
        values: values by name of latent sites that are not a block's.
        plates: plates that exist already, by name.
        frames: the names of the plates that the latents are in.
        rank: the number of batch dimensions of the sites of the latents.
        scale: the scale of the sites of the latents.
        dtype: the dtype of the latents of the model.
        takes_draws: whether the model gives right numbers for several draws of the latents at once;
            None if that is not known yet.
        draws_from: the state of PyTorch's generator in the first run, or None before it.
        is_random: whether the first run has drawn numbers.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    group: LatentGroup
    sizes: tuple[int, ...]
    values: Mapping[str, Tensor]
    plates: Mapping[str, Any]
    frames: frozenset[str]
    rank: int
    scale: Any
    dtype: torch.dtype
    takes_draws: bool | None = None
    draws_from: Tensor | None = None
    is_random: bool = False

    def __call__(self, z: Tensor) -> Tensor:
        """The log density of every row at latents ``(..., N, l)``."""
        z = z.to(self.dtype)
        if z.dim() - 1 <= self.rank:
            found = self._evaluate(z)
            # Other latents may differ by particle before the latents of blocks do.
            self.rank = max(self.rank, found.dim())
            return found
        draws = z.flatten(0, z.dim() - 2 - self.rank)
        if self.takes_draws is None:
            self.takes_draws = self._compare(draws[:2].detach())
        if self.takes_draws:
            found = self._evaluate_draws(draws)
        else:
            found = torch.stack([self._evaluate(draw) for draw in draws])
        return found.reshape(z.shape[:-1])

    def _compare(self, draws: Tensor) -> bool:
        """Whether draws at once have the log densities that they have one by one."""
        singly = torch.stack([self._evaluate(draw) for draw in draws])
        try:
            together = self._evaluate_draws(draws)
        except Exception:  # The model may do anything with latents of another shape.
            return False
        return together.shape == singly.shape and torch.allclose(
            together, singly, rtol=COUPLED, equal_nan=True
        )

    def _evaluate_draws(self, draws: Tensor) -> Tensor:
        # Plates of the model have the dimensions between the draws and the rows.
        gap = [1] * (MOST_PLATES - self.rank)
        found = self._evaluate(draws.reshape(len(draws), *gap, *draws.shape[1:]))
        return found.reshape(draws.shape[:-1])

    def _evaluate(self, z: Tensor) -> Tensor:
        reader = _Terms(self, dict(zip(self.group.latents, z.split(self.sizes, -1), strict=True)))
        with (
            self._same_draws(z.device),
            no_handlers(),
            contextlib.suppress(_AllSeen),
            reader,
            only_blocks(self.group.seen),
        ):
            self.model(*self.args, **self.kwargs)
        reader.refuse_unseen()
        return reader.total(z)

    @contextlib.contextmanager
    def _same_draws(self, device: torch.device) -> Iterator[None]:
        """Has a network that draws numbers, as for dropout, draw the same at all latents."""
        now = _generator_state(device)
        if self.draws_from is None:
            yield
            self.draws_from = now
            self.is_random = not torch.equal(now, _generator_state(device))
        elif self.is_random:
            _set_generator_state(device, self.draws_from)
            yield
            _set_generator_state(device, now)
        else:
            yield

    def check_rows(self, z: Tensor) -> None:
        """An error if the log density of a row depends on the latents of another row.

        Raises:
            ValueError: if it changes where the latents of every second row change.
        """
        if z.shape[-2] < 2:
            return
        moved = z.clone()
        moved[..., ::2, :] += 1.0
        before, after = self(z)[..., 1::2], self(moved)[..., 1::2]
        change = (after - before).abs() / (1 + before.abs())
        if bool((change > COUPLED).any()):
            sites = ", ".join(map(repr, self.group.terms))
            raise ValueError(
                f"model must have the sites {sites} depend on the latents of their own row, got "
                "log densities that change with the latents of other rows: a site that couples "
                "rows has no posterior by row. Write it by row, run pyro.infer.NUTS, or make the "
                "guide with condition_on='table', whose latents ignore it"
            )


class _Terms(KnownSites):
    """A run that keeps the log densities of terms."""

    def __init__(self, sites: OtherSites, latents: Mapping[str, Tensor]) -> None:
        super().__init__(sites.values, sites.plates)
        self.sites, self.latents = sites, latents
        self.found: dict[str, Tensor] = {}
        self.wanted = {*sites.group.terms, *sites.group.enumerated}
        # Values of enumerated sites have their dimensions left of all others.
        self.enumerated: dict[str, int] = {}
        self.depth = MOST_PLATES + 1

    def _latent(self, msg: Any) -> None:
        name = msg["name"]
        if name in self.latents:
            msg["value"] = self.latents[name]
        elif name in self.sites.group.enumerated and is_enumerated(msg):
            dim = -1 - self.depth - len(self.enumerated)
            self.enumerated[name] = dim
            support = msg["fn"].enumerate_support(expand=False)
            event_dim = msg["fn"].event_dim
            ones = [1] * (-dim - 1)
            shape = support.shape[support.dim() - event_dim :]
            msg["value"] = support.reshape(-1, *ones, *shape)

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.wanted:
            return
        log_prob = msg["fn"].log_prob(msg["value"])
        scale = msg["scale"] / self.sites.scale
        log_prob = scale_and_mask(log_prob, scale, msg["mask"])
        # What is independent given the latents of a row is summed.
        for frame in msg["cond_indep_stack"]:
            within = frame.vectorized and frame.dim < -1 and frame.name not in self.sites.frames
            if within and log_prob.dim() >= -frame.dim:
                log_prob = log_prob.sum(frame.dim, keepdim=True)
        self.found[name] = log_prob
        if len(self.found) == len(self.wanted):
            raise _AllSeen

    def refuse_unseen(self) -> None:
        """An error if a term has not come up in the run."""
        unseen = sorted(self.wanted - self.found.keys())
        if unseen:
            raise ValueError(
                f"model must have the site {unseen[0]!r} in every run with the same arguments, got "
                "a run without it"
            )

    def total(self, z: Tensor) -> Tensor:
        """The sum of the log densities, with enumerated sites summed over."""
        total = sum(self.found.values())
        assert isinstance(total, Tensor)
        if self.enumerated:
            dims = [dim for dim in self.enumerated.values() if total.dim() >= -dim]
            total = torch.logsumexp(total, dims, keepdim=True)
        for name in self.sites.group.terms:
            if name in self.latents:
                at = self.latents[name]
                total = total + 0.5 * at.square().sum(-1)
                total = total + 0.5 * at.shape[-1] * math.log(2 * math.pi)
        # Marks hide that a tensor has a gradient.
        total = detach_provenance(total)
        rank = z.dim() - 1
        while total.dim() > rank and total.shape[0] == 1:
            total = total.squeeze(0)
        return total
