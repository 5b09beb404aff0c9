"""The normal distribution of latents around the root, without a matrix."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_expfam.deq.conjugate_gradients import Information, solve_information
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence.lanczos import NUM_PROBES, SEED, LogDeterminant, log_determinant

NUM_DRAWS = 32
"""Draws behind the marginal variances."""


class Estimate(NamedTuple):
    """Numbers found from random draws.

    Attributes:
        value: the numbers.
        standard_error: their standard errors.
    """

    value: Tensor
    standard_error: Tensor


class MatrixFreePosterior(TorchDistribution):
    r"""The normal :math:`N(z^*, H^{-1})` around a root, by products with the information alone.

    A :class:`~pyro_expfam.LaplaceGuide` has it under a linear map with so many latents that no
    matrix is formed. The mean is the root. A draw solves one system by conjugate gradients, and is
    exact up to rounding. Densities and entropies contain the log determinant of the information,
    which is estimated by Lanczos quadrature, with the standard error :attr:`log_det_error`.
    Variances are estimated from draws, with the standard error :attr:`variance_error`.

    Args:
        problem: the problem of the latents.
        loc: its root, ``(..., N, l)``.
        validate_args: as in every Pyro distribution.

    Source: Papandreou and Yuille (2010), *Gaussian sampling by local perturbations*, for draws;
    Sidén et al. (2018), *Efficient covariance approximations for large sparse precision matrices*,
    for variances.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> up = pef.linear.ConvTranspose2d(8, 1, 4, stride=4, latent_shape=(8, 7, 7))
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), linear_map=up)
        >>> guide = pef.LaplaceGuide(model)
        >>> y = torch.bernoulli(torch.full((3, 784), 0.5))
        >>> values = guide(y)
        >>> guide.posterior(y)
        MatrixFreePosterior(batch (3,), event (392,): mean by Newton's method with conjugate
        gradients; draws by conjugate gradients; log determinant by Lanczos quadrature with 16
        random vectors, standard error at most ...; variances from 32 draws)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"loc": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    method = "conjugate gradients and Lanczos quadrature"
    """How draws and the log determinant are found."""

    def __init__(
        self, problem: LatentProblem, loc: Tensor, validate_args: bool | None = None
    ) -> None:
        self.problem, self.root, self.loc = problem, loc, loc
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MatrixFreePosterior:
        """The same distribution with a larger batch."""
        new = self._get_checked_instance(MatrixFreePosterior, _instance)
        batch_shape = torch.Size(batch_shape)
        new.problem, new.root = self.problem, self.root
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        super(MatrixFreePosterior, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @classmethod
    def infer_shapes(cls, **arg_shapes: Any) -> tuple[torch.Size, torch.Size]:
        """Batch and event shape from the shapes of the arguments."""
        loc = arg_shapes["loc"]
        return torch.Size(loc[:-1]), torch.Size(loc[-1:])

    @property
    def mean(self) -> Tensor:
        """The mean, ``(..., l)``."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The mode, which is the mean."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Estimates of the marginal variances, ``(..., l)``."""
        return self._variance.value.expand(self.loc.shape)

    @property
    def variance_error(self) -> Tensor:
        """Standard errors of the marginal variances, ``(..., l)``."""
        return self._variance.standard_error.expand(self.loc.shape)

    @property
    def log_det_error(self) -> Tensor:
        """Standard errors of the log determinants of the information, ``(...)``.

        Log densities, entropies and log evidences have half of them.
        """
        return self._log_determinant.standard_error.expand(self.batch_shape)

    @property
    def covariance_matrix(self) -> Tensor:
        """Not there: the covariance has no matrix here."""
        raise TypeError(
            "covariance_matrix wants a linear map with a matrix, got one with "
            f"{self.event_shape[0]:,} latents: take variance, or sample, or raise dense_latents of "
            "the linear_map"
        )

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        r"""Differentiable draws, ``sample_shape + (..., l)``.

        With :math:`H = P + W^\top V W` and normal noise, a draw is the solution of
        :math:`H x = P^{1/2} \varepsilon_1 + W^\top V^{1/2} \varepsilon_2`.
        """
        shape = self._extended_shape(sample_shape)
        return self.loc + self._solved(self._noise(shape[:-1]))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value`` ``(..., l)``."""
        if self._validate_args:
            self._validate_sample(value)
        x = value - self.loc
        form = (x * self._information.times(x)).sum(-1)
        constant = self.event_shape[0] * math.log(2 * math.pi)
        return 0.5 * (self._log_determinant.value - constant - form)

    def entropy(self) -> Tensor:
        """The entropy, ``(...)``."""
        constant = self.event_shape[0] * (1 + math.log(2 * math.pi))
        return (0.5 * (constant - self._log_determinant.value)).expand(self.batch_shape)

    @cached_property
    def _eta(self) -> Tensor:
        return self.problem.predictor(self.root)

    @cached_property
    def _information(self) -> Information:
        return Information(self.problem, self.problem.curvature(self._eta))

    @cached_property
    def _log_determinant(self) -> LogDeterminant:
        return log_determinant(self.problem, self.root)

    def _noise(self, batch_shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
        """Normal vectors whose covariance is the information, ``batch_shape + (l,)``."""
        like = self.root
        of_prior, of_table = (
            torch.randn(
                (*batch_shape, size), generator=generator, dtype=like.dtype, device=like.device
            )
            for size in (self.problem.latent_dim, self.problem.num_features)
        )
        roots = self._information.curvature.second.clamp(min=0).sqrt()
        return self.problem.prior.root_times(of_prior) + self.problem.map.transpose(
            roots * of_table
        )

    def _solved(self, right: Tensor) -> Tensor:
        return solve_information(self.problem, self._eta, right)

    @cached_property
    @torch.no_grad()
    def _variance(self) -> Estimate:
        # Each latent is normal given all others. Its variance is the variance then, which is known,
        # plus the variance of its mean then, which draws tell.
        diagonal = self._information.diagonal.expand(self.root.shape)
        squares = []
        generator = torch.Generator(self.root.device).manual_seed(SEED)
        for _ in range(NUM_DRAWS):
            right = self._noise(self.root.shape[:-1], generator)
            given_others = self._solved(right) - right / diagonal
            squares.append(given_others.square())
        found = torch.stack(squares).mean(0)
        # The square of a normal number with variance v has the standard deviation v times the root
        # of two.
        return Estimate(1 / diagonal + found, (2 / NUM_DRAWS) ** 0.5 * found)

    def __repr__(self) -> str:
        error = float(self.log_det_error.detach().max())
        return (
            f"MatrixFreePosterior(batch {tuple(self.batch_shape)}, event "
            f"{tuple(self.event_shape)}: mean by Newton's method with conjugate gradients; draws "
            f"by conjugate gradients; log determinant by Lanczos quadrature with {NUM_PROBES} "
            f"random vectors, standard error at most {error:.2g}; variances from {NUM_DRAWS} draws)"
        )
