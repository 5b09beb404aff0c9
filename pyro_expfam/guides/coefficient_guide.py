"""The guide of loading and intercept: normal, with the latents integrated out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from torch import Tensor

from pyro_expfam.coefficients import CoefficientPosterior
from pyro_expfam.coefficients.covariance import LARGEST_DENSE
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.guides.coefficient_draws import CoefficientDraws
from pyro_expfam.guides.errors import UnseenError
from pyro_expfam.guides.latent_messenger import WithoutBlockLatents
from pyro_expfam.guides.medians import LiveMedians, live_medians, refuse_gradients
from pyro_expfam.guides.point_guide import point_guide
from pyro_expfam.guides.quantiles import guide_quantiles
from pyro_expfam.guides.table_fit import joined_coefficients
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.runtime.handlers import computes_loss
from pyro_expfam.runtime.ownership import LOCK

TRAINED = "trained."
"""The prefix of the names of the trained parameters, which a saved state leaves out."""


class CoefficientGuide(LiveMedians):
    r"""Loading and intercept of a block, normal around the maximum of the evidence of a table.

    It is a ``global_guide`` of a :class:`LaplaceGuide`, which makes the posterior for a table: at a
    fit, at :meth:`LaplaceGuide.update_globals`, or at the first call. The precision is the Hessian
    of minus the log evidence at the maximum, with the latents integrated out, in closed form. With
    covariates their coefficients take part, beside loading and intercept. It
    leaves out the rotations of the latents, which no table determines. The guide draws loading and
    intercept first, and the Laplace guide then draws the latents given the draw.

    The maximum is found from the values of ``trained``, a guide of all latents outside the
    block. ``guide.fit`` trains it, and all other latents, such as a scale with a prior, come from
    it. Until there is a posterior, and once ``trained`` has been trained again, the guide has
    the medians of ``trained``, and no draws.

    A coefficient that is a point parameter keeps its trained value, and the uncertainty is
    conditional on it: the intercept takes part unless the block has ``intercept_scale=None``. If
    both are point parameters, as under ``loading_scale=None`` and ``intercept_scale=None``, both
    take part: ``guide.coefficients`` is then the normal of the theory of largest likelihood, with
    the inverse observed information as its covariance. The sites of the guide keep the trained
    values, since parameters have no draws; ``guide.coefficients.draw`` has them. The
    posterior has no parameters for ``SVI`` to train.

    Learnt parameters of the family, such as ``family_size``, are drawn together with loading and
    intercept, from the joint information of both at their common maximum of the evidence: see
    :class:`~pyro_expfam.coefficients.JointPosterior`. They are taken for known in tables of more
    than 3,000 coefficients, and so are all hyperparameters.

    Beyond 3,000 coefficients the Hessian is taken feature by feature. Features are then
    independent of each other, and the mean is the mode, without the correction for skewness.
    Standard deviations are a little too small, since each feature takes the others for known. In
    ten small tables where this was forced, they were too small by 2 to 12% on average, and by up
    to 43% for single coefficients.

    Args:
        model: a model that is a single block, an :class:`ExpFamPCA`.
        trained: makes the guide of the values to begin from, from a model without the latents of
            the block, such as :class:`~pyro.infer.autoguide.AutoNormal`; by default a point
            estimate.

    Raises:
        ValueError: if the model is not a single block, or ``trained`` makes another
            ``CoefficientGuide``. At a call, if a prior is not Gaussian, or the table does not
            determine the coefficients.
        RuntimeError: at a call, if there is no posterior of the coefficients as they are trained
            now, or a loss is computed with gradients, as by a step of ``SVI``.

    Source: appendix D of the paper, for the coefficients in place of the latents.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.full((50, 4), 2.0))
        >>> model = pef.ExpFamPCA(pef.families.Poisson(), num_features=4, latent_dim=1)
        >>> guide = pef.LaplaceGuide(model, global_guide=pef.CoefficientGuide)
        >>> fit = guide.fit(y)
        >>> guide(y)["loading"].shape, guide.coefficients.variance().shape
        (torch.Size([4, 1]), torch.Size([4, 2]))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        trained: Callable[[Callable[..., Any]], AutoGuide] = point_guide,
    ) -> None:
        block = model.model if isinstance(model, WithoutBlockLatents) else model
        if not isinstance(block, ExpFamPCA):
            raise ValueError(
                "model must be a single block, a pyro_expfam.ExpFamPCA, for a posterior of loading "
                f"and intercept; got {type(block).__name__}: take another global_guide, such as "
                "AutoNormal"
            )
        if block.linear_map is not None:
            raise ValueError(
                "model must have a dense loading for a posterior of loading and intercept by "
                f"column, got linear_map={block.linear_map}: take another global_guide, such as "
                "AutoNormal"
            )
        if block.row_effect is not None and not block.has_one_precision:
            raise ValueError(
                "model must have one latent_precision beside a row_effect for a posterior of "
                "loading and intercept, got a latent_scale: take another global_guide, such as "
                "AutoNormal"
            )
        if block.row_effect == "fixed" and not all(
            name in block._pyro_samples for name in ("loading", "intercept")
        ):
            raise ValueError(
                "model must have priors of loading and intercept beside row_effect='fixed' for "
                "their posterior, got a flat one: a flat prior of row effects leaves open what all "
                "intercepts, and all loadings of a latent, have in common. Take loading_scale and "
                "intercept_scale, or row_effect='random'"
            )
        family = block._known_family
        size = block.num_predictors * (block.latent_dim + 1 + block.num_covariates)
        if family.num_columns is not None and family.is_coupled and size > LARGEST_DENSE:
            raise ValueError(
                "model must be of categories alone or without categories for a posterior of more "
                f"than {LARGEST_DENSE:,} coefficients, got {size:,} of {family}: take another "
                "global_guide, such as AutoNormal"
            )
        hidden = WithoutBlockLatents(block)
        super().__init__(hidden)
        # In a tuple, so that the model's parameters stay its own.
        self._block = (block,)
        self._begin_from(trained(hidden))
        self._takes_sandwich = False
        self._draws: CoefficientDraws | None = None
        self._made_from: list[Tensor] = []

    def _begin_from(self, trained: AutoGuide) -> None:
        """Takes the values to begin from out of another guide."""
        if isinstance(trained, CoefficientGuide):
            raise ValueError(
                "trained must make a guide of the values to begin from, such as AutoDelta, got a "
                "CoefficientGuide; globals='laplace' is global_guide=CoefficientGuide: give one"
            )
        # Past AutoGuide's own assignment: the part makes its own plates.
        PyroModule.__setattr__(self, "trained", trained)

    # ---------------------------------------------------------------- the posterior

    def posterior(self) -> CoefficientPosterior:
        """The posterior of loading and intercept.

        Raises:
            RuntimeError: if there is none yet, or loading and intercept have been trained since it
                was made.
        """
        return self._current_draws().posterior

    @property
    def is_made(self) -> bool:
        """Whether a posterior has been made, of the present parameters or of earlier ones."""
        return self._draws is not None

    @property
    def is_current(self) -> bool:
        """Whether there is a posterior, and nothing that it depends on has changed since."""
        if self._draws is None:
            return False
        now, then = self._state(), self._made_from
        return len(now) == len(then) and all(
            torch.equal(a.to(b), b) for a, b in zip(now, then, strict=True)
        )

    def make(
        self,
        problem: LatentProblem,
        solver: Solver,
        order: int = 1,
        names: Sequence[str] | None = None,
    ) -> None:
        """Makes the posterior for a table.

        Args:
            problem: the problem of the latents of the whole table, under the trained coefficients.
            solver: the solver of the latents.
            order: 1 for the inverse information as the covariance, 2 for the next order.
            names: the names of the columns, for warnings.

        Raises:
            ValueError: if a prior is not Gaussian, the table does not determine the coefficients,
                or ``order`` is neither 1 nor 2.

        Warns:
            UserWarning: if the posterior of some columns is too skew for a normal.
        """
        draws = CoefficientDraws.of_table(self._block[0], problem, solver, order, names)
        self._draws = draws.with_sandwich() if self._takes_sandwich else draws
        self._made_from = self._state()

    def take(self, posterior: CoefficientPosterior, takes_sandwich: bool) -> None:
        """Takes a posterior that was made of the present parameters, as out of a file.

        Args:
            posterior: the posterior.
            takes_sandwich: whether its covariance is the sandwich covariance.
        """
        self._draws = CoefficientDraws(self._block[0], posterior)
        self._takes_sandwich = takes_sandwich
        self._made_from = self._state()

    def forget(self) -> None:
        """Leaves the coefficients as they are trained, without a posterior."""
        self._draws = None

    def with_sandwich(self) -> Self:
        """The same guide with the sandwich covariance, now and whenever a posterior is made.

        It shares the trained parameters with this guide.
        """
        draws = self._current_draws().with_sandwich()
        other = object.__new__(type(self))
        vars(other).update(vars(self), _takes_sandwich=True, _draws=draws)
        return other

    def _current_draws(self) -> CoefficientDraws:
        if self._draws is None or not self.is_current:
            raise UnseenError(
                "the guide has no posterior of loading and intercept as they are trained now: fit "
                "it, or call update_globals of the LaplaceGuide with the table"
            )
        return self._draws

    @torch.no_grad()
    def _state(self) -> list[Tensor]:
        """The present values of all that the posterior depends on, without its table."""
        block = self._block[0]
        family = [x for x in vars(block.family).values() if isinstance(x, Tensor)]
        # Several threads may ask, and all of them share Pyro's handlers.
        with LOCK, poutine.block():
            medians = live_medians(self.trained)
            names = (*block.coefficient_sites, "latent_precision")
            *parts, precision = (self._value(medians, name) for name in names)
            coefficients = joined_coefficients(parts)
            state = [coefficients, precision, block.coefficient_precision(), *family]
            if block.row_effect is not None:
                state.append(block.row_effect_scale)
        return [x.detach().clone() for x in state]

    def _value(self, medians: dict[str, Tensor], attribute: str) -> Tensor:
        """The trained value of an attribute of the block."""
        block = self._block[0]
        site = block.site_name(attribute)
        value: Tensor = medians[site] if site in medians else getattr(block, attribute)
        return value

    # ---------------------------------------------------------------- as a guide of Pyro

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws loading and intercept, and samples all other latents, by site name."""
        self.refuse_training()
        draws = self._current_draws()
        with poutine.block(hide=draws.site_names):
            others = self.trained(*args, **kwargs)
        return {**others, **draws.sample()}

    def refuse_training(self) -> None:
        """An error where a loss is computed with gradients.

        Raises:
            RuntimeError: as by a step of ``SVI``.
        """
        if computes_loss():
            raise RuntimeError(
                "CoefficientGuide, which globals='laplace' makes, has no parameters that SVI could "
                "train, and a loss of it no gradient: fit the guide by guide.fit, or train a "
                "DEQMAPGuide and make LaplaceGuide(model, params=that_guide, globals='laplace'). "
                "The value of a loss can be had in torch.no_grad(), as from SVI.evaluate_loss"
            )

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The medians of the posterior where there is one, and of the trained guide elsewhere."""
        return {**self.trained.median(*args, **kwargs), **self._own_medians()}

    @torch.no_grad()
    def quantiles(self, quantiles: Sequence[float], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The quantiles of loading and intercept, and of all that the trained guide has.

        Args:
            quantiles: probabilities between 0 and 1, ``(k,)``.
            *args: the arguments of the model.
            **kwargs: the arguments of the model by name.

        Returns:
            Tensors ``(k, ...)`` by site name.

        Raises:
            RuntimeError: if there is no posterior of the coefficients as they are trained now.
        """
        others = guide_quantiles(self.trained, quantiles, args, kwargs)
        return {**others, **self._current_draws().quantiles(quantiles)}

    def live_medians(self) -> dict[str, Tensor]:
        """The same medians. The medians of the posterior have no gradient, and refuse one."""
        medians = live_medians(self.trained)
        what = "the medians of CoefficientGuide"
        return {**medians, **refuse_gradients(self._own_medians(), medians.values(), what)}

    def _own_medians(self) -> dict[str, Tensor]:
        return self._draws.medians() if self._draws is not None and self.is_current else {}

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        # One look at the model is enough for both.
        self.trained._setup_prototype(*args, **kwargs)
        self.prototype_trace = self.trained.prototype_trace

    # ---------------------------------------------------------------- saving

    # A state holds what is trained, under the names that a guide without this one gives it. So a
    # state of either guide loads into the other. The posterior is made again from the table.

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The parameters of the trained guide, under their own names."""
        return self.trained.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in list(state_dict):
            if key.startswith(prefix):
                state_dict[prefix + TRAINED + key.removeprefix(prefix)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def trained_part(global_guide: AutoGuide) -> AutoGuide:
    """The part of a guide of all other latents whose parameters are trained."""
    if isinstance(global_guide, CoefficientGuide):
        part: AutoGuide = global_guide.trained
        return part
    return global_guide


def started_from(global_guide: AutoGuide, shared: AutoGuide) -> AutoGuide:
    """A guide of all other latents with the parameters of another guide.

    A posterior of the coefficients is made around the shared parameters. Any other guide would
    have nothing of its own.
    """
    if isinstance(global_guide, CoefficientGuide):
        global_guide._begin_from(shared)
        return global_guide
    return shared
