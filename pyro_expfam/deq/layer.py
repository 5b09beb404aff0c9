"""The equilibrium layer: rows x features in, latents out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_expfam.deq import implicit
from pyro_expfam.deq.anderson import Anderson
from pyro_expfam.deq.convolution import Convolution, sizes_of
from pyro_expfam.deq.family_check import check_family
from pyro_expfam.deq.fisher_scoring import FisherScoring
from pyro_expfam.deq.fixed_point import FixedPoint
from pyro_expfam.deq.limits import check_size
from pyro_expfam.deq.linear_map import Dense, LinearMap
from pyro_expfam.deq.newton_cg import NewtonCG
from pyro_expfam.deq.observations import as_tensor, check_observations, encoded
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.transformed import checked
from pyro_expfam.deq.uncompiled import uncompiled
from pyro_expfam.families import Family

SOLVERS: dict[str, type[Solver]] = {
    "fisher": FisherScoring,
    "anderson": Anderson,
    "fixed_point": FixedPoint,
    "newton_cg": NewtonCG,
}
"""The solvers by name."""


@uncompiled
def solve_latents(
    family: Family,
    y: Any,
    W: Tensor | LinearMap,
    b: Tensor,
    precision: float | Tensor = 1.0,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    solver: Solver | str | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
) -> Solution:
    r"""The most probable latents of every row: the root of the score, equation (6) of the paper.

    The latents of a row solve
    :math:`W^\top (T(y) - \sigma(Wz + b + \text{offset})) = \lambda z`. They are differentiable in
    ``W``, ``b``, ``precision``, ``offset`` and ``weights`` by the implicit function theorem, and in
    ``y`` if the sufficient statistic is. The function works under ``torch.func.grad`` and
    ``torch.func.vmap``. Leading dimensions of all arguments are batch dimensions and broadcast.

    Args:
        family: the law of the observations.
        y: observations, ``(..., N, d)``.
        W: loading, ``(..., d, l)``, float32 or float64; it sets dtype and device of the result. Any
            other linear map is a :class:`~pyro_expfam.deq.LinearMap`, such as
            ``pef.linear.Conv2d(...).map(kernel)``.
        b: intercept, ``(..., d)``.
        precision: precision :math:`\lambda` of the latents, positive, a number or ``(...)``.
        offset: known part of the natural parameters, broadcastable to ``(..., N, d)``.
        mask: booleans broadcastable to ``(..., N, d)``, False for a missing entry.
        weights: non-negative weights of the entries' log densities, broadcastable to
            ``(..., N, d)``.
        solver: a :class:`~pyro_expfam.deq.Solver` or a name: ``"fisher"`` (the default),
            ``"newton_cg"``, ``"anderson"`` or ``"fixed_point"``.
        tol: tolerance of a solver given by name, in posterior standard deviations.
        max_iter: the most iterations of a solver given by name.

    Returns:
        The :class:`~pyro_expfam.deq.Solution`, with a ``value`` of shape ``(..., N, l)``.

    Raises:
        TypeError: if an argument holds no real numbers.
        ValueError: if a shape, device or value does not fit; the message names the argument.

    Warns:
        ConvergenceWarning: if some rows did not reach the tolerance.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W = torch.tensor([[1.0], [-1.0], [0.5]])
        >>> y = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
        >>> solution = pef.solve_latents(pef.families.Bernoulli(), y, W, torch.zeros(3))
        >>> solution.value.shape, bool(solution.converged.all())
        (torch.Size([2, 1]), True)
    """
    problem = make_problem(family, y, W, b, precision, offset, mask, weights)
    return solve(problem, make_solver(solver, tol, max_iter))


def solve(problem: LatentProblem, solver: Solver) -> Solution:
    """The root of a problem, from latents zero; differentiable in the problem's tensors."""
    shape = (*problem.batch_shape, problem.num_rows, problem.latent_dim)
    start = torch.zeros((), dtype=problem.map.dtype, device=problem.map.device).expand(shape)
    return implicit.solve(problem, solver, start)


def make_problem(
    family: Family,
    y: Any,
    W: Tensor | LinearMap,
    b: Tensor,
    precision: float | Tensor = 1.0,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
) -> LatentProblem:
    """The problem that :func:`solve_latents` solves, from checked arguments."""
    check_family(family)
    linear_map = checked_map(W)
    like = next(iter(linear_map.fields.values()))
    b = as_tensor("b", b, like)
    num_features = linear_map.num_features
    if b.dim() < 1 or b.shape[-1] != num_features:
        raise ValueError(
            f"b must have shape (..., {num_features}), one entry for each row of W, "
            f"got {tuple(b.shape)}"
        )
    _check_finite("b", b)
    num_columns = _num_columns(family, num_features)
    observed = check_observations(family, y, num_columns, like, offset, mask, weights)
    observed = encoded(family, observed)
    return LatentProblem(
        family,
        observed.y,
        linear_map,
        b,
        check_precision(precision, like),
        observed.offset,
        observed.entry_weights,
    )


def _num_columns(family: Family, num_predictors: int) -> int:
    """The columns of a table with so many linear predictors per row."""
    levels, known = family.predictors_per_column, family.num_columns
    if known is not None and family.num_predictors(known) != num_predictors:
        raise ValueError(
            f"W must have {family.num_predictors(known)} rows, one for each linear predictor of "
            f"the {known} columns of the family, got {num_predictors} rows"
        )
    if known is None and num_predictors % levels:
        raise ValueError(
            f"W must have {levels} rows for each column of y, got {num_predictors} rows"
        )
    return num_predictors // levels if known is None else known


