"""Systems of the information, solved by products with the linear map alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.curvature import Curvature
from pyro_expfam.deq.linear_map import LinearMap
from pyro_expfam.deq.problem import LatentProblem, event_dim, problem_of
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.deq.transformed import batch_first, forward_derivative, unrecorded
from pyro_expfam.families import Family
from pyro_expfam.user_warning import warn_user

RELATIVE_RESIDUAL = {torch.float32: 1e-5, torch.float64: 1e-13}
"""What is left of the right-hand side of a system that counts as solved, in the norm of the
preconditioner."""

MORE_STEPS = 100
"""Without rounding a system of ``l`` latents takes at most ``l`` steps. With rounding it may take
more."""


@dataclass(frozen=True, eq=False)
class Information:
    r"""The information :math:`H = \lambda F F^\top + W^\top V W` of each row, as an operator.

    Attributes:
        problem: the problem.
        curvature: the second derivatives ``V`` of the losses.
    """

    problem: LatentProblem
    curvature: Curvature

    def times(self, vectors: Tensor) -> Tensor:
        """The products of the information with vectors ``(..., N, l)``."""
        of_table = self.curvature.times(self.problem.map(vectors))
        return self.problem.map.transpose(of_table) + self.problem.prior.times(vectors)

    @cached_property
    def diagonal(self) -> Tensor:
        """A positive diagonal for preconditioning, ``(..., N, l)``.

        It is the diagonal of the information if losses are convex and not coupled.
        """
        of_table = self.problem.map.gram_diagonal(self.curvature.second.abs())
        return of_table + self.problem.prior.diagonal()


class Solved(NamedTuple):
    """Approximate solutions of positive definite systems.

    Attributes:
        value: the solutions ``x``, ``(..., N, l)``.
        residual: what is left of the right-hand sides, ``(..., N, l)``.
        enough: whether each row is solved as exactly as was asked, ``(..., N)``.
    """

    value: Tensor
    residual: Tensor
    enough: Tensor


def conjugate_gradients(
    times: Callable[[Tensor], Tensor],
    diagonal: Tensor,
    right: Tensor,
    enough: Callable[[Tensor, Tensor, Tensor], Tensor],
    max_steps: int,
) -> Solved:
    r"""Solves ``H x = right`` for each row by conjugate gradients, from zero.

    From zero every iterate has :math:`x^\top H x = x^\top b` for the right-hand side ``b``.

    Args:
        times: the products with the positive definite matrices of the rows.
        diagonal: the diagonal of the preconditioner, ``(..., N, l)``.
        right: right-hand sides, ``(..., N, l)``.
        enough: whether rows are done, a function of three numbers per row: :math:`x^\top b`, the
            squared length of the residual, and its square in the norm of the inverse
            preconditioner.
        max_steps: the most products per row.

    Source: Nocedal and Wright, *Numerical optimization* (2006), algorithm 5.3.
    """
    x, residual = torch.zeros_like(right), right
    scaled = residual / diagonal
    direction, square = scaled, (residual * scaled).sum(-1)
    decrement = torch.zeros_like(square)
    done = enough(decrement, residual.square().sum(-1), square)
    moves = ~done
    for _ in range(max_steps):
        if not bool(moves.any()):
            break
        product = times(direction)
        bend = (direction * product).sum(-1)
        # A row that is done stands still, and so does one whose matrix is not positive definite.
        moves = moves & (bend > 0)
        length = torch.where(moves, square / bend, 0.0)
        decrement = decrement + length * square
        x = torch.addcmul(x, length.unsqueeze(-1), direction)
        residual = torch.addcmul(residual, length.unsqueeze(-1), product, value=-1.0)
        scaled = residual / diagonal
        before, square = square, (residual * scaled).sum(-1)
        share = torch.where(moves, square / before, 0.0)
        direction = torch.addcmul(scaled, share.unsqueeze(-1), direction)
        done = done | (moves & enough(decrement, residual.square().sum(-1), square))
        moves = moves & ~done
    return Solved(x, residual, done)


def solve_exactly(information: Information, right: Tensor) -> Tensor:
    """Solutions ``x`` of ``H x = right``, to the last digits of the dtype, ``(..., N, l)``.

    Warns:
        ConvergenceWarning: if some rows are not solved so exactly.
    """
    right = right.expand(torch.broadcast_shapes(right.shape, information.diagonal.shape))
    diagonal = information.diagonal.expand(right.shape)
    wanted = RELATIVE_RESIDUAL[right.dtype] ** 2 * (right.square() / diagonal).sum(-1)

    def enough(decrement: Tensor, residual: Tensor, square: Tensor) -> Tensor:
        del decrement, residual
        return square <= wanted

    max_steps = 2 * information.problem.latent_dim + MORE_STEPS
    found = conjugate_gradients(information.times, diagonal, right, enough, max_steps)
    failed = int((~found.enough).sum())
    if failed:
        warn_user(
            f"{failed} of {found.enough.numel()} linear systems of the information were not solved "
            f"by {max_steps} steps of conjugate gradients: what follows from these rows is inexact",
            ConvergenceWarning,
        )
    return found.value


class _Specification(NamedTuple):
    """The part of a problem that is not a tensor."""

    family: Family
    map: LinearMap
    names: tuple[str, ...]

    def problem(self, tensors: Sequence[Tensor]) -> LatentProblem:
        """The problem with the given fields."""
        return problem_of(self.family, self.map, dict(zip(self.names, tensors, strict=True)))


def solve_information(problem: LatentProblem, eta: Tensor, right: Tensor) -> Tensor:
    """Solutions ``x`` of ``H x = right`` with the information at linear predictors.

    They are differentiable in the fields of the problem, in the linear predictors and in the
    right-hand side, by the same kind of solve.

    Args:
        problem: the problem, without a term.
        eta: the linear predictors, ``(..., N, d)``.
        right: the right-hand sides, ``(..., N, l)``.
    """
    fields = problem.fields
    specification = _Specification(problem.family, problem.map, tuple(fields))
    found: Tensor = _Solve.apply(specification, eta, right, *fields.values())
    return found


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        specification: _Specification, eta: Tensor, right: Tensor, *tensors: Tensor
    ) -> Tensor:
        problem = specification.problem(tensors)
        with unrecorded():
            return solve_exactly(Information(problem, problem.curvature(eta)), right).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        specification, eta, _right, *tensors = inputs
        ctx.specification = specification
        ctx.save_for_backward(output, eta, *tensors)
        ctx.save_for_forward(output, eta, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        solved, *values = ctx.saved_tensors
        to_right: Tensor = _Solve.apply(ctx.specification, values[0], grad, *values[1:])
        needed = [ctx.needs_input_grad[1], *ctx.needs_input_grad[3:]]
        found: list[Tensor | None] = [None] * len(values)
        if any(needed):
            product, moved = _product_of(ctx.specification, values, needed, solved)
            pulled = iter(torch.func.vjp(product, *moved)[1](-to_right))
            found = [next(pulled) if wanted else None for wanted in needed]
        return None, found[0], to_right.sum_to_size(solved.shape), *found[1:]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        solved, *values = ctx.saved_tensors
        of_values = [tangents[1], *tangents[3:]]
        given = [x is not None for x in of_values]
        right = torch.zeros_like(solved) if tangents[2] is None else tangents[2]
        if any(given):
            product, moved = _product_of(ctx.specification, values, given, solved)
            changes = [x for x in of_values if x is not None]
            right = right - forward_derivative(product, moved, changes, solved)
        found: Tensor = _Solve.apply(ctx.specification, values[0], right, *values[1:])
        return found

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], specification: _Specification, *tensors: Any
    ) -> tuple[Tensor, int]:
        event_dims = (2, 2, *map(event_dim, specification.names))
        return _Solve.apply(specification, *batch_first(tensors, in_dims[1:], event_dims)), 0


def _product_of(
    specification: _Specification, values: Sequence[Tensor], moves: Sequence[bool], vectors: Tensor
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The product ``H x`` as a function of some of what ``H`` depends on, and their values.

    Args:
        specification: the part of the problem that is not a tensor.
        values: the linear predictors, and all fields of the problem.
        moves: which of them are arguments of the function.
        vectors: the vectors ``x``, ``(..., N, l)``.
    """

    def product(*some: Tensor) -> Tensor:
        left = iter(some)
        eta, *fields = (next(left) if m else x for x, m in zip(values, moves, strict=True))
        problem = specification.problem(fields)
        return Information(problem, problem.curvature(eta)).times(vectors)

    return product, [x for x, m in zip(values, moves, strict=True) if m]


# PyTorch asks for the signature at every call, and finding it takes a while.
_Solve.forward.__signature__ = inspect.signature(_Solve.forward)  # type: ignore[attr-defined]
