"""Draws of a block's coefficients from their Laplace posterior, as sites of a guide."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_expfam.coefficients import (
    CoefficientPosterior,
    JointPosterior,
    ParameterPosterior,
    maximise_with_parameters,
    parameter_posterior,
    posterior_at_maximum,
    second_order_posterior,
)
from pyro_expfam.coefficients.covariance import LARGEST_DENSE
from pyro_expfam.coefficients.effect_of_rows import (
    in_one_precision,
    parameters_without_effect,
    with_effect_column,
    without_effect_column,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.guides.quantiles import normal_quantiles
from pyro_expfam.guides.table_objective import free_parameters, learns_by_column
from pyro_expfam.joint import FreeParameter
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.user_warning import warn_user

NAMED_COLUMNS = 5
"""The most columns that a warning names."""


class CoefficientDraws:
    """The coefficients of a block, drawn from their posterior given a table.

    Args:
        block: the block. Coefficients that are point parameters keep their values.
        posterior: the posterior.

    Attributes:
        posterior: the posterior.
    """

    def __init__(self, block: ExpFamPCA, posterior: CoefficientPosterior) -> None:
        self.posterior = posterior
        # The posterior is in double precision while the model may not be.
        self._like = block.latent_precision.detach().new_zeros(())
        self._latent_dim = block.latent_dim
        self._sites = {
            name: block.site_name(name)
            for name, is_sampled in zip(block.coefficient_sites, have_priors(block), strict=True)
            if is_sampled
        }
        self._parameter_sites = {
            name: block.site_name(f"family_{name}") for name in _drawn_parameters(posterior)
        }
        self._noise_site = block.site_name("_coefficients_noise")

    @classmethod
    def of_table(
        cls,
        block: ExpFamPCA,
        problem: LatentProblem,
        solver: Solver,
        order: int = 1,
        names: Sequence[str] | None = None,
    ) -> CoefficientDraws:
        """Draws from the posterior given a table.

        Args:
            block: the block.
            problem: the problem of the latents of the whole table, at the coefficients to start
                from.
            solver: the solver of the latents.
            order: 1 for the inverse information as the covariance, 2 for the next order.
            names: the names of the columns, for warnings.

        Raises:
            ValueError: if a prior is not Gaussian, the table does not determine the coefficients,
                or ``order`` is neither 1 nor 2.

        Warns:
            UserWarning: if the posterior of some columns is too skew for a normal.
        """
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {order!r}")
        problem, prior, free = known_of_table(block, problem)
        prior = prior.double()
        parameters = parameters_to_draw(block)
        if parameters:
            problem = maximise_with_parameters(problem, prior, solver, free, parameters)
        at_maximum = posterior_at_maximum(problem.double(), prior, solver, free)
        posterior: CoefficientPosterior = at_maximum[2]
        _warn_of_unreliable(posterior, names)
        if order == 2:
            posterior = second_order_posterior(at_maximum[0], prior, solver, posterior)
        if block.row_effect is not None:
            posterior = without_effect_column(posterior, block.latent_dim)
        if parameters:
            of_parameters = parameter_posterior(
                at_maximum[0], prior, at_maximum[1], solver, free, parameters
            )
            _warn_of_undetermined(of_parameters)
            if block.row_effect is not None:
                of_parameters = parameters_without_effect(
                    of_parameters, len(problem.b), block.latent_dim
                )
            posterior = JointPosterior.of(posterior, of_parameters)
        return cls(block, posterior)

    def with_sandwich(self) -> CoefficientDraws:
        """The same draws, with the sandwich covariance of the coefficients."""
        other = copy.copy(self)
        other.posterior = self.posterior.sandwich
        return other

    @property
    def site_names(self) -> list[str]:
        """The names of the sites that it samples."""
        return [*self._sites.values(), *self._parameter_sites.values()]

    def sample(self) -> dict[str, Tensor]:
        """Samples the sites: none under flat priors, where the coefficients are parameters."""
        if not self.site_names:
            return {}
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
            value = self._coefficient(name, coefficients)
            event_dim = 1 if name == "intercept" else 2
            delta = dist.Delta(value, log_density=log_density, event_dim=event_dim)
            values[site] = pyro.sample(site, delta)
            log_density = torch.zeros_like(log_density)
        return values | self._sample_parameters(noise, log_density)

    def _sample_parameters(self, noise: Tensor, log_density: Tensor) -> dict[str, Tensor]:
        """Samples the sites of learnt parameters, given the noise of the draw."""
        posterior = self.posterior
        if not isinstance(posterior, JointPosterior):
            return {}
        noise, values = noise.to(posterior.mean), {}
        drawn, slopes = posterior.parameters_of(noise), posterior.log_slope_of(noise)
        for name, site in self._parameter_sites.items():
            # The density of a size is the density of its logarithm over the size.
            event_dim = 0 if self._is_shared(name) else 1
            law = dist.Delta(
                drawn[name].to(self._like),
                log_density=log_density - slopes[name].to(self._like),
                event_dim=event_dim,
            )
            values[site] = pyro.sample(site, law)
            log_density = torch.zeros_like(log_density)
        return values

    def _is_shared(self, name: str) -> bool:
        parameters = self.posterior.parameters.parameters  # type: ignore[attr-defined]
        return any(x.is_shared for x in parameters if x.name == name)

    def medians(self) -> dict[str, Tensor]:
        """The medians of the sites."""
        mean = self.posterior.mean.to(self._like)
        of_coefficients = {
            site: self._coefficient(name, mean) for name, site in self._sites.items()
        }
        return of_coefficients | self._of_parameters(lambda x: x.named(x.mode))

    def _of_parameters(
        self, function: Callable[[ParameterPosterior], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Numbers of the sites of learnt parameters, from their posterior."""
        if not isinstance(self.posterior, JointPosterior):
            return {}
        found = function(self.posterior.parameters)
        return {site: found[name].to(self._like) for name, site in self._parameter_sites.items()}

    def quantiles(self, quantiles: Sequence[float]) -> dict[str, Tensor]:
        """The quantiles of every number at the sites, along a first dimension."""
        mean, scale = self.posterior.mean, self.posterior.variance().sqrt()
        found = normal_quantiles(mean, scale, quantiles).to(self._like)
        of_coefficients = {
            site: self._coefficient(name, found) for name, site in self._sites.items()
        }
        return of_coefficients | self._of_parameters(lambda x: x.quantiles(quantiles))

    def _coefficient(self, name: str, coefficients: Tensor) -> Tensor:
        """The part of coefficients ``(..., d, l + 1 + p)`` that a site has."""
        size = self._latent_dim
        if name == "loading":
            return coefficients[..., :size]
        return coefficients[..., size] if name == "intercept" else coefficients[..., size + 1 :]


