"""Whether all processes of a fit have been given the same model and the same arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyro_expfam.deq.processes import Processes, ProcessesError, digest
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.models import ExpFamPCA

SCALES = ("latent_precision", "loading_scale", "intercept_scale", "coefficient_scale")
"""The priors of a block."""

LONGEST = 60
"""Letters of a value that an error shows."""


def check_same_model(processes: Processes, block: ExpFamPCA, arguments: Mapping[str, Any]) -> None:
    """An error in all processes if one of them has another block, or other arguments.

    Much of what may differ would come out in the middle of the fit, as other shapes or as other
    numbers. A family with the same parameters would not come out at all.

    Args:
        processes: the processes of the fit.
        block: the block of this process.
        arguments: what else must be the same, by name.

    Raises:
        ProcessesError: if something differs.
    """
    if processes.count == 1:
        return
    texts = {**_described(block), **{name: _text(x) for name, x in arguments.items()}}
    # Values by column are long: what they begin with, and a number that tells them apart.
    of_all = processes.gather(
        {name: (_short(text), digest(text.encode())) for name, text in texts.items()}
    )
    for name, first in of_all[0].items():
        for number, other in enumerate(of_all):
            if other.get(name) != first:
                got, _ = other.get(name, ("none", 0))
                raise ProcessesError(
                    "all processes must fit the same model with the same arguments, each to rows "
                    f"of its own, got {first[0]} as {name} in process 0 and {got} in process "
                    f"{number}"
                )


def _described(block: ExpFamPCA) -> dict[str, str]:
    """What must be the same of a block, by name."""
    family = block._known_family
    found = {"family": str(family)}
    if family.differs_by_row:
        found = {"family": type(family).__name__}
    else:
        found |= {f"family_{name}": _text(x) for name, x in family.parameters.items()}
    for name in ("num_features", "latent_dim", "num_covariates", "row_effect", "missing"):
        found[name] = _text(getattr(block, name))
    # What has a prior of its own would be drawn here.
    known = [name for name in SCALES if name not in block._pyro_samples]
    return found | {name: _text(getattr(block, name, None)) for name in known}


def _text(x: Any) -> str:
    if isinstance(x, Tensor):
        numbers = x.detach().double().flatten().tolist()
        return str(numbers[0] if x.dim() == 0 else numbers)
    if isinstance(x, LaplaceEvidence):
        return f"LaplaceEvidence(order={x.order}, nodes={x.nodes})"
    return repr(x)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
