"""A fitted guide as a layer of a network."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.observations import check_observations, covariates_of
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.uncompiled import uncompiled
from pyro_expfam.guides.block_guide import BlockGuide
from pyro_expfam.guides.coefficient_guide import trained_part
from pyro_expfam.guides.table_fit import coefficient_parameters
from pyro_expfam.models import ExpFamPCA

Basis = Literal["latent", "orthogonal"]


class DEQEncoder(nn.Module):
    r"""The equilibrium layer of a fitted guide: observations in, latents out.

    It starts with the loading, intercept, precision and family of the guide, and has copies of
    loading and intercept as its own parameters ``weight`` and ``bias``, and of the coefficients of
    covariates, if the block has them, as ``coefficients``. Any loss trains them
    further through the implicit gradient, as a layer of :class:`torch.nn.Sequential` or of another
    Pyro model (fine-tuning, section 5 of the paper). :meth:`to_guide` puts them back into a guide.

    Args:
        guide: a guide of a single block that has been trained.
        basis: ``"latent"`` for the latents ``z``; ``"orthogonal"`` for ``R z`` with the loading
            ``W = Q R``: rows are as far apart as their linear predictors ``W z + b``.

    Raises:
        TypeError: if ``guide`` is not a guide of this package.
        ValueError: if the guide is not of a single block whose latents have one known precision,
            has not been trained, or ``basis`` is something else.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
        >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, latent_dim=2))
        >>> fit = guide.fit(y)
        >>> net = torch.nn.Sequential(pef.DEQEncoder(guide), torch.nn.Linear(2, 1))
        >>> net(y).shape, net[0].to_guide().loading.shape
        (torch.Size([100, 1]), torch.Size([6, 2]))
    """

    def __init__(self, guide: BlockGuide, basis: Basis = "latent") -> None:
        super().__init__()
        if not isinstance(guide, BlockGuide):
            raise TypeError(
                "guide must be a guide of this package, such as a fitted pyro_expfam.DEQMAPGuide, "
                f"got {type(guide).__name__}"
            )
        if basis not in ("latent", "orthogonal"):
            raise ValueError(f"basis must be 'latent' or 'orthogonal', got {basis!r}")
        block = guide.model
        if not isinstance(block, ExpFamPCA) or not block.has_one_precision:
            raise ValueError(
                "guide must be of a single block whose latents have one known precision, got one "
                f"of {type(block).__name__}"
            )
        if not guide.is_trained:
            raise ValueError("guide must be trained, got one with its first, random parameters")
        if block.linear_map is not None and basis != "latent":
            raise ValueError(f"basis must be 'latent' under a linear_map, got {basis!r}")
        self.basis = basis
        self.weight = nn.Parameter(guide.block()._estimate("loading").clone())
        self.bias = nn.Parameter(guide.intercept.detach().clone())
        self.coefficients: nn.Parameter | None
        coefficients = None
        if block.num_covariates:
            coefficients = nn.Parameter(guide.covariate_coefficients.detach().clone())
        self.register_parameter("coefficients", coefficients)
        self.precision: Tensor
        precision = guide.block().latent_precision.detach().clone()
        self.register_buffer("precision", precision)
        # In a tuple, so that this module does not list the parameters of the guide.
        self._guide = (copy.deepcopy(guide),)

    @property
    def family(self) -> Any:
        """The law of the observations."""
        block: Any = self._guide[0].model
        return block.family

    def forward(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> Tensor:
        """Latents ``(N, l)`` of rows, in the basis of the encoder.

        A row effect is the last of them.

        Args:
            y: observations, ``(N, d)``.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``.
            covariates: known numbers of each row, ``(N, p)``.
        """
        z = self.solution(y, offset, mask, weights, covariates).value
        if self.basis == "latent":
            return z
        block: Any = self._guide[0].model
        return z @ orthogonal_factor(block.map_of(self.weight).loading).mT

    @uncompiled
    def solution(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> Solution:
        """The latents with their convergence."""
        block: Any = self._guide[0].model
        observed = check_observations(
            self.family,
            y,
            block.num_features,
            self.weight,
            offset,
            mask,
            weights,
            covariates,
            missing=block.missing,
            num_covariates=block.num_covariates,
        )
        prior = block.latent_prior(self.precision, None, self.weight)
        part = covariates_of(observed, self.coefficients)
        problem = block.latent_problem(observed, self.weight, self.bias, prior, self.family, part)
        return solve(problem, self._guide[0].solver)

    @torch.no_grad()
    def to_guide(self) -> BlockGuide:
        """A guide with the loading and intercept of the encoder.

        It is a copy of the guide that the encoder was made from, with a model of its own,
        ``guide.model``. :func:`~pyro_expfam.to_arviz` and :func:`~pyro_expfam.check` take both.
        """
        guide: Any = copy.deepcopy(self._guide[0])
        trained = guide._trained_guide()
        part = trained_part(trained.global_guide)
        loading, intercept, *others = coefficient_parameters(guide.model, part)
        guide._begin_training()
        loading.copy_(self.weight)
        intercept.copy_(self.bias)
        if self.coefficients is not None:
            others[0].copy_(self.coefficients)
        return guide

    def extra_repr(self) -> str:
        """The encoder's settings, for ``repr``."""
        block: Any = self._guide[0].model
        num_features, latent_dim = block.num_features, block.latent_dim
        return f"{self.family}, {num_features=}, {latent_dim=}, basis={self.basis!r}"


def orthogonal_factor(W: Tensor) -> Tensor:
    r"""The factor ``R`` of :math:`W = Q R`, ``(l, l)``, with a positive diagonal.

    Distances between :math:`R z` are distances between the linear predictors :math:`W z`.
    """
    factor = torch.linalg.qr(W, mode="reduced")[1]
    sign = factor.diagonal(dim1=-2, dim2=-1).sign()
    return factor * torch.where(sign == 0, 1.0, sign).unsqueeze(-1)
