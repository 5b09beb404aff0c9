"""The negative binomial family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributions import constraints

from pyro_expfam.families.bernoulli import Bernoulli
from pyro_expfam.families.binomial import log_mass_of_outcomes
from pyro_expfam.families.canonical_form import CanonicalForm
from pyro_expfam.families.log_mean import LogMeanFamily
from pyro_expfam.families.poisson import Poisson
from pyro_expfam.families.positive import as_like, known_or_learnt, log_minus_digamma
from pyro_expfam.families.saddle_point import log_binomial_coefficient
from pyro_expfam.links import Link
from pyro_expfam.links.logistic import softplus

FEW = 64
"""Differences of digamma functions of counts below this are looked up."""

_BERNOULLI, _POISSON = Bernoulli(), Poisson()


@dataclass(frozen=True, eq=False, repr=False)
class NegativeBinomial(LogMeanFamily):
    r"""Counts 0, 1, 2, ... with more variance than a Poisson, by their log mean.

    .. math:: E[y] = e^\eta, \quad \operatorname{Var}[y] = e^\eta + e^{2 \eta} / r, \quad
              \ell(\eta; y) = (y + r) \log(1 + e^{\eta - \log r}) - y \eta.

    It is the law of a Poisson count whose rate varies as a gamma variable of shape ``r``, the size.
    For a large size it is close to the Poisson family, and the size 1 gives the geometric law. In
    :math:`\eta` the loss is the loss of a binomial count ``y`` out of ``y + r`` with log odds
    :math:`\eta - \log r`, which is convex.

    Source: Lawless (1987), *Negative binomial and mixed Poisson regression*, equation 2.2, where
    the size is one over the index of dispersion.

    Args:
        size: the size ``r``, a positive number, or a tensor, an array, a series or a list of such
            numbers that broadcasts against observations, for instance ``(d,)`` for one per column.
            Gradients flow to a tensor. Without it a block learns one per column, and with
            ``"shared"`` one for all columns.
        link: how the mean follows from the linear predictor. The default is
            :class:`~pyro_expfam.links.Log`.

    Raises:
        TypeError: ``size`` does not hold real numbers.
        ValueError: ``size`` is not positive and finite.

    Example:
        >>> import torch
        >>> family = NegativeBinomial(size=2.0)
        >>> eta = torch.tensor([0.0, 1.0])
        >>> family.expected_y(eta), family.variance_of_y(eta)
        (tensor([1.0000, 2.7183]), tensor([1.5000, 6.4128]))
    """

    size: float | Tensor | str | None = None

    def __post_init__(self, link: Link | None) -> None:
        del link
        object.__setattr__(self, "size", known_or_learnt("size", self.size))

    @property
    def support(self) -> constraints.Constraint:
        """The non-negative integers."""
        return constraints.nonnegative_integer

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The mean, and its square over the size."""
        mean = torch.exp(eta)
        return mean + mean.square() / as_like(self.size, eta, "size")

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the log probability up to terms free of ``eta``, without cancellation."""
        log_size, odds = self._log_odds(eta)
        # For a mean above the size, log(1 + e^odds) - eta is a difference of large numbers.
        per_count = torch.where(odds > 0, softplus(-odds) - log_size, softplus(odds) - eta)
        return as_like(self.size, eta, "size") * softplus(odds) + y * per_count

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the derivative of :meth:`loss` in ``eta``."""
        _, odds = self._log_odds(eta)
        return y * torch.sigmoid(-odds) - as_like(self.size, eta, "size") * torch.sigmoid(odds)

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        """The second derivative of :meth:`loss`: the variance of a binomial of ``y + r`` trials."""
        _, odds = self._log_odds(eta)
        small = torch.exp(-odds.abs())
        return (y + as_like(self.size, eta, "size")) * small / (1 + small).square()

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The third derivative of :meth:`loss`."""
        _, odds = self._log_odds(eta)
        return -self.curvature(eta, y) * torch.tanh(0.5 * odds)

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The fourth derivative of :meth:`loss`."""
        _, odds = self._log_odds(eta)
        share = torch.sigmoid(odds) * torch.sigmoid(-odds)
        return (y + as_like(self.size, eta, "size")) * share * (1 - 6 * share)

    def loss_score_information(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All of :meth:`loss`, :meth:`score` and :meth:`information`, from one exponential."""
        size = as_like(self.size, eta, "size")
        log_size, odds = self._log_odds(eta)
        is_high, small = odds > 0, odds.abs().neg_().exp_()
        rest, inverse = torch.log1p(small), (1 + small).reciprocal_()
        loss = (odds.clamp(min=0) + rest).mul_(size)
        loss = loss + rest.sub_(odds.clamp_(max=0)).sub_(log_size).mul_(y)
        lower = small.mul_(inverse)
        success, failure = lower.where(~is_high, inverse), lower.where(is_high, inverse)
        of_successes, of_failures = y * failure, size * success
        information = success.mul_(of_successes).add_(failure.mul_(of_failures))
        return loss, of_successes.sub_(of_failures), information

    def parameter_scores(self, names: Sequence[str], eta: Tensor, y: Tensor) -> Tensor:
        """The derivative of :meth:`log_prob` in the size, in the dtype of ``eta``."""
        del names
        size = as_like(self.size, eta, "size")
        y, odds = torch.broadcast_tensors(y, eta - torch.log(size))
        small = odds.abs().neg_().exp_()
        share = (1 + small).reciprocal_()
        is_high, lower = odds > 0, small * share
        step = _digamma_steps(y, size)
        step -= odds.clamp(min=0).add_(small.log1p_())
        failure = lower.where(is_high, share)
        return step.add_(lower.where(~is_high, share)).sub_((y / size).mul_(failure))[None]

    def canonical_form(self, y: Tensor) -> CanonicalForm:
        """Bits of log odds ``eta - log(size)``, or of minus these, with weights ``y + size``.

        The share of a bit must not be close to 1 where weights are large, since it would lose the
        digits that count. So it is the share of the smaller ones, counts or sizes.
        """
        size = as_like(self.size, y, "size")
        total, log_size = y + size, torch.log(size)
        constant = -y * log_size
        if bool(size.max() < y.max()):
            return CanonicalForm(_BERNOULLI, size / total, log_size, total, -1.0, constant)
        return CanonicalForm(_BERNOULLI, y / total, -log_size, total, constant=constant)

    def log_base_measure(self, y: Tensor) -> Tensor:
        r"""The terms :math:`\log \Gamma(y + r) - \log \Gamma(r) - \log y! - y \log r`."""
        return _LogBaseMeasure.apply(*torch.broadcast_tensors(y, as_like(self.size, y, "size")))

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log probability, computed in double precision without cancellation."""
        return _LogProb.apply(*torch.broadcast_tensors(y, eta, as_like(self.size, eta, "size")))

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        r"""The convex conjugate :math:`\mu \log \frac{\mu}{\mu + r} - r \log \frac{\mu + r}{r}`.

        It belongs to the natural parameter :math:`\log \frac{\mu}{\mu + r}` of a known size.
        """
        size = as_like(self.size, mean, "size")
        value = torch.xlogy(mean, mean / (mean + size)) - size * torch.log1p(mean / size)
        return torch.where(mean < 0, torch.inf, value)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, broadcast with the size.

        They are Poisson counts with gamma rates.
        """
        size = as_like(self.size, eta.double(), "size")
        shape = (*sample_shape, *torch.broadcast_shapes(eta.shape, size.shape))
        # The gamma generator does not return less than the smallest number of its dtype.
        factor = torch._standard_gamma(size.expand(shape).contiguous()) / size
        return _POISSON.sample(eta.double() + torch.log(factor)).to(eta.dtype)

    def _log_odds(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """The log size, and the log odds of the binomial count that has the same loss."""
        log_size = torch.log(as_like(self.size, eta, "size"))
        return log_size, eta - log_size


class _LogProb(Function):
    """The log probability, by Loader's form of the binomial with ``y + size`` trials.

    Source: C. Loader (2000), *Fast and accurate computation of binomial probabilities*, section 4.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, eta: Tensor, size: Tensor) -> Tensor:
        if _can_look_up(y, size):
            return _log_prob_by_column(y.double(), eta.double(), size[0].double()).to(eta.dtype)
        return _log_prob_of_any(y.double(), eta.double(), size.double()).to(eta.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        y, eta, size = ctx.saved_tensors
        to_y, to_eta, to_size = ctx.needs_input_grad
        odds = eta - torch.log(size)
        success, failure = torch.sigmoid(odds), torch.sigmoid(-odds)
        return (
            gradient * (_slope_in_y(y, size) - softplus(-odds)) if to_y else None,
            gradient * (y * failure - size * success) if to_eta else None,
            gradient * (_digamma_step(y, size) - softplus(odds) + success - y / size * failure)
            if to_size
            else None,
        )


class _LogBaseMeasure(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, size: Tensor) -> Tensor:
        if _can_look_up(y, size):
            return _log_base_measure_by_column(y.double(), size[0].double()).to(y.dtype)
        return _log_base_measure_of_any(y.double(), size.double()).to(y.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        y, size = ctx.saved_tensors
        to_y, to_size = ctx.needs_input_grad
        return (
            gradient * (_slope_in_y(y, size) - torch.log(size)) if to_y else None,
            gradient * (_digamma_step(y, size) - y / size) if to_size else None,
        )


def _log_base_measure_of_any(y: Tensor, size: Tensor) -> Tensor:
    """The log base measure, by the binomial coefficient of ``y + size`` trials."""
    coefficient = log_binomial_coefficient(y + size, torch.minimum(y, size))
    return coefficient - torch.log1p(y / size) - y * torch.log(size)


def _log_prob_of_any(y: Tensor, eta: Tensor, size: Tensor) -> Tensor:
    """The log probability, by Loader's form."""
    log_mass = log_mass_of_outcomes(y, size, eta - torch.log(size))
    return log_mass - torch.log1p(y / size)


def _can_look_up(y: Tensor, size: Tensor) -> bool:
    """Whether a table of counts has one size per column, and Python may read its numbers."""
    is_traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    if torch._C._are_functorch_transforms_active() or is_traced:
        return False
    if y.dim() != 2 or len(y) < FEW or size.stride(0) != 0:
        return False
    return not torch.compiler.is_compiling() and bool((y == y.floor()).all())


def _looked_up(y: Tensor, size: Tensor) -> Tensor:
    r"""The log base measures of few counts in a table with sizes ``(d,)``.

    They are sums :math:`\sum_{k < y} \log \frac{1 + k / r}{k + 1}`. Other counts have any value.
    """
    below = torch.arange(FEW - 1, device=y.device, dtype=y.dtype)[:, None]
    terms = torch.log1p(below / size) - torch.log(below + 1)
    sums = torch.nn.functional.pad(terms.cumsum(0), (0, 0, 1, 0))
    return sums.gather(0, y.long().clamp_(0, FEW - 1))


def _beyond_few(y: Tensor) -> Tensor:
    """Which counts are not looked up."""
    return (y >= FEW) | (y < 0)


def _log_base_measure_by_column(y: Tensor, size: Tensor) -> Tensor:
    """The log base measures of a table with sizes ``(d,)``."""
    value, other = _looked_up(y, size), _beyond_few(y)
    if bool(other.any()):
        value[other] = _log_base_measure_of_any(y[other], size.expand(y.shape)[other])
    return value


def _log_prob_by_column(y: Tensor, eta: Tensor, size: Tensor) -> Tensor:
    """The log probabilities of a table with sizes ``(d,)``."""
    log_size, value = torch.log(size), _looked_up(y, size)
    odds = eta - log_size
    rest = odds.abs().neg_().exp_().log1p_()
    value -= odds.clamp(min=0).add_(rest).mul_(size)
    of_counts = rest.sub_(odds.clamp_(max=0)).sub_(log_size).mul_(y)
    # Of no count there is nothing, also at an infinite linear predictor.
    value -= of_counts.masked_fill_(y == 0, 0.0)
    other = _beyond_few(y)
    if bool(other.any()):
        value[other] = _log_prob_of_any(y[other], eta[other], size.expand(y.shape)[other])
    return value


def _digamma_steps(y: Tensor, size: Tensor) -> Tensor:
    r"""The same differences for counts ``(..., N, d)``, in new memory.

    For most counts they are sums :math:`\sum_{k < y} 1 / (r + k)`, which are looked up.
    """
    size = size[0] if size.dim() == 2 and len(size) == 1 else size
    if size.dim() > 1 or not bool((y == y.long()).all()):
        return _digamma_step(y, size).clone()
    below = torch.arange(FEW - 1, device=y.device, dtype=torch.float64)[:, None]
    terms = (size.double().expand(y.shape[-1]) + below).reciprocal()
    sums = torch.nn.functional.pad(terms.cumsum(0), (0, 0, 1, 0)).to(y.dtype)
    place = y.long().clamp_(max=FEW - 1).flatten(0, -2)
    steps = sums.gather(0, place).view(y.shape)
    many = y >= FEW
    if bool(many.any()):
        steps[many] = _digamma_step(y[many], size.expand(y.shape)[many])
    return steps


def _slope_in_y(y: Tensor, size: Tensor) -> Tensor:
    """The derivative of the log coefficient in ``y``."""
    return torch.digamma(y + size) - torch.digamma(y + 1)


def _digamma_step(y: Tensor, size: Tensor) -> Tensor:
    """The difference of the digamma function at ``y + size`` and at ``size``."""
    return torch.log1p(y / size) + log_minus_digamma(size) - log_minus_digamma(y + size)
