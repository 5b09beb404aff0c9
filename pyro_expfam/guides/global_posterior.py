"""The Laplace posterior of a block's loading and intercept, as sites of a guide."""

from __future__ import annotations

import copy
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_expfam.coefficients import (
    CoefficientPosterior,
    learn_loading_scale,
    posterior_at_maximum,
    second_order_posterior,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.user_warning import warn_user

COEFFICIENTS = ("loading", "intercept")

NAMED_COLUMNS = 5
"""The most columns that a warning names."""


class GlobalPosterior:
    """Draws of the coefficients of a block, given a table.

    Args:
        block: the block. Coefficients that are point parameters keep their values.
        problem: the problem of the latents of the whole table, at the coefficients to start from.
        solver: of the latents.
        order: 1 for the inverse information as the covariance, 2 for the next order.

    Raises:
        ValueError: if both coefficients are point parameters, a prior is not Gaussian, or ``order``
            is neither 1 nor 2.

    Warns:
        UserWarning: if the posterior of some columns is too skew for a normal.
    """

    def __init__(
        self, block: ExpFamPCA, problem: LatentProblem, solver: Solver, order: int = 1
    ) -> None:
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {order!r}")
        sampled = _are_sampled(block)
        if not any(sampled):
            raise ValueError(
                "globals='laplace' wants a loading or an intercept with a prior, got a block with "
                "point parameters for both: give it loading_scale and intercept_scale"
            )
        free = _free(block, problem)
        prior = block.coefficient_precision().to(problem.b.device).double()
        # The problem may be in double precision while the model is not.
        self._like = block.latent_precision.detach().new_zeros(())
        at_maximum = posterior_at_maximum(problem.double(), prior, solver, free)
        posterior: CoefficientPosterior = at_maximum[2]
        _warn_of_unreliable(posterior)
        if order == 2:
            posterior = second_order_posterior(at_maximum[0], prior, solver, posterior)
        self.posterior = posterior
        self._sites = {
            name: block.site_name(name)
            for name, is_sampled in zip(COEFFICIENTS, sampled, strict=True)
            if is_sampled
        }
        self._noise_site = block.site_name("_coefficients_noise")

    def with_sandwich(self) -> GlobalPosterior:
        """The same sites, with the sandwich covariance of the coefficients."""
        other = copy.copy(self)
        other.posterior = self.posterior.sandwich
        return other

    @property
    def site_names(self) -> list[str]:
        """The names of the sites that it samples."""
        return list(self._sites.values())

    def sample(self) -> dict[str, Tensor]:
        """Samples the sites."""
        posterior, like = self.posterior, self._like
        noise = pyro.sample(
            self._noise_site,
            dist.Normal(like, 1.0).expand([posterior.noise_dim]).to_event(1),
            infer={"is_auxiliary": True},
        )
        coefficients = posterior.draw(noise.to(posterior.mean)).to(like)
        # The density of the draw is the density of its noise times this ratio. The site of the
        # noise has counted the first factor already.
        log_density = posterior.log_density_ratio(noise.to(posterior.mean)).to(like)
        values = {}
        for name, site in self._sites.items():
            value = _coefficient(name, coefficients)
            event_dim = 2 if name == "loading" else 1
            delta = dist.Delta(value, log_density=log_density, event_dim=event_dim)
            values[site] = pyro.sample(site, delta)
            log_density = torch.zeros_like(log_density)
        return values

    def medians(self) -> dict[str, Tensor]:
        """The medians of the sites."""
        mean = self.posterior.mean.to(self._like)
        return {site: _coefficient(name, mean) for name, site in self._sites.items()}


def _warn_of_unreliable(posterior: CoefficientPosterior) -> None:
    columns = posterior.unreliable_columns.nonzero().flatten().tolist()
    if not columns:
        return
    named = ", ".join(str(column) for column in columns[:NAMED_COLUMNS])
    more = len(columns) - NAMED_COLUMNS
    warn_user(
        f"the posterior of loading and intercept is too skew for a normal in {len(columns)} of "
        f"{len(posterior.mode)} columns of y: {named}{f' and {more} more' if more > 0 else ''}. "
        "Their mean is the mode, and their intervals and draws are not to be relied on. Columns "
        "without an event want a smaller intercept_scale; loadings that the table hardly "
        "determines want fewer latents or a smaller loading_scale; NUTS samples them as they are",
    )


def _coefficient(name: str, coefficients: Tensor) -> Tensor:
    return coefficients[..., :-1] if name == "loading" else coefficients[..., -1]


def _are_sampled(block: ExpFamPCA) -> list[bool]:
    return [name in block._pyro_samples for name in COEFFICIENTS]


def _free(block: ExpFamPCA, problem: LatentProblem) -> Tensor:
    """Which coefficients of a feature have a prior, booleans ``(l + 1,)``."""
    loading, intercept = _are_sampled(block)
    return torch.tensor([loading] * block.latent_dim + [intercept], device=problem.b.device)


def learn_block_scale(block: ExpFamPCA, problem: LatentProblem, solver: Solver) -> LatentProblem:
    """Sets the scale of a block's loading to its best value, and returns the problem there.

    Raises:
        ValueError: if the loading is a point parameter, or its scale has a prior.
    """
    if not _are_sampled(block)[0]:
        raise ValueError("loading must have a loading_scale to learn, got a point parameter")
    prior = block.coefficient_precision().to(problem.b.device)
    scale = block.loading_scale
    learnt = learn_loading_scale(
        problem, prior, solver, _free(block, problem), by_latent=scale.dim() == 1
    )
    new = (learnt.scale if scale.dim() == 1 else learnt.scale[0]).to(scale)
    if "loading_scale" in block._pyro_params:
        block.loading_scale = new
    else:
        scale.copy_(new)
    return learnt.problem


def whole_table(
    y: Any,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    num_rows: int | None = None,
    rows: Any = None,
) -> tuple[Any, ...]:
    """The table among the arguments of a block.

    Raises:
        ValueError: if it is a part of the table.
    """
    del rows
    if num_rows is not None and num_rows != len(y):
        raise ValueError(
            f"y must be the whole table for globals='laplace', got {len(y)} of {num_rows} rows: "
            "call update_globals with all of them first"
        )
    return y, offset, mask, weights
