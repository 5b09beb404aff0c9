"""The parameters of a block: known numbers, numbers that are learnt, and numbers with a prior."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyro_expfam.deq.convolution import Convolution
from pyro_expfam.deq.linear_map import Dense, LinearMap
from pyro_expfam.families import Family
from pyro_expfam.families.common_prior import CommonPrior
from pyro_expfam.models.parameter_law import parameter_law
from pyro_expfam.models.priors import (
    GaussianPrior,
    Hyperparameter,
    checked_precision_matrix,
    positive,
)
from pyro_expfam.runtime.handlers import is_answered

SCALE_OF = {"coefficients": "coefficient_scale"}
"""Names of scales that are not the name of what has the prior, and ``_scale``."""

SIZES = ("num_features", "latent_dim", "linear_map", "num_covariates", "row_effect")
"""Attributes that cannot change."""

WEAK = 1.0
"""The standard deviation of the weak prior of logarithms and logits of parameters of columns."""


class BlockParameters(PyroModule):
    """The part of a block that keeps its coefficients and hyperparameters.

    Attributes:
        num_features: columns ``d`` of the table.
        latent_dim: latents ``l`` of a row.
        linear_map: the convolution whose kernel the loading is, or None for a dense loading.
        num_covariates: covariates ``p`` of a row.
        row_effect: what kind of number each row adds to all its linear predictors, or None.
    """

    num_features: int
    latent_dim: int
    linear_map: Convolution | None
    num_covariates: int
    row_effect: Literal["fixed", "random"] | None
    row_effect_scale: Tensor
    latent_precision: Tensor
    latent_scale: Tensor
    _has_latent_scale: bool
    _latent_scale_dim: int
    _has_precision_matrix: bool
    _known_family: Family
    _learnt_of_family: tuple[str, ...]
    parameter_scale: float | Literal["weak"] | None
    _samples_parameters = False

    def _set_prior(self, name: str, scale: Hyperparameter | None, start: Tensor) -> None:
        if scale is None:
            setattr(self, name, PyroParam(start, event_dim=start.dim()))
            return
        attribute = SCALE_OF.get(name, f"{name}_scale")
        shapes: list[tuple[int, ...]] = [()]
        if name == "intercept":
            shapes.append((self.num_predictors,))
        elif name == "coefficients":
            shapes += [(self.num_covariates,), (self.num_predictors, 1)]
        elif self.linear_map is None:
            shapes += [(self.latent_dim,), (self.num_predictors, 1)]
        shape = self._set_hyperparameter(attribute, scale, shapes)
        setattr(self, name, PyroSample(GaussianPrior(attribute, start.shape, len(shape))))

    def _set_hyperparameter(
        self, name: str, value: Hyperparameter, shapes: Sequence[tuple[int, ...]]
    ) -> tuple[int, ...]:
        """Sets a number or numbers, known or to be learnt; returns their shape.

        Raises:
            ValueError: if the shape is none of ``shapes``.
        """
        if isinstance(value, PyroSample):
            prior: Any = value.prior
            prior = prior if hasattr(prior, "event_shape") else prior(self)
            shape = prior.batch_shape + prior.event_shape
            setattr(self, name, value)
        elif isinstance(value, PyroParam):
            setattr(self, name, value)
            shape = positive(name, getattr(self, name)).shape
        else:
            known = positive(name, value)
            shape = known.shape
            self.register_buffer(name, known)
        if tuple(shape) not in shapes:
            raise ValueError(
                f"{name} must have shape {' or '.join(map(str, shapes))}, got {tuple(shape)}"
            )
        return tuple(shape)

    def _checked_assignment(self, name: str, value: Any) -> Any:
        """A value to assign to an attribute of the block, with a number as a tensor.

        Raises:
            AttributeError: if the attribute is a size.
            ValueError: if it is a coefficient of another shape, or a scale or precision that is not
                positive or has another shape.
        """
        if name in SIZES and value != getattr(self, name):
            raise AttributeError(
                f"{name} of a block is {getattr(self, name)} and cannot change, got {value!r}: "
                "make a new block"
            )
        if name.startswith("family_") and name in self._pyro_params and isinstance(value, Tensor):
            constraint: Any = self._pyro_params[name][0]
            if not bool(constraint.check(value).all()):
                raise ValueError(f"{name} must satisfy {constraint}, got {value}")
        shapes = self._shapes_of(name)
        if not shapes or isinstance(value, PyroSample):
            return value
        given = value.init_value if isinstance(value, PyroParam) else value
        if callable(given) and not isinstance(given, Tensor):
            return value
        if not isinstance(given, Tensor | int | float) or isinstance(given, bool):
            raise ValueError(f"{name} must be a number or a tensor, got {given!r}")
        tensor = torch.as_tensor(given, dtype=None if isinstance(given, Tensor) else self._dtype())
        if tuple(tensor.shape) not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(tensor.shape)}")
        if name == "latent_precision" and self._has_precision_matrix:
            return checked_precision_matrix(tensor)
        if name not in ("loading", "intercept", "coefficients"):
            positive(name, tensor)
        for prior in self._pyro_samples.values():
            if isinstance(prior, GaussianPrior) and prior.scale == name:
                prior.scale_dim = tensor.dim()
        return tensor if given is value else value

    @property
    def coefficient_sites(self) -> tuple[str, ...]:
        """The attributes that are coefficients of linear predictors, in the order of a fit."""
        return ("loading", "intercept", *(("coefficients",) if self.num_covariates else ()))

    @property
    def num_predictors(self) -> int:
        """Linear predictors per row: the rows of the loading."""
        return self._known_family.num_predictors(self.num_features)

    @property
    def loading_shape(self) -> tuple[int, ...]:
        """The shape of the site ``loading``: ``(d, l)``, or the shape of a kernel."""
        if self.linear_map is None:
            return (self.num_predictors, self.latent_dim)
        return self.linear_map.kernel_shape

    def map_of(self, loading: Tensor) -> LinearMap:
        """The linear map by a value ``(..., *loading_shape)`` of the site ``loading``."""
        if self.linear_map is not None:
            return self.linear_map.map(loading)
        if self.row_effect is not None:
            loading = torch.cat([loading, torch.ones_like(loading[..., :1])], -1)
        return Dense(loading)

    def _shapes_of(self, name: str) -> list[tuple[int, ...]]:
        """The shapes that a coefficient or hyperparameter may have; none for another attribute."""
        by_latent, by_predictor = (self.latent_dim,), (self.num_predictors,)
        shapes: dict[str, list[tuple[int, ...]]] = {
            "loading": [self.loading_shape],
            "intercept": [by_predictor],
            "latent_precision": self._shapes_of_precision(),
            "latent_scale": [by_latent if self._latent_scale_dim else ()],
            "loading_scale": [()],
            "intercept_scale": [(), by_predictor],
            "row_effect_scale": [()],
        }
        if self.linear_map is None:
            shapes["loading_scale"] += [by_latent, (self.num_predictors, 1)]
        if self.num_covariates:
            by_covariate = (self.num_covariates,)
            shapes["coefficients"] = [(*by_predictor, *by_covariate)]
            shapes["coefficient_scale"] = [(), by_covariate, (self.num_predictors, 1)]
        return shapes.get(name, [])

    def _shapes_of_precision(self) -> list[tuple[int, ...]]:
        return [(self.latent_dim, self.latent_dim) if self._has_precision_matrix else ()]

    def _dtype(self) -> torch.dtype:
        tensors = [*self.buffers(), *self.parameters()]
        return tensors[0].dtype if tensors else torch.get_default_dtype()

    def _set_family_parameters(self, parameters: Mapping[str, PyroParam]) -> None:
        known = self._known_family.parameter_names
        for name, parameter in parameters.items():
            if name not in known:
                raise ValueError(
                    f"family_parameters must be among {list(known)} of {self._known_family}, got "
                    f"{name!r}"
                )
            if not isinstance(parameter, PyroParam):
                raise TypeError(
                    f"family_parameters must be PyroParams, got {type(parameter).__name__} for "
                    f"{name!r}; give the family what is known"
                )
            default = self._known_family.constraint_of(name)
            setattr(self, f"family_{name}", _with_checked_start(name, parameter, default))

    def _set_parameter_scale(self, scale: float | str | None) -> None:
        if isinstance(scale, str) and scale != "weak":
            raise ValueError(
                "parameter_scale must be a positive number, 'weak' for 1 where parameters have no "
                f"units, or None for a flat prior, got {scale!r}"
            )
        is_number = scale is not None and not isinstance(scale, str)
        known: Any = float(positive("parameter_scale", scale)) if is_number else scale
        self.parameter_scale = known

    def common_prior(self, name: str) -> CommonPrior | None:
        """The prior of a learnt parameter of the family, on its unconstrained scale, or None.

        Args:
            name: the name of the parameter in the family.
        """
        scale = self.parameter_scale
        if scale == "weak":
            is_open = name in self._known_family.to_learn(self.num_features)
            scale = WEAK if is_open and not self._known_family.is_in_units(name) else None
        if not isinstance(scale, float) or self._point(name).dim() == 0:
            return None
        start = torch.tensor(self._known_family.parameter_start(name))
        return CommonPrior(scale, float(self._unconstrained(name, start)))

    def _point(self, name: str) -> Tensor:
        """The point value of a learnt parameter of the family, without a trace of being read."""
        with poutine.block():
            value: Tensor = getattr(self, f"family_{name}").detach()
        return value

    def _unconstrained(self, name: str, value: Tensor) -> Tensor:
        """A value of a learnt parameter on its unconstrained scale, such as a logarithm."""
        free: Tensor = transform_to(self._pyro_params[f"family_{name}"][0]).inv(value)
        return free

    def _family_of_run(self) -> tuple[Family, tuple[str, ...]]:
        """The law of the observations in a run, and which learnt parameters are sites of it.

        A parameter is a site where it has draws: if a guide of the run, or any other handler, has a
        value for it, or if :meth:`with_sampled_parameters` has made the block. Elsewhere it is a
        point parameter, whose log prior is added to the density of the model.
        """
        values, sampled = {}, []
        for name in self._learnt_of_family:
            attribute, prior = f"family_{name}", self.common_prior(name)
            site = self._pyro_get_fullname(attribute)
            if self._samples_parameters or is_answered(site):
                values[name] = self._sample_parameter(name, site, prior)
                sampled.append(name)
                continue
            values[name] = getattr(self, attribute)
            if prior is not None:
                free = self._unconstrained(name, values[name])
                pyro.factor(self._pyro_get_fullname(f"{name}_prior"), prior.log_density(free))
        family = self._known_family.replaced(values) if values else self._known_family
        return family, tuple(sampled)

    def _sample_parameter(self, name: str, site: str, prior: CommonPrior | None) -> Tensor:
        """The value of a site of a learnt parameter, with dimensions of rows and columns."""
        like = self._point(name)
        law = parameter_law(prior, self._pyro_params[f"family_{name}"][0], like)
        drawn: Tensor = pyro.sample(site, law, infer=self._infer_of_parameter(name))
        value = _off_the_bounds(drawn, self._pyro_params[f"family_{name}"][0])
        # One value for all columns of several draws: they are draws x rows.
        return value[..., None] if not like.dim() and value.dim() else value

    @abstractmethod
    def _infer_of_parameter(self, name: str) -> Any:
        """The annotations of the site of a learnt parameter."""

    def with_sampled_parameters(self) -> Self:
        """A copy of the block whose learnt parameters of the family are latents with their prior.

        The block itself has point parameters, for guides that train points. In the copy they are
        sample sites, such as ``family_size``, which NUTS and the AutoGuides of Pyro move. The prior
        is the one of ``parameter_scale``: normal around a common value on the scale of logarithms
        or logits. ``guide.fit`` refuses the copy.

        Raises:
            ValueError: if the block learns no parameter, or one of them has a flat prior.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> model = pef.ExpFamPCA(pef.families.NegativeBinomial(), 4, 1)
            >>> model.with_sampled_parameters()(torch.ones(10, 4)).shape
            torch.Size([10, 1])
        """
        if not self._learnt_of_family:
            raise ValueError(
                "the block must learn parameters of its family to sample them, got "
                f"{self._known_family}"
            )
        flat = [x for x in self._learnt_of_family if self.common_prior(x) is None]
        if flat:
            raise ValueError(
                f"{', '.join(flat)} of the family must have a prior to be sampled, got a flat one: "
                "learn one per column under a number as parameter_scale, or take known values"
            )
        other = copy.deepcopy(self)
        other._samples_parameters = True
        return other

    @property
    def family(self) -> Family:
        """The law of the observations, with the present values of its learnt parameters."""
        return self.family_at({})

    def family_at(self, values: Mapping[str, Tensor]) -> Family:
        """The law of the observations at some values of learnt parameters.

        Args:
            values: values by their names in the family; parameters that are left out have their
                present values.
        """
        if not self._learnt_of_family:
            return self._known_family
        names = self._learnt_of_family
        learnt = {x: values[x] if x in values else getattr(self, f"family_{x}") for x in names}
        return self._known_family.replaced(learnt)

    def prior_precision(self, name: str) -> Tensor:
        """The precision of the Gaussian prior of ``"loading"`` or ``"intercept"``.

        It is 0 for a point parameter, and has the shape of the scale otherwise.

        Raises:
            ValueError: if the prior is not Gaussian with the block's scale.
        """
        prior = self._pyro_samples.get(name)
        if prior is None:
            return torch.zeros((), dtype=torch.float64)
        if not isinstance(prior, GaussianPrior):
            raise ValueError(
                f"{name} must have the block's Gaussian prior or be a point parameter, got {prior}"
            )
        if prior.scale in self._pyro_samples:
            wanted = "a scale that is known or a PyroParam"
            raise ValueError(f"{name} must have {wanted}, got {prior.scale} with a prior")
        scale: Tensor = getattr(self, prior.scale)
        return scale.detach().double().pow(-2)

    def coefficient_precision(self) -> Tensor:
        """The prior precisions of the coefficients, ``(l + 1 + p,)``; 0 if flat.

        The coefficients are loading, intercept and coefficients of covariates. The precisions are
        in double precision, whatever the dtype of the block. Where they differ by linear predictor,
        they have one row per predictor, ``(d, l + 1 + p)``.

        Raises:
            ValueError: if a prior is not Gaussian with the block's scale, or the loading is the
                kernel of a convolution.
        """
        if self.linear_map is not None:
            raise ValueError(f"linear_map must be None for this, got {self.linear_map}")
        parts = [self.prior_precision("loading"), self.prior_precision("intercept")[..., None]]
        sizes = [self.latent_dim, 1]
        if self.num_covariates:
            parts.append(self.prior_precision("coefficients"))
            sizes.append(self.num_covariates)
        of_one = max(x.dim() for x in parts) <= 1
        shape = () if of_one else (self.num_predictors,)
        return torch.cat(
            [x.to(parts[0].device).expand(*shape, n) for x, n in zip(parts, sizes, strict=True)], -1
        )

    def _read(self) -> list[str]:
        """The attributes that a call reads."""
        scales = [
            prior.scale for prior in self._pyro_samples.values() if isinstance(prior, GaussianPrior)
        ]
        learnt = [f"family_{name}" for name in self._learnt_of_family]
        of_latents = "latent_scale" if self._has_latent_scale else "latent_precision"
        of_covariates = ["coefficients"] if self.num_covariates else []
        of_rows = ["row_effect_scale"] if self.row_effect == "random" else []
        read = ["loading", "intercept", *of_covariates, of_latents, *of_rows, *scales, *learnt]
        return read


def _with_checked_start(name: str, parameter: PyroParam, default: Any) -> PyroParam:
    """A learnt parameter of a family, under the family's constraint if the user has named none.

    Raises:
        ValueError: if its start is outside of its constraint, or not finite.
    """
    value, constraint, event_dim = parameter
    if constraint is constraints.real or constraint is None:
        parameter = PyroParam(value, constraint=default, event_dim=event_dim)
    start = value() if callable(value) else value
    if not isinstance(start, Tensor):
        return parameter
    inside = parameter.constraint.check(start) & start.isfinite()
    if not bool(inside.all()):
        place = [int(k) for k in (~inside).nonzero()[0]] if start.dim() else []
        got = float(start[tuple(place)])
        at = f" at position {tuple(place)}" if place else ""
        raise ValueError(
            f"{name} in family_parameters must start inside of {parameter.constraint}, got "
            f"{got:g}{at}"
        )
    return parameter


def _off_the_bounds(value: Tensor, constraint: Any) -> Tensor:
    """The value inside of an open set, where rounding has brought it to a bound of the set.

    A sampler that warms up may be where a size is 0 or infinite in floating point. The density
    there tells it to turn back.
    """
    of = torch.finfo(value.dtype)
    lower, upper = (
        getattr(constraint, "lower_bound", -of.max),
        getattr(constraint, "upper_bound", of.max),
    )
    least = lower + max(of.tiny, of.eps * abs(lower))
    return value.clamp(least, upper - of.eps * abs(upper))
