"""Checks of the loading and the intercept of a block."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.coefficients.effect_of_rows import with_effect_column
from pyro_expfam.coefficients.maximum import coefficients_of
from pyro_expfam.deq import implicit
from pyro_expfam.deq.layer import make_solver
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.evidence import evidence_at_root
from pyro_expfam.evidence.adaptive import MOST_LATENTS
from pyro_expfam.guides.group_root import GroupRoot, TableRoot
from pyro_expfam.models import ExpFamPCA

Scores = dict[str, Tensor]
"""Gradients in the coefficients of tables, each ``(d, l + 1)``, by the name of the block."""

EvidenceScores = tuple[Scores | None, Scores | None, Scores | None]
"""The gradients of the evidence to first and to second order, and by quadrature.

One is None if the family lacks the derivatives that it takes, or quadrature takes too many nodes.
"""

OBJECTIVES = (
    "joint density",
    "evidence",
    "evidence to second order",
    "evidence by quadrature",
)
"""The objectives that training may maximise."""

EVIDENCES: tuple[tuple[int, int | None], ...] = ((1, None), (2, None), (1, 9))
"""The order, and the nodes if any, of each objective that is an evidence."""

MOST_PREDICTORS = 2 * 10**8
"""The most linear predictors at nodes that quadrature may take."""

CLEARLY_NEARER = 0.5
"""A finer evidence is named as the objective only if its optimum is nearer by this factor: the
optima of all evidences are close together, and a fit that has ended near them says little."""

AT_GAIN, AT_DISTANCE = 1e-3, 0.1
"""A step with a gain or a distance below these limits changes no conclusion."""


UNUSED_INFORMATION = 0.05
"""A latent is not used if the information from rows is below this part of the prior's."""

RUN_AWAY = 30.0
"""The largest plausible standard deviation of natural parameters. A discrete observation is certain
there, with a variance of :math:`e^{-30}`, and no table can tell the loading from a larger one."""

FAR_AWAY = 1e4
"""A standard deviation of natural parameters that no table can have."""

NEAR_GAIN = 0.01
"""A gain in nats per row up to which little is left to learn from these rows."""

NEW_PART = 0.25
"""Rows that did not train the model may be as many as this part of the rows that did."""

ORDINARY_NORMAL = 3.09
"""The quantile of a standard normal that one number in a thousand exceeds."""


class Gap(NamedTuple):
    """How far loading and intercept are from an optimum, by the next step of Fisher scoring.

    Attributes:
        gain: the gain that the step promises, in nats per row.
        distance: the root mean square of the step, in standard deviations of the coefficients
            given the latents. It is about 1 for rows that did not train the model but follow it.
        size: the number of coefficients. For such rows, ``size`` times the square of the distance
            is about chi-squared with ``size`` degrees of freedom.
    """

    gain: float
    distance: float
    size: int


