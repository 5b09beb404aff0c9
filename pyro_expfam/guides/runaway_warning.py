"""A warning of loadings at which the approximation of the evidence does not hold."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from pyro_expfam.coefficients import EvidenceProblem
from pyro_expfam.coefficients.evidence_problem import WIDEST
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.evidence import evidence_at_root, is_beyond_expansion, second_order_term
from pyro_expfam.evidence.expansion import widest_variance
from pyro_expfam.families import Family
from pyro_expfam.guides.model_run import BlockRoot
from pyro_expfam.joint import LearntParametersProblem, Objective
from pyro_expfam.user_warning import warn_user

IMPOSSIBLE = 0.5
"""A log probability above this, in nats, is more than an ordinary error of the expansion."""


def warn_of_runaway_table(problem: Objective, coefficients: Tensor, z: Tensor) -> None:
    """Warns if a fit of a table has ended where the approximate evidence does not hold.

    Args:
        problem: the objective of the fit, whose table has the family that was found.
        coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``, under
            known parameters of the family.
        z: the latents at their root, ``(N, l)``.
    """
    if isinstance(problem, LearntParametersProblem):
        problem = replace(problem.known, table=problem.table)
    if not isinstance(problem, EvidenceProblem) or problem.nodes is not None:
        return
    if not problem.table.family.is_convex:
        widest = problem.widest_posterior(coefficients, z)
        _warn_of_wide_posteriors(problem.table.family, widest)
    if problem.order == 1:
        return
    added = problem.added_by_second_order(coefficients, z)
    evidence = z.new_zeros(0)
    if problem.table.family.support.is_discrete:
        evidence = problem.row_evidence(coefficients, z)
    _warn(added, z.shape[1], evidence)


def _warn_of_wide_posteriors(family: Family, variance: Tensor) -> None:
    """Warns of rows whose information is near zero.

    Args:
        family: the law of the observations, whose loss is not convex.
        variance: the largest posterior variance of each row in units of the prior variance,
            ``(N,)``.
    """
    wide = ~(variance <= WIDEST)
    if not bool(wide.any()):
        return
    largest = float(variance.max())
    size = f"up to {largest:.3g} times" if largest < math.inf else "infinitely many times"
    warn_user(
        f"the posterior variance of latents is {size} the prior variance, and more than "
        f"{WIDEST:g} times in {int(wide.sum()):,} of {len(variance):,} rows: the loss of "
        f"{family} is not convex, and the Laplace evidence has no bound where the "
        "information of a row comes near zero. With up to three latents take "
        "loss=pyro_expfam.LaplaceEvidence(nodes=7), else loss=None, the joint estimate",
        ConvergenceWarning,
    )


@torch.no_grad()
def warn_of_runaway_roots(roots: list[BlockRoot], order: int) -> None:
    """Warns if a fit of a model has ended where the evidence to an order does not hold."""
    for root in roots:
        problem, z = root.problem, root.solution.value
        if not problem.map.has_matrix:
            continue
        if not problem.family.is_convex:
            _warn_of_wide_posteriors(problem.family, _widest_posterior(root))
        if order == 1:
            continue
        evidence = z.new_zeros(0)
        if problem.family.support.is_discrete and problem.term is None:
            evidence = evidence_at_root(problem, z, order=2)
        _warn(_mean_added(root), z.shape[-1], evidence)


@torch.no_grad()
def have_run_away(roots: list[BlockRoot], order: int) -> bool:
    """Whether the evidence of a block to an order is beyond where it holds."""
    return any(_has_run_away(root, order) for root in roots if root.problem.map.has_matrix)


def _has_run_away(root: BlockRoot, order: int) -> bool:
    if not root.problem.family.is_convex and not bool((_widest_posterior(root) <= WIDEST).all()):
        return True
    if order == 1:
        return False
    return is_beyond_expansion(_mean_added(root), root.solution.value.shape[-1])


def _widest_posterior(root: BlockRoot) -> Tensor:
    """The largest posterior variance of each row in units of the prior variance."""
    problem, z = root.problem.double(), root.solution.value.double()
    if problem.precision_factor is not None:
        z, problem = z @ problem.precision_factor, problem.with_standard_prior()
    return (problem.precision[..., None] * widest_variance(problem, z)).flatten()


def _mean_added(root: BlockRoot) -> float:
    added = second_order_term(root.problem, root.solution.value)
    return float(added.sum(dtype=torch.float64)) / max(added.numel(), 1)


def _warn(added: float, latent_dim: int, evidence: Tensor) -> None:
    """Warns of what the second order adds, and of log evidences that no probability has.

    The first order is at most 0 in discrete rows, as every log probability is. The second order has
    no bound.

    Args:
        added: what the second order adds to the log evidence of a row on average.
        latent_dim: the number of latents.
        evidence: the log evidence of discrete rows, none if the rows are not discrete.
    """
    faults = []
    if is_beyond_expansion(added, latent_dim):
        faults.append(f"the second order adds {added:.3g} nats to the log evidence of a row")
    # The comparison is also False for NaN, which is no probability either.
    impossible = ~(evidence <= IMPOSSIBLE)
    if bool(impossible.any()):
        faults.append(
            f"the log evidence of {int(impossible.sum()):,} of {len(evidence):,} rows is above 0, "
            f"up to {float(evidence[impossible].max()):.3g} nats, as of no probability"
        )
    if faults:
        warn_user(
            f"{' and '.join(faults)}: loadings have run away to where the expansion to second "
            "order does not hold. Take loss=pyro_expfam.LaplaceEvidence(order=1), a smaller "
            "loading_scale or fewer latents",
            ConvergenceWarning,
        )
