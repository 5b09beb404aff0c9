"""Numbers that PyTorch maps over, or traces: their checks, and their batch dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Check = Callable[..., None]
"""A function that raises an error unless the numbers of tensors are valid."""


def is_traced() -> bool:
    """Whether ``torch.jit.trace`` records a program; Python then runs only in the first call."""
    tracing: bool = torch._C._is_tracing()
    return tracing


def are_transformed() -> bool:
    """Whether Python cannot read numbers now, while a program is traced or under ``vmap``."""
    return is_traced() or torch._C._are_functorch_transforms_active()


def checked(check: Check, tensor: Tensor, *others: Tensor | None) -> Tensor:
    """``tensor``, after calling ``check`` with it and the others.

    A traced program checks the numbers of each call. Under ``torch.func.vmap`` the check gets all
    mapped numbers at once, with the mapped dimension first.
    """
    if are_transformed():
        return _Checked.apply(check, tensor, *others)
    check(tensor, *others)
    return tensor


@contextmanager
def unrecorded() -> Iterator[None]:
    """Keeps operations out of a program that ``torch.jit.trace`` records.

    A traced program calls the forward method of an autograd function again at every run. It would
    otherwise also record the operations inside of the first call, with tensors for sizes.
    """
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def check_traced(name: str, value: Any) -> None:
    """Raises an error if the program being traced would record an argument as a constant.

    Raises:
        TypeError: if the argument is neither a tensor nor a number.
        ValueError: if it is a tensor that is not an input of the program.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return
    wanted = (
        "a tensor among the positional arguments of a loss that torch.jit traces, such as a "
        "JitTrace_ELBO, which takes everything else for a constant"
    )
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")
    recorded = torch._C._get_value_trace(value)  # type: ignore[attr-defined]
    if recorded.node().kind() == "prim::Constant":
        raise ValueError(f"{name} must be {wanted}, got one passed by keyword or from outside")


class _Checked(torch.autograd.Function):
    @staticmethod
    def forward(check: Check, tensor: Tensor, *others: Tensor | None) -> Tensor:
        with unrecorded():
            check(tensor, *others)
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.num_others = len(inputs) - 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, grad, *(None,) * ctx.num_others

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], check: Check, *tensors: Tensor | None
    ) -> tuple[Tensor, int | None]:
        dims = in_dims[1:]
        rank = max(
            x.dim() - (dim is not None)
            for x, dim in zip(tensors, dims, strict=True)
            if x is not None
        )
        moved = [
            x if x is None or dim is None else _first(x, dim, rank)
            for x, dim in zip(tensors, dims, strict=True)
        ]
        _Checked.apply(check, *moved)
        tensor: Any = tensors[0]
        return tensor.view_as(tensor), dims[0]


def _first(x: Tensor, dim: int, rank: int) -> Tensor:
    """``x`` with a dimension moved to the left of ``rank`` others, so that it broadcasts."""
    x = x.movedim(dim, 0)
    return x.reshape(len(x), *(1,) * (rank + 1 - x.dim()), *x.shape[1:])


def batch_first(
    tensors: Sequence[Any], dims: Sequence[int | None], event_dims: Sequence[int]
) -> list[Any]:
    """Moves mapped dimensions to the front, left of all batch dimensions of all tensors."""
    batch_rank = max(
        x.dim() - event - (dim is not None)
        for x, dim, event in zip(tensors, dims, event_dims, strict=True)
    )
    moved: list[Any] = []
    for x, dim, event in zip(tensors, dims, event_dims, strict=True):
        if dim is None:
            moved.append(x)
            continue
        x = x.movedim(dim, 0)
        missing = batch_rank - (x.dim() - event - 1)
        moved.append(x.reshape(x.shape[0], *[1] * missing, *x.shape[1:]))
    return moved


def forward_derivative(
    function: Callable[..., Tensor],
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    like: Tensor,
) -> Tensor:
    """The derivative of a function along tangents, by two derivatives backwards.

    PyTorch does not nest forward derivatives. The pull-back is linear in what it pulls, and its
    gradient along the tangents is the forward derivative.

    Args:
        function: the function.
        primals: where to evaluate it.
        tangents: the directions, one for each of the primals.
        like: a tensor of the shape and dtype of its value.
    """

    def along(u: Tensor) -> Tensor:
        pulled = torch.func.vjp(function, *primals)[1](u)
        return torch.stack([(x * dx).sum() for x, dx in zip(pulled, tangents, strict=True)]).sum()

    found: Tensor = torch.func.grad(along)(torch.zeros_like(like))
    return found