class Estimates(NamedTuple):
    r"""The checks of a loading and an intercept.

    Attributes:
        joint: the gap to an optimum of the joint density of everything that the latents depend on,
            with latents at the root; None if the user replaced the block's own prior of loading or
            intercept, or the latents leave out sites that training has seen.
        evidence: the gap to an optimum of the Laplace evidence of the same.
        second_order: the gap to an optimum of the evidence to second order.
        quadrature: the gap to an optimum of the evidence by quadrature, in few latents and columns.
        has_flat_loading: whether the loadings of all tables with these latents have a flat prior.
        has_flat_intercept: whether the intercept has a flat prior.
        information: the information from the table on the latents' principal directions, relative
            to the prior's and averaged over rows, in decreasing order, ``(l,)``: eigenvalues of
            :math:`W^\top \mathrm{diag}(\bar v) W` in coordinates in which the prior has covariance
            1. NaN where the prior is no known normal distribution.
        reach: the standard deviation under the prior of the natural parameters along each of these
            directions, as root mean square over features, ``(l,)``. NaN likewise.
        spread: the mean square of latents about their prior means, over rows and their posteriors,
            relative to the prior variance. At an optimum of the evidence under a flat prior of the
            loading it is 1. NaN likewise.
        extreme_features: columns whose entries are all at one edge of what is possible, such as
            all zero; none for categories.
        unseen_levels: levels of categories that no entry has, by their places among the levels of
            all columns with an entry.
        empty_features: columns without an entry.
        distances: the distances to an optimum of each objective over all tables whose latents are
            found together, infinite for one that is not known; None for a table by itself.
    """

    joint: Gap | None
    evidence: Gap | None
    second_order: Gap | None
    quadrature: Gap | None
    has_flat_loading: bool
    has_flat_intercept: bool
    information: Tensor
    reach: Tensor
    spread: float
    extreme_features: list[int]
    unseen_levels: list[int]
    empty_features: list[int]
    distances: tuple[float, ...] | None = None

    @property
    def run_away(self) -> Tensor:
        """Directions in which the loading is too large for any table, ``(l,)``.

        Rows have no information there, unless the prior of the latents holds them exactly where an
        observation changes from certain to certain.
        """
        without_information = (self.information < UNUSED_INFORMATION) & (self.reach > RUN_AWAY)
        return without_information | (self.reach > FAR_AWAY)

    @property
    def nearest(self) -> tuple[Gap, str] | None:
        """The gap to the nearest optimum, and the name of its objective.

        Tables whose latents are found together are trained together: the objective is the same for
        all of them. It is None if the user replaced the block's own prior of loading or intercept.
        """
        distances = self.distances or tuple(
            math.inf if gap is None else gap.distance for gap in self.gaps
        )
        place = 0 if distances[0] <= distances[1] else 1
        for finer in (2, 3):
            if distances[finer] < CLEARLY_NEARER * distances[place]:
                place = finer
        gap = self.gaps[place]
        return None if gap is None else (gap, OBJECTIVES[place])

    @property
    def gaps(self) -> tuple[Gap | None, ...]:
        """The gaps to an optimum of each of the objectives."""
        return self.joint, self.evidence, self.second_order, self.quadrature


def with_distances(estimates: list[Estimates]) -> list[Estimates]:
    """Estimates of tables whose latents are found together, with their distances together."""
    known = [found.gaps for found in estimates if None not in found.gaps[:3]]
    if len(estimates) == 1 or not known:
        return estimates
    distances = tuple(
        math.sqrt(sum(math.inf if gap is None else gap.distance**2 * gap.size for gap in gaps))
        for gaps in zip(*known, strict=True)
    )
    return [found._replace(distances=distances) for found in estimates]


def is_at_optimum(gap: Gap) -> bool:
    """Whether a step of training would change no conclusion."""
    return gap.gain <= AT_GAIN or gap.distance <= AT_DISTANCE


def is_near_optimum(gap: Gap) -> bool:
    """Whether the gap is no larger than for new rows that follow the model.

    For rows that did not train the model, the square of the distance is about chi-squared over its
    degrees of freedom. The coefficients are uncertain as well, which increases it by the ratio of
    the number of these rows to the number of rows that trained the model.
    """
    limit = math.sqrt((1 + NEW_PART) * _ordinary_mean_square(gap.size))
    return gap.gain <= NEAR_GAIN or gap.distance <= limit


def _ordinary_mean_square(size: int) -> float:
    """The 99.9% quantile of the mean square of this number of standard normal numbers.

    Source: Wilson and Hilferty, *The distribution of chi-square* (1931).
    """
    variance = 2 / (9 * size)
    return float((1 - variance + ORDINARY_NORMAL * math.sqrt(variance)) ** 3)


