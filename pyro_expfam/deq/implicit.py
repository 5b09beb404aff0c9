"""The root of the score as a differentiable function, by the implicit function theorem."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.backend import kernels_of
from pyro_expfam.deq.linear_map import LinearMap
from pyro_expfam.deq.problem import LatentProblem, event_dim, has_rows, problem_of
from pyro_expfam.deq.root_gradients import gradients, solve_information
from pyro_expfam.deq.solution import Solution, unsolved, warn_unless_converged, with_uniqueness
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.term_root import solve_with_term
from pyro_expfam.deq.transformed import (
    batch_first,
    forward_derivative,
    is_traced,
    unrecorded,
)
from pyro_expfam.families import Family


class Specification(NamedTuple):
    """The part of the problem that is not a tensor.

    Attributes:
        family: the law of the observations, in which the parameters that are tensors are replaced.
        map: the linear map, in which all tensors are replaced.
        names: the names of the problem's fields.
        solver: the solver.
    """

    family: Family
    map: LinearMap
    names: tuple[str, ...]
    solver: Solver

    def problem(self, tensors: Sequence[Tensor]) -> LatentProblem:
        """The problem with the given fields."""
        return problem_of(self.family, self.map, dict(zip(self.names, tensors, strict=True)))


def solve(problem: LatentProblem, solver: Solver, start: Tensor) -> Solution:
    r"""The root of ``problem``, differentiable in all its fields; ``start`` ``(..., N, l)``.

    With incoming gradient :math:`\bar g`, :math:`u = H^{-1} \bar g` at the root,
    :math:`a = \omega \ell'' \odot W u` and :math:`r = -\omega \ell'`, the gradients
    are, row by row, :math:`r u^\top - a z^\top` for W, :math:`-a` for b and the offset,
    :math:`-\ell' \odot W u` for :math:`\omega`, and :math:`-u^\top z` for the precision. The
    gradients of ``y`` and of the family's parameters are :math:`\omega W u` times the derivatives
    of :math:`-\ell'`. No iteration is differentiated.
    """
    if problem.term is not None:
        return solve_with_term(problem, solver, start)
    fields = problem.fields
    specification = Specification(problem.family, problem.map, tuple(fields), solver)
    return Solution(*_Root.apply(specification, start, *fields.values()))


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(specification: Specification, start: Tensor, *tensors: Tensor) -> Any:
        problem, solver = specification.problem(tensors), specification.solver
        with unrecorded():
            solution = _solve_batch(problem, solver, start)
            solution = with_uniqueness(solution, problem.family.is_convex)
            warn_unless_converged(solution, solver)
        # A traced program wants outputs that it has seen made.
        return tuple(x.clone() for x in solution) if is_traced() else tuple(solution)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        specification, _start, *tensors = inputs
        value, *others = output
        ctx.specification = specification
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*others)
        ctx.save_for_backward(value, *tensors)
        ctx.save_for_forward(value, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, *(None for _ in ctx.specification.names)
        z, *tensors = ctx.saved_tensors
        problem, names = ctx.specification.problem(tensors), ctx.specification.names
        flags = zip(names, ctx.needs_input_grad[2:], strict=True)
        needed = {name for name, need in flags if need}
        found = None
        # The results of kernels cannot be differentiated once more.
        plain = not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
        if ctx.specification.solver.compiled and plain:
            kernels = kernels_of(problem)
            if kernels is not None:
                found = kernels.gradients(problem, z, grad, needed)
        if found is None:
            found = gradients(problem, z, grad, needed)
        reduced = (
            found[name].sum_to_size(tensor.shape) if name in needed else None
            for name, tensor in zip(names, tensors, strict=True)
        )
        return None, None, *reduced

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        r"""The change of the root, :math:`H^{-1}` times the change of the score at held latents."""
        z, *tensors = ctx.saved_tensors
        names = ctx.specification.names
        moved = {
            name: (x, dx)
            for name, x, dx in zip(names, tensors, tangents[2:], strict=True)
            if dx is not None
        }
        if not moved:
            return (torch.zeros_like(z), None, None, None, None)
        problem = ctx.specification.problem(tensors)

        def score(*fields: Tensor) -> Tensor:
            return problem.with_fields(dict(zip(moved, fields, strict=True))).score(z)

        primals, changes = zip(*moved.values(), strict=True)
        change = forward_derivative(score, primals, changes, z)
        curvature = problem.curvature(problem.predictor(z))
        return solve_information(problem, curvature, change), None, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], specification: Specification, *tensors: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        # The outermost batch dimension of the inputs is the outermost dimension of all outputs.
        event_dims = (2, *map(event_dim, specification.names))
        return _Root.apply(specification, *batch_first(tensors, in_dims[1:], event_dims)), (0,) * 5


# PyTorch asks for the signature at every call, and finding it takes a while.
_Root.forward.__signature__ = inspect.signature(_Root.forward)  # type: ignore[attr-defined]


def _solve_batch(problem: LatentProblem, solver: Solver, start: Tensor) -> Solution:
    """Solves every problem of a batch; all rows that share a loading are solved together."""
    if not problem.batch_shape and start.dim() == 2:
        return _solve_table(problem, solver, start)
    batch_shape = torch.broadcast_shapes(problem.batch_shape, start.shape[:-2])
    expanded = {
        name: x.expand(*batch_shape, *x.shape[x.dim() - event_dim(name) :])
        for name, x in problem.fields.items()
    }
    first = start.expand(*batch_shape, *start.shape[-2:])
    solution = unsolved(first)
    for place in itertools.product(*_loading_choices(problem, batch_shape)):
        fields = {name: x[place] for name, x in expanded.items()}
        table, start_of_table = _fold(problem, fields, first[place])
        part = _solve_table(table, solver, start_of_table)
        for whole, field in zip(solution[:4], part[:4], strict=True):
            whole[place] = field.reshape(whole[place].shape)
    return solution


def _solve_table(problem: LatentProblem, solver: Solver, start: Tensor) -> Solution:
    """Solves a problem without batch dimensions, in coordinates with an isotropic prior."""
    factor = problem.precision_factor
    # Without a matrix, solvers take the prior as it is.
    if factor is None or not problem.map.has_matrix:
        return solver.solve(problem, start)
    solution = solver.solve(problem.with_standard_prior(), start @ factor)
    value = torch.linalg.solve_triangular(factor, solution.value, upper=False, left=False)
    return solution._replace(value=value)


def _loading_choices(
    problem: LatentProblem, batch_shape: torch.Size
) -> list[Sequence[int | slice]]:
    """For each batch dimension every index if loadings differ along it, else all at once."""
    shared = (
        x.shape[: x.dim() - event_dim(k)] for k, x in problem.fields.items() if not has_rows(k)
    )
    loading_shape = torch.broadcast_shapes(*shared)
    sizes = (1,) * (len(batch_shape) - len(loading_shape)) + tuple(loading_shape)
    return [[slice(None)] if size == 1 else range(size) for size in sizes]


def _fold(
    like: LatentProblem, fields: dict[str, Tensor], start: Tensor
) -> tuple[LatentProblem, Tensor]:
    """One table of all rows of a batch of tables with the same loading."""
    batch_shape, num_rows = start.shape[:-2], start.shape[-2]

    def folded(name: str, x: Tensor) -> Tensor:
        if not has_rows(name):
            return x[(0,) * (x.dim() - event_dim(name))]
        # A single row stands for all of them by broadcasting.
        repeated = all(
            size == 1 or stride == 0
            for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True)
        )
        if not batch_shape or (repeated and name != "y"):
            return x[(0,) * (x.dim() - 2)]
        return x.expand(*batch_shape, num_rows, x.shape[-1]).flatten(0, -2)

    tensors = {name: folded(name, x) for name, x in fields.items()}
    problem = problem_of(like.family, like.map, tensors)
    return problem, start.reshape(-1, start.shape[-1])
