"""The scale of loadings under which the latents vary as their prior says."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.objective import Objective

MOST_STEPS = 3
"""Times that loadings are scaled: the posterior of the latents follows the scale."""

NEAR = 0.2
"""Scaling ends when the logarithm of every scale is smaller than this."""


@torch.no_grad()
def at_scale_of_prior(
    problem: Objective, coefficients: Tensor, z: Tensor | None, latent_dim: int, solver: Solver
) -> tuple[Tensor, Tensor | None]:
    r"""Coefficients under which the second moment of the latents is near that of their prior.

    At a joint optimum latents are small and loadings large, the more so the more rows there are.
    From there the evidence may lead to another optimum, or, to second order, to none. With the
    mean :math:`S` of the posterior second moments of the latents in units of their prior, the
    loading :math:`W S^{1/2}` explains the table as well, under latents of the scale of the prior.

    Source: Liu, Rubin and Wu, *Parameter expansion to accelerate EM* (1998).

    Args:
        problem: the objective.
        coefficients: loading, intercept and further coefficients, ``(d, l + 1 + p)``.
        z: latents to begin with, ``(N, l)``, or None.
        latent_dim: the number of latents ``l``.
        solver: the solver for the latents.

    Returns:
        New coefficients and latents; those given if the objective has no scale of its own to find.
    """
    size = problem.num_rotated(latent_dim)
    held = problem.held(coefficients)
    if size == 0 or (held is not None and bool(held[:size].any())):
        return coefficients, z
    given = coefficients, z
    z = coefficients.new_zeros(problem.table.num_own_rows, latent_dim) if z is None else z.clone()
    for _ in range(MOST_STEPS):
        moment = problem.latent_moment(coefficients, z, solver)
        if moment is None or not bool(moment.isfinite().all()):
            return given
        scales, basis = torch.linalg.eigh(moment[:size, :size].double())
        if not bool((scales > 0).all()):
            return given
        root = (basis * scales.sqrt()) @ basis.T
        inverse = (basis / scales.sqrt()) @ basis.T
        loading = coefficients[:, :size] @ root.to(coefficients)
        coefficients = torch.cat([loading, coefficients[:, size:]], 1)
        z = torch.cat([z[:, :size] @ inverse.to(z), z[:, size:]], 1)
        if bool((scales.log().abs() < NEAR).all()):
            break
    return coefficients, z
