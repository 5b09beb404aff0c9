"""Joint Fisher scoring as a way to train a guide."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from pyro.infer.autoguide import AutoDelta, AutoGuide
from torch import Tensor
from tqdm.auto import tqdm

from pyro_expfam.deq.observations import Observations, check_observations
from pyro_expfam.deq.solver import Solver
from pyro_expfam.families import Family
from pyro_expfam.joint import Fit, JointProblem, Sweep, fit_joint
from pyro_expfam.models import ExpFamPCA

ROWS_AT_ONCE = 1_000


@torch.no_grad()
def joint_problem(block: ExpFamPCA, y: Any, offset: Any, mask: Any) -> JointProblem:
    """The joint problem of the table of a block, with the block's priors."""
    like = block.latent_precision
    if not isinstance(like, Tensor) or "latent_precision" in block._pyro_samples:
        raise ValueError(
            "fit wants a known latent_precision, got one with a prior: train with SVI in its place"
        )
    observed = check_observations(block.family, y, block.num_features, like, offset, mask)
    precision = {name: block.prior_precision(name) for name in ("loading", "intercept")}
    num_rows, num_features = observed.y.shape
    constant = (
        _log_normaliser(num_rows * block.latent_dim, float(like))
        + _log_normaliser(num_features * block.latent_dim, precision["loading"])
        + _log_normaliser(num_features, precision["intercept"])
        - _log_base_measure(block.family, observed)
    )
    return JointProblem(
        block.family,
        block.family.sufficient_statistic(observed.y),
        like,
        precision["loading"],
        precision["intercept"],
        observed.offset,
        None if observed.mask is None else observed.mask.to(like.dtype),
        constant,
    )


def _log_normaliser(size: int, precision: float) -> float:
    """Of a Gaussian prior of so many numbers; a flat one has none."""
    return 0.5 * size * math.log(2 * math.pi / precision) if precision else 0.0


def _log_base_measure(family: Family, observed: Observations) -> float:
    """Of all observations that are not missing."""
    total = 0.0
    mask = None if observed.mask is None else observed.mask.expand(observed.y.shape)
    for begin in range(0, len(observed.y), ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        entries = family.log_base_measure(observed.y[rows])
        kept = entries if mask is None else torch.where(mask[rows], entries, 0.0)
        total += float(kept.sum(dtype=torch.float64))
    return total


def first_row(problem: JointProblem) -> Tensor:
    """The observations of the first row, ``(1, d)``."""
    return problem.family.observation(problem.statistic[:1])


def point_parameters(block: ExpFamPCA, global_guide: AutoGuide) -> tuple[Tensor, Tensor]:
    """The parameters of loading and intercept that SVI trains."""
    found = []
    for name in ("loading", "intercept"):
        if block.prior_precision(name) == 0:
            found.append(getattr(block, name))
        elif isinstance(global_guide, AutoDelta):
            found.append(attrgetter(block.site_name(name))(global_guide))
        else:
            raise ValueError(
                "fit finds point estimates, and wants a global_guide that is an AutoDelta; got "
                f"{type(global_guide).__name__}: train with SVI in its place"
            )
    return found[0], found[1]


def fit_parameters(
    problem: JointProblem,
    loading: Tensor,
    intercept: Tensor,
    from_here: bool,
    solver: Solver,
    callback: Callable[[Sweep], object] | None,
    progress: bool,
    **limits: Any,
) -> Fit:
    """Sets a loading and an intercept to their joint estimates."""
    start = torch.cat([loading, intercept[:, None]], 1).detach() if from_here else None
    with tqdm(disable=not progress, unit="sweep", desc="joint fit") as bar:

        def report(sweep: Sweep) -> object:
            bar.update(sweep.number - bar.n)
            bar.set_postfix(objective=f"{sweep.objective:.8g}")
            return callback(sweep) if callback is not None else None

        coefficients, _, fit = fit_joint(
            problem, loading.shape[1], solver, callback=report, start=start, **limits
        )
    with torch.no_grad():
        loading.copy_(coefficients[:, :-1])
        intercept.copy_(coefficients[:, -1])
    return fit
