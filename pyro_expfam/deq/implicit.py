"""The root of the score as a differentiable function, by the implicit function theorem."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq import cpu, cuda
from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.deq.positive_definite import cholesky, cholesky_solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution, unsolved, warn_unless_converged
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.symmetric import weighted_gram
from pyro_expfam.deq.transformed import is_traced, unrecorded
from pyro_expfam.families import Family


class Specification(NamedTuple):
    """The part of the problem that is not a tensor."""

    family: Family
    solver: Solver


EVENT_DIMS = (2, 2, 1, 0, 2, 2, 2)
"""Event dimensions of the tensors: statistic, W, b, precision, offset, weights, start."""


def solve(problem: LatentProblem, solver: Solver, start: Tensor) -> Solution:
    r"""The root of ``problem``, differentiable in all its tensors; ``start`` ``(..., N, l)``.

    With incoming gradient :math:`\bar g`, :math:`u = H^{-1} \bar g` at the root,
    :math:`a = \omega v \odot W u` and :math:`r = \omega (T(y) - \sigma(\eta))`, the gradients
    are, row by row, :math:`r u^\top - a z^\top` for W, :math:`-a` for b and the offset,
    :math:`\omega W u` for :math:`T(y)`, :math:`(W u) \odot (T(y) - \sigma(\eta))` for
    :math:`\omega`, and :math:`-u^\top z` for the precision. No iteration is differentiated.
    """
    return Solution(
        *_Root.apply(
            Specification(problem.family, solver),
            *problem.tensors,
            start,
        )
    )


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(
        specification: Specification,
        statistic: Tensor,
        W: Tensor,
        b: Tensor,
        precision: Tensor,
        offset: Tensor | None,
        weights: Tensor | None,
        start: Tensor,
    ) -> tuple[Tensor, ...]:
        family, solver = specification
        problem = LatentProblem(family, statistic, W, b, precision, offset, weights)
        with unrecorded():
            solution = _solve_batch(problem, solver, start)
            warn_unless_converged(solution, solver)
        # A traced program wants outputs that it has seen made.
        return tuple(x.clone() for x in solution) if is_traced() else tuple(solution)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        specification, *tensors, _start = inputs
        value, *others = output
        ctx.specification = specification
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*others)
        ctx.save_for_backward(value, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        z, *tensors = ctx.saved_tensors
        family, solver = ctx.specification
        problem, needed = LatentProblem(family, *tensors), ctx.needs_input_grad[1:7]
        # The results of kernels cannot be differentiated once more.
        kernels = solver.compiled and not torch.is_grad_enabled()
        statistic, _, _, _, offset, weights = needed
        if kernels and cuda.has_kernels(problem):
            found = _fused_gradients(problem, z, grad, needed)
        elif kernels and not (statistic or offset or weights) and cpu.has_kernels(problem):
            found = _compiled_gradients(problem, z, grad)
        else:
            found = gradients(problem, z, grad)
        reduced = [
            gradient.sum_to_size(tensor.shape)
            if need and tensor is not None and gradient is not None
            else None
            for need, gradient, tensor in zip(needed, found, tensors, strict=True)
        ]
        return None, *reduced, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], specification: Specification, *tensors: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        # The outermost batch dimension of the inputs is the outermost dimension of all outputs.
        return _Root.apply(specification, *batch_first(tensors, in_dims[1:])), (0, 0, 0, 0)


# PyTorch asks for the signature at every call, and finding it takes a while.
_Root.forward.__signature__ = inspect.signature(_Root.forward)  # type: ignore[attr-defined]


def gradients(problem: LatentProblem, z: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of all tensors of a problem through its root ``z``, given the gradient of ``z``.

    They are not yet summed over the dimensions along which the tensors broadcast.
    """
    mean, fisher_weight = problem.family.mean_and_variance(problem.natural_param(z))
    residual = problem.statistic - mean
    weighted_residual = residual
    if problem.weights is not None:
        weighted_residual = residual * problem.weights
        fisher_weight = fisher_weight * problem.weights
    u = _solve_information(problem, fisher_weight, grad)
    Wu = u @ problem.W.mT
    weighted_Wu = Wu if problem.weights is None else Wu * problem.weights
    a = fisher_weight * Wu
    return (
        weighted_Wu,
        weighted_residual.mT @ u - a.mT @ z,
        -a.sum(-2),
        -(u * z).sum((-2, -1)),
        -a,
        residual * Wu,
    )


