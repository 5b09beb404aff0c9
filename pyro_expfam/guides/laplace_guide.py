"""The Laplace guide: latents from a normal with the closed-form precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_expfam.deq.positive_definite import robust_cholesky
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.uncompiled import uncompiled
from pyro_expfam.evidence import sample_evidence, second_order_mean, second_order_term
from pyro_expfam.evidence.importance import KHAT_DRAWS
from pyro_expfam.guides.block_guide import BlockGuide
from pyro_expfam.guides.coefficient_guide import CoefficientGuide
from pyro_expfam.guides.coefficients_of_table import CoefficientsOfTable
from pyro_expfam.guides.group_posterior import marginal
from pyro_expfam.guides.laplace_posterior import LaplacePosterior
from pyro_expfam.guides.matrix_free_posterior import MatrixFreePosterior
from pyro_expfam.guides.model_run import BlockRoot
from pyro_expfam.guides.point_guide import point_guide
from pyro_expfam.guides.quantiles import guide_quantiles, normal_quantiles
from pyro_expfam.joint import Fit, Sweep
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.runtime.ownership import LOCK

EVIDENCE = LaplaceEvidence()
"""What a Laplace guide is fitted to by default."""


class LaplaceGuide(CoefficientsOfTable):
    r"""A guide whose block latents are normal, :math:`N(z^*, H(z^*)^{-1})` (appendix D).

    The mean is the root of the score, which the equilibrium layer finds. The precision
    :math:`H = \lambda I + W^\top \mathrm{diag}(A'') W` is in closed form. Both are differentiable,
    so the guide also trains under ``Trace_ELBO`` and ``TraceMeanField_ELBO``.

    With ``global_guide=CoefficientGuide`` loading and intercept are normal too, around the maximum
    of the evidence of a table with the latents integrated out. The guide draws loading and
    intercept first, then the latents given the draw. :class:`CoefficientGuide` is for a model that
    is a single block, and says what the posterior takes for known. ``globals="laplace"`` is short
    for it.

    The posterior of loading and intercept belongs to one table. A fit to a table in memory makes
    the posterior of this table, and so does :meth:`update_globals`. Without either, the first call
    makes the posterior of its own table, with a warning if loading and intercept were trained on
    other rows. Further calls keep the posterior, whatever their rows, until the parameters are
    trained again, by this guide or by ``params``. If nothing has trained the scale of
    ``Gaussian()`` yet, the guide is fitted to the table first. The posterior has no parameters for
    ``SVI`` to train, so ``SVI`` refuses it: train another guide, such as a :class:`DEQMAPGuide`,
    and pass it as ``params``.

    Args:
        model: a Pyro model with at least one :class:`~pyro_expfam.ExpFamPCA` block.
        params: a guide of the same model, such as a trained :class:`DEQMAPGuide`, whose
            parameters this one shares; by default it has its own.
        global_guide: makes the guide of all other latents from a model that has only those, such
            as :class:`CoefficientGuide` or :class:`~pyro.infer.autoguide.AutoNormal`; by default a
            point estimate. With ``params`` the parameters are those of ``params``, and of all
            choices only :class:`CoefficientGuide` makes a difference.
        solver: as for :func:`~pyro_expfam.solve_latents`.
        warm_start: as for :class:`DEQMAPGuide`.
        globals: ``"laplace"`` is short for ``global_guide=CoefficientGuide``, which then begins
            from the values of the given ``global_guide``.
        condition_on: as for :class:`DEQMAPGuide`.

    Raises:
        TypeError: if ``params`` is no guide of this package.
        ValueError: if ``params`` is a guide of another model, or ``globals`` is something else; if
            the model of a :class:`CoefficientGuide` is not a single block; at the first call, if
            the model has no block, or the block of a :class:`CoefficientGuide` has no Gaussian
            prior of loading or intercept.
        RuntimeError: where a loss is computed with gradients, as by a step of ``SVI``, with a
            :class:`CoefficientGuide`.

    Warns:
        UserWarning: at a call that makes the posterior of a :class:`CoefficientGuide`, if loading
            and intercept were trained on other rows.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.bernoulli(torch.full((20, 6), 0.5))
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), num_features=6, latent_dim=2)
        >>> guide = pef.LaplaceGuide(model)
        >>> latents = guide(y)["z"]
        >>> guide.posterior(y).covariance_matrix.shape
        torch.Size([20, 2, 2])

        With the uncertainty of the loading:

        >>> guide = pef.LaplaceGuide(model, global_guide=pef.CoefficientGuide)
        >>> guide(y)["loading"].shape, guide.coefficients.variance().shape
        (torch.Size([6, 2]), torch.Size([6, 3]))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        params: BlockGuide | None = None,
        global_guide: Callable[[Callable[..., Any]], AutoGuide] = point_guide,
        solver: Solver | str | None = None,
        warm_start: bool = True,
        globals: str | None = None,
        condition_on: Literal["model", "table"] = "model",
    ) -> None:
        if globals not in (None, "laplace"):
            raise ValueError(f"globals must be 'laplace' or left out, got {globals!r}")
        if globals == "laplace":
            global_guide = partial(CoefficientGuide, trained=global_guide)
        super().__init__(model, global_guide, solver, warm_start, params, condition_on)

    def latent_distribution(
        self, problem: LatentProblem, solution: Solution
    ) -> LaplacePosterior | MatrixFreePosterior:
        """The normal around the root whose precision is the information there."""
        z = solution.value
        if not problem.map.has_matrix:
            return MatrixFreePosterior(problem, z)
        factor, _ = robust_cholesky(
            problem.information(z), lambda index: problem.double().information(z.double())[index]
        )
        return LaplacePosterior(z, factor)

    @uncompiled
    def posterior(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> LaplacePosterior | MatrixFreePosterior:
        """The normal over the latents of rows of the only block's table, trained on or new.

        Mean and precision are differentiable in the same arguments and parameters as
        :meth:`latents`. With a :class:`CoefficientGuide` the backward pass refuses a gradient in
        parameters of the guide: the posterior of the coefficients has none.

        Args:
            y: observations, ``(N, d)``.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``; an entry of weight 2 counts as two observations.
            covariates: known numbers of each row, ``(N, p)``.
        """
        return self.block().posterior(y, offset, mask, weights, covariates)

    @torch.no_grad()
    def posteriors(
        self, *args: Any, **kwargs: Any
    ) -> dict[str, LaplacePosterior | MatrixFreePosterior]:
        """The normal over the latents of every block, given all that the model observes of them.

        All other latents are at their medians. Latents of blocks that depend on one another have
        a joint posterior, and each entry is a marginal of it.

        Args:
            *args: the arguments of the model; those that are left out, such as labels of new rows,
                say nothing of the latents.
            **kwargs: the arguments of the model by name.

        Returns:
            The normals by site name, such as ``genes.z``, without gradients.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.bernoulli(torch.full((20, 6), 0.5))
            >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 6, latent_dim=2))
            >>> guide.posteriors(y, latent_loc=torch.ones(20, 2))["z"].mean.shape
            torch.Size([20, 2])
        """
        return {
            root.sites.latents: marginal(
                self.latent_distribution(root.problem, root.solution), root.place
            )
            for root in self.roots(*args, **kwargs)
        }

    @torch.no_grad()
    def quantiles(self, quantiles: Sequence[float], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The quantiles of every number among the latents, by site name.

        Quantiles of the latents of a block are at the medians of all other latents. Quantiles of a
        point estimate are the point.

        Args:
            quantiles: probabilities between 0 and 1, ``(k,)``.
            *args: the arguments of the model.
            **kwargs: the arguments of the model by name.

        Returns:
            Tensors ``(k, ...)``.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.bernoulli(torch.full((20, 6), 0.5))
            >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 6, latent_dim=2))
            >>> low, high = guide.quantiles([0.05, 0.95], y)["z"]
            >>> bool((low < high).all())
            True
        """
        with LOCK, poutine.block():
            self._see(*args, **kwargs)
            others: dict[str, Tensor] = {}
            if self._trained_guide()._has_globals:
                others = guide_quantiles(self.global_guide, quantiles, args, kwargs)
            latents = {
                name: normal_quantiles(x.mean, x.variance.sqrt(), quantiles)
                for name, x in self.posteriors(*args, **kwargs).items()
            }
        return {**others, **latents}

    def row_stats(self, root: BlockRoot) -> dict[str, Tensor]:
        """Convergence of rows, and how near their posterior is to the normal.

        The guide adds to what every guide reports: ``khat``, the Pareto shape of importance weights
        from 1,000 draws, ``(N,)``; ``second_order_term``, which the second order adds to the
        Laplace evidence, ``(N,)``; and ``mean_shift``, from the root to the posterior mean,
        ``(N, l)``. The last two are left out if the family lacks third or fourth derivatives.
        Under a linear map without a matrix it is ``log_det_error`` alone, ``(N,)``, the standard
        error of the log determinant of the information.
        """
        problem, z = root.problem, root.solution.value
        if not problem.map.has_matrix:
            posterior = MatrixFreePosterior(problem, z)
            return {**super().row_stats(root), "log_det_error": posterior.log_det_error}
        stats = {
            **super().row_stats(root),
            "khat": sample_evidence(problem, z, KHAT_DRAWS).khat,
        }
        try:
            stats["second_order_term"] = second_order_term(problem, z)
            stats["mean_shift"] = (second_order_mean(problem, z) - z)[..., root.place]
        except NotImplementedError:
            return stats
        return stats

    def fit(
        self,
        *args: Any,
        max_sweeps: int = 2_000,
        tol: float = 1e-7,
        max_time: float | None = None,
        callback: Callable[[Sweep], object] | None = None,
        progress: bool | None = None,
        loss: LaplaceEvidence | None = EVIDENCE,
        **kwargs: Any,
    ) -> Fit:
        """Trains on whole tables, by default to where their evidence is greatest.

        This is :meth:`DEQMAPGuide.fit` with another default: latents are integrated out. With
        ``loss=None`` it finds the joint MAP estimate, as ``DEQMAPGuide(model).fit`` does. To have
        the posteriors of latents around the estimate of a fitted guide without another fit, take
        ``LaplaceGuide(model, params=fitted_guide)``.

        A guide with ``params`` trains the shared parameters from their present values. A
        :class:`DEQMAPGuide` that was fitted to the joint estimate then has the loading of the
        evidence too.

        With a :class:`CoefficientGuide` a fit also makes the posterior of loading and intercept for
        the table, around the maximum of the evidence, whatever the loss. After a fit to batches, or
        a fit that Ctrl-C has ended, call :meth:`update_globals` to make it.

        Args:
            *args: as for :meth:`DEQMAPGuide.fit`, as are all others but ``loss``.
            max_sweeps: the most evaluations of the whole table.
            tol: the least gain that a step has to promise, relative to the objective.
            max_time: seconds after which no further sweep begins.
            callback: called with each :class:`~pyro_expfam.joint.Sweep`.
            progress: whether to show a line with sweep, objective and seconds.
            loss: a :class:`~pyro_expfam.LaplaceEvidence`, whose ``order`` alone matters here, by
                default the first; or None for the joint MAP estimate.
            **kwargs: the arguments of the model by name.

        Returns:
            The :class:`~pyro_expfam.joint.Fit`.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
            >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, latent_dim=2))
            >>> guide.fit(y).converged
            True
            >>> guide.posterior(y).mean.shape
            torch.Size([100, 2])
        """
        return super().fit(
            *args,
            max_sweeps=max_sweeps,
            tol=tol,
            max_time=max_time,
            callback=callback,
            progress=progress,
            loss=loss,
            **kwargs,
        )
