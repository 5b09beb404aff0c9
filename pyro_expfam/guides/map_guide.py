"""The MAP guide: latents at the root of the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pyro.distributions as dist
from pyro.infer.autoguide import AutoGuide

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.solver import Solver
from pyro_expfam.guides.block_guide import BlockGuide
from pyro_expfam.guides.point_guide import point_guide
from pyro_expfam.guides.point_mass import PointMass


class DEQMAPGuide(BlockGuide):
    """A guide whose block latents are the output of the equilibrium layer.

    The latents of a block are a point mass at the root of their score, given loading and
    intercept. With the default ``global_guide``, ``Trace_ELBO`` is then minus the objective of
    Theorem 1 of the paper, and training is joint MAP estimation.

    A guide owns its parameters. :class:`~pyro_expfam.guides.BlockGuide` says how, and describes
    saving and threads.

    Args:
        model: a Pyro model with at least one :class:`~pyro_expfam.ExpFamPCA` block.
        global_guide: makes the guide of all other latents from a model that has only those, such
            as :class:`~pyro.infer.autoguide.AutoNormal`; by default a point estimate.
        solver: as for :func:`~pyro_expfam.solve_latents`.
        warm_start: whether solving starts from the latents that the same rows had last. The rows
            are known for the whole table, and for a minibatch whose ``rows`` the block is told.
            A warm start keeps ``(N, l)`` numbers, and changes no result beyond the solver's
            tolerance.

        condition_on: ``"model"`` for latents at the mode given everything that the model observes
            of them: tables of other blocks that share them, labels, and any other site in the plate
            of their rows. ``"table"`` for latents given the tables alone, as an encoder of new rows
            wants them. What the model observes is looked at in its first call, and again when other
            arguments are None, True or False, or left out.

    Raises:
        ValueError: at the first call, if the model has no block, or a site couples the latents of
            different rows.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> from pyro.optim import Adam
        >>> y = torch.bernoulli(torch.full((20, 6), 0.5))
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), num_features=6, latent_dim=2)
        >>> guide = pef.DEQMAPGuide(model)
        >>> svi = SVI(model, guide, Adam({"lr": 1e-2}), Trace_ELBO())
        >>> losses = [svi.step(y) for _ in range(3)]
        >>> guide.loading.shape, guide.latents(y).shape
        (torch.Size([6, 2]), torch.Size([20, 2]))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        global_guide: Callable[[Callable[..., Any]], AutoGuide] = point_guide,
        solver: Solver | str | None = None,
        warm_start: bool = True,
        condition_on: Literal["model", "table"] = "model",
    ) -> None:
        super().__init__(model, global_guide, solver, warm_start, condition_on)

    _latents_are_root = True

    def latent_distribution(
        self, problem: LatentProblem, solution: Solution
    ) -> dist.TorchDistribution:
        """The point mass at the root."""
        return PointMass(solution.value)
