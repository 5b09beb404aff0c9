"""Reading what a guide has learnt of its blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_expfam.deq.linear_map import LinearMap
from pyro_expfam.deq.uncompiled import uncompiled
from pyro_expfam.evidence import ImportanceEvidence
from pyro_expfam.evidence.adaptive import Nodes
from pyro_expfam.guides.block_estimate import BlockEstimate
from pyro_expfam.guides.errors import SeveralBlocksError, UnseenError
from pyro_expfam.guides.model_run import ModelRun


class LearntBlocks(ModelRun):
    """The part of a guide that says what has been learnt.

    All but :meth:`block` is for a guide of a single block.
    """

    @property
    def loading(self) -> Tensor:
        """Point estimate of the loading of the only block, ``(d, l)``, without gradients.

        Raises:
            RuntimeError: if the guide has not seen data yet (also an ``AttributeError``, so that
                ``hasattr`` is False).
        """
        return self.block().loading

    @property
    def linear_map(self) -> LinearMap:
        """The linear map of latents to linear predictors of the only block.

        It is dense, or a convolution, by the point estimate of its numbers, without gradients.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 6, latent_dim=2))
            >>> y = torch.bernoulli(torch.full((20, 6), 0.5))
            >>> fit = guide.fit(y)
            >>> (guide.linear_map(guide.latents(y)) + guide.intercept).shape
            torch.Size([20, 6])
        """
        return self.block().linear_map

    @property
    def kernel(self) -> Tensor:
        """Point estimate of the kernel of the only block, which is a convolution."""
        return self.block().kernel

    @property
    def intercept(self) -> Tensor:
        """Point estimate of the intercept of the only block, ``(d,)``, as for :attr:`loading`."""
        return self.block().intercept

    @property
    def covariate_coefficients(self) -> Tensor:
        """Point estimate of the coefficients of covariates of the only block, ``(d, p)``.

        Raises:
            ValueError: if the block has no covariates.
        """
        return self.block().covariate_coefficients

    @uncompiled
    def latents(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> Tensor:
        """Latents ``(N, l)`` of rows of the only block's table, seen in training or new.

        Where gradients are enabled, the latents are differentiable in the parameters of guide and
        model, and in ``offset``, ``weights`` and ``y``, by the implicit function theorem. So a
        network that contains the guide trains its loading. Under :func:`torch.no_grad` the latents
        are plain numbers.

        Args:
            y: observations, ``(N, d)``.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``; an entry of weight 2 counts as two observations.
            covariates: known numbers of each row, ``(N, p)``.
        """
        return self.block().latents(y, offset, mask, weights, covariates)

    @uncompiled
    def log_evidence(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        order: int = 1,
        nodes: Nodes | None = None,
    ) -> Tensor:
        """The log evidence of rows of the only block's table, with their latents integrated out.

        It is :func:`~pyro_expfam.log_evidence` at the guide's point estimates of loading,
        intercept, precision of the latents and parameters of the family. It is differentiable in
        the same arguments and parameters as :meth:`latents`.

        Args:
            y: observations, ``(N, d)``, trained on or new.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``; an entry of weight 2 counts as two observations.
            covariates: known numbers of each row, ``(N, p)``.
            order: 1 for the Laplace approximation, 2 for the second order.
            nodes: as for :func:`~pyro_expfam.log_evidence`.

        Returns:
            The log evidence in nats, ``(N,)``.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
            >>> model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2, latent_precision=4.0)
            >>> guide = pef.DEQMAPGuide(model)
            >>> fit = guide.fit(y)
            >>> guide.log_evidence(y[:10], order=2).shape
            torch.Size([10])
        """
        return self.block().log_evidence(y, offset, mask, weights, covariates, order, nodes)

    def importance_evidence(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        num_draws: int = 1000,
    ) -> ImportanceEvidence:
        """The log evidence by importance sampling, with standard errors and Pareto shapes.

        It is :func:`~pyro_expfam.evidence.importance_evidence` at the guide's point estimates,
        without gradients.

        Args:
            y: as for :meth:`log_evidence`, as are the next four.
            offset: known part of the natural parameters.
            mask: False for a missing entry.
            weights: of the log densities of entries.
            covariates: of the rows.
            num_draws: draws of the latents per row, at least 50.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
            >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, 2))
            >>> fit = guide.fit(y)
            >>> guide.importance_evidence(y[:10]).khat.shape
            torch.Size([10])
        """
        return self.block().importance_evidence(y, offset, mask, weights, covariates, num_draws)

    def quadrature_evidence(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        num_nodes: int = 31,
    ) -> Tensor:
        """The log evidence by numerical integration, ``(N,)``, for up to 3 latents.

        It is :func:`~pyro_expfam.evidence.quadrature_evidence` at the guide's point estimates.

        Args:
            y: as for :meth:`log_evidence`, as are the next four.
            offset: known part of the natural parameters.
            mask: False for a missing entry.
            weights: of the log densities of entries.
            covariates: of the rows.
            num_nodes: nodes along each latent of the first rule; its step is then halved until the
                evidence is exact to 1e-6 nats.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.bernoulli(torch.full((100, 5), 0.8))
            >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 5, 1))
            >>> fit = guide.fit(y)
            >>> guide.quadrature_evidence(y[:10]).shape
            torch.Size([10])
        """
        return self.block().quadrature_evidence(y, offset, mask, weights, covariates, num_nodes)

    def importance_latents(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        num_samples: int = 100,
        num_draws: int = 1000,
    ) -> Tensor:
        """Latents ``(num_samples, N, l)`` from the posterior of rows, by importance resampling.

        It is :func:`~pyro_expfam.evidence.importance_latents` at the guide's point estimates,
        without gradients.

        Args:
            y: as for :meth:`log_evidence`, as are the next four.
            offset: known part of the natural parameters.
            mask: False for a missing entry.
            weights: of the log densities of entries.
            covariates: of the rows.
            num_samples: latents to return per row.
            num_draws: draws per row to choose among.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
            >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, 2))
            >>> fit = guide.fit(y)
            >>> guide.importance_latents(y[:10], num_samples=50).shape
            torch.Size([50, 10, 2])
        """
        return self.block().importance_latents(
            y, offset, mask, weights, covariates, num_samples, num_draws
        )

    def block(self, name: str | None = None) -> BlockEstimate:
        """What has been learnt of a block.

        Args:
            name: the name of the block in the model, such as ``"genes"``; may be left out if
                there is only one.

        Raises:
            RuntimeError: if the guide has not seen data yet.
            ValueError: if there is no such block, or ``name`` is left out and there are several.
        """
        blocks = self._known_blocks()
        if not blocks:
            raise UnseenError(
                "the guide has not seen data yet: fit it, take a training step, or call it once "
                "with the arguments of the model"
            )
        if name is None and len(blocks) == 1:
            (name,) = blocks
        if name not in blocks:
            wanted = f"one of the blocks {sorted(blocks)}, as in guide.block({min(blocks)!r})"
            error = SeveralBlocksError if name is None else ValueError
            raise error(f"name must be {wanted}, got {name!r}")
        return BlockEstimate(self, blocks[name])

    def __getattr__(self, name: str) -> Any:
        # Python comes here when a property has raised an AttributeError. The text of that error
        # says more than the text for a missing attribute.
        found = getattr(type(self), name, None)
        if isinstance(found, property) and found.fget is not None:
            return found.fget(self)
        return super().__getattr__(name)
