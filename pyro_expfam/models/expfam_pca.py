"""Exponential-family PCA as a block of a Pyro model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroParam, PyroSample
from torch import Tensor

from pyro_expfam.deq.convolution import Convolution, sizes_of
from pyro_expfam.deq.covariates import Covariates, as_covariates
from pyro_expfam.deq.family_check import check_family
from pyro_expfam.deq.inference_mode import outside_inference_mode
from pyro_expfam.deq.limits import check_size
from pyro_expfam.deq.linear_map import LinearMap
from pyro_expfam.deq.mixed_frames import in_order_of_names
from pyro_expfam.deq.observations import (
    Missing,
    Observations,
    as_tensor,
    check_missing,
    covariates_of,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_term import RowTerm
from pyro_expfam.distributions import distribution
from pyro_expfam.families import Family
from pyro_expfam.models.annotations import (
    Answer,
    LatentSite,
    ObservedSite,
    infer,
    latent_site,
    marginal,
)
from pyro_expfam.models.block_sizes import (
    check_columns,
    checked_num_covariates,
    checked_num_features,
)
from pyro_expfam.models.centred_normal import KnownLaw
from pyro_expfam.models.latent_prior import LatentPrior, check_loc
from pyro_expfam.models.law_at_root import likelihood_at_root, prior_at_root
from pyro_expfam.models.named_sites import levels_of
from pyro_expfam.models.priors import (
    INITIAL_LOADING_SCALE,
    Hyperparameter,
    known_coefficient_scale,
    known_scale,
)
from pyro_expfam.models.row_plate import (
    RowPlace,
    before_rows,
    of_rows,
    row_index,
    row_place,
    row_plate,
    rows_to_draw,
)
from pyro_expfam.models.shared_rows import SharedRows, check_shared
from pyro_expfam.models.table_of_block import TableOfBlock
from pyro_expfam.runtime.handlers import traces_of_run
from pyro_expfam.runtime.known_tables import is_known, wants_likelihoods
from pyro_expfam.runtime.ownership import claim
from pyro_expfam.runtime.particles import differs_by_particle, without_particles_for_rows
from pyro_expfam.table_frames import as_pandas
from pyro_expfam.table_labels import labels_of
from pyro_expfam.weighted import WeightedDistribution


class TableOfCall(NamedTuple):
    """The table of a call of a block.

    Attributes:
        arguments: observations, offset, mask, weights and covariates, as the block was called.
        observed: the checked table, or None without observations.
        offset: what is added to linear predictors, with what covariates add; or None.
        part: covariates with their coefficients, or None.
        answer: the answer of the guide whose trace the run is replayed against, or None.
        batch_rows: the number of rows.
        plate: the plate of the rows.
        place: which rows of a larger table they are, or None where nobody has said.
    """

    arguments: tuple[Any, ...]
    observed: Observations | None
    offset: Tensor | None
    part: Covariates | None
    answer: Answer | None
    batch_rows: int
    plate: pyro.plate
    place: RowPlace | None


class ExpFamPCA(TableOfBlock):
    r"""Exponential-family PCA: a block to write into any Pyro model.

    Row ``s`` of the table has latents :math:`z_s \sim N(m_s, \lambda^{-1} I)`, by default with
    means zero. Its entries are
    independent observations of ``family`` with natural parameters
    :math:`W z_s + b + \text{offset}_s` (equation (3) of the paper), and with covariates :math:`x_s`
    of the row :math:`W z_s + b + C x_s + \text{offset}_s`. The block samples a site ``z``
    and a site ``y`` with one event per row, in a plate ``rows`` of dimension -1. Inside a larger
    :class:`~pyro.nn.PyroModule` its sites carry the block's name, as in ``genes.z``. A call returns
    the latents, which the model may use further.

    ``loading`` and ``intercept`` have Gaussian priors about zero. Where the scale of a prior is
    None, they are point parameters under a flat prior. By default both priors are weakly
    informative: their scales are the family's
    :attr:`~pyro_expfam.families.Family.weak_loading_scale`, 1 for logarithms of means and logits,
    and :attr:`~pyro_expfam.families.Family.weak_intercept_scale`, 10 for these. Real numbers have
    units of their own: their priors are so wide that they leave the estimates of a table as they
    are. In a mixed table every column has the scales of its law.
    The prior of the intercept moves an ordinary column by far less than a standard error.
    It also gives an intercept to a column of zeros. Under a flat prior that intercept runs to
    minus infinity, and held-out rows with a count in the column have no evidence.

    With ``num_covariates`` every linear predictor has a coefficient for each covariate, in the site
    ``coefficients``, ``(d, p)``. By default its prior is weakly informative for covariates with a
    standard deviation of about 1, such as standardised ones and indicators: a quarter of the scale
    of the intercept, which is 2.5 for logarithms of means and logits. Give a scale per covariate,
    or standardise, where a covariate has other units.

    Assign a :class:`~pyro.nn.PyroSample` to ``loading``, ``intercept``, ``coefficients`` or
    ``latent_precision`` for a prior of your own. A :class:`~pyro.nn.PyroSample` for ``z`` is the
    prior of the latents of a row, of event shape ``(l,)``: a normal prior is solved for exactly,
    any other through its derivatives. The site ``y`` cannot be replaced. A block refuses an
    attribute that it would not read when the attribute is assigned.

    Tables that share their latents are blocks of which one samples them, and passes them on, as in
    ``z = genes(counts); proteins(levels, z=z)``.

    Hyperparameters may be learnt. A scale or precision may be a :class:`~pyro.nn.PyroParam`, which
    SVI trains, or a :class:`~pyro.nn.PyroSample` with a prior of its own. The loading may have one
    scale per latent (automatic relevance determination). Under point estimates the density of a
    loading and its learnt scale has no bound, since both go to zero; under a learnt precision of
    the latents the loading goes to zero too. Take :class:`~pyro_expfam.LaplaceEvidence` with a
    distribution over the loading, such as ``DEQMAPGuide(model, global_guide=AutoNormal)``, or
    :meth:`LaplaceGuide.learn_loading_scale`. Learn the scale of the loading or the precision of the
    latents, not both: a table only informs their ratio.

    With a ``linear_map`` such as :class:`pef.linear.ConvTranspose2d
    <pyro_expfam.deq.linear.ConvTranspose2d>` the loading is the kernel of a convolution, in the
    shape of the weight of PyTorch's module, and rows are images. Up to 64 latents (the map's
    ``dense_latents``) the matrix of the convolution is formed, and everything is as exact as under
    a dense loading. Beyond, latents, gradients, posteriors and the first order of the evidence are
    found without a matrix. What needs a matrix, or a loading by column, refuses.

    Args:
        family: the law of the observations.
        num_features: columns ``d`` of the table; left out with a ``linear_map``, which knows it.
        latent_dim: latents ``l`` of a row; left out with a ``linear_map``.
        latent_precision: precision :math:`\lambda` of the latents, positive; or a known precision
            matrix, ``(l, l)``.
        loading_scale: prior standard deviation of the entries of the loading, ``(d, l)``: one
            number, one per latent, ``(l,)``, or one per linear predictor, ``(d, 1)``; ``"weak"``
            for the family's own, None for a point parameter under a flat prior.
        intercept_scale: prior standard deviation of the entries of the intercept, ``(d,)``: one
            number, or one per linear predictor, ``(d,)``; ``"weak"`` for the family's own, None for
            a point parameter under a flat prior.
        family_parameters: parameters of the family to learn, by name, with their start values,
            such as ``{"scale": PyroParam(torch.ones(6), constraint=positive)}`` of a Gaussian
            family. In the block they are ``family_scale`` and so on. A parameter that the family
            leaves open, such as the scale of ``Gaussian()``, is learnt too, and starts at 1.
        latent_scale: prior standard deviation of the latents, in place of ``latent_precision``: one
            number, or one per latent, ``(l,)``.
        linear_map: the sizes of a convolution from latents to linear predictors, in place of
            ``num_features`` and ``latent_dim``; by default the loading is dense. The intercept is
            one number per pixel and channel, as under a dense loading.
        parameter_scale: prior standard deviation of parameters of the family that are learnt per
            column, around a value that the columns share, on the scale of logarithms (logits, for
            probabilities). Columns with little to say are drawn to that value. ``"weak"`` is 1 for
            the parameters that the family leaves open, but for those in the units of a column,
            such as the scale of Gaussian noise, whose prior is flat. None for a flat prior of all.
        missing: ``"nan"`` if NaN in a table, and ``None`` and ``pandas.NA`` in a frame, are missing
            entries; None if they are errors.
        num_covariates: covariates ``p`` of a row.
        coefficient_scale: prior standard deviation of the coefficients of covariates, ``(d, p)``:
            one number, or one per covariate, ``(p,)``; ``"weak"`` for a quarter of the family's
            scale of the intercept, None for point parameters under a flat prior.
        row_effect: ``"random"`` for a normal number per row that is added to all its linear
            predictors, ``"fixed"`` for one under a flat prior. It is one more latent, the last at
            the site ``z``, whose loading is one in every column.
        row_effect_scale: the standard deviation of random row effects: a number, or a ``PyroParam``
            to learn it.

    Raises:
        TypeError: if ``family`` is not a family, ``linear_map`` is no convolution, or a learnt
            parameter is no ``PyroParam``.
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

        With a covariate of the rows:

        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), 6, latent_dim=2, num_covariates=1)
        >>> model(y, covariates=torch.randn(10, 1)).shape, model.coefficients.shape
        (torch.Size([10, 2]), torch.Size([6, 1]))

        With a learnt scale per latent:

        >>> from pyro.nn import PyroParam
        >>> from torch.distributions.constraints import positive
        >>> scale = PyroParam(torch.ones(2), constraint=positive)
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), 6, 2, loading_scale=scale)
        >>> model.loading_scale.requires_grad
        True

        For images of 8 x 8 pixels, with two channels of latents:

        >>> up = pef.linear.ConvTranspose2d(2, 1, 4, stride=2, padding=1, latent_shape=(2, 4, 4))
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), linear_map=up)
        >>> model.num_features, model.latent_dim, model.loading.shape
        (64, 32, torch.Size([2, 1, 4, 4]))
    """

    _is_complete = False

    @outside_inference_mode()
    def __init__(
        self,
        family: Family,
        num_features: int | None = None,
        latent_dim: int | None = None,
        latent_precision: Hyperparameter = 1.0,
        loading_scale: Hyperparameter | Literal["weak"] | None = "weak",
        intercept_scale: Hyperparameter | Literal["weak"] | None = "weak",
        family_parameters: Mapping[str, PyroParam] | None = None,
        latent_scale: Hyperparameter | None = None,
        linear_map: Convolution | None = None,
        parameter_scale: float | Literal["weak"] | None = "weak",
        missing: Missing = None,
        num_covariates: int = 0,
        coefficient_scale: Hyperparameter | Literal["weak"] | None = "weak",
        row_effect: Literal["fixed", "random"] | None = None,
        row_effect_scale: Hyperparameter = 1.0,
    ) -> None:
        super().__init__()
        check_family(family)
        self.num_covariates = checked_num_covariates(num_covariates, coefficient_scale)
        self.missing = check_missing(missing)
        self.linear_map = linear_map
        if linear_map is not None:
            num_features, latent_dim = sizes_of(linear_map, family, num_features, latent_dim)
        self.num_features = num_features = checked_num_features(family, num_features)
        check_columns(family, num_features)
        self.latent_dim = latent_dim = check_size("latent_dim", latent_dim)
        self._known_family = family
        learnt = {
            name: PyroParam(start, constraint=family.constraint_of(name))
            for name, start in family.to_learn(num_features).items()
        }
        learnt.update(family_parameters or {})
        self._learnt_of_family = tuple(learnt)
        self._set_family_parameters(learnt)
        self._set_parameter_scale(parameter_scale)
        self._set_latent_prior(latent_precision, latent_scale)
        self._set_row_effect(row_effect, row_effect_scale)
        start = INITIAL_LOADING_SCALE * torch.randn(self.loading_shape)
        scale = known_scale("loading", family, num_features, loading_scale)
        if loading_scale == "weak" and isinstance(scale, Tensor):
            scale = scale[:, None]
        self._set_prior("loading", scale, start)
        scale = known_scale("intercept", family, num_features, intercept_scale)
        self._set_prior("intercept", scale, torch.zeros(self.num_predictors))
        if self.num_covariates:
            self._set_prior(
                "coefficients",
                known_coefficient_scale(family, num_features, coefficient_scale),
                torch.zeros(self.num_predictors, self.num_covariates),
            )
        # Guides keep here which of them has trained the point parameters last.
        self._trained_by: Any = None
        self._known_prior = KnownLaw()
        self._is_complete = True

    def forward(
        self,
        y: Any = None,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        num_rows: int | None = None,
        rows: Any = None,
        latent_loc: Any = None,
        z: Tensor | None = None,
        latent_rows: Any = None,
    ) -> Tensor:
        """Samples the latents of a table and observes it; returns the latents ``(..., N, l)``.

        Args:
            y: observations ``(..., N, d)``, or None to draw them.
            offset: known part of the natural parameters, broadcastable to ``(..., N, d)``. Shapes
                are aligned from the right: one number per feature is ``(d,)``, one per row is
                ``(N, 1)``. Dimensions of particles or of outer plates are left of the rows, even
                where ``y`` has none: pass a number ``x`` that the model draws outside the rows as
                ``x[..., None]``, which is ``(particles, 1, 1)`` with several particles.
            mask: booleans broadcastable to ``(..., N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(..., N, d)``; an entry of weight 2 counts as two observations.
            covariates: known numbers of each row, ``(N, p)``: a tensor, an array or a data frame,
                whose names label the coefficients.
            num_rows: rows of the whole table. Where ``y`` is a minibatch, its log density is
                scaled to the whole; where ``y`` is None, it is the number of rows drawn.
            rows: which rows of the whole table a minibatch holds, integers ``(N,)``. A guide then
                starts solving from the latents that it found for these rows before.
            latent_loc: prior means of the latents, broadcastable to ``(..., N, l)``, zero by
                default: from covariates, groups, a Gaussian process, or another block.
            z: the latents that another block has returned, ``(..., N, l)``. The table then shares
                them, and the block has no latents of its own.
            latent_rows: which row of ``z`` each row of ``y`` belongs to, integers, each at most
                once. It must be given where the two have different numbers of rows.

        Raises:
            TypeError: if an argument holds no real numbers.
            ValueError: if a shape, device or value does not fit; the message names the argument.
        """
        claim(self)
        if is_known(self):
            return self._known_latents() if z is None else z
        family, sampled = self._family_of_run()
        owner = self if z is None else self._owner_of(z)
        with poutine.infer_config(config_fn=partial(self._infer_config, owner=owner)):
            W, b = self.loading, self.intercept
        C = self._covariate_coefficients(covariates)
        W, b = before_rows(W, len(self.loading_shape)), before_rows(b, 1)
        call = (y, offset, mask, weights, covariates)
        table = self._table_of_call(
            call, family, W, b, C, num_rows, rows, latent_rows, latent_loc, z
        )
        arguments, observed = table.arguments, table.observed
        if z is None:
            z, problem = self._sample_latents(table, W, b, family, latent_loc)
            names, rows_of = self, None
            own = z
            site = ObservedSite(self, z, None, arguments)
        else:
            _refuse_prior_of_shared(latent_loc)
            if self.row_effect is not None:
                raise ValueError(
                    "z must be left out for a block with a row_effect, which is one of its own "
                    "latents, got the latents of another block"
                )
            check_shared(z, self.latent_dim)
            shared = SharedRows.of(latent_rows, table.batch_rows, z.shape[-2], W.device)
            own, problem = shared.of_table(z), None
            names = owner if shared.index is None else self
            rows_of = shared.named(owner.site_name("row"))
            view = self._view(observed, W, b, family, table.part, shared)
            site = ObservedSite(self, z, view, arguments, shared.index)
        with table.plate:
            pyro.sample(
                self.site_name("y"),
                self._likelihood(own, W, b, family, table),
                obs=None if observed is None else observed.y,
                infer=infer(
                    site,
                    event_dims=[self.site_name("feature")],
                    plate_dims={self.site_name("rows"): names.site_name("row")},
                    marginal=None if problem is None else partial(marginal, problem),
                    **levels_of(self._known_family, self.num_features),
                    **self._names_of_columns(),
                    parameters=self._learnt_parameters(sampled),
                    argument_dims=self._argument_dims(names),
                    rows_of=rows_of,
                ),
            )
        return z

    def _table_of_call(
        self,
        call: tuple[Any, ...],
        family: Family,
        W: Tensor,
        b: Tensor,
        C: Tensor | None,
        num_rows: int | None,
        rows: Any,
        latent_rows: Any,
        latent_loc: Any,
        z: Tensor | None,
    ) -> TableOfCall:
        """The checked table of a call, with the plate of its rows."""
        y, offset, mask, weights, covariates = call
        y = without_particles_for_rows("y", y)
        is_marked = differs_by_particle(offset)
        offset = without_particles_for_rows("offset", offset)
        if isinstance(offset, Tensor) and offset.dim() > 2:
            offset = of_rows(offset, is_marked)
        mask = without_particles_for_rows("mask", mask)
        weights = without_particles_for_rows("weights", weights)
        y, offset, mask, weights = in_order_of_names(self._known_family, y, offset, mask, weights)
        covariates = without_particles_for_rows("covariates", covariates)
        arguments = (y, offset, mask, weights, covariates)
        if num_rows is not None:
            num_rows = check_size("num_rows", num_rows)
        known = None
        if y is None:
            observed = None
            offset = None if offset is None else as_tensor("offset", offset, W)
            x = as_covariates(covariates, self.num_covariates, num_rows, W)
            if num_rows is None and latent_rows is not None:
                batch_rows = len(latent_rows)
            else:
                batch_rows = rows_to_draw(num_rows, x, offset, mask, weights, latent_loc, z)
            part = None if x is None or C is None else Covariates(x, C, offset)
        else:
            known = self._answer_to(arguments)
            observed = self._check(arguments, W, family, known)
            batch_rows = observed.y.shape[-2]
            offset = observed.offset
            part = covariates_of(observed, C)
        if part is not None:
            offset = part.total()
        index = row_index(rows, batch_rows, num_rows, W.device)
        plate = row_plate(self.site_name("rows"), batch_rows, num_rows, index, W.device)
        place = row_place(index, batch_rows, num_rows)
        return TableOfCall(arguments, observed, offset, part, known, batch_rows, plate, place)

    def _likelihood(
        self,
        z: Tensor,
        W: Tensor,
        b: Tensor,
        family: Family,
        table: TableOfCall,
    ) -> Any:
        """The law of the rows of a table given their latents."""
        observed = table.observed
        if observed is not None and not wants_likelihoods():
            zero = b.new_zeros(()).expand(observed.y.shape[-1])
            return dist.Normal(zero, 1.0, validate_args=False).to_event(1)
        law = partial(self._law_of_rows, z, W, b, family, table.offset, observed)
        if observed is not None and table.answer is not None:
            at_root = likelihood_at_root(table.answer, z, W, b, observed, law)
            if at_root is not None:
                return at_root
        return law()

    def _law_of_rows(
        self,
        z: Tensor,
        W: Tensor,
        b: Tensor,
        family: Family,
        offset: Tensor | None,
        observed: Observations | None,
    ) -> Any:
        """The law of the rows of a table by their linear predictors."""
        eta = _natural_param(z, self.map_of(W), b)
        if offset is not None:
            eta = eta + offset
        # The observed entries have been checked; missing entries are never read.
        likelihood = distribution(family, eta, None if observed is None else False)
        return _of_entries(likelihood, observed).to_event(1)

    def _sample_latents(
        self, table: TableOfCall, W: Tensor, b: Tensor, family: Family, latent_loc: Any
    ) -> tuple[Tensor, LatentProblem | None]:
        """Samples the latents of the rows; returns them with the problem that they solve."""
        site, prior = self._latents_of(table, W, b, family, latent_loc)
        problem, law = site.problem, prior.law
        if table.answer is not None and problem is not None and problem is table.answer.problem:
            law = prior_at_root(table.answer, law)
        with table.plate:
            z = pyro.sample(
                self.site_name("z"),
                law,
                infer=infer(
                    site,
                    event_dims=[self.site_name(self._latent_dim_name)],
                    plate_dims={self.site_name("rows"): self.site_name("row")},
                ),
            )
        if problem is not None and not prior.is_normal:
            problem = replace(problem, term=RowTerm(prior.log_ratio, problem.num_rows))
        return z, problem

    def _latents_of(
        self, table: TableOfCall, W: Tensor, b: Tensor, family: Family, latent_loc: Any
    ) -> tuple[LatentSite, LatentPrior]:
        """The record of the site of the latents, and their prior."""
        prior = self._latent_prior(self._checked_loc(latent_loc, table.batch_rows, W), W)
        problem = None
        if table.observed is not None:
            problem = self._known_problem(table, W, b, prior)
            if problem is None:
                problem = self.latent_problem(table.observed, W, b, prior, family, table.part)
        return LatentSite(self, problem, table.arguments, table.place, prior.is_normal), prior

    def _checked_loc(self, latent_loc: Any, num_rows: int, like: Tensor) -> Tensor | None:
        """The prior means of a call."""
        if latent_loc is None:
            return None
        is_marked = differs_by_particle(latent_loc)
        latent_loc = without_particles_for_rows("latent_loc", latent_loc)
        loc = check_loc(latent_loc, num_rows, self.latent_dim, like)
        return None if loc is None else of_rows(loc, is_marked)

    def _known_problem(
        self, table: TableOfCall, W: Tensor, b: Tensor, prior: LatentPrior
    ) -> LatentProblem | None:
        """The problem that the guide of a replayed run has solved, if it is this one."""
        if table.answer is None or table.answer.observed is not table.observed:
            return None
        problem = table.answer.problem
        if problem is None or prior.loc is not None or prior.factor is not None:
            return None
        is_same = problem.map.fields.get("W") is W and problem.b is b
        return problem if is_same and problem.precision is prior.precision else None

    def latents_given(
        self, W: Tensor, b: Tensor, call: Mapping[str, Any]
    ) -> tuple[LatentSite, TableOfCall]:
        """The latents of a call with observations, and its table, without a run of the block.

        For a block that reads loading and intercept alone.

        Args:
            W: the loading, without batch dimensions.
            b: the intercept, likewise.
            call: the arguments of the block by name, such as ``y``.
        """
        family = self._known_family
        entries = tuple(map(call.get, Observations._fields))
        latent_loc = call.get("latent_loc")
        table = self._table_of_call(
            entries,
            family,
            W,
            b,
            None,
            call.get("num_rows"),
            call.get("rows"),
            None,
            latent_loc,
            None,
        )
        loc = self._checked_loc(latent_loc, table.batch_rows, W)
        precision = self._buffers["latent_precision"]
        assert precision is not None
        assert table.observed is not None
        prior = LatentPrior(None, precision, None, loc)
        problem = self.latent_problem(table.observed, W, b, prior, family)
        site = LatentSite(self, problem, table.arguments, table.place)
        return site, table

    def _owner_of(self, z: Tensor) -> ExpFamPCA:
        """The block that has sampled the latents in a run that is traced, or this one."""
        for trace in traces_of_run():
            for site in trace.nodes.values():
                found = latent_site(site)
                if found is not None and site["value"] is z and isinstance(found.block, ExpFamPCA):
                    return found.block
        return self

    def _known_latents(self) -> Tensor:
        """The latents in a run in which a handler knows them."""
        anything = dist.Normal(torch.zeros(self.site_dim), 1.0, validate_args=False)
        site = LatentSite(self, None, (), None)
        return pyro.sample(self.site_name("z"), anything.to_event(1), infer=infer(site))

    def extra_repr(self) -> str:
        """The block's settings, for ``repr``."""
        covariates = f", num_covariates={self.num_covariates}" if self.num_covariates else ""
        if self.linear_map is not None:
            return f"{self.family}, linear_map={self.linear_map}{covariates}"
        sizes = f"num_features={self.num_features}, latent_dim={self.latent_dim}"
        return f"{self.family}, {sizes}{covariates}"

    def _covariate_coefficients(self, covariates: Any) -> Tensor | None:
        """The coefficients of covariates in a run, ``(..., d, p)``, or None without covariates."""
        if not self.num_covariates:
            return None
        names = labels_of(as_pandas(covariates)).columns
        config = partial(self._infer_config, covariate_names=names)
        with poutine.infer_config(config_fn=config):
            C = self.coefficients
        return before_rows(C, 2)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_complete:
            self._refuse_ignored(name, value)
            value = self._checked_assignment(name, value)
        super().__setattr__(name, value)

    def _refuse_ignored(self, name: str, value: Any) -> None:
        """An error for an attribute that the block would never read."""
        if name == "y":
            raise AttributeError(
                "y is a site of the block that cannot be replaced: the observations are the "
                "argument y of a call, and their law is the family"
            )
        if name == "z" and isinstance(value, PyroSample):
            return
        if name == "z":
            raise AttributeError(
                "z is a site of the block: assign a PyroSample with the prior of a row's latents, "
                f"got {type(value).__name__}"
            )
        is_own_forward = type(self).forward is ExpFamPCA.forward
        is_site = isinstance(value, (PyroSample, PyroParam))
        if is_own_forward and (is_site or name.endswith("_scale")) and name not in self._read():
            raise AttributeError(
                f"{name} is nothing that the block reads, which are {', '.join(self._read())}: a "
                "value there would be ignored"
            )


def _refuse_prior_of_shared(latent_loc: Any) -> None:
    if latent_loc is not None:
        raise ValueError(
            "latent_loc must be left out where z is given, got both: the block that samples the "
            "latents has their prior"
        )


def _natural_param(z: Tensor, linear_map: LinearMap, b: Tensor) -> Tensor:
    """The natural parameters ``W z + b``, ``(..., N, d)``."""
    W = linear_map.fields.get("W")
    if W is not None and z.dim() == W.dim() == 2 and b.dim() == 1:
        return torch.addmm(b, z, W.mT)
    return linear_map(z) + b.unsqueeze(-2)


def _of_entries(likelihood: Any, observed: Observations | None) -> Any:
    """The likelihood of the entries that are there, with their weights."""
    if observed is not None and observed.weights is not None:
        likelihood = WeightedDistribution(likelihood, observed.weights)
    if observed is not None and observed.mask is not None:
        likelihood = likelihood.mask(observed.mask)
    return likelihood
