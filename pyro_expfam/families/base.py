"""What every law of an observation has, given its linear predictor."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import fields, is_dataclass, replace
from functools import cache
from inspect import Parameter, signature
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.canonical_form import CanonicalForm
from pyro_expfam.families.derivatives import derivative
from pyro_expfam.families.deviance import EDGE, best_predictor, excess_loss
from pyro_expfam.families.entries import Entries, GeneralEntries
from pyro_expfam.families.kinds import At, Kind
from pyro_expfam.links import Link


class Family(ABC):
    r"""The law of an observation ``y``, given its linear predictor :math:`\eta`.

    A family is a small immutable value. It has a loss :math:`\ell(\eta; y)`, which is minus the log
    density without the terms that are free of :math:`\eta`, and the derivatives of this loss. It
    does not depend on latents, layers or Pyro. All functions act elementwise on tensors that
    broadcast, and keep the dtype and device of their arguments.

    To write a law of your own, override :attr:`support`, :meth:`log_prob` and :meth:`sample`.
    Derivatives then come from autograd. Override :meth:`score`, :meth:`information` and the higher
    derivatives too where closed forms are quicker or more accurate. A canonical exponential family
    needs less: see :class:`~pyro_expfam.families.ExponentialFamily`.

    Families of the same class are equal if their parameters are equal. Numbers are compared by
    value. Tensors are compared by identity, since two equal tensors may differ after training.
    """

    self_concordance: ClassVar[float | None] = None
    r"""The smallest known ``M`` with :math:`|\ell'''| \le M \ell''` everywhere, or None.

    The solver limits the length of its steps by it. Without it, it searches along each step.
    """

    is_convex: ClassVar[bool] = False
    """Whether the loss is convex in the linear predictor for every observation.

    The latents of a row then have one root, and :meth:`information` is the second derivative of the
    loss. Where it is False, solvers find a stationary point.
    """

    bounded_variance: ClassVar[bool] = True
    """Whether the information has an upper bound over all linear predictors."""

    @property
    def placeholder(self) -> float | Tensor:
        """A possible observation of every column, which stands in place of missing entries.

        A number, or one number per column, ``(d,)``.
        """
        return 1.0

    @property
    def is_smooth(self) -> bool:
        """Whether the loss has derivatives of every order everywhere."""
        return True

    atoms: ClassVar[tuple[float, ...]] = ()
    """Single values of a continuous law that have a probability of their own, such as zero."""

    parameter_constraints: ClassVar[Mapping[str, constraints.Constraint]] = {}
    """The set of values of each parameter that is not any positive number, by name."""

    parameter_starts: ClassVar[Mapping[str, float]] = {}
    """Where training of each parameter begins that does not begin at 1, by name."""

    unit_parameters: ClassVar[frozenset[str]] = frozenset()
    """The positive parameters that are the unit of the linear predictor, by name: twice the
    parameter with half the linear predictor has the same mean."""

    parameters_in_units: ClassVar[frozenset[str]] = frozenset()
    """The parameters whose values depend on the units of a column, by name. Columns share no common
    value of them."""

    weak_loading_scale: ClassVar[float] = 1.0
    """The standard deviation of the weakly informative prior of the entries of a loading.

    The default, 1, suits linear predictors that are a logarithm or a logit: a latent then moves
    means or odds by factors of up to about 7. Linear predictors in the units of a column want a
    wide one.
    """

    weak_intercept_scale: ClassVar[float] = 10.0
    """The standard deviation of the weakly informative prior of an intercept, about zero.

    The default, 10, suits linear predictors that are a logarithm or a logit: means or odds from
    :math:`e^{-20}` to :math:`e^{20}` lie within two standard deviations. The prior hardly changes
    the intercept of a column with a few counts. It gives a column of zeros a finite intercept,
    which a flat prior does not. Gelman, Jakulin, Pittau and Su (2008), *A weakly informative
    default prior distribution for logistic and other regression models*, use the same scale for the
    default prior of the intercept.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """The family; an error for a ``link`` that its class does not take."""
        del args
        if "link" in kwargs and not _takes_link(cls):
            advice = "its levels take the softmax alone"
            if cls.predictors_per_column is Family.predictors_per_column:
                advice = (
                    "for a function R of the linear predictor as the natural parameter, write "
                    f"Linked({cls.__name__}(...), NaturalParameter(R))"
                )
            raise TypeError(f"{cls.__name__} takes no link, got {kwargs['link']!r}: {advice}")
        return super().__new__(cls)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), self._identity()))

    def __repr__(self) -> str:
        """The class with its parameters."""
        described = ", ".join(f"{name}={_described(x)}" for name, x in vars(self).items())
        return f"{type(self).__name__}({described})"

    def _identity(self) -> tuple[tuple[str, object], ...]:
        return tuple(
            (name, id(value) if isinstance(value, Tensor) else value)
            for name, value in vars(self).items()
        )

    @property
    def predictors_per_column(self) -> int:
        """The number of linear predictors of an observation, side by side; 1 but for categories."""
        return 1

    def levels_among(self, num_predictors: int) -> int:
        """How many adjacent linear predictors of a row the loss couples by a softmax, or 1.

        Args:
            num_predictors: the linear predictors of a row.
        """
        del num_predictors
        return self.predictors_per_column

    def possible_rows(self, num_columns: int) -> Tensor:
        """Possible observations of a whole row, ``(num_columns,)``, or of every row."""
        return torch.as_tensor(self.placeholder).expand(num_columns)

    def check_rows(
        self, y: Tensor, mask: Tensor | None, weights: Tensor | None, dtype: torch.dtype
    ) -> None:
        """Raises a ValueError unless the rows of a table are possible as a whole.

        Args:
            y: observations, each of which is in the support unless it is missing.
            mask: which entries are observed, or None for all.
            weights: weights of the entries, or None for 1.
            dtype: the format in which losses are computed.
        """
        del y, mask, weights, dtype

    @property
    def has_levels(self) -> bool:
        """Whether an entry of some column has several linear predictors, one per level."""
        return self.predictors_per_column > 1

    @property
    def is_coupled(self) -> bool:
        """Whether the loss of some observation couples several linear predictors."""
        return self.has_levels

    @property
    def num_columns(self) -> int | None:
        """The number of columns of a table, where the family knows it."""
        return None

    @property
    def column_names(self) -> tuple[Hashable, ...] | None:
        """The names of the columns of a table, where the family knows them."""
        return None

    def num_predictors(self, num_columns: int) -> int:
        """The number of linear predictors of a row of a table."""
        return num_columns * self.predictors_per_column

    def column_of_predictor(self, num_columns: int) -> Tensor:
        """The column of each linear predictor of a row, ``(predictors,)``."""
        return torch.arange(num_columns).repeat_interleave(self.predictors_per_column)

    def observation_of_predictor(self, num_columns: int) -> Tensor:
        """The observation that each linear predictor of a row belongs to, ``(predictors,)``.

        It is the column, unless an observation takes several columns.
        """
        return self.column_of_predictor(num_columns)

    @property
    def kind(self) -> str:
        """The name of this kind of column, such as ``"negative_binomial"`` or ``"ordinal_5"``."""
        name = _with_underscores(type(self).__name__)
        return name if self.num_levels is None else f"{name}_{self.num_levels}"

    def kinds(self, num_columns: int) -> tuple[Kind, ...]:
        """The laws of a table of so many columns, each with the places of its columns."""
        predictors = slice(0, self.num_predictors(num_columns))
        return (Kind(self, self.kind, slice(0, num_columns), predictors, num_columns),)

    @property
    def num_levels(self) -> int | None:
        """The number of answers that may have names in a data frame, or None."""
        return None

    @property
    def has_order(self) -> bool:
        """Whether the order of answers counts, so that categories of a frame must be ordered."""
        return False

    def encode(self, y: Tensor) -> Tensor:
        """Observations in the shape of their linear predictors, as all functions here take them."""
        return y

    def decode(self, y: Tensor) -> Tensor:
        """The inverse of :meth:`encode`."""
        return y

    @property
    @abstractmethod
    def support(self) -> constraints.Constraint:
        """The set of observations, as a constraint whose ``check`` acts elementwise."""

    @property
    def predictor_domain(self) -> constraints.Constraint:
        """The set of linear predictors.

        A distribution may have any domain. The layer needs all real numbers, since ``W z + b``
        takes any value.
        """
        return constraints.real

    @abstractmethod
    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log density of ``y`` at linear predictor ``eta``."""

    @abstractmethod
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, without a gradient."""

    def with_totals_of(self, y: Tensor) -> Family:
        """The same law, with the totals of observed compositions ``y``, which draws need."""
        del y
        return self

    @abstractmethod
    def expected_y(self, eta: Tensor) -> Tensor:
        """The mean of an observation at linear predictor ``eta``."""

    @abstractmethod
    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The variance of an observation at linear predictor ``eta``."""

    @abstractmethod
    def predictor(self, y: Tensor) -> Tensor:
        """The linear predictor at which ``y`` is the mean of an observation.

        At the boundary of the mean space it is infinite, with the sign of the boundary. A fit
        starts from it.
        """

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the log density, up to terms that are free of ``eta``."""
        return -self.log_prob(y, eta)

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the derivative of :meth:`loss` in ``eta``."""
        return -derivative(lambda x: self.loss(x, y), eta)

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        """The second derivative of :meth:`loss` in ``eta``, the observed information."""
        return -derivative(lambda x: self.score(x, y), eta)

    def information(self, eta: Tensor, y: Tensor) -> Tensor:
        """The information of an observation in ``eta``, which is not negative; steps use it.

        It is the curvature where the loss is convex. Override it with the Fisher information, the
        expected curvature, where the loss is not convex.
        """
        return self.curvature(eta, y)

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The third derivative of :meth:`loss` in ``eta``."""
        return derivative(lambda x: self.curvature(x, y), eta)

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The fourth derivative of :meth:`loss` in ``eta``."""
        return derivative(lambda x: self.third_derivative(x, y), eta)

    def score_and_curvature(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both :meth:`score` and :meth:`curvature`, with shared computations done once."""
        return self.score(eta, y), self.curvature(eta, y)

    def loss_score_information(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All of :meth:`loss`, :meth:`score` and :meth:`information`, shared work done once."""
        return self.loss(eta, y), self.score(eta, y), self.information(eta, y)

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropy of an observation in nats.

        Raises:
            NotImplementedError: the family has no closed form.
        """
        raise NotImplementedError(f"{self} has no closed form of its entropy")

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """The divergence of the law at ``eta`` from the law at ``other``, in nats.

        Raises:
            NotImplementedError: the family has no closed form.
        """
        raise NotImplementedError(f"{self} has no closed form of its Kullback-Leibler divergence")

    def deviance(self, y: Tensor, eta: Tensor) -> Tensor:
        r"""The deviance of an observation, :math:`2\,(\ell(\eta; y) - \min_x \ell(x; y))`.

        It is twice the log density that the observation gains from its own best linear predictor
        (the saturated model), never negative, and computed in double precision. It is infinite
        where the density has no bound, as for a proportion of exactly 0 or 1.

        Source: McCullagh and Nelder (1989), section 2.3.

        Example:
            >>> import torch
            >>> from pyro_expfam import families
            >>> families.Poisson().deviance(torch.tensor([0.0, 3.0]), torch.zeros(2))
            tensor([2.0000, 2.5917])
        """
        y, eta = torch.broadcast_tensors(y, eta)
        return (2 * excess_loss(self, y.double(), eta.double())).to(eta.dtype)

    def deviance_residual(self, y: Tensor, eta: Tensor) -> Tensor:
        """The root of the deviance, with the sign of the observation minus its mean.

        Source: McCullagh and Nelder (1989), section 2.4.3.
        """
        return torch.sign(y - self.expected_y(eta)) * self.deviance(y, eta).sqrt()

    def saturated_log_prob(self, y: Tensor) -> Tensor:
        r"""The largest log density of ``y`` over all linear predictors.

        :meth:`log_prob` is this number minus half the :meth:`deviance`. It is
        :math:`\log b_\phi(y)` of appendix A.6 of the paper.
        """
        best = best_predictor(self, y.double()).nan_to_num(posinf=EDGE, neginf=-EDGE)
        return self.log_prob(y.double(), best).to(y.dtype)

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        r"""The convex conjugate :math:`\phi(\mu) = \sup_r \{\mu r - A(r)\}` of the log-partition.

        Its derivative is the natural parameter. It is infinite outside of the means.

        Raises:
            NotImplementedError: the law is no exponential family in its mean.

        Source: appendix A.6 of Tsuchida and Ong; Banerjee et al. (2005).
        """
        raise NotImplementedError(f"{self} is no exponential family, and has no convex_conjugate")

    def bregman_divergence(self, y: Tensor, mean: Tensor) -> Tensor:
        r"""The divergence :math:`D_\phi(y, \mu)` of an observation from a mean, half a deviance.

        .. math:: D_\phi(y, \mu) = \phi(y) - \phi(\mu) - (y - \mu)\, \phi'(\mu), \qquad
                  -\log p(y) = D_\phi(y, \mu) - \log b_\phi(y).

        The second term is :meth:`saturated_log_prob`.

        Raises:
            NotImplementedError: the law is no exponential family in its mean.

        Source: appendix A.6 of Tsuchida and Ong; Banerjee et al. (2005), theorem 4.
        """
        raise NotImplementedError(f"{self} is no exponential family, and has no bregman_divergence")

    @property
    def predictor_unit(self) -> Tensor:
        """What a linear predictor of 1 is in units of the table: a number, or ``(d,)``.

        It is 1 unless the linear predictor is a mean in other units.
        """
        return torch.ones(())

    @property
    def own_link(self) -> Link | None:
        """The link whose linear predictor is the one of this family, or None if none is named."""
        return None

    def under_link(self, link: Link, eta: Tensor) -> Tensor:
        """The linear predictor of this family at which its mean is ``link.mean(eta)``."""
        return self.predictor(link.mean(eta))

    def mean_for_link(self, y: Tensor) -> Tensor:
        """What a link takes for a mean of ``y``: the mean itself, or a probability of success."""
        return y

    def self_concordance_under(self, link: Link) -> float | None:
        """A known bound :attr:`self_concordance` under another link, or None."""
        del link
        return None

    def log_base_measure(self, y: Tensor) -> Tensor:
        """The terms of the log density that :meth:`loss` leaves out, in the shape of ``y``."""
        return torch.zeros_like(y)

    def entries(self, y: Tensor) -> Entries:
        """Observations as functions of their linear predictors, as solvers take them."""
        return GeneralEntries(self, y)

    def canonical_form(self, y: Tensor) -> CanonicalForm | None:
        """The loss as the loss of a canonical family of other numbers, or None.

        Compiled kernels for that family then compute with this law too.
        """
        del y
        return None

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters of the law that are tensors, by name; gradients flow to them."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of all parameters of the law, numbers and tensors."""
        return tuple(field.name for field in fields(self)) if is_dataclass(self) else ()

    def places_of_parameter(self, name: str, num_columns: int) -> At:
        """The columns that a parameter belongs to, as places of their linear predictors."""
        del name
        return slice(0, num_columns)

    def is_in_units(self, name: str) -> bool:
        """Whether a parameter is among the :attr:`parameters_in_units`."""
        return name in self.parameters_in_units

    def is_unit(self, name: str) -> bool:
        """Whether a parameter is among the :attr:`unit_parameters`."""
        return name in self.unit_parameters

    def replaced(self, parameters: dict[str, Tensor]) -> Family:
        """The same law with other values of some of its :attr:`parameter_names`."""
        own: Any = self
        family: Family = replace(own, **parameters)
        return family

    def with_parameters(self, parameters: dict[str, Tensor]) -> Self:
        """The same law with other tensors as parameters."""
        if not parameters:
            return self
        other = copy(self)
        for name, value in parameters.items():
            object.__setattr__(other, name, value)
        return other

    def parameter_scores(self, names: Sequence[str], eta: Tensor, y: Tensor) -> Tensor:
        """The derivatives of :meth:`log_prob` in parameters, per entry.

        They come from autograd in double precision. Override it where a closed form is quicker.

        Args:
            names: the names of the parameters, ``p`` of :attr:`parameters`.
            eta: linear predictors, ``(..., N, d)``.
            y: observations, ``(..., N, d)``.

        Returns:
            The derivatives, ``(p, ..., N, d)``.
        """
        y, eta = torch.broadcast_tensors(y.double(), eta.detach().double())
        with torch.enable_grad():
            at = {
                name: self.parameters[name].detach().double().expand(eta.shape).requires_grad_()
                for name in names
            }
            total = self.with_parameters({**self.parameters, **at}).log_prob(y, eta).sum()
            found = torch.autograd.grad(total, tuple(at.values()))
        return torch.stack(found)

    def constraint_of(self, name: str) -> constraints.Constraint:
        """The set of values of a parameter that a block learns."""
        return self.parameter_constraints.get(name, constraints.positive)

    def parameter_start(self, name: str) -> float:
        """Where training of a parameter begins, without a look at the table."""
        return self.parameter_starts.get(name, 1.0)

    def to_learn(self, num_features: int) -> dict[str, Tensor]:
        """Starting values of the parameters to be learnt, by name.

        These are the parameters that are None, one per column, and those that are ``"shared"``, one
        for all columns.

        Args:
            num_features: columns of the table.
        """
        starts = {}
        for name in self.parameter_names:
            value = getattr(self, name)
            if value is None or isinstance(value, str):
                start = torch.tensor(self.parameter_start(name))
                starts[name] = start.repeat(num_features) if value is None else start
        return starts

    def starts_from(self, y: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Starting values of parameters to be learnt that a table suggests, by name.

        They have the units of the table, one number per column, ``(d,)``. Parameters without units
        are left out, and start as :meth:`to_learn` says.

        Args:
            y: observations, ``(N, d)``.
            weights: weights of the entries, 0 for a missing one, ``(N, d)``.
        """
        del y, weights
        return {}

    def check_known(self) -> None:
        """Raises a ValueError if a parameter is still to be learnt."""
        unknown = ", ".join(self.to_learn(1))
        if unknown:
            raise ValueError(
                f"{unknown} must be known where nothing is learnt, as in "
                f"{type(self).__name__}({next(iter(self.to_learn(1)))}=...), got {self}: a block, "
                "pyro_expfam.ExpFamPCA, learns it"
            )

    @property
    def differs_by_row(self) -> bool:
        """Whether the family differs per row; then :meth:`rows` selects the families of rows."""
        return any(x.dim() > 1 and x.shape[-2] > 1 for x in self.parameters.values())

    def rows(self, index: slice | Tensor) -> Self:
        """The family of some rows of a table, along dimension -2."""
        return self.with_parameters(
            {
                name: x[..., index, :]
                for name, x in self.parameters.items()
                if x.dim() > 1 and x.shape[-2] > 1
            }
        )


FEW = 6
"""A tensor of at most so many entries is shown with its values."""


@cache
def _with_underscores(name: str) -> str:
    """The name of a class in small letters, with underscores between its words."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    if value.dim() != 1 or len(value) > FEW:
        return f"{value:.4g}" if value.dim() == 0 else f"Tensor{tuple(value.shape)}"
    return f"[{', '.join(f'{x:.4g}' for x in value.tolist())}]"


def _takes_link(kind: type[Family]) -> bool:
    parameters = signature(kind.__init__).parameters
    takes_any = any(x.kind is Parameter.VAR_KEYWORD for x in parameters.values())
    return takes_any or "link" in parameters
