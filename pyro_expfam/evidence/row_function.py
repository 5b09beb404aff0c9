"""Functions of rows at their root, evaluated and differentiated tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq import root_gradients
from pyro_expfam.deq.backend import fields_of_fused_evidence, fuses_evidence
from pyro_expfam.deq.linear_map import LinearMap
from pyro_expfam.deq.problem import LatentProblem, event_dim, has_rows, problem_of
from pyro_expfam.deq.root_gradients import Gradients
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.deq.stored_entries import StoredEntries
from pyro_expfam.deq.transformed import batch_first
from pyro_expfam.families import Family

Value = Callable[[LatentProblem, Tensor], Tensor]
"""A function of every row given its latents, ``(..., N)`` or with more dimensions."""


def added(first: Gradients, second: Gradients) -> Gradients:
    """The sums of gradients."""
    both = first.keys() & second.keys()
    return first | second | {name: first[name] + second[name] for name in both}


PartialGradients = Callable[[LatentProblem, Tensor, Tensor, Set[str]], Gradients]
"""The partial gradients of a function of rows, given the gradient of its value.

They are gradients of fields with the latents held, and of the latents, ``z``. An absent name stands
for zero. A gradient may have the dimensions to which its field broadcasts.
"""


class Fused(NamedTuple):
    """A function of every row by kernels, which need no tiles.

    Attributes:
        value: its value; None where there is no kernel for it.
        gradients: its gradients, also through the root, given the gradient of its value and the
            names of the fields; None where the kernels lack the digits.
    """

    value: Callable[[LatentProblem, Tensor], Tensor | None]
    gradients: Callable[[LatentProblem, Tensor, Tensor, Set[str]], Gradients | None]


class RowFunction(NamedTuple):
    """A function of every row of a problem at its root.

    Attributes:
        value: its value.
        gradients: its partial gradients, given the gradient of its value and the names of the
            fields; others may be left out.
        rank: the number of latent dimensions of its largest intermediate per row.
        fused: the same function by kernels, or None.
        copies: how many times a row's linear predictors are in memory at once.
        matrix_free: the same function by products with the map alone, differentiable by autograd,
            or None.
    """

    value: Value
    gradients: PartialGradients
    rank: int
    fused: Fused | None = None
    copies: int = 1
    matrix_free: Value | None = None


def at_root(function: RowFunction, problem: LatentProblem, z: Tensor) -> Tensor:
    r"""A function of every row at the root ``z`` ``(..., N, l)`` of its problem.

    It is differentiable in the fields of the problem. The gradient :math:`\bar g` that reaches the
    root is passed on by the implicit function theorem. At most one tile of rows x features is in
    memory at a time, in the backward pass too, and tiles are computed in float64.
    """
    if not problem.map.has_matrix:
        return _without_matrix(function, problem, z)
    if problem.term is not None:
        # The root has its implicit gradient, and all else is differentiated by autograd.
        return function.value(problem.double(), z.double()).to(z.dtype)
    z = z.expand(*problem.batch_shape, *z.shape[-2:])
    fields = problem.fields
    law = Law(problem.family, problem.map, tuple(fields), problem.stored)
    return _AtRoot.apply(function, law, z, *fields.values())


def _without_matrix(function: RowFunction, problem: LatentProblem, z: Tensor) -> Tensor:
    """A function of every row at the root, by products with the map alone.

    Raises:
        ValueError: if it cannot be computed so, as the second order of the evidence.
    """
    if function.matrix_free is None or problem.term is not None:
        raise ValueError(
            "linear_map must have a matrix for the second order, for moments beyond the normal, "
            "and where other sites depend on the latents, got a convolution with "
            f"{problem.latent_dim:,} latents: take order=1, or raise its dense_latents"
        )
    return function.matrix_free(problem, z)


def by_autograd(value: Value) -> PartialGradients:
    """The partial gradients of a function by autograd, which evaluates it once more."""

    def gradients(problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]) -> Gradients:
        fields = {name: x for name, x in problem.fields.items() if name in needed}

        def of_fields(at: Tensor, *tensors: Tensor) -> Tensor:
            return value(problem.with_fields(dict(zip(fields, tensors, strict=True))), at)

        # Unlike torch.autograd.grad it can be mapped over and differentiated once more.
        pull_back = torch.func.vjp(of_fields, z, *fields.values())[1]
        return dict(zip(("z", *fields), pull_back(grad), strict=True))

    return gradients


class Law(NamedTuple):
    """The part of a problem that is not a tensor.

    Attributes:
        family: the law of the observations, in which the parameters that are tensors are replaced.
        map: the linear map, in which all tensors are replaced.
        names: the names of the problem's fields.
        stored: what a sparse table stores, or None.
    """

    family: Family
    map: LinearMap
    names: tuple[str, ...]
    stored: StoredEntries | None = None

    def problem(self, tensors: Sequence[Tensor]) -> LatentProblem:
        """The problem with the given fields."""
        fields = dict(zip(self.names, tensors, strict=True))
        return replace(problem_of(self.family, self.map, fields), stored=self.stored)


class _AtRoot(torch.autograd.Function):
    @staticmethod
    def forward(function: RowFunction, law: Law, z: Tensor, *tensors: Tensor) -> Tensor:
        problem = law.problem(tensors)
        if function.fused is not None and fuses_evidence(problem):
            found = function.fused.value(problem, z)
            if found is not None:
                return found.to(z.dtype)
        parts = [function.value(rows, at) for _, rows, at in _tiles(function, problem, z)]
        return torch.cat(parts, z.dim() - 2).to(z.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function, ctx.law, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, *tensors = ctx.saved_tensors
        problem, names = ctx.law.problem(tensors), ctx.law.names
        flags = zip(names, ctx.needs_input_grad[3:], strict=True)
        needed = {name for name, need in flags if need}
        found = None
        if _has_fused_gradients(ctx.function, problem, needed):
            found = ctx.function.fused.gradients(problem, z, grad, needed)
        if found is None:
            found = _by_tiles(ctx.function, problem, z, grad, needed)
        # The gradient of the root has been passed on to the fields that it depends on.
        fields = zip(names, tensors, strict=True)
        reduced = (_in_shape(found.get(name), x) if name in needed else None for name, x in fields)
        return None, None, None, *reduced

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], function: RowFunction, law: Law, *args: Any
    ) -> tuple[Tensor, int]:
        # The outermost batch dimension of the inputs is the outermost dimension of the output.
        event_dims = (2, *map(event_dim, law.names))
        return _AtRoot.apply(function, law, *batch_first(args, in_dims[2:], event_dims)), 0


def _in_shape(gradient: Tensor | None, field: Tensor) -> Tensor | None:
    """A gradient summed over the dimensions along which its field broadcasts."""
    return None if gradient is None else gradient.sum_to_size(field.shape).to(field.dtype)


def _has_fused_gradients(function: RowFunction, problem: LatentProblem, needed: Set[str]) -> bool:
    """Whether kernels have the gradients that are needed; these cannot be differentiated again."""
    plain = needed <= fields_of_fused_evidence(problem) and not torch.is_grad_enabled()
    return plain and function.fused is not None and fuses_evidence(problem)


def _tiles(
    function: RowFunction, problem: LatentProblem, z: Tensor
) -> Iterator[tuple[slice, LatentProblem, Tensor]]:
    """The rows of a problem and their latents, some at a time and in float64."""
    num_features, latent_dim = problem.num_features, problem.latent_dim
    by_row = max(num_features * function.copies, latent_dim**function.rank)
    row_entries = z.shape[:-2].numel() * by_row
    for tile in tiles(problem.num_rows, row_entries, z.device):
        yield tile, problem.rows(tile).double(), z[..., tile, :].double()


def _by_tiles(
    function: RowFunction, problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
) -> Gradients:
    """Gradients of a problem's fields, also through its root."""
    fields = problem.fields
    parts: dict[str, list[Tensor]] = {name: [] for name in needed}
    for tile, rows, at in _tiles(function, problem, z):
        of_rows = grad.narrow(z.dim() - 2, tile.start, tile.stop - tile.start)
        found = _total_gradients(function, rows, at, of_rows.double(), needed)
        for name, gradient in found.items():
            parts[name].append(gradient)
    return {name: _join(name, part, fields[name]) for name, part in parts.items() if part}


def _total_gradients(
    function: RowFunction, problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
) -> Gradients:
    """Gradients of the fields of a problem, also through its root, in their shapes."""
    direct = function.gradients(problem, z, grad, needed)
    total = _in_shapes(problem, direct, needed)
    if "z" not in direct:
        return total
    through_root = root_gradients.gradients(problem, z, direct["z"], needed)
    return added(total, _in_shapes(problem, through_root, needed))


def _in_shapes(problem: LatentProblem, gradients: Gradients, needed: Set[str]) -> Gradients:
    """Gradients summed over the dimensions along which their fields broadcast."""
    fields = problem.fields
    return {
        name: gradients[name].sum_to_size(fields[name].shape) for name in needed & gradients.keys()
    }


def _join(name: str, parts: list[Tensor], field: Tensor) -> Tensor:
    """The gradient of a field from its tiles: concatenated for rows, summed for what they share."""
    if has_rows(name) and field.shape[-2] > 1:
        return torch.cat(parts, -2)
    return torch.stack(parts).sum(0)
