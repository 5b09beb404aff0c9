"""Many draws of a Pyro model and its guide."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.infer.autoguide import AutoGuideList
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent

from pyro_expfam.deq.processes import ONE, Processes, ProcessesError
from pyro_expfam.diagnostics.likelihood import entry_log_prob, marginal_log_prob
from pyro_expfam.diagnostics.shared_draws import DRAWS, SharedDraws, check_shared
from pyro_expfam.diagnostics.sites import (
    is_deterministic,
    is_latent,
    is_observation,
    is_sampled,
    value_of,
)
from pyro_expfam.user_warning import warn_user

VALUES_AT_ONCE = 2**22
"""The most values of sample sites that one run draws, which bounds its memory."""

AGREEMENT = 1e-3
"""The largest relative difference by rounding between a draw and a run of its own."""

POSTERIOR_GROUPS = (
    "posterior",
    "posterior_predictive",
    "predictions",
    "log_likelihood",
    "sample_stats",
)
"""The groups that hold draws of the guide, or quantities of the model given such draws."""

PRIOR_GROUPS = ("prior", "prior_predictive")
"""The groups that hold draws of the model without observations."""

logger = logging.getLogger(__name__)

Draws = dict[tuple[str, str], np.ndarray]
"""Draws ``(S, ...)`` by group and name."""


class AnswerMessenger(Messenger):
    """Sets the values of sample sites, without making the sites observed."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