@torch.no_grad()
def check_estimates(table: TableRoot, group: GroupRoot, scores: EvidenceScores) -> Estimates:
    """Checks the loading and the intercept of a table, in double precision.

    Args:
        table: the table.
        group: its latents at the root, under the coefficients at the end of training.
        scores: the gradients of the evidence of the group, to both orders and by quadrature.
    """
    block, problem, z = table.sites.block, table.likelihood.double(), table.z.double()
    priors = prior_precisions(block)
    joint = evidence = second_order = quadrature = None
    if priors is not None and not group.left_out:
        totals, num_rows = totals_of(problem, z), problem.count_rows()[0]
        of_prior = priors * coefficients_of(problem)
        curvature = totals.curvature + torch.diag_embed(priors)
        name, fitted = table.sites.name, _fitted(block, of_prior)
        curvature = curvature[:, fitted][:, :, fitted]
        joint, evidence, second_order, quadrature = (
            None
            if found is None
            else _gap((found[name] - of_prior)[:, fitted], curvature, num_rows)
            for found in ({name: totals.score}, *scores)
        )
    extreme, unseen, empty = _edges(problem)
    information, reach = _by_direction(table)
    return Estimates(
        joint=joint,
        evidence=evidence,
        second_order=second_order,
        quadrature=quadrature,
        has_flat_loading=all(_is_flat(other.sites.block, "loading") for other in group.tables),
        has_flat_intercept=_is_flat(block, "intercept"),
        information=information,
        reach=reach,
        spread=_spread(group, place_of_effect(block)),
        extreme_features=extreme,
        unseen_levels=unseen,
        empty_features=empty,
    )


def _is_flat(block: ExpFamPCA, name: str) -> bool:
    return name not in block._pyro_samples


def prior_precisions(block: ExpFamPCA) -> Tensor | None:
    """The prior precisions of the coefficients of a feature, ``(l + 1 + p,)``, if known.

    A row effect is one of the ``l``, and its loading has no prior.
    """
    try:
        precisions = block.coefficient_precision()
    except ValueError:
        return None
    precisions = precisions.to(block.intercept.device, torch.float64)
    place = place_of_effect(block)
    return precisions if place is None else with_effect_column(precisions, place)


def place_of_effect(block: ExpFamPCA) -> int | None:
    """The place of the loading of a row effect, which is known, among coefficients; or None."""
    return None if block.row_effect is None else block.latent_dim


def _fitted(block: ExpFamPCA, coefficients: Tensor) -> Tensor:
    """Which coefficients of a feature were fitted, booleans ``(l + 1 + p,)``."""
    size = coefficients.shape[-1]
    fitted = torch.ones(size, dtype=torch.bool, device=coefficients.device)
    place = place_of_effect(block)
    if place is not None:
        fitted[place] = False
    return fitted


def _by_direction(table: TableRoot) -> tuple[Tensor, Tensor]:
    """The information on the latents' principal directions, and the reach of each.

    A row effect is left out: its loading is known.
    """
    problem, z, size = table.alone, table.z.double(), table.sites.block.latent_dim
    if problem is None or problem.term is not None:
        unknown = z.new_full((z.shape[-1],), math.nan)
        return unknown, unknown
    problem = problem.double()
    z = z if problem.precision_factor is None else z @ problem.precision_factor
    problem = problem.with_standard_prior()
    information = z.new_zeros(problem.latent_dim, problem.latent_dim)
    for tile in row_tiles(problem):
        rows = problem.rows(tile)
        information += (rows.information(z[tile]) - rows.prior_information()).sum(0)
    (information,) = problem.sum(information)
    information = information / (problem.precision * problem.count_rows()[0])
    values, directions = torch.linalg.eigh(information[:size, :size])
    directions = torch.nn.functional.pad(directions, (0, 0, 0, problem.latent_dim - size))
    square = problem.map(directions.mT).mT.square().mean(0) / problem.precision
    return values.flip(-1), square.sqrt().flip(-1)


def _spread(group: GroupRoot, without: int | None) -> float:
    """The mean square of the latents of a group about their prior means, in prior variances.

    Args:
        group: the group.
        without: how many latents count, the first of them; None for all.
    """
    if not group.has_normal_prior:
        return math.nan
    problem, z = group.problem.double(), group.solution.value.double()
    size = z.shape[-1] if without is None else without
    square = z.new_zeros(())
    for part in parts_of_rows(problem):
        rows, at = problem.rows(part), z[part]
        covariance = torch.linalg.inv(rows.information(at))
        # The prior of a row effect is independent of the prior of the latents.
        prior = rows.prior_information()[..., :size, :size]
        own = rows.prior.centred(at)[..., :size]
        of_root = own.unsqueeze(-1) * own.unsqueeze(-2)
        square += ((covariance[..., :size, :size] + of_root) * prior).sum()
    return float(problem.sum(square)[0]) / (problem.count_rows()[0] * size)