def _warn_of_unreliable(posterior: CoefficientPosterior, names: Sequence[str] | None) -> None:
    unreliable = posterior.unreliable_columns
    columns = unreliable.nonzero().flatten().tolist()
    if not columns:
        return
    # Levels of categories are more than columns, and go by their numbers.
    known = names if names is not None and len(names) == len(unreliable) else range(len(unreliable))
    named = ", ".join(str(known[column]) for column in columns[:NAMED_COLUMNS])
    more = len(columns) - NAMED_COLUMNS
    warn_user(
        f"the posterior of loading and intercept is too skew for a normal in {len(columns)} of "
        f"{len(unreliable)} columns of y: {named}{f' and {more} more' if more > 0 else ''}. "
        "Their mean is the mode, and their intervals and draws are not to be relied on. Columns "
        "without an event want a smaller intercept_scale; loadings that the table hardly "
        "determines want fewer latents or a smaller loading_scale; NUTS samples them as they are",
    )


def _warn_of_undetermined(posterior: ParameterPosterior) -> None:
    names = [
        x.name
        for x, known in zip(
            posterior.parameters, posterior.is_determined.split(posterior.sizes), strict=True
        )
        if not bool(known.all())
    ]
    if names:
        number = int((~posterior.is_determined).sum())
        warn_user(
            f"y does not determine {number} of {len(posterior.mode)} learnt parameters of the "
            f"family ({', '.join(names)}), such as sizes of counts that spread no more than a "
            "Poisson law allows, and scales of columns that latents copy: draws leave them at "
            "their estimates. A number as parameter_scale shrinks them to a common value, and "
            "fewer latents copy no column",
        )


def _drawn_parameters(posterior: CoefficientPosterior) -> list[str]:
    """The names in the family of the parameters that a posterior has."""
    if not isinstance(posterior, JointPosterior):
        return []
    return [x.name for x in posterior.parameters.parameters]


def parameters_to_draw(block: ExpFamPCA) -> tuple[FreeParameter, ...]:
    """The learnt parameters of a family that are drawn with the coefficients of a table.

    These are all of them in tables of up to 3,000 coefficients, and none in larger ones, where
    features are independent of each other.
    """
    size = block.num_predictors * (block.latent_dim + 1 + block.num_covariates)
    if not block._learnt_of_family or size > LARGEST_DENSE or not learns_by_column(block):
        return ()
    return free_parameters(block)


def have_priors(block: ExpFamPCA) -> list[bool]:
    """Whether each of the block's coefficients has a prior, in the order of its sites."""
    return [name in block._pyro_samples for name in block.coefficient_sites]


def free_coefficients(block: ExpFamPCA, problem: LatentProblem) -> Tensor:
    """Which coefficients of a feature have a posterior, booleans ``(l + 1 + p,)``.

    They are those with a prior. Where none has one, all have the normal around the largest
    likelihood.
    """
    loading, intercept, *others = have_priors(block)
    if not (loading or intercept or any(others)):
        loading = intercept = True
        others = [True for _ in others]
    of_covariates = [is_free for is_free in others for _ in range(block.num_covariates)]
    of_effect = [] if block.row_effect is None else [False]
    free = [loading] * block.latent_dim + of_effect + [intercept] + of_covariates
    return torch.tensor(free, device=problem.b.device)


def known_of_table(
    block: ExpFamPCA, problem: LatentProblem
) -> tuple[LatentProblem, Tensor, Tensor]:
    """The problem of a table in one precision of all latents, with what is known of coefficients.

    Args:
        block: the block.
        problem: the problem of the latents of the table.

    Returns:
        The problem; the prior precisions of coefficients ``(l + 1 + p,)``, or by linear predictor;
        and which coefficients have a posterior, booleans ``(l + 1 + p,)``. A row effect is one of
        the ``l``.
    """
    free = free_coefficients(block, problem)
    prior = block.coefficient_precision().to(problem.b)
    if block.row_effect is None:
        return problem, prior, free
    return in_one_precision(problem), with_effect_column(prior, block.latent_dim), free