class RedrawMessenger(Messenger):
    """Draws the observed sites; unlike ``uncondition`` it keeps deterministic values."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_observation(msg):
            msg["is_observed"] = False
            msg["value"] = None


@dataclass(frozen=True)
class Program:
    """A model or guide with its arguments.

    Attributes:
        call: runs the program.
        indices: the indices of its plates; without them each run would draw another minibatch.
        shapes: the shape of one draw of each of its sample sites.
    """

    call: Callable[[], Any]
    indices: Mapping[str, Tensor]
    shapes: Mapping[str, torch.Size]

    def run(self, values: Mapping[str, Tensor]) -> Trace:
        """The trace, with log densities, of a run in which sample sites have these values."""
        with torch.no_grad(), AnswerMessenger({**self.indices, **values}):
            trace = poutine.trace(self.call).get_trace()
            trace.compute_log_prob(lambda _, site: not is_deterministic(site))
        return trace


class Sampler:
    """Draws from a model and its guide.

    Args:
        model: the model.
        guide: its guide.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        processes: the processes that have draws in common, each with rows of its own.

    Raises:
        ValueError: if the guide lacks a latent site of the model.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        processes: Processes = ONE,
    ) -> None:
        call_guide, call_model = partial(guide, *args, **kwargs), partial(model, *args, **kwargs)
        guide_once = Program(call_guide, {}, {}).run({})
        guided = {name: site["value"] for name, site in _sampled(guide_once)}
        indices = _indices(guide_once)
        model_once = Program(call_model, indices, {}).run(guided)
        indices.update(_indices(model_once))
        self.indices = {name: to_numpy(index) for name, index in indices.items()}
        self.sites = dict(_sampled(model_once))
        self.latents = [name for name, site in self.sites.items() if is_latent(site)]
        self.observed = [name for name, site in self.sites.items() if is_observation(site)]
        self.unobserved = [
            name for name, site in self.sites.items() if is_latent(site) or is_deterministic(site)
        ]
        if missing := [name for name in self.latents if name not in guided]:
            raise ValueError(
                f"guide must sample every latent site of the model, got one without {missing}: "
                f"it samples {list(guided)}. To predict sites, such as labels of new rows, use "
                "pyro.infer.Predictive"
            )
        parts = guide if isinstance(guide, AutoGuideList) else [guide]
        self._marginals = [
            partial(_of_call, part.marginals, args, kwargs)
            for part in parts
            if hasattr(part, "marginals")
        ]
        self._guided = guided
        shapes = {name: value_of(site).shape for name, site in self.sites.items()}
        self._guide = Program(
            call_guide, indices, {name: value.shape for name, value in guided.items()}
        )
        self._model = Program(call_model, indices, shapes)
        self._redrawn = Program(RedrawMessenger()(call_model), indices, shapes)
        self._plate_ndim = _plate_ndim(guide_once, model_once)
        self._processes = processes
        self._seed = 0
        if processes.count > 1:
            check_shared(self.sites.values())
            self._seed = processes.of_first(lambda: int(torch.randint(2**62, ())))

    @cached_property
    def why_not_redrawn(self) -> str:
        """Why observations cannot be drawn, in words; empty if they can."""
        try:
            self._redrawn.run(self._guided)
        except NotImplementedError as error:
            # Pyro adds the shapes of the trace below the first line.
            return str(error).partition("\n")[0]
        return ""

    @cached_property
    def marginal_sites(self) -> dict[str, str]:
        """The site whose rows each log density with latents integrated out is of, by its name.

        It is empty where a family lacks the derivatives that such a density takes.
        """
        found: dict[str, str] = {}
        try:
            for name in self.observed:
                if marginal_log_prob(self.sites[name]) is not None:
                    found[f"{name}_marginal"] = name
            for part in self._marginals:
                found.update({name: x.site for name, x in part(self._guided).items()})
        except NotImplementedError as error:
            warn_user(f"log densities with latents integrated out are left out: {error}")
            return {}
        return found

    def posterior(self, num_samples: int, groups: Collection[str]) -> Draws:
        """Draws of the guide, and quantities of the model given them, that ``groups`` need."""
        if not set(POSTERIOR_GROUPS).intersection(groups):
            return {}
        return self._collect(partial(self._posterior, groups), num_samples)

    def prior(self, num_samples: int, groups: Collection[str]) -> Draws:
        """Draws of the model without observations, if ``groups`` need them."""
        if not set(PRIOR_GROUPS).intersection(groups):
            return {}
        return self._collect(partial(self._prior, groups), num_samples)

    def _posterior(self, groups: Collection[str], size: int) -> _Run:
        guide = self._guide.run({})
        values = {name: _value(guide, name) for name in self.latents}
        model = self._model.run(values)
        programs, draws = [(self._guide, guide), (self._model, model)], {}
        if "posterior" in groups:
            draws.update(self._draws("posterior", self.unobserved, model, size))
        is_predicted = "posterior_predictive" in groups or "predictions" in groups
        if is_predicted and not self.why_not_redrawn:
            redrawn = self._redrawn.run(values)
            programs.append((self._redrawn, redrawn))
            draws.update(self._draws("posterior_predictive", self.observed, redrawn, size))
        if "log_likelihood" in groups:
            draws.update(self._log_likelihood(model, size))
            draws.update(self._marginal(model, values, size))
        if "sample_stats" in groups:
            draws["sample_stats", "lp"] = _log_density(model, size)
            draws["sample_stats", "log_q"] = _log_density(guide, size)
        return _Run(draws, programs)

    def _log_likelihood(self, model: Trace, size: int) -> _Tensors:
        draws: _Tensors = {}
        for name in self.observed:
            shape = entry_log_prob(self.sites[name]).shape
            draws["log_likelihood", name] = _by_draw(entry_log_prob(model.nodes[name]), size, shape)
        return draws

    def _marginal(self, model: Trace, values: Mapping[str, Tensor], size: int) -> _Tensors:
        """Log densities of rows with their latents integrated out.

        The guide knows what else the latents of a table depend on, and comes first.
        """
        if not self.marginal_sites:
            return {}
        found = {
            name: marginal.log_density
            for part in self._marginals
            for name, marginal in part(values).items()
        }
        for name, site in self.marginal_sites.items():
            if name not in found:
                marginal = marginal_log_prob(model.nodes[site])
                assert marginal is not None
                found[name] = marginal
        shapes = {
            name: self.sites[site]["fn"].batch_shape for name, site in self.marginal_sites.items()
        }
        return {("marginal", name): _by_draw(x, size, shapes[name]) for name, x in found.items()}

    def _prior(self, groups: Collection[str], size: int) -> _Run:
        # Without draws of observations, what comes before them can still be drawn.
        program = self._model if self.why_not_redrawn else self._redrawn
        trace = program.run({})
        draws: _Tensors = {}
        if "prior" in groups:
            # Learnt parameters that a guide draws are points where there is no guide.
            present = [name for name in self.unobserved if name in trace.nodes]
            draws.update(self._draws("prior", present, trace, size))
        if "prior_predictive" in groups and not self.why_not_redrawn:
            draws.update(self._draws("prior_predictive", self.observed, trace, size))
        return _Run(draws, [(program, trace)])

    def _draws(self, group: str, names: Iterable[str], trace: Trace, size: int) -> _Tensors:
        return {
            (group, name): _by_draw(_value(trace, name), size, self._model.shapes[name])
            for name in names
        }

    def _collect(self, run: Callable[[int], _Run], num_samples: int) -> Draws:
        draws = None
        try:
            draws = _stack(self._vectorized(run, num_samples), num_samples)
        except ProcessesError:
            raise
        except Exception as error:  # a model that was not written for a plate may fail in any way
            logger.info("Drawing one by one, for the draws cannot be vectorized: %s", error)
        # Draws one by one are other draws.
        done = self._processes.gather(draws is not None)
        if draws is not None and all(done):
            return draws
        return _stack(self._one_by_one(run, num_samples), num_samples)

    def _one_by_one(self, run: Callable[[int], _Run], num_samples: int) -> Iterator[_Tensors]:
        """Draws in runs of their own."""
        for number in range(num_samples):
            with self._in_common(f"one {number}"):
                draws = run(1).draws
            yield draws

    def _in_common(self, key: str) -> AbstractContextManager[Any]:
        """Draws what processes have in common the same in all of them."""
        is_alone = self._processes.count == 1
        return nullcontext() if is_alone else SharedDraws(f"{self._seed} {key}")

    def _vectorized(self, run: Callable[[int], _Run], num_samples: int) -> Iterator[_Tensors]:
        """Draws in chunks, each a run in an outermost plate."""
        values = sum(shape.numel() for shape in self._model.shapes.values())
        largest = min(self._processes.gather(max(1, VALUES_AT_ONCE // max(1, values))))
        for start in range(0, num_samples, largest):
            size = min(largest, num_samples - start)
            plate = pyro.plate(DRAWS, size, dim=-1 - self._plate_ndim)
            with self._in_common(f"from {start}"), plate:
                chunk = run(size)
            if start == 0:
                for program, trace in chunk.programs:
                    for draw in {0, size - 1}:
                        _check_draw(program, trace, size, draw)
            yield chunk.draws


_Tensors = dict[tuple[str, str], Tensor]


class _Run(NamedTuple):
    """Draws, and the programs and traces from which they come."""

    draws: _Tensors
    programs: list[tuple[Program, Trace]]


def _of_call(function: Callable[..., Any], args: Any, kwargs: Any, values: Any) -> Any:
    return function(values, *args, **kwargs)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as an array, in single precision if NumPy or netCDF lacks its dtype."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def _stack(chunks: Iterable[_Tensors], num_samples: int) -> Draws:
    stacked: Draws = {}
    start = 0
    for chunk in chunks:
        size = 0
        for key, tensor in chunk.items():
            values = to_numpy(tensor)
            size = len(values)
            if key not in stacked:
                stacked[key] = np.empty((num_samples, *values.shape[1:]), values.dtype)
            stacked[key][start : start + size] = values
        start += size
    return stacked


def _by_draw(tensor: Tensor, size: int, shape: torch.Size) -> Tensor:
    """The values of a site in a run for ``size`` draws, as ``(size, *shape)``."""
    if tensor.numel() == size * shape.numel():
        return tensor.reshape(size, *shape)
    if tensor.numel() == shape.numel():  # the same for all draws
        return tensor.reshape(shape).expand(size, *shape)
    raise ValueError(
        f"a site of shape {tuple(shape)} has shape {tuple(tensor.shape)} for {size} draws"
    )


def _log_density(trace: Trace, size: int) -> Tensor:
    """The log density of each draw at all sites, scaled and masked as in the ELBO."""
    total = torch.zeros(size)
    for _, site in _sampled(trace):
        if not is_deterministic(site):
            log_prob = site["log_prob"].reshape(size, -1).sum(-1)
            total = total.to(log_prob) + log_prob
    return total


def _check_draw(program: Program, trace: Trace, size: int, draw: int) -> None:
    """Raises an error unless a draw of a vectorized run agrees with a run of its own.

    A program that was not written for a plate of draws may run in one without an error, and mix
    draws up. A run of its own with the values of a draw must give the same densities, point masses
    and deterministic values.
    """
    together = dict(_sampled(trace))
    values = {
        name: _by_draw(site["value"], size, program.shapes[name])[draw]
        for name, site in together.items()
        if not _is_point_mass(site) and not site["is_observed"]
    }
    for name, alone in _sampled(program.run(values)):
        key = "value" if _is_point_mass(alone) else "log_prob"
        shape = alone[key].shape
        if not _agree(_by_draw(together[name][key], size, shape)[draw], alone[key]):
            raise ValueError(f"a plate of draws mixes them up at site {name!r}")


def _agree(first: Tensor, second: Tensor) -> bool:
    first, second = first.detach().double(), second.detach().double()
    finite = second[second.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 1.0
    return torch.allclose(first, second, AGREEMENT, AGREEMENT * scale, equal_nan=True)


def _is_point_mass(site: Any) -> bool:
    distribution = site["fn"]
    while isinstance(distribution, Independent | MaskedDistribution | ExpandedDistribution):
        distribution = distribution.base_dist
    return isinstance(distribution, Delta)


def _value(trace: Trace, name: str) -> Tensor:
    value: Tensor = trace.nodes[name]["value"]  # type: ignore[assignment]  # it has run
    return value


def _sampled(trace: Trace) -> Iterator[tuple[str, Any]]:
    return ((name, site) for name, site in trace.nodes.items() if is_sampled(site))


def _indices(trace: Trace) -> dict[str, Tensor]:
    return {
        name: torch.as_tensor(site["value"])
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and site_is_subsample(site)
    }


def _plate_ndim(*traces: Trace) -> int:
    dims = (
        frame.dim
        for trace in traces
        for _, site in _sampled(trace)
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    )
    return -min(dims, default=0)