def parts_of_rows(problem: LatentProblem) -> Iterable[slice]:
    """Slices of the rows of a problem that are evaluated together."""
    # A term is evaluated at all rows, so that some rows at a time would take as long for each part.
    return row_tiles(problem) if problem.term is None else [slice(0, problem.num_rows)]


class Totals(NamedTuple):
    """Sums over rows.

    Attributes:
        score: the score of the coefficients ``(w_i, b_i)`` of every feature, ``(d, l + 1)``.
        curvature: the information of these coefficients, ``(d, l + 1, l + 1)``.
    """

    score: Tensor
    curvature: Tensor


@torch.no_grad()
def totals_of(problem: LatentProblem, z: Tensor) -> Totals:
    """The sums over rows at latents ``z`` ``(N, l)``."""
    num_features, size = problem.num_features, problem.num_coefficients
    score = z.new_zeros(num_features, size)
    curvature = z.new_zeros(num_features, size**2)
    problem = replace(problem, term=None)
    for tile in row_tiles(problem):
        rows, at = problem.rows(tile), z[tile]
        eta = rows.predictor(at)
        design = rows.design(at)
        score += rows.scores(eta).mT @ design
        weight = rows.informations(eta)
        products = (design.unsqueeze(-1) * design.unsqueeze(-2)).flatten(1)
        curvature += weight.mT @ products
    score, curvature = problem.sum(score, curvature)
    return Totals(score, curvature.unflatten(-1, (size, size)))


def evidence_score(
    problem: LatentProblem, z: Tensor, order: int, nodes: int | None = None
) -> Tensor:
    """The gradient of the evidence in the coefficients, ``(d, l + 1 + p)``."""
    leaves = _leaves(problem)
    found = _gradients(problem.with_fields(leaves), z, order, nodes, list(leaves.values()))
    return _joined(problem, *found)


def evidence_scores(group: GroupRoot) -> EvidenceScores:
    """The gradients of the evidence of a group in the coefficients of its tables.

    They are to both orders and by quadrature. Each is ``(d, l + 1 + p)``. They are total
    derivatives: the root of the latents depends on the coefficients of every table, and so do
    tables that are terms.
    """
    problem, z = group.problem.double(), group.solution.value.double()
    own = _leaves(problem)
    terms = {x.sites.name: _term_leaves(group, x) for x in group.tables if x.columns is None}
    values = {name: leaf for found in terms.values() for name, leaf in found.items()}
    problem = group._replace(problem=problem).with_values(values).with_fields(own)
    leaves = [*own.values(), *(leaf for found in terms.values() for leaf in found.values())]
    found: list[Scores | None] = []
    for order, nodes in EVIDENCES:
        if nodes is not None and not _can_integrate(problem, nodes):
            found.append(None)
            continue
        try:
            gradients = _gradients(problem, z, order, nodes, leaves)
        except NotImplementedError:  # the family lacks third or fourth derivatives
            found.append(None)
        else:
            if problem.covariates is not None:
                # Only a table alone has covariates here.
                (table,) = group.tables
                own_scores = {table.sites.name: _joined(problem, *gradients).double()}
            else:
                own_scores = _by_block(group, gradients, list(terms))
            found.append(_of_all_rows(problem, own_scores))
    return found[0], found[1], found[2]


def _can_integrate(problem: LatentProblem, nodes: int) -> bool:
    """Whether the latents of a problem are few enough for quadrature."""
    if problem.term is not None or problem.latent_dim > MOST_LATENTS:
        return False
    size = problem.count_rows()[0] * problem.num_features
    return size * nodes**problem.latent_dim <= MOST_PREDICTORS


def _by_block(group: GroupRoot, found: list[Tensor], terms: list[str]) -> dict[str, Tensor]:
    """Gradients of coefficients side by side, by the name of the block.

    Args:
        group: the group.
        found: gradients of loading and intercept of the problem, and then of each term.
        terms: the names of the blocks whose tables are terms.
    """
    scores = {}
    for table in group.tables:
        if table.columns is None:
            place = 2 + 2 * terms.index(table.sites.name)
            to_W, to_b = found[place : place + 2]
        else:
            to_W, to_b = found[0][table.columns, table.latents], found[1][table.columns]
        scores[table.sites.name] = torch.cat([to_W, to_b.unsqueeze(-1)], -1).double()
    return scores


