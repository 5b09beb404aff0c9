"""The covariance of loading and intercept to second order, for small tables."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyro_expfam.coefficients.information import evidence_information
from pyro_expfam.coefficients.maximum import with_coefficients
from pyro_expfam.coefficients.posterior import CoefficientPosterior
from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.user_warning import warn_user

LARGEST = 200
"""The most directions of coefficients: 200 have 8 million third derivatives."""

STEP = 0.1
"""The step of central differences, in posterior standard deviations."""

LARGEST_GROWTH = 1.0
"""The largest correction of a log variance; the expansion does not hold beyond it."""


def second_order_posterior(
    problem: LatentProblem,
    prior_precision: Tensor,
    solver: Solver,
    posterior: CoefficientPosterior,
) -> CoefficientPosterior:
    r"""The posterior with the next order of its covariance.

    In coordinates with covariance 1, where :math:`T` and :math:`Q` are the third and fourth
    derivatives of minus the log density at the mode, the covariance is
    :math:`\exp K` with

    .. math::
        K_{ab} = \tfrac12 \sum_{cd} \bigl( T_{acd} T_{bcd} + T_{abc} T_{cdd} \bigr)
        - \tfrac12 \sum_c Q_{abcc},

    by central differences of the information. These take two Hessians for every direction of the
    coefficients.

    The standard deviations were compared with exact ones by importance sampling, on 26 simulated
    count tables of 25 x 5 and 40 x 6 with one and two latents. For loadings the average ratio was
    0.98 to 0.99 to second order, and 0.83 to 0.85 to first order. For :math:`W W^\top` it was 0.93
    to 0.95, and 0.79 to 0.81.

    Args:
        problem: the problem of the latents at the maximum, without batch dimensions.
        prior_precision: prior precisions of the coefficients of a feature, ``(l + 1,)``; 0 for a
            flat prior.
        solver: the solver for the latents.
        posterior: the posterior to first order.

    Raises:
        ValueError: if the coefficients have more than 200 directions.

    Warns:
        UserWarning: if the correction is so large that the expansion does not hold. The posterior
            to first order is then returned.

    Source: the expansion of cumulants in connected diagrams, McCullagh (1987), chapter 6.
    """
    if posterior.noise_dim > LARGEST:
        raise ValueError(
            f"order must be 1 for more than {LARGEST} coefficients, got order=2 for "
            f"{posterior.noise_dim}"
        )
    factor = posterior.factor

    def information(change: Tensor) -> Tensor:
        there = with_coefficients(problem, posterior.mode + change.view_as(posterior.mode))
        z = solve(there, solver).value
        return factor.mT @ evidence_information(there, prior_precision, z) @ factor

    here = information(torch.zeros_like(factor[:, 0]))
    thirds, fourth = [], torch.zeros_like(here)
    for direction in STEP * factor.mT:
        ahead, behind = information(direction), information(-direction)
        thirds.append((ahead - behind) / (2 * STEP))
        fourth += (ahead + behind - 2 * here) / STEP**2
    third = torch.stack(thirds)
    skew = third.diagonal(dim1=-2, dim2=-1).sum(-1)
    correction = 0.5 * (third.flatten(1) @ third.flatten(1).mT + third @ skew - fourth)
    values, vectors = torch.linalg.eigh(0.5 * (correction + correction.mT))
    if not float(values.abs().max()) <= LARGEST_GROWTH:
        warn_user(
            "the covariance of loading and intercept cannot be corrected to second order: the "
            "posterior is too far from a normal. The first order is kept. NUTS samples such a "
            "posterior; a smaller loading_scale or intercept_scale, or fewer latents, bring it "
            "nearer to a normal",
        )
        return posterior
    root = vectors * (0.5 * values).exp()
    return replace(
        posterior,
        factor=factor @ root,
        log_det_information=posterior.log_det_information - values.sum(),
        score_covariance=root.mT @ posterior.score_covariance @ root,
    )
