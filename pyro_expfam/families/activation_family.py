"""The family whose mean is a given activation function, if there is one."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.admissibility import Admissibility, check_admissible
from pyro_expfam.families.antiderivative import PANEL, Activation, Antiderivative
from pyro_expfam.families.base_table import BaseTable
from pyro_expfam.families.bernoulli import Bernoulli
from pyro_expfam.families.binomial import Binomial
from pyro_expfam.families.continuous_bernoulli import ContinuousBernoulli
from pyro_expfam.families.derivatives import derivative, derivatives
from pyro_expfam.families.elementwise import check_elementwise
from pyro_expfam.families.exponential import ExponentialFamily
from pyro_expfam.families.gaussian import Gaussian
from pyro_expfam.families.inversion import invert_increasing
from pyro_expfam.families.ising import Ising
from pyro_expfam.families.lattice import Lattice, find_lattice
from pyro_expfam.families.poisson import Poisson

REFERENCE = 0.25
"""The real part at which the transform is looked at. Activations have their poles at others: those
of the hyperbolic tangent are at real part 0."""

OF_SOFTPLUS = -0.5
"""The same for softplus, whose formula has one branch where the real part is negative."""

GRID = 0.04
"""The distance of points of a density, in standard deviations of its narrowest law."""

WIDE = 30.0
"""Standard deviations above this many spacings are large: expansions are then exact to 1e-6."""

_CHUNK = 1 << 21
"""The most numbers of a transform that are computed at once."""


FARTHEST = 45.0
"""The largest natural parameter at which a base measure is found: an inversion looks up to 50."""


class NotAdmissibleError(ValueError):
    """No exponential family has this mean function.

    Attributes:
        found: the :class:`~pyro_expfam.families.Admissibility` with the witness, or None where the
            function itself shows that there is none.
    """

    def __init__(self, message: str, found: Admissibility | None = None) -> None:
        super().__init__(message)
        self.found = found


def from_activation(activation: Activation) -> ExponentialFamily:
    r"""The exponential family with ``T(y) = y`` whose mean is an activation function.

    The log-partition is the antiderivative of the activation. The hyperbolic tangent gives
    :class:`Ising`, the logistic sigmoid :class:`Bernoulli` and ``n`` times it :class:`Binomial`,
    the exponential :class:`Poisson`, the identity :class:`Gaussian` with scale 1. They are
    recognised by their values. Of any other activation this makes an :class:`ActivationFamily`, or
    an error with the reason why there is none.

    Args:
        activation: a function of tensors, elementwise. It must take complex tensors of double
            precision, too, unless it is one of those above.

    Raises:
        TypeError: ``activation`` does not return tensors of the dtype of its argument.
        NotAdmissibleError: (a ``ValueError``) no family has this mean; the message has the witness.
        ValueError: ``activation`` does not act elementwise, is not finite, or does not take complex
            numbers, so that nothing can be said.

    Source: Lemma 1 and Table 1 of Tsuchida and Ong.

    Example:
        >>> import torch
        >>> from pyro_expfam import families
        >>> families.from_activation(torch.tanh)
        Ising()
        >>> family = families.from_activation(lambda r: torch.exp(r) + torch.tanh(r))
        >>> family.support
        the numbers -1, 0, ...
        >>> family.log_prob(torch.tensor([-1.0, 0.0, 1.0]), torch.zeros(3)).exp()
        tensor([0.1839, 0.1839, 0.2759])
    """
    # Without 0, where formulas of activations are often 0 over 0.
    grid = torch.linspace(-8, 8, 160, dtype=torch.float64)
    check_elementwise("activation", activation, grid)
    with torch.no_grad():
        values = activation(grid)
    _check_finite(grid, values)
    known = _recognised(grid, values)
    if known is not None:
        return known
    _check_increasing(activation, grid)
    softplus = torch.nn.functional.softplus
    is_softplus = bool(torch.isclose(softplus(grid), values, rtol=1e-6, atol=1e-9).all())
    if not is_softplus:
        _check_analytic(activation)
    antiderivative = Antiderivative(_softplus if is_softplus else activation)
    at = OF_SOFTPLUS if is_softplus else REFERENCE
    found = check_admissible(antiderivative.on_line, at=at)
    if not found.admissible:
        raise NotAdmissibleError(
            f"activation must be the mean of an exponential family with T(y) = y, got one whose "
            f"antiderivative is no log-partition: {found}",
            found,
        )
    return ActivationFamily(antiderivative, found)


class ActivationFamily(ExponentialFamily):
    r"""An exponential family whose mean is a given activation.

    :func:`from_activation` makes it. The log-partition is the antiderivative, by quadrature to
    about 15 digits, and the derivative of it is the activation itself. The base measure is found by
    Fourier inversion,

    .. math:: h(y) = \frac{1}{2 \pi} \int e^{A(r + i s) - (r + i s) y} \, ds,

    at the real part ``r`` whose mean is ``y``, so that it has about 12 digits in the tails, too.
    On a lattice the integral is over one period. The values are kept at the points of the lattice,
    or of a grid from which a density is interpolated. A law that is neither on a lattice nor has a
    transform that dies away has no base measure here: :meth:`log_base_measure` and :meth:`sample`
    raise a ``NotImplementedError`` then.

    Attributes:
        admissibility: the verdict on the log-partition.
    """

    def __init__(self, antiderivative: Antiderivative, admissibility: Admissibility) -> None:
        self._antiderivative = antiderivative
        self.admissibility = admissibility
        self._low, self._high = _ends(antiderivative.activation)
        lattice = find_lattice(admissibility.transform)
        self._lattice: Lattice | None = None
        if lattice is not None:
            self._lattice = Lattice(
                lattice.spacing,
                lattice.origin,
                _on(lattice, self._low),
                _on(lattice, self._high),
            )
        spacing, origin = self._grid()
        self._scale = spacing if lattice is not None else spacing / GRID
        self._table = BaseTable(self._log_base, spacing, origin, lattice is not None)

    def _identity(self) -> tuple[tuple[str, object], ...]:
        return (("activation", self._antiderivative.activation),)

    def __repr__(self) -> str:
        """The name of the activation."""
        activation = self._antiderivative.activation
        return f"from_activation({getattr(activation, '__name__', repr(activation))})"

    @property
    def support(self) -> constraints.Constraint:
        """A :class:`Lattice`, or an interval between the limits of the activation.

        A density is known at the means of natural parameters between -45 and 45. Where the
        activation has no limit, the interval ends there.
        """
        if self._lattice is not None:
            return self._lattice
        low, high = self._low, self._high
        at_ends = self.mean(torch.tensor([-FARTHEST, FARTHEST], dtype=torch.float64)).tolist()
        low, high = (
            end if math.isfinite(end) else reached
            for end, reached in zip((low, high), at_ends, strict=True)
        )
        if math.isfinite(low) and math.isfinite(high):
            return constraints.interval(low, high)
        if math.isfinite(low):
            return constraints.greater_than_eq(low)
        return constraints.less_than(high) if math.isfinite(high) else constraints.real

    def log_partition(self, eta: Tensor) -> Tensor:
        """The antiderivative of the activation, 0 at 0."""
        return self._antiderivative(eta)

    def natural_param(self, mean: Tensor) -> Tensor:
        """The natural parameter of a mean, infinite at the limits of the activation."""
        found = super().natural_param(mean)
        found = torch.where(mean >= self._high, torch.inf, found)
        return torch.where(mean <= self._low, -torch.inf, found)

    def mean(self, eta: Tensor) -> Tensor:
        """The activation."""
        return self._antiderivative.activation(eta)

    @torch.no_grad()
    def log_base_measure(self, y: Tensor) -> Tensor:
        """The log base measure, by Fourier inversion, without a gradient in ``y``."""
        precise = y.detach().double().cpu()
        inside = self.support.check(precise)
        value = torch.full_like(precise, -torch.inf)
        value[inside] = self._table(precise[inside])
        return value.to(y)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, by the inverse distribution function.

        On a lattice they are exact. A density is taken as constant within a sixteenth of a standard
        deviation. Where the standard deviation is more than 30 spacings, draws are normal draws
        with the terms of Cornish and Fisher of the third and fourth cumulant.
        """
        shape = (*sample_shape, *eta.shape)
        flat = eta.detach().double().cpu().expand(shape).flatten()
        drawn = torch.empty_like(flat)
        wide = self._is_wide(flat)
        drawn[wide] = self._wide_draws(flat[wide])
        order = flat.argsort()
        order = order[~wide[order]]
        while len(order):
            # The base measure is found once for all parameters whose means are this close.
            mean, deviation = self._moments(flat[order])
            near = mean <= mean[0] + 12 * deviation[0] + 30 * self._spacing
            group, order = order[near], order[~near]
            points, width = self._points(mean[near], deviation[near])
            log_base = self.log_base_measure(points)
            for some in group.split(max(1, _CHUNK // len(points))):
                drawn[some] = _drawn(flat[some], points, log_base, width)
        return drawn.reshape(shape).to(eta)

    def _is_wide(self, eta: Tensor) -> Tensor:
        """Where the law is so wide that it is smooth.

        Its transform has died away beyond the lowest frequencies.
        """
        deviation = self.variance(eta).sqrt()
        wide = deviation > WIDE * self._scale
        if not bool(wide.any()):
            return wide
        low, high = eta[wide].aminmax()
        top = math.pi / self._spacing if self._spacing else 12.0
        count = math.ceil(top / PANEL)
        step = top / count
        size = self._antiderivative.above(torch.stack([low, high]), step, count).real
        beyond = step * torch.arange(count + 1) > 8 / deviation[wide].amin()
        return wide if bool((size[:, beyond] < math.log(1e-8)).all()) else torch.zeros_like(wide)

    def _wide_draws(self, eta: Tensor) -> Tensor:
        variance = self.variance(eta)
        skewness = self.third_cumulant(eta) / variance**1.5
        kurtosis = self.fourth_cumulant(eta) / variance.square()
        z = torch.randn_like(eta)
        bent = (
            z
            + skewness / 6 * (z.square() - 1)
            + kurtosis / 24 * (z**3 - 3 * z)
            - skewness.square() / 36 * (2 * z**3 - 5 * z)
        )
        y = self.mean(eta) + variance.sqrt() * bent
        if self._lattice is None:
            return y.clamp(self._low, self._high)
        place = ((y - self._lattice.origin) / self._spacing).round()
        return (self._lattice.origin + self._spacing * place).clamp(self._low, self._high)

    def _saddle_point(self, y: Tensor) -> Tensor:
        """The log base measure of a wide law, with the first term of its series.

        Source: Daniels (1954), *Saddlepoint approximations in statistics*, equation 2.6.
        """
        r = invert_increasing(self.mean, y).clamp(-50, 50)
        variance = self.variance(r)
        correction = (
            self.fourth_cumulant(r) / variance.square() / 8
            - 5 * self.third_cumulant(r).square() / variance**3 / 24
        )
        width = math.log(self._spacing) if self._lattice is not None else 0.0
        normal = -0.5 * (2 * math.pi * variance).log() + correction.log1p() + width
        return normal + self._antiderivative.value(r) - r * y

    @property
    def _spacing(self) -> float:
        return 0.0 if self._lattice is None else self._lattice.spacing

    def _moments(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(eta), self.variance(eta).sqrt()

    @torch.no_grad()
    def _grid(self) -> tuple[float, float]:
        """The distance of the points at which the base measure is kept, and one of them."""
        if self._lattice is not None:
            return self._lattice.spacing, self._lattice.origin
        eta = torch.linspace(-5, 5, 41, dtype=torch.float64)
        return GRID * float(self.variance(eta).amin().sqrt()), 0.0

    def _points(self, mean: Tensor, deviation: Tensor) -> tuple[Tensor, float]:
        """Points that hold the mass at all of some parameters, and the width of their cells."""
        reach = 12 * deviation + 30 * self._spacing
        low, high = float((mean - reach).min()), float((mean + reach).max())
        if self._lattice is not None:
            return self._lattice.points(low, high), 0.0
        low, high = max(low, self._low), min(high, self._high)
        width = float(deviation.min()) / 16
        return torch.arange(low, high, width, dtype=torch.float64) + 0.5 * width, width

    def _log_base(self, y: Tensor) -> Tensor:
        """The log base measure of points ``(n,)`` in double precision."""
        value = torch.full_like(y, -torch.inf)
        inside = self.support.check(y)
        y = y[inside]
        if len(y) == 0:
            return value
        r = self._centre(y)
        wide = self._is_wide(r)
        found = torch.empty_like(y)
        found[wide] = self._saddle_point(y[wide])
        found[~wide] = self._by_inversion(y[~wide], r[~wide])
        value[inside] = found
        return value

    def _by_inversion(self, y: Tensor, r: Tensor) -> Tensor:
        if len(y) == 0:
            return y
        deviation = self.variance(r).sqrt()
        if self._lattice is None:
            step, count = self._density_nodes(r, deviation)
        else:
            count = _power_of_two(16 * float(deviation.max()) / self._lattice.spacing + 64)
            step = 2 * math.pi / self._lattice.spacing / (2 * count)
        parts = []
        size = max(1, _CHUNK // (16 * (count + 1) * max(1, math.ceil(step / PANEL))))
        for some in torch.arange(len(y)).split(size):
            parts.append(self._inverted(y[some], r[some], step, count))
        return torch.cat(parts)

    def _inverted(self, y: Tensor, r: Tensor, step: float, count: int) -> Tensor:
        frequencies = step * torch.arange(count + 1, dtype=torch.float64)
        exponent = self._antiderivative.above(r, step, count) - 1j * frequencies * y[:, None]
        terms = torch.exp(exponent).real
        # The transform at minus s is the complex conjugate: twice the part above 0.
        terms[:, 1:-1] *= 2
        if self._lattice is None:
            total = terms.sum(-1) * step / (2 * math.pi)
        else:
            total = terms.sum(-1) / (2 * count)
        return total.clamp(min=0).log() + self._antiderivative.value(r) - r * y

    def _centre(self, y: Tensor) -> Tensor:
        """Natural parameters whose means are close to ``y``, off the poles above them."""
        slack = 0.3 * (self._spacing or 1.0)
        if math.isfinite(self._low) and math.isfinite(self._high):
            slack = min(slack, 0.3 * (self._high - self._low))
        r = invert_increasing(self.mean, y.clamp(self._low + slack, self._high - slack))
        r = r.clamp(-50, 50)
        heights = torch.linspace(0, 12, 600, dtype=torch.float64)
        sizes = []
        candidates = [r, r - 0.06, r + 0.06]
        for place in candidates:
            line = torch.complex(*torch.broadcast_tensors(place[:, None], heights))
            sizes.append(self.mean(line).abs().nan_to_num(posinf=1e300).amax(-1))
        # A pole close by shows as a size that the neighbours do not have.
        near_pole = sizes[0] > 2 * torch.minimum(sizes[1], sizes[2])
        better = torch.where(sizes[1] < sizes[2], candidates[1], candidates[2])
        return torch.where(near_pole, better, r)

    def _density_nodes(self, r: Tensor, deviation: Tensor) -> tuple[float, int]:
        """The step and number of frequencies after which the transform has died away."""
        step = 2 * math.pi / (40 * float(deviation.max()))
        ends = r[torch.stack([deviation.argmin(), deviation.argmax()])]
        count = 64
        while count <= 1 << 14:
            transform = self._antiderivative.above(ends, step, count)[:, -8:]
            if bool((transform.real < -32).all()):
                return step, count
            count *= 2
        raise NotImplementedError(
            f"{self} has no base measure here: it lives on no lattice, and its transform does not "
            "die away"
        )


def _drawn(eta: Tensor, points: Tensor, log_base: Tensor, width: float) -> Tensor:
    """Draws by the inverse distribution function; within a cell of a density they are uniform."""
    below = (eta[:, None] * points + log_base).softmax(-1).cumsum(-1)
    uniform = torch.rand(len(eta), 2, dtype=torch.float64)
    place = torch.searchsorted(below, uniform[:, :1] * below[:, -1:]).clamp(max=len(points) - 1)
    return points[place[:, 0]] + width * (uniform[:, 1] - 0.5)


def _check_finite(grid: Tensor, values: Tensor) -> None:
    if bool(values.isfinite().all()):
        return
    place = float(grid[~values.isfinite()][0])
    raise ValueError(
        f"activation must be finite, got {float(values[grid == place][0])} at {place:g}"
    )


def _recognised(grid: Tensor, values: Tensor) -> ExponentialFamily | None:
    """The family of the package with these means."""
    known: list[ExponentialFamily] = [
        Ising(),
        Bernoulli(),
        Poisson(),
        Gaussian(1.0),
        ContinuousBernoulli(),
    ]
    total = round(float(values[-1]))
    if total > 1:
        known.append(Binomial(total))
    for family in known:
        if bool(torch.isclose(family.mean(grid), values, rtol=1e-9, atol=1e-12).all()):
            return family
    return None


def _check_increasing(activation: Activation, grid: Tensor) -> None:
    slope = derivative(activation, grid).detach()
    if bool((slope > 0).all()):
        return
    place = grid[~(slope > 0)]
    nearest = float(place[place.abs().argmin()])
    least = float(slope[grid == nearest][0])
    raise NotAdmissibleError(
        "activation must be the mean of an exponential family, which increases everywhere: its "
        f"derivative is the variance of an observation. Got one with derivative {least:g} at "
        f"{nearest:g}"
        + (
            ", where the observation would be certain, and then it would be at every parameter"
            if least == 0
            else ""
        )
    )


def _check_analytic(activation: Activation) -> None:
    """Raises an error unless the activation is a differentiable function of complex numbers."""
    for order in (1, 2):
        place = _jump(activation, order)
        if place is not None:
            raise NotAdmissibleError(
                "activation must be analytic, as the mean of an exponential family is, got one "
                f"whose derivative of order {order} jumps at {place:.4g}"
            )
    advice = "write it with functions of PyTorch that take complex tensors, such as torch.exp"
    # Without the real part 0, where functions may have their branch cuts.
    real, height = torch.linspace(-3, 3, 8), torch.linspace(0.1, 2, 7)
    points = torch.complex(*torch.broadcast_tensors(real[:, None].double(), height.double()))
    step = 1e-5
    try:
        here = activation(points)
        along = (activation(points + step) - activation(points - step)) / (2 * step)
        up = (activation(points + 1j * step) - activation(points - 1j * step)) / (2j * step)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            "activation must take complex tensors, since a mean function is analytic, got "
            f"{type(error).__name__}: {error}; {advice}"
        ) from error
    gap = (along - up).abs() > 1e-4 * (1 + along.abs() + here.abs())
    if not here.is_complex() or bool(gap.any()):
        raise NotAdmissibleError(
            "activation must be analytic, as the mean of an exponential family is, got one whose "
            "derivative at complex numbers depends on the direction: a function with a kink, or "
            f"one that takes the size or the real part; otherwise {advice}"
        )


def _jump(activation: Activation, order: int) -> float | None:
    """Where a derivative has a jump, which does not shrink with the distance of points."""
    low, high = -8.0, 8.0
    sizes = []
    for _ in range(4):
        # An odd number of intervals, so that a jump at 0 is inside of one.
        points = torch.linspace(low, high, 402, dtype=torch.float64)
        steps = derivatives(activation, points, order)[order].detach().diff().abs()
        place = int(steps.nan_to_num(posinf=0.0).argmax())
        sizes.append(float(steps[place]))
        low, high = float(points[place]), float(points[place + 1])
    # A smooth derivative changes by a 400th part.
    return low if sizes[0] > 1e-6 and sizes[-1] > 0.3 * sizes[0] else None


def _softplus(z: Tensor) -> Tensor:
    """Softplus at complex numbers of negative real part, where its logarithm has one branch."""
    return torch.log1p(torch.exp(z)) if z.is_complex() else torch.nn.functional.softplus(z)


@torch.no_grad()
def _ends(activation: Activation) -> tuple[float, float]:
    """The limits of the activation, which are the ends of the support."""
    far = torch.tensor([-200.0, -180.0, 180.0, 200.0], dtype=torch.float64)
    values = activation(far).tolist()
    low = values[0] if abs(values[0] - values[1]) < 1e-9 else -math.inf
    high = values[3] if abs(values[3] - values[2]) < 1e-9 else math.inf
    return low, high


def _on(lattice: Lattice, end: float) -> float:
    """The number of a lattice that is next to an end."""
    if not math.isfinite(end):
        return end
    return lattice.origin + lattice.spacing * round((end - lattice.origin) / lattice.spacing)


def _power_of_two(x: float) -> int:
    count: int = 1 << max(7, math.ceil(math.log2(x)))
    return count
