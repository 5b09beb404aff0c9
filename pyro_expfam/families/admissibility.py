r"""Whether a function is the log-partition of an exponential family (Lemma 1 of the paper).

A function ``A`` is a log-partition if and only if :math:`e^{A(r)} = \int e^{r y} \, h(dy)` for some
measure ``h``. At a point :math:`r_0` of the domain, :math:`s \mapsto e^{A(r_0 + i s)}` is then the
Fourier transform of the measure :math:`e^{r_0 y} h(dy)`, and by Bochner's theorem it is positive
definite: every matrix of its values at differences of points has no negative eigenvalue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.lattice import Lattice, find_lattice

SIZES = (16, 64, 256)
"""The numbers of points, on grids that grow."""

STEPS = (0.02, 0.1, 0.3, 1.0)
"""Distances of neighbouring points, beside those that divide a turn."""

ROUNDING = 1e-9
"""Eigenvalues above minus this part of the largest are zero up to rounding."""

LogPartition = Callable[[Tensor], Tensor]
"""A log-partition that takes complex tensors, elementwise."""


class BaseMeasure(NamedTuple):
    """A measure by its values at points.

    Attributes:
        points: where it is looked at, ``(n,)``.
        values: its masses there, or its density, ``(n,)``.
        is_lattice: whether they are masses.
    """

    points: Tensor
    values: Tensor
    is_lattice: bool


@dataclass(frozen=True, eq=False)
class Admissibility:
    """The verdict of :func:`check_admissible`, with its evidence.

    Attributes:
        admissible: whether no matrix had a negative eigenvalue. That is evidence and no proof: a
            negative eigenvalue may need other points. A negative eigenvalue is a proof.
        smallest: the smallest eigenvalue, as a part of the largest of its matrix.
        points: the points whose matrix has this eigenvalue, on a line through ``at``, ``(n,)``.
        vector: its eigenvector, complex, ``(n,)``: the quadratic form that is negative.
        at: the real point :math:`r_0`.
        log_partition: the function.
    """

    admissible: bool
    smallest: float
    points: Tensor
    vector: Tensor
    at: float
    log_partition: LogPartition

    def __bool__(self) -> bool:
        return self.admissible

    def __str__(self) -> str:
        step = float(self.points[1] - self.points[0])
        where = f"{len(self.points)} points with step {step:.4g}, on the line {self.at:g} + i s"
        if self.admissible:
            return (
                f"admissible as far as seen: no negative eigenvalue on grids of up to {max(SIZES)} "
                f"points; the smallest is {self.smallest:.2g} of the largest"
            )
        negative = self.negative_mass
        masses = ""
        if negative is not None:
            masses = (
                f". It has the period 2 pi, so that its measure would live on whole numbers, with "
                f"the mass {negative[1]:.6g} at {negative[0]}, in units of the mass at 0"
            )
        return (
            f"not admissible: exp(A) is not positive definite. Its matrix at {where}, has an "
            f"eigenvalue of {self.smallest:.3g} times the largest{masses}"
        )

    @property
    def lattice(self) -> Lattice | None:
        """The evenly spaced numbers that hold the base measure; None if it is elsewhere."""
        return find_lattice(self.transform)

    @property
    def negative_mass(self) -> tuple[int, float] | None:
        r"""The first whole number of negative mass, and its mass; None for other functions.

        Only functions with the period :math:`2 \pi` have masses on whole numbers. The masses are
        :math:`h(k)` in :math:`e^{A(r)} = \sum_k h(k) \, e^{r k}`, in units of :math:`h(0)`.
        """
        turn = torch.tensor([2 * math.pi], dtype=torch.float64)
        if float((self.transform(turn) - 1).abs()) > 1e-9:
            return None
        masses = self.lattice_masses()
        place = int((masses < -1e-12).int().argmax())
        if float(masses[place]) >= 0 or float(masses[0]) <= 0:
            return None
        return place, float(masses[place] / masses[0]) * math.exp(-self.at * place)

    def base_measure(self, count: int = 64) -> BaseMeasure:
        r"""The normalised measure :math:`e^{r_0 y - A(r_0)} h(dy)`, by Fourier inversion.

        It is on a lattice or has a density.

        Args:
            count: points of a lattice, around the mean, or of a density within six standard
                deviations.

        Raises:
            ValueError: the measure is neither on a lattice nor has a transform that dies away.
        """
        small = torch.tensor([1e-3], dtype=torch.float64)
        value = self.transform(small)
        mean = float(value.angle() / small)
        deviation = math.sqrt(max(0.0, float(-2 * value.abs().log() / small**2)))
        lattice = self.lattice
        if lattice is not None:
            half = 0.5 * count * lattice.spacing
            points = lattice.points(mean - half, mean + half)
            return BaseMeasure(points, self._masses(points, lattice.spacing), True)
        reach = 12 / max(deviation, 1e-3)
        ends = torch.tensor([0.99 * reach, reach], dtype=torch.float64)
        if not bool((self.transform(ends).abs() < 1e-6).all()):
            raise ValueError(
                "log_partition must be of a law on a lattice or with a smooth density, got one "
                f"whose transform has the size {float(self.transform(ends).abs().max()):.2g} at "
                f"frequency {reach:.3g}"
            )
        y = mean + deviation * torch.linspace(-6, 6, count, dtype=torch.float64)
        return BaseMeasure(y, self.density(y, reach), False)

    def _masses(self, points: Tensor, spacing: float) -> Tensor:
        nodes = max(256, 4 * len(points))
        period = 2 * math.pi / spacing
        s = period * torch.arange(nodes, dtype=torch.float64) / nodes
        values = self.transform(s) * torch.exp(-1j * s * points[:, None])
        return values.real.mean(-1)

    def transform(self, points: Tensor) -> Tensor:
        """The normalised Fourier transform at real points, complex, in their shape."""
        return _transform(self.log_partition, self.at, points)

    def lattice_masses(self, count: int = 64) -> Tensor:
        r"""The normalised masses of :math:`e^{r_0 y} h(dy)` at 0, ..., ``count - 1``, ``(count,)``.

        They are the Fourier coefficients of the transform. They are the base measure where it lives
        on the whole numbers from 0, which is so where the transform has the period
        :math:`2 \pi`. The mass at ``k`` stands for all numbers that leave the remainder ``k``.
        """
        grid = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
        # The transform has e^{+isy}, so that the forward transform gives its coefficients.
        return torch.fft.fft(self.transform(grid)).real / count

    def density(self, y: Tensor, reach: float = 40.0, nodes: int = 1 << 13) -> Tensor:
        r"""The density of :math:`e^{r_0 y} h(y)` at ``y``, normalised, by Fourier inversion.

        Args:
            y: real points.
            reach: the largest frequency; the transform should have died away there.
            nodes: nodes of the trapezoidal rule.
        """
        s = torch.linspace(-reach, reach, nodes, dtype=torch.float64)
        values = self.transform(s) * torch.exp(-1j * s * y.double().unsqueeze(-1))
        return torch.trapezoid(values.real, s, dim=-1) / (2 * math.pi)


def check_admissible(
    log_partition: LogPartition,
    domain: constraints.Constraint = constraints.real,
    at: float | None = None,
) -> Admissibility:
    r"""Whether a function can be the log-partition of an exponential family.

    The eigenvalues of Toeplitz matrices of :math:`e^{A(r_0 + i (s_j - s_k))}` are computed on grids
    that grow. Grids of which the step divides :math:`2 \pi` are among them. They give the masses
    themselves where the base measure lives on whole numbers.

    Args:
        log_partition: the function, of complex tensors, elementwise.
        domain: its real arguments, an interval, such as ``constraints.less_than(0.0)``.
        at: a real point :math:`r_0` of the domain. By default it is 0, or half a unit from the end
            of the domain. One point is enough: the measures at two points differ by a factor
            :math:`e^{(r_1 - r_0) y}`.

    Returns:
        The :class:`Admissibility`, which is true if nothing speaks against the function; printed,
        it says what was found.

    Raises:
        TypeError: if ``log_partition`` is not a function that returns a tensor.
        ValueError: if the function is not finite at ``at``, or ``at`` is outside of the domain.

    Source: Lemma 1 of Tsuchida and Ong, *When are equilibrium networks scoring algorithms?*;
    Bochner's theorem.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import check_admissible
        >>> bool(check_admissible(lambda r: torch.log(torch.cosh(r))))
        True
        >>> print(check_admissible(lambda r: r**4))
        not admissible: exp(A) is not positive definite. Its matrix at ...
    """
    if not callable(log_partition):
        raise TypeError(
            f"log_partition must be a function of complex tensors, got {log_partition!r}"
        )
    at = _inside(domain) if at is None else at
    if not bool(domain.check(torch.tensor(at, dtype=torch.float64))):
        raise ValueError(f"at must be in the domain, {domain}, got {at:g}")
    start = torch.tensor(complex(at, 0.0), dtype=torch.complex128)
    value = log_partition(start)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"log_partition must return a tensor, got {type(value).__name__}: write it with "
            "functions of PyTorch"
        )
    if not bool(value.isfinite().all()):
        raise ValueError(
            f"log_partition must be finite at {at:g}, got {complex(value)}: pass a point of its "
            "domain as at"
        )
    worst: Admissibility | None = None
    for size in SIZES:
        turns = [2 * math.pi / size, 4 * math.pi / size]
        for step in (*turns, *STEPS):
            found = _of_grid(log_partition, at, size, step)
            if found is not None and (worst is None or found.smallest < worst.smallest):
                worst = found
        if worst is not None and not worst.admissible:
            return worst
    if worst is None:
        raise ValueError(
            f"log_partition must be finite on the line {at:g} + i s, got NaN or infinity on every "
            "grid: pass another point of its domain as at"
        )
    return worst


def _inside(domain: constraints.Constraint) -> float:
    """A point of an interval: 0, the middle, or half a unit from the only end."""
    low, high = (getattr(domain, f"{end}_bound", None) for end in ("lower", "upper"))
    if low is not None and high is not None:
        return 0.5 * (float(low) + float(high))
    if low is not None:
        return float(low) + 0.5
    return 0.0 if high is None else float(high) - 0.5


def _of_grid(
    log_partition: LogPartition, at: float, size: int, step: float
) -> Admissibility | None:
    """The smallest eigenvalue on a grid; None where the function is not finite."""
    points = step * torch.arange(size, dtype=torch.float64)
    transform = _transform(log_partition, at, torch.cat([-points.flip(0)[:-1], points]))
    if not bool(transform.isfinite().all()):
        return None
    index = torch.arange(size)
    matrix = transform[size - 1 + index[:, None] - index[None, :]]
    values, vectors = torch.linalg.eigh(matrix)
    # A matrix of a function that is not Hermitian is not positive definite either.
    gap = float((matrix - matrix.mH).abs().max())
    smallest = float(values[0]) / max(float(values[-1]), 1e-300)
    if gap > 1e-8:
        smallest = min(smallest, -gap)
    return Admissibility(smallest >= -ROUNDING, smallest, points, vectors[:, 0], at, log_partition)


def _transform(log_partition: LogPartition, at: float, points: Tensor) -> Tensor:
    at_points = torch.complex(torch.full_like(points, at), points)
    start = torch.tensor(complex(at, 0.0), dtype=torch.complex128)
    return torch.exp(log_partition(at_points) - log_partition(start))
