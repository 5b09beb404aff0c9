"""The point parameters of a model's blocks in the saved state of a guide.

A guide's estimates mean something only together with the point parameters of its blocks, such as
a flat intercept. These belong to the model, and are saved with the guide under ``model.``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.models import ExpFamPCA

PREFIX = "model."
"""The prefix of the names of the model's parameters."""

GLOBALS = "global_guide."
"""The prefix of the names of the guide's own parameters."""


def block_parameters(blocks: Mapping[str, ExpFamPCA]) -> Iterator[tuple[str, Tensor]]:
    """The point parameters of blocks, by the names that they are saved under."""
    for name, block in blocks.items():
        path = f"{name}." if name else ""
        for key, parameter in block._parameters.items():
            if parameter is not None:
                yield f"{PREFIX}{path}{key}", parameter


def take_out(state: dict[str, Any], prefix: str, parts: tuple[str, ...]) -> dict[str, Any]:
    """Takes the entries of some parts out of a state; returns them without the prefix."""
    taken = [key for key in state if key.startswith(tuple(prefix + part for part in parts))]
    return {key.removeprefix(prefix): state.pop(key) for key in taken}


@torch.no_grad()
def load_block_parameters(
    blocks: Mapping[str, ExpFamPCA],
    saved: dict[str, Tensor],
    prefix: str,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Sets the point parameters of blocks to saved values, and notes what does not fit."""
    wanted = dict(block_parameters(blocks))
    missing.extend(prefix + name for name in wanted if name not in saved)
    unexpected.extend(prefix + name for name in saved if name not in wanted)
    for name, parameter in wanted.items():
        if name not in saved:
            continue
        value = saved[name]
        if value.shape == parameter.shape:
            parameter.copy_(value)
        else:
            errors.append(
                f"{prefix}{name} must have shape {tuple(parameter.shape)}, got {tuple(value.shape)}"
            )
