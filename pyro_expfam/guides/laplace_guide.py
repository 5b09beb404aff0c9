"""The Laplace guide: latents from a normal with the closed-form precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_expfam.deq.positive_definite import robust_cholesky
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.solver import Solver
from pyro_expfam.evidence import sample_evidence, second_order_mean, second_order_term
from pyro_expfam.guides.block_guide import BlockGuide, BlockRoot, point_guide
from pyro_expfam.guides.laplace_posterior import LaplacePosterior
from pyro_expfam.models import ExpFamPCA

KHAT_DRAWS = 1000
"""With fewer the Pareto shape is too uncertain to tell a heavy tail from a light one."""


class LaplaceGuide(BlockGuide):
    r"""A guide whose block latents are normal, :math:`N(z^*, H(z^*)^{-1})` (appendix D).

    The mean is the root of the score that the equilibrium layer finds, the precision
    :math:`H = \lambda I + W^\top \mathrm{diag}(A'') W` is in closed form, and both are
    differentiable, so that the guide also trains, under ``Trace_ELBO`` and
    ``TraceMeanField_ELBO``.

    Args:
        model: a Pyro model with at least one :class:`~pyro_expfam.ExpFamPCA` block.
        params: a guide of the same model, such as a trained :class:`DEQMAPGuide`, whose
            parameters this one shares; by default it has its own.
        global_guide: makes the guide of all other latents from a model that has only those, such
            as :class:`~pyro.infer.autoguide.AutoNormal`; by default a point estimate.
        solver: as for :func:`~pyro_expfam.solve_latents`.
        warm_start: as for :class:`DEQMAPGuide`.

    Raises:
        TypeError: if ``params`` is no guide of this package.
        ValueError: if ``params`` is a guide of another model; at the first call, if the model
            has no block.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.bernoulli(torch.full((20, 6), 0.5))
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), num_features=6, latent_dim=2)
        >>> guide = pef.LaplaceGuide(model)
        >>> latents = guide(y)["z"]
        >>> guide.posterior(y).covariance_matrix.shape
        torch.Size([20, 2, 2])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        params: BlockGuide | None = None,
        global_guide: Callable[[Callable[..., Any]], AutoGuide] = point_guide,
        solver: Solver | str | None = None,
        warm_start: bool = True,
    ) -> None:
        super().__init__(model, global_guide, solver, warm_start)
        if params is not None and not isinstance(params, BlockGuide):
            raise TypeError(
                "params must be a guide of the same model, such as a trained DEQMAPGuide, got "
                f"{type(params).__name__}"
            )
        if params is not None and params.model is not model:
            raise ValueError(
                f"params must be a guide of the same model, got one of {params.model!r}"
            )
        # In a tuple, so that the parameters keep the name that they were trained under.
        self._params = (params,)

    @property
    def params(self) -> BlockGuide | None:
        """The guide whose parameters this one shares, or None."""
        return self._params[0]

    def latent_distribution(self, problem: LatentProblem, solution: Solution) -> LaplacePosterior:
        """The normal around the root whose precision is the information there."""
        z = solution.value
        factor, _ = robust_cholesky(
            problem.information(z), lambda index: problem.double().information(z.double())[index]
        )
        return LaplacePosterior(z, factor)

    def posterior(
        self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None
    ) -> LaplacePosterior:
        """The normal over the latents of rows of the only block's table, trained on or new.

        Args:
            y: observations, ``(N, d)``.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``; an entry of weight 2 counts as two observations.
        """
        return self.block().posterior(y, offset, mask, weights)

    def row_stats(self, root: BlockRoot) -> dict[str, Tensor]:
        """Convergence of rows, and how near their posterior is to the normal.

        Beside what every guide reports: ``khat``, the Pareto shape of importance weights from
        1,000 draws, ``(N,)``; ``second_order_term``, what the next order adds to the Laplace
        evidence, ``(N,)``; and ``mean_shift``, from the root to the posterior mean, ``(N, l)``.
        """
        problem, z = root.problem, root.solution.value
        return {
            **super().row_stats(root),
            "khat": sample_evidence(problem, z, KHAT_DRAWS).khat,
            "second_order_term": second_order_term(problem, z),
            "mean_shift": second_order_mean(problem, z) - z,
        }

    def _trained_guide(self) -> BlockGuide:
        return self if self.params is None else self.params

    def sample_globals(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples all latents that are not a block's, by site name."""
        if self.params is None:
            return super().sample_globals(*args, **kwargs)
        self.params._see(*args, **kwargs)
        return self.params.sample_globals(*args, **kwargs)

    def global_medians(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The medians of all latents that are not a block's, by site name."""
        if self.params is None:
            return super().global_medians(*args, **kwargs)
        return self.params.global_medians(*args, **kwargs)

    def _known_blocks(self) -> dict[str, ExpFamPCA]:
        return self._blocks or ({} if self.params is None else self.params._known_blocks())
