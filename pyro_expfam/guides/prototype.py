"""The structure of a model, without the numbers of the run that showed it."""

from __future__ import annotations

import copy
from typing import Any

from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution, Transform
from torch.distributions.transforms import _InverseTransform

from pyro_expfam.models.annotations import structure_of


def keep_structure(trace: Trace) -> None:
    """Takes out of a prototype trace what belongs to the run of the model alone.

    The trace would keep the table of the run in memory. Its distributions may also hold values of
    parameters with a gradient, or with the weak references of Pyro's store. A trace with either
    can be neither copied nor pickled.
    """
    for name, site in list(trace.nodes.items()):
        # Some guides of Pyro empty the sites themselves.
        if site.get("type") != "sample" or site["is_observed"]:
            del trace.nodes[name]
            continue
        site["infer"] = structure_of(site["infer"])
        for key in ("fn", "value", "args", "kwargs"):
            site[key] = _detached(site[key])


def _is_cached_inverse(name: str, value: Any) -> bool:
    """Whether an attribute is the inverse that a transform remembers, which refers back to it."""
    return name == "_inv" and isinstance(value, _InverseTransform)


def _detached(value: Any) -> Any:
    """The same numbers, without gradients and without what others have noted on the tensors."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Distribution | Transform):
        # The model may use the same distribution again.
        new = copy.copy(value)
        kept = {key: x for key, x in vars(value).items() if not _is_cached_inverse(key, x)}
        vars(new).update({key: _detached(x) for key, x in kept.items()})
        return new
    if type(value) in (list, tuple):
        return type(value)(_detached(x) for x in value)
    if type(value) is dict:
        return {key: _detached(x) for key, x in value.items()}
    return value
