"""Exponential families with a scalar natural parameter."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.bregman import bregman_divergence
from pyro_expfam.families.derivatives import derivative
from pyro_expfam.families.deviance import EDGE, of_infinite_predictors
from pyro_expfam.families.entries import CanonicalEntries, Entries
from pyro_expfam.families.inversion import invert_increasing
from pyro_expfam.links import Link


class ExponentialFamily(Family):
    r"""A one-parameter exponential family :math:`p(y \mid r) = h(y) \exp(r\,T(y) - A(r))`.

    The linear predictor is the natural parameter. A family has the sufficient statistic ``T``, the
    log-partition ``A`` with its derivatives, the base measure ``h``, the support and a sampler.

    The derivatives of ``A`` are the cumulants of ``T(y)``: ``mean`` (the activation
    :math:`\sigma = A'` of the equilibrium layer), ``variance``, ``third_cumulant`` and
    ``fourth_cumulant``. Autograd through each of them gives the next.

    To write a family of your own, override :meth:`log_partition`, and set ``self_concordance``.
    The cumulants then come from autograd; override them too where closed forms are quicker or more
    accurate. Override :attr:`support`, :meth:`log_base_measure` and :meth:`sample` for what
    needs densities and draws. A subclass that refines another family must override all functions
    that change, including ``log_prob`` and ``mean_and_variance``. The layer compares the functions
    on a grid of natural parameters when it first meets a family, and refuses a family whose
    functions do not fit together. The loss and its derivatives follow from the cumulants, and a
    subclass that overrides them is refused.

    Source: equation (1) and Table 1 of Tsuchida and Ong, *When are equilibrium networks
    scoring algorithms?*; Wainwright and Jordan (2008), section 3.
    """

    natural_domain: constraints.Constraint = constraints.real
    """The set of natural parameters.

    A distribution may have any domain. The layer needs all real numbers, since ``W z + b`` takes
    any value.
    """

    is_convex = True

    def sufficient_statistic(self, y: Tensor) -> Tensor:
        """The sufficient statistic ``T(y)``, in the shape of ``y``; by default ``y`` itself."""
        return y

    def observation(self, statistic: Tensor) -> Tensor:
        """The inverse of :meth:`sufficient_statistic`."""
        return statistic

    @property
    def support(self) -> constraints.Constraint:
        """The set of observations; by default all real numbers."""
        return constraints.real

    def log_base_measure(self, y: Tensor) -> Tensor:
        """The log base measure ``log h(y)``, in the shape of ``y``; by default 0.

        With the default, log densities and the evidence are known up to a term that depends on the
        observations alone.
        """
        return torch.zeros_like(y)

    def expected_log_base_measure(self, eta: Tensor) -> Tensor:
        """The expectation of ``log h(y)`` under natural parameter ``eta``, for entropies."""
        raise NotImplementedError(f"{self} has no expected_log_base_measure")

    @abstractmethod
    def log_partition(self, eta: Tensor) -> Tensor:
        """The log-partition ``A(eta)``."""

    def mean(self, eta: Tensor) -> Tensor:
        """The mean ``A'(eta)`` of the sufficient statistic: the layer's activation."""
        return derivative(self.log_partition, eta)

    def variance(self, eta: Tensor) -> Tensor:
        """The variance ``A''(eta)`` of the sufficient statistic."""
        return derivative(self.mean, eta)

    def third_cumulant(self, eta: Tensor) -> Tensor:
        """The third cumulant ``A'''(eta)`` of the sufficient statistic."""
        return derivative(self.variance, eta)

    def fourth_cumulant(self, eta: Tensor) -> Tensor:
        """The fourth cumulant ``A''''(eta)`` of the sufficient statistic."""
        return derivative(self.third_cumulant, eta)

    def natural_param(self, mean: Tensor) -> Tensor:
        """The canonical link: the natural parameter with a given :meth:`mean`.

        At the boundary of the mean space it is infinite, with the sign of the boundary. By default
        it is found by bisection.
        """
        return invert_increasing(self.mean, mean, self.natural_domain)

    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, without a gradient."""
        raise NotImplementedError(f"{self} cannot be sampled: it has no function sample")

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
        return self.log_base_measure(y) - self.loss(eta, y)

    @property
    def predictor_domain(self) -> constraints.Constraint:
        """The set of natural parameters."""
        return self.natural_domain

    def under_link(self, link: Link, eta: Tensor) -> Tensor:
        """The natural parameter at which the mean is ``link.mean(eta)``."""
        return self.natural_param(self.sufficient_statistic(link.mean(eta)))

    def entropy(self, eta: Tensor) -> Tensor:
        r"""The entropy :math:`A(r) - r A'(r) - E[\log h]`."""
        return self.log_partition(eta) - eta * self.mean(eta) - self.expected_log_base_measure(eta)

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        r"""The divergence :math:`E_r[\log p(y \mid r) - \log p(y \mid r')]` to ``other``.

        It is the Bregman divergence of ``A`` from ``eta`` to ``other``.

        Source: Banerjee et al. (2005), section 4.
        """
        return bregman_divergence(self.log_partition, self.mean, self.variance, eta, other)

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        r"""The convex conjugate :math:`\phi(\mu) = \sup_r \{\mu r - A(r)\}` of the log-partition.

        Its derivative is :meth:`natural_param`. It is infinite outside of the means, and a limit at
        their edge: 0 for a count of 0.

        Args:
            mean: means of the statistic, as :meth:`mean` returns them.

        Source: appendix A.6 of Tsuchida and Ong; Banerjee et al. (2005).

        Example:
            >>> import torch
            >>> from pyro_expfam import families
            >>> families.Poisson().convex_conjugate(torch.tensor([0.0, 1.0, 2.0]))
            tensor([ 0.0000, -1.0000, -0.6137])
        """
        eta = self.natural_param(mean)
        end = eta.nan_to_num(posinf=EDGE, neginf=-EDGE)
        beyond = (mean - self.mean(end)) * eta.sign() > 1e-6 * (1 + mean.abs())
        value = mean * end - self.log_partition(end)
        return torch.where(eta.isfinite() | ~beyond, value, torch.inf)

    def bregman_divergence(self, y: Tensor, mean: Tensor) -> Tensor:
        r"""The divergence :math:`D_\phi(T(y), \mu)` of a statistic from a mean, half a deviance.

        .. math:: D_\phi(t, \mu) = \phi(t) - \phi(\mu) - (t - \mu)\, \phi'(\mu), \qquad
                  -\log p(y) = D_\phi(T(y), \mu) - \log b_\phi(y).

        It is the divergence of the log-partition between the natural parameters, the other way
        round, and computed as this: nothing cancels where ``y`` is close to the mean. The term
        :math:`\log b_\phi` is :meth:`saturated_log_prob`.

        Args:
            y: observations.
            mean: means of the statistic, as :meth:`mean` returns them.

        Source: appendix A.6 of Tsuchida and Ong; Banerjee et al. (2005), theorem 4.

        Example:
            >>> import torch
            >>> from pyro_expfam import families
            >>> y, mean = torch.tensor([0.0, 3.0]), torch.tensor([2.0, 2.0])
            >>> families.Poisson().bregman_divergence(y, mean)
            tensor([2.0000, 0.2164])
        """
        return 0.5 * self.deviance(y, self.natural_param(mean.double())).to(mean.dtype)

    def deviance(self, y: Tensor, eta: Tensor) -> Tensor:
        """Twice the log density that an observation gains from its own best natural parameter.

        Source: McCullagh and Nelder (1989), section 2.3.
        """
        dtype = eta.dtype
        y, eta = torch.broadcast_tensors(y.double(), eta.double())
        best = self.predictor(y)
        inside = best.isfinite()
        finite = torch.where(eta.isfinite(), eta, 0.0)
        near = torch.where(inside, best, finite)
        above = bregman_divergence(self.log_partition, self.mean, self.variance, near, finite)
        at_edge = (self.saturated_log_prob(y) - self.log_prob(y, finite)).clamp(min=0)
        excess = torch.where(inside, above, at_edge)
        return (2 * of_infinite_predictors(excess, best, eta)).to(dtype)

    def saturated_log_prob(self, y: Tensor) -> Tensor:
        r"""The largest log density of ``y``, :math:`\log b_\phi(y) = \log h(y) + \phi(T(y))`.

        Source: appendix A.6 of Tsuchida and Ong; Banerjee et al. (2005), theorem 4.
        """
        precise = y.double()
        conjugate = self.convex_conjugate(self.sufficient_statistic(precise))
        return (self.log_base_measure(precise) + conjugate).to(y.dtype)

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the log density without its base measure, ``A(eta) - T(y) eta``."""
        return self.log_partition(eta) - self.sufficient_statistic(y) * eta

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the derivative of :meth:`loss` in ``eta``, which is the :meth:`residual`."""
        return self.residual(eta, y)

    def residual(self, eta: Tensor, y: Tensor) -> Tensor:
        """The statistic of an observation minus its mean, ``T(y) - A'(eta)``.

        Override it where the difference can be had without cancellation.
        """
        return self.sufficient_statistic(y) - self.mean(eta)

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        """The variance ``A''(eta)``, which is the observed and the Fisher information."""
        del y
        return self.variance(eta)

    def score_and_curvature(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both functions, with shared computations done once."""
        mean, variance = self.mean_and_variance(eta)
        return self.sufficient_statistic(y) - mean, variance

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The third cumulant."""
        del y
        return self.third_cumulant(eta)

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The fourth cumulant."""
        del y
        return self.fourth_cumulant(eta)

    def expected_y(self, eta: Tensor) -> Tensor:
        """The mean of an observation, which is affine in the mean of the statistic."""
        return self.observation(self.mean(eta))

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The variance of an observation, ``A''`` times the squared slope of ``y`` in ``T``."""
        variance = self.variance(eta)
        slope = self.observation(torch.ones_like(variance)) - self.observation(
            torch.zeros_like(variance)
        )
        return slope.square() * variance

    def predictor(self, y: Tensor) -> Tensor:
        """The natural parameter at which ``y`` is the mean of an observation."""
        return self.natural_param(self.sufficient_statistic(y))

    def entries(self, y: Tensor) -> Entries:
        """Observations as functions of their natural parameters, as solvers take them."""
        return CanonicalEntries(self, self.sufficient_statistic(y))
