"""What an optimum costs because its linear predictors are rounded to single precision."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.joint.objective import Objective
from pyro_expfam.user_warning import warn_user

LEAST_TOL = 1e-7
"""A part of the objective that is no loss, however exact the user wants the fit."""

PER_ROW = 1e-6
"""Nats per row that are no loss either."""


@torch.no_grad()
def rounding_loss(problem: Objective, coefficients: Tensor, z: Tensor) -> float:
    r"""The nats by which rounding of linear predictors raises an objective near its optimum.

    An error of :math:`\eta` that is uniform within a unit in the last place, :math:`u`, raises the
    loss by :math:`v u^2 / 24` on average, where :math:`v` is the information of the entry. The
    entries of the first tile of every process stand for all.

    Args:
        problem: the objective.
        coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
        z: the latents of the rows of this process, ``(N, l)``.
    """
    table, like = problem.table, coefficients.new_zeros((), dtype=torch.float64)
    loss, count = like, like.clone()
    for place, rows in problem.tiles(coefficients):
        eta = rows.predictor(z[place])
        unit = torch.nextafter(eta.abs(), torch.full_like(eta, torch.inf)) - eta.abs()
        loss = (rows.informations(eta).double() * unit.double().square()).sum() / 24
        count = like + len(eta)
        break
    loss, count = table.processes.sum((loss, count))
    return float(loss / count) * table.num_rows


def warn_of_rounding(
    problem: Objective, coefficients: Tensor, z: Tensor, objective: float, tol: float
) -> None:
    """Warns if single precision keeps a fit further from its optimum than its tolerance.

    Args:
        problem: the objective, without learnt parameters of the family.
        coefficients: where the fit has ended, ``(d, l + 1 + p)``.
        z: the latents there, ``(N, l)``.
        objective: the objective there.
        tol: the part of the objective within which the fit comes to rest.
    """
    if coefficients.dtype == torch.float64:
        return
    loss = rounding_loss(problem, coefficients, z)
    least = max(tol, LEAST_TOL) * (1 + abs(objective)) + PER_ROW * problem.table.num_rows
    # A comparison with NaN is False.
    if loss > least and problem.table.processes.number == 0:
        name = str(coefficients.dtype).removeprefix("torch.")
        warn_user(
            f"the objective is about {loss:.2g} nats above its optimum, because {name} rounds the "
            "linear predictors of so large observations: fit the table in double precision, as by "
            "model.double() and y.double()",
            ConvergenceWarning,
        )