def _leaves(problem: LatentProblem) -> dict[str, Tensor]:
    """Copies of the fields that coefficients make, in which gradients can be taken."""
    names = ("W", "b") if problem.covariates is None else ("W", "b", "offset")
    return {name: problem.fields[name].detach().clone().requires_grad_() for name in names}


def _joined(problem: LatentProblem, to_W: Tensor, to_b: Tensor, *to_offset: Tensor) -> Tensor:
    """Gradients in all coefficients, ``(d, l + 1 + p)``, from the gradients in the fields."""
    parts = [to_W, to_b.unsqueeze(-1)]
    if problem.covariates is not None:
        parts.append(to_offset[0].mT @ problem.covariates.x)
    return torch.cat(parts, -1)


def _term_leaves(group: GroupRoot, table: TableRoot) -> dict[str, Tensor]:
    """Loading and intercept of a table that is a term, by the names of their sites.

    Point parameters are the parameters of the block themselves, which the term reads.
    """
    others = group.found.others
    assert others is not None
    leaves: dict[str, Tensor] = {}
    for attribute in ("loading", "intercept"):
        name = table.sites.site_name(attribute)
        known = others.values.get(name)
        if known is None:
            leaves[name] = table.sites.block.get_parameter(f"{attribute}_unconstrained")
        else:
            leaves[name] = known.detach().clone().requires_grad_()
    return leaves


def _gradients(
    problem: LatentProblem, z: Tensor, order: int, nodes: int | None, leaves: list[Tensor]
) -> list[Tensor]:
    """The gradients of the evidence of all rows in what the problem depends on."""
    with torch.enable_grad():
        if problem.term is not None:
            # Without a term, the evidence itself takes its gradient through the root.
            z = implicit.solve(problem, make_solver(), z).value
        total = evidence_at_root(problem, z, order, nodes).sum()
        found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return list(found)


def _of_all_rows(problem: LatentProblem, scores: Scores) -> Scores:
    """The sums over all processes of gradients of the evidence."""
    return dict(zip(scores, problem.sum(*scores.values()), strict=True))


def _gap(score: Tensor, curvature: Tensor, num_rows: int) -> Gap:
    step = (torch.linalg.pinv(curvature, hermitian=True) @ score.unsqueeze(-1)).squeeze(-1)
    square = float((step * score).sum())
    return Gap(0.5 * square / num_rows, math.sqrt(max(square, 0.0) / score.numel()), score.numel())


@torch.no_grad()
def _edges(problem: LatentProblem) -> tuple[list[int], list[int], list[int]]:
    """Columns with all entries at the same edge, levels never seen, and columns without entries."""
    num_features = problem.num_features
    lower, upper, empty = problem.b.new_ones(3, num_features, dtype=torch.bool)
    for tile in row_tiles(problem):
        rows = problem.rows(tile)
        saturated = rows.family.predictor(rows.y)
        absent = torch.zeros_like(saturated, dtype=torch.bool)
        if rows.weights is not None:
            absent = (rows.weights == 0).expand_as(saturated)
        lower &= (absent | saturated.isneginf()).all(0)
        upper &= (absent | saturated.isposinf()).all(0)
        empty &= absent.all(0)
    each = zip(*problem.processes.gather((lower, upper, empty)), strict=True)
    lower, upper, empty = (torch.stack(x).all(0) for x in each)
    column = problem.column_of_predictor
    # The indicator of a level that no entry has is at its lower edge.
    are_levels = (column.bincount(minlength=problem.num_columns) > 1)[column]
    extreme, unseen = (lower | upper) & ~empty & ~are_levels, lower & ~empty & are_levels
    of_columns = problem.of_columns(extreme)
    return _places(of_columns), _places(unseen), _places(problem.of_columns(empty))


def _places(which: Tensor) -> list[int]:
    return [int(place) for place in which.nonzero()]