def checked_map(W: Tensor | LinearMap) -> LinearMap:
    """The linear map by a loading, or a map as it is.

    Raises:
        TypeError: if it is neither, or its numbers are neither float32 nor float64.
        ValueError: if a loading has another shape, or a number is not finite.
    """
    if isinstance(W, LinearMap):
        for name, x in W.fields.items():
            _check_finite(f"{name} of W", x)
        return W
    if not isinstance(W, Tensor) or W.dtype not in (torch.float32, torch.float64):
        got = W.dtype if isinstance(W, Tensor) else type(W).__name__
        raise TypeError(f"W must be a float32 or float64 tensor, got {got}")
    if W.dim() < 2 or W.shape[-1] < 1:
        raise ValueError(f"W must have shape (..., features, latents), got {tuple(W.shape)}")
    _check_finite("W", W)
    return Dense(W)


def _check_finite(name: str, value: Tensor) -> None:
    # Python cannot read numbers while a functorch transform is active.
    if not torch._C._are_functorch_transforms_active() and not bool(value.isfinite().all()):
        count = int((~value.isfinite()).sum())
        raise ValueError(f"{name} must be finite, got {count} entries of NaN or infinity")


def check_precision(precision: float | Tensor, like: Tensor) -> Tensor:
    """A precision as a tensor; raises an error unless it is positive and finite."""
    if type(precision) is float and 1e-30 < precision < 1e30:
        # Most often. Checking a tensor would take a few percent of a solve of 500 rows.
        return torch.tensor(precision, dtype=like.dtype, device=like.device)

    def check(value: Tensor) -> None:
        valid = (value > 0) & torch.isfinite(value)
        if not bool(valid.all()):
            got = float(value[~valid][0]) if isinstance(precision, Tensor) else precision
            raise ValueError(f"precision must be positive and finite, got {got}")

    return checked(check, as_tensor("precision", precision, like))


def make_solver(
    solver: Solver | str | None = None, tol: float | None = None, max_iter: int | None = None
) -> Solver:
    """A solver from an object or a name; ``tol`` and ``max_iter`` go with a name."""
    settings = {
        name: value for name, value in (("tol", tol), ("max_iter", max_iter)) if value is not None
    }
    if isinstance(solver, Solver):
        if settings:
            raise ValueError(
                f"{' and '.join(settings)} must be left out if solver is an object, which has its "
                f"own, got them beside {solver}"
            )
        return solver
    name = "fisher" if solver is None else solver
    if name not in SOLVERS:
        raise ValueError(f"solver must be a Solver or one of {sorted(SOLVERS)}, got {solver!r}")
    return SOLVERS[name](**settings)


class DEQLayer(nn.Module):
    r"""The equilibrium layer as a module with parameters ``weight`` and ``bias``.

    The output solves :math:`z = \lambda^{-1} W^\top (T(y) - \sigma(Wz + b))`, equation (6) of
    the paper. It is a fully connected equilibrium network with the mean function of ``family`` as
    activation. Gradients are implicit.

    Args:
        family: the law of the observations.
        num_features: columns ``d`` of a table; left out with a ``linear_map``.
        latent_dim: latents ``l`` of a row; left out with a ``linear_map``.
        precision: precision :math:`\lambda` of the latents, positive.
        solver: as for :func:`solve_latents`.
        tol: as for :func:`solve_latents`.
        max_iter: as for :func:`solve_latents`.
        linear_map: a convolution such as ``pef.linear.Conv2d``, whose kernel ``weight`` then is.

    Raises:
        TypeError: if ``linear_map`` is no convolution.
        ValueError: if a size is below 1, ``precision`` is not positive, or the family has a
            parameter that is still to be learnt.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> layer = pef.DEQLayer(pef.families.Poisson(), num_features=6, latent_dim=2)
        >>> head = torch.nn.Sequential(layer, torch.nn.Linear(2, 1))
        >>> head(torch.poisson(torch.ones(10, 6))).shape
        torch.Size([10, 1])
    """

    def __init__(
        self,
        family: Family,
        num_features: int | None = None,
        latent_dim: int | None = None,
        precision: float = 1.0,
        solver: Solver | str | None = None,
        tol: float | None = None,
        max_iter: int | None = None,
        linear_map: Convolution | None = None,
    ) -> None:
        super().__init__()
        check_family(family)
        self.linear_map = linear_map
        if linear_map is not None:
            num_features, latent_dim = sizes_of(linear_map, family, num_features, latent_dim)
        num_features = check_size("num_features", num_features)
        latent_dim = check_size("latent_dim", latent_dim)
        family.check_known()
        self.family = family
        self.solver = make_solver(solver, tol, max_iter)
        # Small weights keep natural parameters small, and so the means of a Poisson family.
        shape = (num_features, latent_dim) if linear_map is None else linear_map.kernel_shape
        self.weight = nn.Parameter(0.1 * torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.precision: Tensor
        self.register_buffer("precision", check_precision(precision, self.weight.detach()))

    def forward(self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None) -> Tensor:
        """Latents ``(..., N, l)`` of a table ``y`` ``(..., N, d)``."""
        return self.solution(y, offset, mask, weights).value

    @uncompiled
    def solution(
        self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None
    ) -> Solution:
        """The latents with their convergence, as :func:`solve_latents` returns them."""
        W = self.weight if self.linear_map is None else self.linear_map.map(self.weight)
        problem = make_problem(self.family, y, W, self.bias, self.precision, offset, mask, weights)
        return solve(problem, self.solver)

    def extra_repr(self) -> str:
        """The layer's settings, for ``repr``."""
        if self.linear_map is not None:
            return f"{self.family}, {self.linear_map}, precision={float(self.precision):g}"
        num_features, latent_dim = self.weight.shape
        return f"{self.family}, {num_features=}, {latent_dim=}, precision={float(self.precision):g}"
