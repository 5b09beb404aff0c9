"""The medians of Pyro's guides as functions of their parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous, AutoDelta, AutoGuide, AutoNormal
from torch import Tensor
from torch.distributions import biject_to

from pyro_expfam.runtime.ownership import LOCK


class LiveMedians(AutoGuide):
    """A guide that says itself what its medians are as functions of its parameters."""

    @abstractmethod
    def live_medians(self) -> dict[str, Tensor]:
        """The medians by site name, differentiable in the parameters, without Pyro's handlers."""


def live_medians(guide: Any) -> dict[str, Tensor]:
    """The medians of a guide by site name, differentiable in its parameters.

    Pyro's own ``median`` has no gradients. It also goes through Pyro's handlers, and all threads of
    a program share one stack of handlers. ``AutoDelta``, ``AutoNormal``, the guides whose median is
    a transformed location, and the guides of this package are read without handlers. The backward
    pass through any other guide is an error.
    """
    if isinstance(guide, LiveMedians):
        return guide.live_medians()
    if type(guide) is AutoDelta:
        return {name: attrgetter(name)(guide) for name in _sites(guide)}
    if type(guide) is AutoNormal:
        return {
            name: biject_to(site["fn"].support)(attrgetter(name)(guide.locs))
            for name, site in _sites(guide).items()
        }
    if type(guide).median is AutoContinuous.median:
        loc, _ = guide._loc_scale()
        return {
            site["name"]: biject_to(site["fn"].support)(value)
            for site, value in guide._unpack_latent(loc)
        }
    with LOCK, torch.no_grad(), poutine.block():
        medians = guide.median()
    what = f"the medians of {type(guide).__name__}"
    return refuse_gradients(medians, guide.parameters(), what)


def refuse_gradients(
    values: dict[str, Tensor], trained: Iterable[Tensor], what: str
) -> dict[str, Tensor]:
    """The same values. Their backward pass is an error if one of ``trained`` wants a gradient."""
    trains = torch.is_grad_enabled() and any(x.requires_grad for x in trained)
    if not trains:
        return values
    anchor = torch.zeros((), requires_grad=True)
    return {
        name: _Refused.apply(value, anchor, what) if value.is_floating_point() else value
        for name, value in values.items()
    }


class _Refused(torch.autograd.Function):
    """The identity, whose backward pass is an error."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, anchor: Tensor, what: str) -> Tensor:
        del anchor
        ctx.what = what
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError(
            f"{ctx.what} have no gradient in the parameters of the guide: take a global_guide that "
            "is an AutoDelta or AutoNormal to train through them, or torch.no_grad() around the "
            "call to hold them"
        )


def _sites(guide: AutoGuide) -> dict[str, Any]:
    """The latent sites of a guide by name; none where a model has only the latents of a block."""
    trace: Any = guide.prototype_trace
    return {} if trace is None else dict(trace.iter_stochastic_nodes())
