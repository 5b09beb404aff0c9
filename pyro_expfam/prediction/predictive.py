"""The posterior predictive distribution of the entries of a table, one tile of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.coefficients.maximum import with_coefficients
from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.mixed_frames import in_order_of_names
from pyro_expfam.deq.observations import as_observations
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Family
from pyro_expfam.families.kinds import take
from pyro_expfam.guides import BlockGuide, CoefficientGuide
from pyro_expfam.loadings.column_names import single_block

NUMBERS_AT_ONCE = 1 << 23
"""Linear predictors of all draws of a tile: 64 MB in double precision."""

COEFFICIENT_DRAWS = 40
"""The most draws of loading and intercept, each of which solves for the latents of all rows."""


class Predicted(NamedTuple):
    """Predictions of the entries of some rows. Categories without an order have no moments: NaN.

    Attributes:
        mean: the predictive mean of each entry, ``(n, d)``.
        standard_error: the standard deviation of the mean, by latents and coefficients, ``(n, d)``.
        standard_deviation: the standard deviation of a new observation, ``(n, d)``.
        draws: draws of observations, ``(num_draws, n, d)``.
        probabilities: the probabilities of levels, side by side as the linear predictors are, NaN
            for columns without levels, ``(n, P)``.
    """

    mean: Tensor
    standard_error: Tensor
    standard_deviation: Tensor
    draws: Tensor
    probabilities: Tensor

    def most_probable(self, family: Family) -> Tensor:
        """The most probable level of columns of levels, and the mean of all others, ``(n, d)``."""
        best = self.mean.clone()
        for kind in family.kinds(best.shape[-1]):
            if kind.family.has_levels:
                levels = kind.family.predictors_per_column
                each = take(self.probabilities, kind.predictors).unflatten(-1, (-1, levels))
                best[:, kind.columns] = each.argmax(-1).to(best)
            elif kind.family.num_levels is not None:
                best[:, kind.columns] = take(self.draws, kind.columns).mode(0).values
        return best

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """Equal-tailed predictive intervals by draws, the two ends ``(n, d)``.

        The ends are order statistics, so that those of whole numbers are whole.
        """
        ordered, size = self.draws.sort(0).values, len(self.draws)
        lower = int((1 - level) / 2 * size)
        ends = ordered[lower], ordered[size - 1 - lower]
        return tuple(x.where(self.mean.isfinite(), torch.nan) for x in ends)  # type: ignore[return-value]


class PredictiveTable:
    """A table whose entries are predicted.

    Args:
        guide: a trained guide of a single block.
        y: observations, ``(N, d)``.
        offset: known part of the natural parameters.
        mask: False for a missing entry.
        weights: weights of the log densities of entries.
        covariates: known numbers of each row, ``(N, p)``.

    Attributes:
        problem: the problem of the latents given the present entries.
        present: which entries are there, ``(N, d)``.
    """

    def __init__(
        self,
        guide: BlockGuide,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> None:
        block: Any = single_block(guide)
        if not guide.is_trained:
            raise ValueError("guide must be trained, got one with its first, random parameters")
        self._guide: Any = guide
        self.problem: LatentProblem = guide.block()._problem(y, offset, mask, weights, covariates)
        if self.problem.y.dim() != 2:
            raise ValueError(f"y must be one table, got batches of shape {self.problem.y.shape}")
        y, offset, mask, weights = in_order_of_names(block.family, y, offset, mask, weights)
        size, like = block.num_features, self.problem.b
        given = as_observations(
            block.family, y, size, like, offset, mask, weights, missing=block.missing
        ).to(like)
        shape = (self.problem.num_rows, size)
        self.present = torch.ones(shape, dtype=torch.bool, device=like.device)
        if given.mask is not None:
            self.present = given.mask.expand(shape)
        self._offset = None if given.offset is None else given.offset.expand_as(self.problem.y)

    def check_offset(self, wanted: Tensor) -> None:
        """An error unless the offsets of the entries to predict, ``(N, d)``, are finite."""
        if self._offset is None:
            return
        family = self._guide.model.family
        column = family.column_of_predictor(wanted.shape[1]).to(wanted.device)
        wrong = wanted[:, column] & ~self._offset.isfinite()
        if bool(wrong.any()):
            place = tuple(int(k) for k in wrong.nonzero()[0])
            raise ValueError(
                "offset must be finite at the entries to predict, got "
                f"{float(self._offset[place]):g} at position {place}"
            )

    @torch.no_grad()
    def tiles(self, num_draws: int) -> Iterator[tuple[slice, Predicted]]:
        """Predictions of all rows, one tile at a time."""
        problem = self.problem
        size = max(1, NUMBERS_AT_ONCE // (num_draws * max(1, problem.y.shape[-1])))
        coefficients = self._coefficients(num_draws)
        for begin in range(0, problem.num_rows, size):
            rows = slice(begin, min(begin + size, problem.num_rows))
            eta = self._predictors(rows, coefficients, num_draws)
            yield rows, _predicted(problem.rows(rows).family, eta, self.present.shape[1])

    def _coefficients(self, num_draws: int) -> list[Tensor | None]:
        """Draws of the coefficients ``(d, l + 1 + p)``, or None for their point estimates."""
        guide = getattr(self._guide, "global_guide", None)
        if not isinstance(guide, CoefficientGuide) or not guide.is_current:
            return [None]
        posterior = guide.posterior()
        noise = torch.randn(min(num_draws, COEFFICIENT_DRAWS), posterior.noise_dim)
        return list(posterior.draw(noise.to(posterior.mean)).to(self.problem.b))

    def _predictors(self, rows: slice, coefficients: list[Tensor | None], num_draws: int) -> Tensor:
        """Draws of the linear predictors of some rows, ``(num_draws, n, P)``."""
        found = []
        for number, draw in enumerate(coefficients):
            share = len(range(number, num_draws, len(coefficients)))
            part = self.problem.rows(rows)
            if draw is not None:
                part = with_coefficients(part, draw)
            law = self._guide.latent_distribution(part, solve(part, self._guide.solver))
            z = law.sample((share,))
            offset = None if self._offset is None else self._offset[rows].nan_to_num(0.0)
            if part.covariates is not None:
                offset = replace(part.covariates, offset=offset).total()
            found.append(replace(part, offset=offset).predictor(z))
        return torch.cat(found)


def _predicted(family: Family, eta: Tensor, num_columns: int) -> Predicted:
    draws = family.decode(family.sample(eta)).to(eta)
    moments = eta.new_full((3, eta.shape[1], num_columns), torch.nan)
    probabilities = torch.full_like(eta[0], torch.nan)
    for kind in family.kinds(num_columns):
        of_kind = take(eta, kind.predictors)
        expected = kind.family.expected_y(of_kind)
        if kind.family.has_levels:
            probabilities[:, kind.predictors] = expected.mean(0)
            continue
        own = expected.var(0) if len(eta) > 1 else torch.zeros_like(expected[0])
        spread = kind.family.variance_of_y(of_kind).mean(0) + own
        for place, value in enumerate((expected.mean(0), own.sqrt(), spread.sqrt())):
            moments[place][:, kind.columns] = value
    mean, error, deviation = moments
    return Predicted(mean, error, deviation, draws, probabilities)


def check_draws(num_draws: int, level: float) -> None:
    """Raises a ValueError unless the number of draws and the level of intervals are possible."""
    if not isinstance(num_draws, int) or num_draws < 2:
        raise ValueError(f"num_draws must be a whole number of at least 2, got {num_draws!r}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
