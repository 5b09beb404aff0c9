"""Exponential-family PCA as a block of a Pyro model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.deq.canonical import check_family
from pyro_expfam.deq.limits import check_size
from pyro_expfam.deq.observations import (
    Observations,
    as_tensor,
    check_observations,
    convert_observations,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.transformed import check_traced, checked, is_traced
from pyro_expfam.distributions import distribution
from pyro_expfam.evidence import second_order_evidence
from pyro_expfam.families import Family
from pyro_expfam.inference_mode import out_of_inference_mode, outside_inference_mode
from pyro_expfam.ownership import claim
from pyro_expfam.particles import without_particles_for_rows
from pyro_expfam.point_parameters import PointParameters
from pyro_expfam.weighted import WeightedDistribution

Hyperparameter = float | Tensor | PyroParam | PyroSample
"""A known number, numbers that SVI trains, or numbers with a prior."""

INITIAL_LOADING_SCALE = 0.1
"""Loadings start small, so that natural parameters, and so Poisson means, are of ordinary size."""


_Scale = TypeVar("_Scale")


def known_intercept_scale(family: Family, scale: _Scale | str) -> _Scale | float:
    """The scale of an intercept's prior, with the family's own for ``"weak"``."""
    if not isinstance(scale, str):
        return scale
    if scale != "weak":
        raise ValueError(
            f"intercept_scale must be a positive number, 'weak' for the family's own, or None for "
            f"a flat prior, got {scale!r}"
        )
    return family.weak_intercept_scale


class RowPlace(NamedTuple):
    """Which rows of a table a batch holds.

    Attributes:
        rows: indices of the rows of the batch in the table, or a slice of all.
        num_rows: of the table.
    """

    rows: Tensor | slice
    num_rows: int


class Answer(NamedTuple):
    """What a guide says of a block's latents: the annotation ``answer`` of its site.

    Attributes:
        problem: the problem of the latents, without repetitions.
        posterior: the distribution around its root, of the problem's batch shape.
    """

    problem: LatentProblem
    posterior: dist.TorchDistribution


class ExpFamPCA(PyroModule):
    r"""Exponential-family PCA: a block to write into any Pyro model.

    Row ``s`` of the table has latents :math:`z_s \sim N(0, \lambda^{-1} I)`, and its entries are
    independent observations of ``family`` with natural parameters
    :math:`W z_s + b + \text{offset}_s` (equation (3) of the paper). The block samples, in a
    plate ``rows`` of dimension -1, a site ``z`` and a site ``y`` with one event per row; inside
    a larger :class:`~pyro.nn.PyroModule` all its sites carry the block's name, as in
    ``genes.z``. It returns the latents, for whatever the model makes of them next.

    ``loading`` and ``intercept`` have Gaussian priors about zero, or are point parameters under a
    flat prior where the scale is None. By default the prior of the intercept is weakly informative:
    its scale is the family's :attr:`~pyro_expfam.families.Family.weak_intercept_scale`, 10 for
    logarithms of means and logits. It moves the intercept of an ordinary column by far less than
    a standard error, and gives a column of zeros an intercept at all: under a flat prior that
    runs to minus infinity, and rows that are held out with a count in it have no evidence. Assign a
    :class:`~pyro.nn.PyroSample` to ``loading``, ``intercept`` or ``latent_precision`` for a prior
    of your own. The sites ``z`` and ``y`` cannot be replaced, and what a block would not read is
    refused when it is assigned.

    Hyperparameters may be learnt: a scale or precision may be a :class:`~pyro.nn.PyroParam`, which
    SVI trains, or a :class:`~pyro.nn.PyroSample` with a prior of its own, and the scale of
    the loading may be one a latent (automatic relevance determination). Under point estimates
    the density of a loading and its learnt scale has no bound, as both go to zero, and under a
    learnt precision of the latents the loading goes there too. Take
    :class:`~pyro_expfam.LaplaceEvidence` with a distribution over the loading, such as
    ``DEQMAPGuide(model, global_guide=AutoNormal)``, or
    :meth:`LaplaceGuide.learn_loading_scale`; and learn the scale of the loading or the precision
    of the latents, not both: a table says something of their ratio alone.

    Args:
        family: the law of the observations.
        num_features: columns ``d`` of the table.
        latent_dim: latents ``l`` of a row.
        latent_precision: precision :math:`\lambda` of the latents, positive.
        loading_scale: prior standard deviation of the entries of the loading, ``(d, l)``, for all
            of them or one a latent, ``(l,)``; None for a point parameter.
        intercept_scale: prior standard deviation of the entries of the intercept, ``(d,)``;
            ``"weak"`` for the family's own, None for a point parameter under a flat prior.
        family_parameters: parameters of the family that are to be learnt, by name, with where
            they start, such as ``{"scale": PyroParam(torch.ones(6), constraint=positive)}`` of a
            Gaussian family. In the block they are ``family_scale`` and so on. Those that the
            family leaves out, as ``Gaussian()`` does its scale, are learnt too, and start at 1.

    Raises:
        TypeError: if ``family`` is not a family, or one of its parameters no ``PyroParam``.
        ValueError: if a size is below 1, a precision or scale is not positive or has another
            shape, the family has no such parameter, or the layer cannot solve for its latents
            (see :class:`~pyro_expfam.families.Family`).

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), num_features=6, latent_dim=2)
        >>> y = torch.bernoulli(torch.full((10, 6), 0.5))
        >>> model(y).shape
        torch.Size([10, 2])

        With a scale for each latent that is learnt:

        >>> from pyro.nn import PyroParam
        >>> from torch.distributions.constraints import positive
        >>> scale = PyroParam(torch.ones(2), constraint=positive)
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), 6, 2, loading_scale=scale)
        >>> model.loading_scale.requires_grad
        True
    """

    _is_complete = False

    @outside_inference_mode()
    def __init__(
        self,
        family: Family,
        num_features: int,
        latent_dim: int,
        latent_precision: Hyperparameter = 1.0,
        loading_scale: Hyperparameter | None = 1.0,
        intercept_scale: Hyperparameter | Literal["weak"] | None = "weak",
        family_parameters: Mapping[str, PyroParam] | None = None,
    ) -> None:
        super().__init__()
        check_family(family)
        self.num_features = num_features = check_size("num_features", num_features)
        self.latent_dim = latent_dim = check_size("latent_dim", latent_dim)
        self._known_family = family
        learnt = {
            name: PyroParam(start, constraint=constraints.positive)
            for name, start in family.to_learn(num_features).items()
        }
        learnt.update(family_parameters or {})
        self._learnt_of_family = tuple(learnt)
        self._set_family_parameters(learnt)
        self._set_hyperparameter("latent_precision", latent_precision, [()])
        start = INITIAL_LOADING_SCALE * torch.randn(num_features, latent_dim)
        self._set_prior("loading", loading_scale, start)
        self._set_prior(
            "intercept", known_intercept_scale(family, intercept_scale), torch.zeros(num_features)
        )
        self._trained_by: PointParameters | None = None
        self._is_complete = True

    def _set_prior(self, name: str, scale: Hyperparameter | None, start: Tensor) -> None:
        if scale is None:
            setattr(self, name, PyroParam(start, event_dim=start.dim()))
            return
        attribute = f"{name}_scale"
        shapes: list[tuple[int, ...]] = [()]
        if name == "loading":
            shapes.append((self.latent_dim,))
        shape = self._set_hyperparameter(attribute, scale, shapes)
        setattr(self, name, PyroSample(_GaussianPrior(attribute, start.shape, len(shape))))

    def _set_hyperparameter(
        self, name: str, value: Hyperparameter, shapes: Sequence[tuple[int, ...]]
    ) -> tuple[int, ...]:
        """Sets a number or numbers of one of these shapes, known or to be learnt; their shape."""
        if isinstance(value, PyroSample):
            prior: Any = value.prior
            prior = prior if hasattr(prior, "event_shape") else prior(self)
            shape = prior.batch_shape + prior.event_shape
            setattr(self, name, value)
        elif isinstance(value, PyroParam):
            setattr(self, name, value)
            shape = _positive(name, getattr(self, name)).shape
        else:
            known = _positive(name, value)
            shape = known.shape
            self.register_buffer(name, known)
        if tuple(shape) not in shapes:
            raise ValueError(
                f"{name} must have shape {' or '.join(map(str, shapes))}, got {tuple(shape)}"
            )
        return tuple(shape)

    def _set_family_parameters(self, parameters: Mapping[str, PyroParam]) -> None:
        family: Any = self._known_family
        known = [field.name for field in fields(family)] if is_dataclass(family) else []
        for name, parameter in parameters.items():
            if name not in known:
                raise ValueError(
                    f"family_parameters must be among {known} of {self._known_family}, got {name!r}"
                )
            if not isinstance(parameter, PyroParam):
                raise TypeError(
                    f"family_parameters must be PyroParams, got {type(parameter).__name__} for "
                    f"{name!r}; give the family what is known"
                )
            setattr(self, f"family_{name}", parameter)

    @property
    def family(self) -> Family:
        """The law of the observations, with its learnt parameters as they are now."""
        if not self._learnt_of_family:
            return self._known_family
        learnt = {name: getattr(self, f"family_{name}") for name in self._learnt_of_family}
        known: Any = self._known_family
        family: Family = replace(known, **learnt)
        return family

    def forward(
        self,
        y: Any = None,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        num_rows: int | None = None,
        rows: Any = None,
    ) -> Tensor:
        """Samples the latents of a table and observes it; returns the latents ``(..., N, l)``.

        Args:
            y: observations ``(..., N, d)``, or None to draw them.
            offset: known part of the natural parameters, broadcastable to ``(..., N, d)``. Shapes
                are aligned from the right: one number for each feature is ``(d,)``, one for each
                row ``(N, 1)``. Dimensions of particles or of outer plates are left of the rows,
                even where ``y`` has none: a number ``x`` that the model draws outside the rows
                comes as ``x[..., None]``, which is ``(particles, 1, 1)`` with several particles.
            mask: booleans broadcastable to ``(..., N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(..., N, d)``; an entry of weight 2 counts as two observations.
            num_rows: rows of the whole table. Where ``y`` is a minibatch, its log density is
                scaled to the whole; where ``y`` is None, it is the number of rows drawn.
            rows: which rows of the whole table a minibatch holds, integers ``(N,)``. A guide then
                starts solving for their latents from where they were last.

        Raises:
            TypeError: if an argument holds no real numbers.
            ValueError: if a shape, device or value does not fit; the message names the argument.
        """
        claim(self)
        with poutine.infer_config(config_fn=self._infer_config):
            W, b, precision = self.loading, self.intercept, self.latent_precision
        W, b, precision = _before_rows(W, 2), _before_rows(b, 1), _before_rows(precision, 0)
        y = without_particles_for_rows("y", y)
        offset = without_particles_for_rows("offset", offset)
        mask = without_particles_for_rows("mask", mask)
        weights = without_particles_for_rows("weights", weights)
        arguments = (y, offset, mask, weights)
        problem, observed = None, None
        if num_rows is not None:
            num_rows = check_size("num_rows", num_rows)
        if y is None:
            offset = None if offset is None else as_tensor("offset", offset, W)
            batch_rows = self._rows_to_draw(num_rows, offset, mask, weights)
        else:
            observed = self._check(arguments, W)
            batch_rows = observed.y.shape[-2]
            problem = self.latent_problem(observed, W, b, precision)
            offset = observed.offset
        scale = precision.rsqrt()[..., None, None]
        # Scales have been checked where they came from: every step would check them again.
        prior = dist.Normal(torch.zeros_like(scale), scale, validate_args=False)
        prior = prior.expand((*scale.shape[:-1], self.latent_dim)).to_event(1)
        index = self._row_index(rows, batch_rows, num_rows)
        with self._row_plate(batch_rows, num_rows, index):
            z = pyro.sample(
                self.site_name("z"),
                prior,
                infer=_infer(
                    latent_problem=problem,
                    block=self,
                    arguments=arguments,
                    rows=_place(index, batch_rows, num_rows),
                    event_dims=[self.site_name("latent")],
                    plate_dims={self.site_name("rows"): self.site_name("row")},
                ),
            )
            eta = _natural_param(z, W, b)
            if offset is not None:
                eta = eta + offset
            # Observations have been checked, as far as they are not missing.
            likelihood = distribution(self.family, eta, None if observed is None else False)
            pyro.sample(
                self.site_name("y"),
                _of_entries(likelihood, observed).to_event(1),
                obs=None if observed is None else observed.y,
                infer=_infer(
                    block=self,
                    event_dims=[self.site_name("feature")],
                    plate_dims={self.site_name("rows"): self.site_name("row")},
                    marginal=None if problem is None else partial(_marginal, problem),
                ),
            )
        return z

    def extra_repr(self) -> str:
        """The block's settings, for ``repr``."""
        return f"{self.family}, num_features={self.num_features}, latent_dim={self.latent_dim}"

    @property
    def name(self) -> str:
        """The name of the block in its model, empty where it is the model."""
        return self.site_name("").removesuffix(".")

    def site_name(self, attribute: str) -> str:
        """The name in the model of a site of the block, such as ``"z"``."""
        return self._pyro_get_fullname(attribute)

    def latent_problem(
        self, observed: Observations, W: Tensor, b: Tensor, precision: Tensor
    ) -> LatentProblem:
        """What the equilibrium layer has to solve for the latents of checked observations."""
        check_alike(W, b, precision)
        return LatentProblem(
            self.family,
            self.family.sufficient_statistic(observed.y),
            W,
            b,
            precision,
            observed.offset,
            observed.entry_weights,
        )

    def prior_precision(self, name: str) -> float:
        """The precision of the Gaussian prior of ``"loading"`` or ``"intercept"``.

        It is 0 for a point parameter.

        Raises:
            ValueError: if the prior is not Gaussian with the block's scale.
        """
        prior = self._pyro_samples.get(name)
        if prior is None:
            return 0.0
        if not isinstance(prior, _GaussianPrior):
            raise ValueError(
                f"{name} must have the block's Gaussian prior or be a point parameter, got {prior}"
            )
        scale = getattr(self, prior.scale)
        if prior.scale in self._pyro_samples or scale.dim():
            wanted = "a scale that is one known number or PyroParam"
            raise ValueError(f"{name} must have {wanted}, got {prior.scale} with {_kind(scale)}")
        return float(scale.detach()) ** -2

    def coefficient_precision(self) -> Tensor:
        """The prior precisions of loading and intercept of a feature, ``(l + 1,)``; 0 if flat.

        They are in double precision, whatever the block is in.

        Raises:
            ValueError: if a prior is not Gaussian with the block's scale.
        """
        prior = self._pyro_samples.get("loading")
        if isinstance(prior, _GaussianPrior) and prior.scale not in self._pyro_samples:
            loading = getattr(self, prior.scale).detach().double().pow(-2)
        else:
            loading = torch.tensor(self.prior_precision("loading"), dtype=torch.float64)
        intercept = torch.tensor([self.prior_precision("intercept")], dtype=torch.float64)
        return torch.cat([loading.expand(self.latent_dim), intercept.to(loading)])

    def _check(self, arguments: tuple[Any, ...], like: Tensor) -> Observations:
        """Checked observations.

        A model that is replayed against its guide's trace takes the verdict on the values from
        there, and reads the values themselves again. Nothing is kept between calls: tables that
        share memory with an array change without a sign.
        """
        y, *others = arguments
        if is_traced():
            for name, value in zip(("y", "offset", "mask", "weights"), arguments, strict=True):
                check_traced(name, value)
        check = convert_observations if self._were_checked(arguments) else check_observations
        return check(self.family, y, self.num_features, like, *others)

    def _were_checked(self, arguments: tuple[Any, ...]) -> bool:
        """Whether the trace that this run is replayed against holds the check of its arguments."""
        for handler in _PYRO_STACK:
            if not isinstance(handler, ReplayMessenger) or handler.trace is None:
                continue
            for site in handler.trace.nodes.values():
                infer: Any = site.get("infer") or {}
                if "answer" in infer and infer["block"] is self:
                    checked_arguments = infer["arguments"]
                    if all(a is b for a, b in zip(arguments, checked_arguments, strict=True)):
                        return True
        return False

    def _rows_to_draw(self, num_rows: int | None, *entries: Any) -> int:
        if num_rows is not None:
            return num_rows
        shapes = [x.shape for x in entries if len(getattr(x, "shape", ())) >= 2]
        if not shapes:
            raise ValueError(
                "num_rows must say how many rows to draw where y is None, got None for both"
            )
        return max(shape[-2] for shape in shapes)

    def _row_index(self, rows: Any, batch_rows: int, num_rows: int | None) -> Tensor | None:
        """Checked indices of the rows of a batch, or None where they are not given."""
        if rows is None:
            return None
        index = torch.as_tensor(rows, device=self.latent_precision.device)
        if index.shape != (batch_rows,) or index.is_floating_point() or index.dtype == torch.bool:
            raise ValueError(
                f"rows must be {batch_rows} integers, one for each row of y, got dtype "
                f"{index.dtype} and shape {tuple(index.shape)}"
            )
        if num_rows is None:
            raise ValueError("num_rows must be given beside rows: the rows of the whole table")
        return checked(partial(_check_between, num_rows), index)

    def _row_plate(self, batch_rows: int, num_rows: int | None, index: Tensor | None) -> pyro.plate:
        if num_rows is not None and num_rows < batch_rows:
            raise ValueError(
                f"num_rows must be at least the number of rows of y, {batch_rows}, got {num_rows}"
            )
        if index is None:
            # The batch is what the caller passes: only its size matters.
            index = torch.arange(batch_rows, device=self.latent_precision.device)
        return pyro.plate(
            self.site_name("rows"),
            num_rows or batch_rows,
            subsample=index,
            dim=-1,
        )

    def _infer_config(self, site: Any) -> Any:
        attribute = site["name"].removeprefix(self.site_name(""))
        infer = {**site["infer"], "block": self, "coefficient": attribute}
        if attribute == "loading":
            infer.update(
                event_dims=[self.site_name("feature"), self.site_name("latent")], is_loading=True
            )
        elif attribute == "intercept":
            infer.update(event_dims=[self.site_name("feature")])
            if isinstance(self._pyro_samples.get("intercept"), _GaussianPrior):
                infer.update(starts_at_zero=True)
        return infer

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_complete:
            self._refuse_ignored(name, value)
        super().__setattr__(name, value)

    def _refuse_ignored(self, name: str, value: Any) -> None:
        """An error for an attribute that the block would never read."""
        if name in ("z", "y"):
            what = (
                "the latents have the prior Normal(0, 1 / sqrt(latent_precision)): set "
                "latent_precision, or write the model without a block for another"
                if name == "z"
                else "the observations are the argument y of a call, and their law is the family"
            )
            raise AttributeError(f"{name} is a site of the block that cannot be replaced: {what}")
        is_own_forward = type(self).forward is ExpFamPCA.forward
        is_site = isinstance(value, (PyroSample, PyroParam))
        if is_own_forward and (is_site or name.endswith("_scale")) and name not in self._read():
            raise AttributeError(
                f"{name} is nothing that the block reads, which are {', '.join(self._read())}: a "
                "value there would be ignored"
            )

    def _read(self) -> list[str]:
        """The attributes that a call reads."""
        scales = [
            prior.scale
            for prior in self._pyro_samples.values()
            if isinstance(prior, _GaussianPrior)
        ]
        learnt = [f"family_{name}" for name in self._learnt_of_family]
        return ["loading", "intercept", "latent_precision", *scales, *learnt]


class _GaussianPrior:
    """A centred Gaussian prior whose scale is the block's, so that it moves and learns with it."""

    def __init__(self, scale: str, shape: torch.Size, scale_dim: int) -> None:
        self.scale, self.shape, self.scale_dim = scale, shape, scale_dim

    def __call__(self, block: PyroModule) -> dist.TorchDistribution:
        scale = getattr(block, self.scale)
        shape = self.shape
        if scale.dim():
            # Draws of a scale have dimensions of plates before its own, of which the entries know
            # none.
            for _ in range(len(self.shape) - self.scale_dim):
                scale = scale.unsqueeze(scale.dim() - self.scale_dim)
            shape = torch.broadcast_shapes(scale.shape, shape)
        prior = dist.Normal(torch.zeros_like(scale), scale, validate_args=False).expand(shape)
        return prior.to_event(len(self.shape))


def _natural_param(z: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """The natural parameters ``W z + b``, ``(..., N, d)``."""
    if z.dim() == W.dim() == 2 and b.dim() == 1:
        return torch.addmm(b, z, W.mT)
    return z @ W.mT + b.unsqueeze(-2)


def _of_entries(likelihood: Any, observed: Observations | None) -> Any:
    """The likelihood of entries with their weights, as far as they are not missing."""
    if observed is not None and observed.weights is not None:
        likelihood = WeightedDistribution(likelihood, observed.weights)
    if observed is not None and observed.mask is not None:
        likelihood = likelihood.mask(observed.mask)
    return likelihood


def _check_between(num_rows: int, index: Tensor) -> None:
    if not bool(((index >= 0) & (index < num_rows)).all()):
        raise ValueError(
            f"rows must be between 0 and {num_rows - 1}, got {int(index.min())} to "
            f"{int(index.max())}"
        )


def _place(index: Tensor | None, batch_rows: int, num_rows: int | None) -> RowPlace | None:
    """Which rows a batch holds, as far as that is known."""
    if index is not None and num_rows is not None:
        return RowPlace(index, num_rows)
    whole = num_rows is None or num_rows == batch_rows
    return RowPlace(slice(None), batch_rows) if whole else None


def _marginal(problem: LatentProblem) -> Tensor:
    """The log density of every row with its latents integrated out, ``(..., N)``."""
    return second_order_evidence(problem.distinct())


def _infer(**annotations: Any) -> Any:
    """Annotations of a site, which Pyro types as its own few and passes on whatever they are."""
    return annotations


def _positive(name: str, value: Any) -> Tensor:
    tensor = torch.as_tensor(out_of_inference_mode(value), dtype=torch.get_default_dtype()).detach()
    if not bool(((tensor > 0) & torch.isfinite(tensor)).all()):
        raise ValueError(f"{name} must be a positive finite number, got {value}")
    return tensor


def check_alike(W: Tensor, b: Tensor, precision: Tensor) -> None:
    """An error unless loading, intercept and precision have one dtype and device.

    Raises:
        TypeError: if they differ, as after ``model.double()``, which leaves a guide as it is.
    """
    if W.dtype == b.dtype == precision.dtype and W.device == b.device == precision.device:
        return
    raise TypeError(
        "loading, intercept and latent_precision must have one dtype and device, got "
        f"{W.dtype} on {W.device}, {b.dtype} on {b.device}, and {precision.dtype} on "
        f"{precision.device}: model and guide hold parameters of their own, so that "
        "model.double() or model.to(...) wants the same of the guide, guide.double() or "
        "guide.to(...)"
    )


def _kind(scale: Tensor) -> str:
    return f"shape {tuple(scale.shape)}" if scale.dim() else "a prior"


def _before_rows(x: Tensor, event_dim: int) -> Tensor:
    """Removes the batch dimension that stands for the rows' plate, in which ``x`` does not vary.

    A value sampled outside the plate but inside an outer one, as of several draws, has size 1
    there; the layer wants the rows right before the features.
    """
    dim = -1 - event_dim
    return x.squeeze(dim) if x.dim() > event_dim and x.shape[dim] == 1 else x
