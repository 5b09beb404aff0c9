"""Whether a function that somebody else wrote acts elementwise on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def check_elementwise(what: str, function: Callable[..., Any], *arguments: Tensor) -> None:
    """Raises an error unless a function of tensors acts elementwise.

    Args:
        what: the function, for errors.
        function: the function.
        arguments: where to evaluate it, tensors of one shape. The value may have more entries, by
            broadcasting.

    Raises:
        TypeError: the value is not a tensor, or has another dtype than the arguments.
        ValueError: the value has a shape that does not fit, or an entry depends on other entries.
    """
    value = _evaluated(what, function, arguments)
    shape = arguments[0].shape
    if not _broadcasts_to(shape, value.shape):
        raise ValueError(
            f"{what} must act elementwise, got a value of shape {tuple(value.shape)} for an "
            f"argument of shape {tuple(shape)}: return one number per entry, not a sum or a "
            "constant"
        )
    if value.dtype != arguments[0].dtype:
        raise TypeError(
            f"{what} must keep the dtype of its argument, got {value.dtype} for "
            f"{arguments[0].dtype}"
        )
    alone = _evaluated(what, function, tuple(x[:1] for x in arguments))
    same = torch.isclose(alone, value[:1], rtol=1e-6, atol=1e-9, equal_nan=True)
    if not bool(same.all()):
        raise ValueError(
            f"{what} must act elementwise, got a value that changes with the other entries of its "
            f"argument: the first is {float(value.flatten()[0]):.6g}, and "
            f"{float(alone.flatten()[0]):.6g} alone"
        )


def _evaluated(what: str, function: Callable[..., Any], arguments: tuple[Tensor, ...]) -> Tensor:
    value = function(*arguments)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{what} must return a tensor, got {type(value).__name__}: write it with functions of "
            "PyTorch, which have derivatives"
        )
    return value


def _broadcasts_to(shape: torch.Size, wider: torch.Size) -> bool:
    try:
        return torch.broadcast_shapes(shape, wider) == wider
    except RuntimeError:
        return False
