"""Functions of rows at their root, evaluated and differentiated tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq import cuda, implicit
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.families import Family

Value = Callable[[LatentProblem, Tensor], Tensor]
"""A function of every row given its latents, ``(..., N)`` or with more dimensions."""

HAS_ROWS = (True, False, False, False, True, True)
"""Which tensors of a problem have a dimension of rows; it may have size 1."""


class Gradients(NamedTuple):
    """Gradients of the tensors of a problem with the latents held, and of the latents.

    None stands for zero, and for a tensor that is absent. A gradient may have the dimensions to
    which its tensor broadcasts.
    """

    statistic: Tensor | None
    W: Tensor | None
    b: Tensor | None
    precision: Tensor | None
    offset: Tensor | None
    weights: Tensor | None
    z: Tensor | None

    def plus(self, other: Gradients) -> Gradients:
        """The sum of these gradients and others."""
        return Gradients(*(_sum(a, b) for a, b in zip(self, other, strict=True)))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


class Fused(NamedTuple):
    """A function of every row by kernels of a CUDA device, which need no tiles.

    Attributes:
        value: its value.
        gradients: its gradients, also through the root, given the gradient of its value.
    """

    value: Value
    gradients: Callable[[LatentProblem, Tensor, Tensor], Gradients]


class RowFunction(NamedTuple):
    """A function of every row of a problem at its root.

    Attributes:
        value: its value.
        gradients: its partial gradients, given the gradient of its value.
        rank: the number of latent dimensions of its largest intermediate per row.
        fused: the same function by kernels, or None.
    """

    value: Value
    gradients: Callable[[LatentProblem, Tensor, Tensor], Gradients]
    rank: int
    fused: Fused | None = None


def at_root(function: RowFunction, problem: LatentProblem, z: Tensor) -> Tensor:
    r"""A function of every row at the root ``z`` ``(..., N, l)`` of its problem.

    It is differentiable in the tensors of the problem. The gradient :math:`\bar g` that reaches the
    root is passed on by the implicit function theorem. At most one tile of rows x features is in
    memory at a time, in the backward pass too, and tiles are computed in float64.
    """
    z = z.expand(*problem.batch_shape, *z.shape[-2:])
    return _AtRoot.apply(function, problem.family, *problem.tensors, z)


def by_autograd(value: Value) -> Callable[[LatentProblem, Tensor, Tensor], Gradients]:
    """The partial gradients of a function by autograd, which evaluates it once more."""

    def gradients(problem: LatentProblem, z: Tensor, grad: Tensor) -> Gradients:
        tensors = (*problem.tensors, z)
        present = [x is not None for x in tensors]

        def of_present(*given: Tensor) -> Tensor:
            *fields, at = _where(present, given)
            return value(LatentProblem(problem.family, *fields), at)

        # Unlike torch.autograd.grad it can be mapped over and differentiated once more.
        given = [x for x in tensors if x is not None]
        pull_back = torch.func.vjp(of_present, *given)[1]
        return Gradients(*_where(present, pull_back(grad)))

    return gradients


def _where(present: Sequence[bool], tensors: Sequence[Tensor]) -> list[Any]:
    """The tensors where a flag is set, None elsewhere."""
    remaining = iter(tensors)
    return [next(remaining) if there else None for there in present]


class _AtRoot(torch.autograd.Function):
    @staticmethod
    def forward(function: RowFunction, family: Family, *tensors: Any) -> Tensor:
        *fields, z = tensors
        problem = LatentProblem(family, *fields)
        if function.fused is not None and cuda.has_kernels(problem):
            return function.fused.value(problem, z).to(z.dtype)
        parts = [function.value(rows, at) for _, rows, at in _tiles(function, problem, z)]
        return torch.cat(parts, z.dim() - 2).to(z.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function, ctx.family, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *fields, z = ctx.saved_tensors
        problem = LatentProblem(ctx.family, *fields)
        needed = ctx.needs_input_grad[2:8]
        if _has_fused_gradients(ctx.function, problem, needed):
            found = ctx.function.fused.gradients(problem, z, grad)
            return None, None, *_in_shape(problem, found, needed), None
        parts = []
        for tile, rows, at in _tiles(ctx.function, problem, z):
            of_rows = grad.narrow(z.dim() - 2, tile.start, tile.stop - tile.start)
            parts.append(_total_gradients(ctx.function, rows, at, of_rows.double(), needed))
        joined = (
            _join(part, field, row_field)
            for part, field, row_field in zip(
                zip(*parts, strict=True), fields, HAS_ROWS, strict=True
            )
        )
        # The gradient of the root has been passed on to the tensors that it depends on.
        return None, None, *joined, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        function: RowFunction,
        family: Family,
        *args: Any,
    ) -> tuple[Tensor, int]:
        # The outermost batch dimension of the inputs is the outermost dimension of the output.
        return _AtRoot.apply(function, family, *implicit.batch_first(args, in_dims[2:])), 0


def _has_fused_gradients(
    function: RowFunction, problem: LatentProblem, needed: tuple[bool, ...]
) -> bool:
    """Whether kernels have the gradients that are needed; these cannot be differentiated again."""
    statistic, *_, weights = needed
    plain = not (statistic or weights or torch.is_grad_enabled())
    return plain and function.fused is not None and cuda.has_kernels(problem)


def _in_shape(
    problem: LatentProblem, gradients: Gradients, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients of the tensors of a problem, in their shapes."""
    return [
        None if not need or field is None or gradient is None else gradient.sum_to_size(field.shape)
        for need, field, gradient in zip(needed, problem.tensors, gradients[:-1], strict=True)
    ]


def _tiles(
    function: RowFunction, problem: LatentProblem, z: Tensor
) -> Iterator[tuple[slice, LatentProblem, Tensor]]:
    """The rows of a problem and their latents, some at a time and in float64."""
    num_features, latent_dim = problem.W.shape[-2:]
    row_entries = z.shape[:-2].numel() * max(num_features, latent_dim**function.rank)
    for tile in tiles(problem.num_rows, row_entries, z.device):
        yield tile, problem.rows(tile).double(), z[..., tile, :].double()


def _total_gradients(
    function: RowFunction,
    problem: LatentProblem,
    z: Tensor,
    grad: Tensor,
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """Gradients of the tensors of a problem, also through its root, in their shapes."""
    *direct, to_root = function.gradients(problem, z, grad)
    parts = [direct]
    if to_root is not None:
        parts.append([*implicit.gradients(problem, z, to_root)])
    return [
        _reduced(field, gradients) if need and field is not None else None
        for need, field, *gradients in zip(needed, problem.tensors, *parts, strict=True)
    ]


def _reduced(field: Tensor, gradients: list[Tensor | None]) -> Tensor:
    """The sum of gradients, each reduced to the shape of its field."""
    total = torch.zeros_like(field)
    for gradient in gradients:
        if gradient is not None:
            total = total + gradient.sum_to_size(field.shape)
    return total


def _join(parts: tuple[Tensor | None, ...], field: Tensor | None, has_rows: bool) -> Tensor | None:
    """The gradient of a field from its tiles: concatenated for rows, summed for what they share."""
    present = [part for part in parts if part is not None]
    if field is None or not present:
        return None
    if has_rows and field.shape[-2] > 1:
        return torch.cat(present, -2).to(field.dtype)
    return torch.stack(present).sum(0).to(field.dtype)
