"""Where the fit of a model of several tables and sites starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.guides.coefficient_guide import trained_part
from pyro_expfam.guides.group_root import GroupRoot
from pyro_expfam.guides.table_checks import table_of
from pyro_expfam.guides.table_fit import coefficient_parameters, set_coefficients
from pyro_expfam.joint import JointProblem
from pyro_expfam.joint.spectral import spectral_start
from pyro_expfam.joint.table import split_coefficients
from pyro_expfam.models import ExpFamPCA

STEPS = 5
"""Steps of Fisher scoring for the coefficients of a table, given its latents."""

LONGEST = 2.0
"""The most by which a step changes a linear predictor."""


@torch.no_grad()
def start_blocks(guide: Any, groups: list[GroupRoot]) -> None:
    """Sets loadings and intercepts to what each table says of them alone.

    The first table of shared latents starts from the spectrum of its residuals. The coefficients of
    every other table are regressed on the latents found. A convolution keeps its random kernel, and
    starts from the intercept of a table without latents. A block whose coefficients are not point
    estimates under Gaussian priors keeps its random start.

    Args:
        guide: the guide.
        groups: the latents of its model with their tables, at the present parameters.
    """
    part = trained_part(guide._trained_guide().global_guide)
    if guide._trained_guide()._has_globals and not isinstance(part, AutoDelta):
        return
    for group in groups:
        latents: dict[str, Tensor] = {}
        for table in group.tables:
            block, problem = table.sites.block, table.likelihood
            if block.linear_map is not None and not problem.batch_shape:
                nothing = problem.b.new_zeros(problem.num_rows, 0)
                of_known = _regressed(problem, nothing)
                _, intercept, *others = coefficient_parameters(block, part)
                intercept.copy_(of_known[:, 0])
                for of_covariates in others:
                    of_covariates.copy_(of_known[:, 1:])
                continue
            if problem.batch_shape or not _has_gaussian_priors(block):
                continue
            name = table.sites.latents
            problem = _in_units_of(block, problem)
            if name in latents:
                coefficients = _regressed(problem, latents[name])
            else:
                coefficients, latents[name] = _from_spectrum(block, problem, guide.solver)
            _set(block, part, coefficients)


def _in_units_of(block: ExpFamPCA, problem: LatentProblem) -> LatentProblem:
    """The problem with learnt parameters of its family that start in the units of the table."""
    y = problem.family.decode(problem.y)
    weights = torch.ones_like(y)
    if problem.weights is not None:
        weights = problem.of_columns(problem.weights).expand_as(y)
    starts = block._known_family.starts_from(y, weights)
    for name, by_column in starts.items():
        attribute = f"family_{name}"
        if attribute not in block._pyro_params:
            continue
        # One number for all columns has their mean variance.
        one = by_column if getattr(block, attribute).dim() else by_column.square().mean().sqrt()
        setattr(block, attribute, one.to(problem.b))
    return replace(problem, family=block.family) if starts else problem


def _has_gaussian_priors(block: ExpFamPCA) -> bool:
    try:
        block.coefficient_precision()
    except ValueError:
        return False
    return True


def _from_spectrum(block: ExpFamPCA, problem: LatentProblem, solver: Any) -> tuple[Tensor, Tensor]:
    """Coefficients ``(d, l + 1 + p)`` and latents ``(N, l)`` of a table alone."""
    table = table_of(block, problem)
    precision = block.coefficient_precision().to(problem.b)
    size = block.latent_dim
    joint = JointProblem(
        table,
        torch.ones_like(problem.b[0]),
        1.0,
        precision[..., size],
        covariate_precision=precision[..., size + 1 :],
    )
    coefficients = spectral_start(joint, size)
    W, b, C = split_coefficients(coefficients, block.num_covariates)
    problem = replace(problem, map=block.map_of(W), b=b)
    if problem.covariates is not None:
        covariates = replace(problem.covariates, C=C)
        problem = replace(problem, offset=covariates.total(), covariates=covariates)
    return coefficients, solve(problem, solver).value


def _regressed(problem: LatentProblem, z: Tensor) -> Tensor:
    """The coefficients ``(d, l + 1 + p)`` of a table, given the latents of its rows."""
    problem = problem.double()
    design = problem.design(z.double())
    coefficients = design.new_zeros(problem.num_features, design.shape[1])
    eye = torch.eye(design.shape[1], dtype=design.dtype, device=design.device)
    offset = 0.0 if problem.known_offset is None else problem.known_offset
    for _ in range(STEPS):
        eta = design @ coefficients.mT + offset
        score = problem.scores(eta).mT @ design - coefficients
        weight = problem.informations(eta).mT
        information = torch.einsum("ds,sa,sb->dab", weight, design, design) + eye
        step = torch.linalg.solve(information, score.unsqueeze(-1)).squeeze(-1)
        reach = (design @ step.mT).abs().amax(0).unsqueeze(-1)
        coefficients = coefficients + step * (LONGEST / reach.clamp(min=LONGEST))
    return coefficients


def _set(block: ExpFamPCA, part: Any, coefficients: Tensor) -> None:
    if not bool(coefficients.isfinite().all()):
        return
    set_coefficients(coefficient_parameters(block, part), coefficients)