def _compiled_gradients(
    problem: LatentProblem, z: Tensor, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The same as :func:`gradients` for loading, intercept and precision, by the CPU kernels."""
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu.gradients import sum_over_rows

    of_W, of_b, u, resolved = sum_over_rows(problem, z, grad, SMALLEST_PIVOT[z.dtype])
    of_precision = -(u * z).sum()
    if not bool(resolved.all()):
        failed = (~resolved).nonzero().squeeze(-1)
        others = gradients(problem.rows(failed), z[failed], grad[failed])
        of_W, of_b = of_W + others[1], of_b + others[2]
        of_precision = of_precision + others[3]
    return None, of_W, of_b, of_precision, None, None


def _fused_gradients(
    problem: LatentProblem, z: Tensor, grad: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The same as :func:`gradients`, by kernels that write only the gradients needed."""
    # Only here: Triton takes a second to import.
    from pyro_expfam.deq.cuda import gradients as fused

    u, resolved = fused.solve_information(problem, z, grad, SMALLEST_PIVOT[z.dtype])
    failed = (~resolved).nonzero().squeeze(-1)
    if len(failed):
        rows = problem.rows(failed)
        weight = rows.weighted(rows.family.fisher_weight(rows.natural_param(z[failed])))
        u[failed] = _solve_information(rows, weight, grad[failed])
    statistic, _, _, _, offset, weights = needed
    shape = (1, 1) if problem.offset is None else torch.atleast_2d(problem.offset).shape
    by_entry = fused.EntryGradients(
        torch.empty_like(problem.statistic) if statistic else None,
        torch.empty_like(problem.statistic) if offset and min(shape) > 1 else None,
        torch.empty_like(problem.statistic) if weights else None,
    )
    of_W, of_b = fused.sum_over_rows(problem, z, u, by_entry)
    of_offset = by_entry.offset
    if offset and of_offset is None:
        of_offset = of_b[None] if shape[0] == 1 else fused.sum_over_features(problem, z, u)
    of_precision = -(u * z).sum()
    return by_entry.statistic, of_W, of_b, of_precision, of_offset, by_entry.weights


def _solve_information(problem: LatentProblem, fisher_weight: Tensor, grad: Tensor) -> Tensor:
    """Solutions ``u`` of ``H u = grad``; ``H`` is formed in float64, where it is definite."""
    information = weighted_gram(fisher_weight.double(), problem.W.double())
    factor, _ = cholesky(information + problem.prior_information().double())
    return cholesky_solve(factor, grad.double()).to(grad.dtype)


def batch_first(tensors: tuple[Any, ...], dims: tuple[int | None, ...]) -> list[Any]:
    """Moves mapped dimensions to the front, left of all batch dimensions of all tensors."""
    batch_rank = max(
        x.dim() - event - (dim is not None)
        for x, dim, event in zip(tensors, dims, EVENT_DIMS, strict=True)
        if x is not None
    )
    moved: list[Any] = []
    for x, dim, event in zip(tensors, dims, EVENT_DIMS, strict=True):
        if x is None or dim is None:
            moved.append(x)
            continue
        x = x.movedim(dim, 0)
        missing = batch_rank - (x.dim() - event - 1)
        moved.append(x.reshape(x.shape[0], *[1] * missing, *x.shape[1:]))
    return moved


def _solve_batch(problem: LatentProblem, solver: Solver, start: Tensor) -> Solution:
    """Solves every problem of a batch; all rows that share a loading are solved together."""
    if not problem.batch_shape and start.dim() == 2:
        return solver.solve(problem, start)
    batch_shape = torch.broadcast_shapes(problem.batch_shape, start.shape[:-2])
    expanded = [
        None if x is None else x.expand(*batch_shape, *x.shape[x.dim() - event :])
        for x, event in zip(problem.tensors, EVENT_DIMS, strict=False)
    ]
    first = start.expand(*batch_shape, *start.shape[-2:])
    solution = unsolved(first)
    for place in itertools.product(*_loading_choices(problem, batch_shape)):
        tensors = [None if x is None else x[place] for x in expanded]
        part = solver.solve(*_fold(problem.family, tensors, first[place]))
        for whole, field in zip(solution, part, strict=True):
            whole[place] = field.reshape(whole[place].shape)
    return solution


def _loading_choices(
    problem: LatentProblem, batch_shape: torch.Size
) -> list[Sequence[int | slice]]:
    """For each batch dimension every index if loadings differ along it, else all at once."""
    loading_shape = torch.broadcast_shapes(
        problem.W.shape[:-2], problem.b.shape[:-1], problem.precision.shape
    )
    sizes = (1,) * (len(batch_shape) - len(loading_shape)) + tuple(loading_shape)
    return [[slice(None)] if size == 1 else range(size) for size in sizes]


def _fold(family: Family, tensors: list[Any], start: Tensor) -> tuple[LatentProblem, Tensor]:
    """One table of all rows of a batch of tables with the same loading."""
    statistic, W, b, precision, offset, weights = tensors
    batch_shape, num_rows = start.shape[:-2], start.shape[-2]

    def rows(entries: Tensor | None) -> Tensor | None:
        if entries is None or not batch_shape:
            return entries
        return entries.expand(*batch_shape, num_rows, entries.shape[-1]).flatten(0, -2)

    def first(x: Tensor, event_dim: int) -> Tensor:
        return x[(0,) * (x.dim() - event_dim)]

    problem = LatentProblem(
        family,
        rows(statistic),  # type: ignore[arg-type]
        first(W, 2),
        first(b, 1),
        first(precision, 0),
        rows(offset),
        rows(weights),
    )
    return problem, start.reshape(-1, start.shape[-1])
