"""The interface of an exponential family with a scalar natural parameter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.bregman import bregman_divergence


class Family(ABC):
    r"""A one-parameter exponential family :math:`p(y \mid r) = h(y) \exp(r\,T(y) - A(r))`.

    A family is a small immutable value. It has the sufficient statistic ``T``, the log-partition
    ``A`` with its derivatives, the base measure ``h``, the support and a sampler, and does not
    depend on latents, layers or Pyro. All functions act elementwise on tensors of any shape and
    keep the dtype and device of their argument.

    The derivatives of ``A`` are the cumulants of ``T(y)``: ``mean`` (the activation
    :math:`\sigma = A'` of the equilibrium layer), ``variance``, ``third_cumulant`` and
    ``fourth_cumulant``. Autograd through each of them gives the next, so that gradients of
    every order are as accurate as the closed forms.

    To write a family of your own, override the abstract functions in a subclass and set
    ``self_concordance``. A subclass that refines another family must override all functions that
    change, including ``log_prob`` and ``mean_and_variance``. The layer compares the functions on a
    grid of natural parameters when it first meets a family, and refuses a family whose functions do
    not fit together. ``loss``, ``score`` and ``fisher_weight`` follow from the others, and a
    subclass that overrides them is refused.

    Families of the same class are equal if their parameters are equal. Numbers are compared by
    value. Tensors are compared by identity, since two equal tensors may differ after training.

    Source: equation (1) and Table 1 of Tsuchida and Ong, *When are equilibrium networks
    scoring algorithms?*; Wainwright and Jordan (2008), section 3.
    """

    natural_domain: ClassVar[constraints.Constraint] = constraints.real
    """The set of natural parameters.

    A distribution may have any domain. The layer needs all real numbers, since ``W z + b`` takes
    any value.
    """

    self_concordance: ClassVar[float]
    """The smallest known ``M`` with :math:`|A'''| \\le M A''` on the natural domain.

    It is a finite number. The solver limits the length of its steps by it.
    """

    bounded_variance: ClassVar[bool] = True
    """Whether the variance has an upper bound on the natural domain."""

    weak_intercept_scale: ClassVar[float] = 10.0
    """The standard deviation of the weakly informative prior of an intercept, about zero.

    The default, 10, suits natural parameters that are a logarithm or a logit: means or odds from
    :math:`e^{-20}` to :math:`e^{20}` lie within two standard deviations. The prior hardly changes
    the intercept of a column with a few counts. It gives a column of zeros a finite intercept,
    which a flat prior does not. Gelman, Jakulin, Pittau and Su (2008), *A weakly informative
    default prior distribution for logistic and other regression models*, use the same scale for the
    default prior of the intercept.
    """

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), self._identity()))

    def _identity(self) -> tuple[tuple[str, object], ...]:
        return tuple(
            (name, id(value) if isinstance(value, Tensor) else value)
            for name, value in vars(self).items()
        )

    def to_learn(self, num_features: int) -> dict[str, Tensor]:
        """Starting values of the parameters to be learnt, by name.

        All are positive. By default every parameter is known, and none is to be learnt.

        Args:
            num_features: columns of the table.
        """
        del num_features
        return {}

    def check_known(self) -> None:
        """Raises a ValueError if a parameter is still to be learnt."""
        unknown = ", ".join(self.to_learn(1))
        if unknown:
            raise ValueError(
                f"{unknown} must be known where nothing is learnt, as in "
                f"{type(self).__name__}(1.0), got {self}: only a block, pyro_expfam.ExpFamPCA, and "
                "compare_latent_dims learn it"
            )

    @property
    @abstractmethod
    def support(self) -> constraints.Constraint:
        """The set of observations, as a constraint whose ``check`` acts elementwise."""

    @property
    def differs_by_row(self) -> bool:
        """Whether the family differs per row; then :meth:`rows` selects the families of rows."""
        return False

    def rows(self, index: slice | Tensor) -> Family:
        """The family of some rows of a table, along dimension -2; by default the same family."""
        del index
        return self

    def sufficient_statistic(self, y: Tensor) -> Tensor:
        """The sufficient statistic ``T(y)``, in the shape of ``y``; by default ``y`` itself."""
        return y

    def observation(self, statistic: Tensor) -> Tensor:
        """The inverse of :meth:`sufficient_statistic`."""
        return statistic

    @abstractmethod
    def log_base_measure(self, y: Tensor) -> Tensor:
        """The log base measure ``log h(y)``, in the shape of ``y``."""

    @abstractmethod
    def expected_log_base_measure(self, eta: Tensor) -> Tensor:
        """The expectation of ``log h(y)`` under natural parameter ``eta``."""

    @abstractmethod
    def log_partition(self, eta: Tensor) -> Tensor:
        """The log-partition ``A(eta)``."""

    @abstractmethod
    def mean(self, eta: Tensor) -> Tensor:
        """The mean ``A'(eta)`` of the sufficient statistic: the layer's activation."""

    @abstractmethod
    def variance(self, eta: Tensor) -> Tensor:
        """The variance ``A''(eta)`` of the sufficient statistic."""

    @abstractmethod
    def third_cumulant(self, eta: Tensor) -> Tensor:
        """The third cumulant ``A'''(eta)`` of the sufficient statistic."""

    @abstractmethod
    def fourth_cumulant(self, eta: Tensor) -> Tensor:
        """The fourth cumulant ``A''''(eta)`` of the sufficient statistic."""

    @abstractmethod
    def natural_param(self, mean: Tensor) -> Tensor:
        """The canonical link: the natural parameter with a given :meth:`mean`.

        At the boundary of the mean space it is infinite, with the sign of the boundary.
        """

    @abstractmethod
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``."""

    def mean_and_variance(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Both :meth:`mean` and :meth:`variance`, with shared computations done once."""
        return self.mean(eta), self.variance(eta)

    def mean_and_variance_in_place(self, eta: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`mean_and_variance`, but may overwrite ``eta`` and ``scratch``.

        Both have the same shape, and no gradient is taken. In a loop over large arrays, allocating
        new memory costs more than the computation.
        """
        del scratch
        return self.mean_and_variance(eta)

    def first_cumulants_in_place(
        self, eta: Tensor, scratch: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-partition, mean and variance, as in :meth:`mean_and_variance_in_place`."""
        log_partition = self.log_partition(eta)
        return log_partition, *self.mean_and_variance_in_place(eta, scratch)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log density of ``y`` under natural parameter ``eta`` (equation 1)."""
        return self.log_base_measure(y) - self.loss(eta, self.sufficient_statistic(y))

    def entropy(self, eta: Tensor) -> Tensor:
        r"""The entropy :math:`A(r) - r A'(r) - E[\log h]`."""
        return self.log_partition(eta) - eta * self.mean(eta) - self.expected_log_base_measure(eta)

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        r"""The divergence :math:`E_r[\log p(y \mid r) - \log p(y \mid r')]` to ``other``.

        It is the Bregman divergence of ``A`` from ``eta`` to ``other``.

        Source: Banerjee et al. (2005), section 4.
        """
        return bregman_divergence(self.log_partition, self.mean, self.variance, eta, other)

    def loss(self, eta: Tensor, statistic: Tensor) -> Tensor:
        """Minus the log density without its base measure, ``A(eta) - T(y) eta``.

        Do not override this function, :meth:`score` or :meth:`fisher_weight`.
        """
        return self.log_partition(eta) - statistic * eta

    def score(self, eta: Tensor, statistic: Tensor) -> Tensor:
        """Minus the derivative of :meth:`loss` in ``eta``."""
        return statistic - self.mean(eta)

    def fisher_weight(self, eta: Tensor) -> Tensor:
        """The Fisher information of one observation in ``eta``."""
        return self.variance(eta)
