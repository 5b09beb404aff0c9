"""Training a guide on a whole table, without SVI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro_expfam.deq.inference_mode import outside_inference_mode
from pyro_expfam.deq.mixed_frames import in_order_of_names
from pyro_expfam.guides.coefficient_guide import trained_part
from pyro_expfam.guides.model_fit import fit_model
from pyro_expfam.guides.structured_guide import StructuredGuide
from pyro_expfam.guides.table_fit import (
    block_objective,
    coefficient_parameters,
    fit_parameters,
    has_safe_steps,
    is_read_in_parts,
    learns_by_column,
    rows_for_structure,
)
from pyro_expfam.guides.training_table import TrainingTable
from pyro_expfam.guides.unseen_answers import LearntAnswers
from pyro_expfam.joint import Fit, Sweep
from pyro_expfam.joint.account import check_limits
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.models import ExpFamPCA, check_alike

TABLE = ("y", "offset", "mask", "weights")
"""The names of the arguments of a block that describe a whole table."""


class FittedGuide(StructuredGuide):
    """The part of a guide that is trained by Fisher scoring."""

    def fit(
        self,
        *args: Any,
        max_sweeps: int = 2_000,
        tol: float = 1e-7,
        max_time: float | None = None,
        callback: Callable[[Sweep], object] | None = None,
        progress: bool | None = None,
        loss: LaplaceEvidence | None = None,
        num_starts: int | None = None,
        **kwargs: Any,
    ) -> Fit:
        """Trains on whole tables, with no step size to choose.

        The guide of a single block is trained by Fisher scoring, as described here. The guide of
        any other model is trained by a quasi-Newton method, which takes the arguments of the model,
        and trains all parameters of model and guide to the same two estimates. The objective never
        increases there either. So it is for a block with ``latent_loc``, a ``latent_scale`` or a
        prior of the latents of its own.

        A fit sets the parameters that SVI would train. There are two estimates. Without a loss it
        is the joint MAP estimate, the default of a :class:`DEQMAPGuide`. With
        ``loss=LaplaceEvidence()`` it is the maximum of the evidence of the table with the priors,
        the default of a :class:`LaplaceGuide`. The objective is the loss of SVI with a
        :class:`DEQMAPGuide` on the whole table: ``Trace_ELBO`` (Theorem 1 of the paper), or the
        given loss. It never increases. A new guide takes several starts, follows each for some
        sweeps, and goes on from the best one. A guide that has been trained, or has loaded a state,
        starts from its present parameters. If no step leads on from there, it starts again from the
        spectrum of the residuals.

        The joint estimate is the quicker one. It judges the scale of loading and latents by the
        prior alone, however many rows there are. Give the loading a scale: under a flat prior
        latents shrink and loadings grow without end. The evidence integrates the latents out, and
        learns this scale from the table. It takes three to fifteen times as long. A loading scale
        per latent is for the evidence alone.

        Parameters that the family leaves open, such as sizes, are learnt too, also from batches.
        The scale of Gaussian noise is learnt with loading and intercept unless it is known. With
        ``Gaussian()`` it is learnt. Everything after the fit takes it for known. The first fit of
        a guide ignores the start value of the scale. Under the joint estimate the scale is too
        small, by about the root of ``1 - l / d``, since latents are fitted to the noise too. Under
        the evidence it is not. The joint estimate refuses a scale per column, since latents would
        become copies of columns: take the evidence. Other hyperparameters keep their values, even
        as a :class:`~pyro.nn.PyroParam`: the precision of the latents and the scales of the
        priors. SVI trains them, and :meth:`LaplaceGuide.learn_loading_scale` learns the scale of
        the loading.

        A table beyond memory comes as a loader. Each batch holds arguments of the block: ``y``; a
        tuple or list ``(y, offset, mask, weights)`` or the first of these; or a mapping from these
        names. A sweep is one pass over the loader, and about ten more passes find the start. The
        estimate is the same as for the table in memory. The latents of all rows are kept from pass
        to pass, so the order of the rows has to stay. A fit refuses a loader that shuffles, or that
        changes a batch between passes. Beside the table, or one batch of it, a fit takes memory
        for latents, coefficients and one tile of rows.

        After a fit to a data frame the guide refuses a frame with other columns, or with the same
        columns in another order.

        Args:
            *args: the arguments of the model. Those of a block are ``y``, observations ``(N, d)``,
                dense, or sparse as a matrix of SciPy or a ``torch.sparse_csr`` tensor, of which
                some rows at a time are made dense; or a loader of batches of rows, always in the
                same order, such as a
                :class:`~torch.utils.data.DataLoader` that does not shuffle; ``offset``, the known
                part of the natural parameters, broadcastable to ``(N, d)``, under a Gaussian family
                in units of the noise, not of ``y``; ``mask``, False for a missing entry; and
                ``weights``, of the log densities of entries, where 2 counts as two observations.
            max_sweeps: the most evaluations of the whole table, at least 1.
            tol: the fit stops when a step promises less than this part of the objective, and the
                last step gained less; positive.
            max_time: seconds after which no further sweep begins, positive; None for no limit.
            callback: called with each :class:`~pyro_expfam.joint.Sweep`; a true result ends the
                fit.
            progress: whether to show a line with sweep, objective and seconds. By default it is
                shown in a terminal and in a notebook. It never guesses what is left.
            loss: a :class:`~pyro_expfam.LaplaceEvidence`, whose ``order`` alone matters here, or
                None for the joint MAP estimate.
            num_starts: how many starts a new guide of a single block takes: the spectrum of the
                residuals, the linear predictors of the entries, and random ones, which
                ``torch.manual_seed`` fixes. By default they are 16 for a table of up to 8,192
                entries, 4 for one of up to a million, and 2 beyond. ``fit.starts`` says where they
                led. ``callback`` sees the sweeps of the best one.
            **kwargs: the arguments of the model by name.

        Returns:
            The :class:`~pyro_expfam.joint.Fit`: objective by sweep, whether it converged, why it
            ended, and the latents ``(N, l)``, with the latents of several blocks side by side.
            Ctrl-C ends a fit as ``max_time`` does:
            the guide has the best coefficients so far, and ``reason`` says what has ended the fit.

        Raises:
            TypeError: if ``loss`` is something else, or model and guide differ in dtype or device.
            ValueError: if an argument does not fit, a limit is out of range, or the guide of all
                other latents is no point estimate.

        Warns:
            UserWarning: if the block has hyperparameters that SVI would train.
            UserWarning: if Ctrl-C has ended the fit.
            ConvergenceWarning: if the fit has not converged and neither ``max_time`` nor
                ``callback`` has ended it; if objective or coefficients are not finite.
            ConvergenceWarning: if the evidence to second order of discrete observations ends above
                0 for some rows, which no log probability is: the loading has run away. Also if a
                learnt scale of Gaussian noise runs to zero.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
            >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, latent_dim=2))
            >>> guide.fit(y).converged
            True

            With the latents integrated out, from there:

            >>> guide.fit(y, loss=pef.LaplaceEvidence()).converged
            True

            With an offset, from batches, here of ``(y, offset)``:

            >>> from torch.utils.data import DataLoader, TensorDataset
            >>> rows = TensorDataset(y, y.sum(1, keepdim=True).log1p())
            >>> guide.fit(DataLoader(rows, batch_size=32)).converged
            True
        """
        check_limits(max_sweeps, tol, max_time)
        settings: dict[str, Any] = {
            "callback": callback,
            "progress": progress,
            "max_sweeps": max_sweeps,
            "tol": tol,
            "max_time": max_time,
        }
        with outside_inference_mode():
            if _is_one_table(self.model, args, kwargs):
                table = table_arguments(*args, **kwargs)
                return self._fit(self.model, (loss, *table), num_starts=num_starts, **settings)
            return fit_model(self, loss, args, kwargs, **settings)

    def _fit(self, block: ExpFamPCA, loss_and_table: tuple[Any, ...], **settings: Any) -> Fit:
        self._claim()
        problem = block_objective(block, *loss_and_table)
        trained = self._trained_guide()
        is_new = trained.prototype_trace is None
        rows = rows_for_structure(problem)
        self._see(rows)
        trained._see(rows)
        loading, intercept = coefficient_parameters(block, trained_part(trained.global_guide))
        check_alike(loading, intercept, block.latent_precision)
        self._begin_training()
        fit = fit_parameters(
            block,
            problem,
            loading,
            intercept,
            from_here=not (is_new or trained._is_untrained()),
            solver=self.solver,
            **settings,
        )
        LearntAnswers(block).warn_of_unseen_in(problem.table)
        trained._trained_on = TrainingTable.of_fit(problem.table)
        # A fit that goes on from another one is at the optimum that this one has found.
        trained._starts = fit.starts or trained._starts
        (sites,) = trained._known_blocks().values()
        (y,) = in_order_of_names(block.family, loss_and_table[1])
        trained._columns.remember(sites.labels, y)
        return fit


def _is_one_table(model: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a block alone is fitted, in which loading and intercept are all that is learnt.

    Its loading is dense, and its latents have one known precision. Parameters of a family may be
    learnt too, one for the table or one per column. Where the objective is far from quadratic in
    them, a table in memory is left to the quasi-Newton method.
    """
    if not isinstance(model, ExpFamPCA) or type(model).forward is not ExpFamPCA.forward:
        return False
    is_known = model.has_isotropic_latents and model.linear_map is None
    if not is_known or kwargs.get("latent_loc") is not None:
        return False
    if learns_by_column(model) and has_safe_steps(model):
        return True
    y = args[0] if args else kwargs.get("y")
    return is_read_in_parts(y)


def table_arguments(
    y: Any, offset: Any = None, mask: Any = None, weights: Any = None, latent_loc: None = None
) -> tuple[Any, Any, Any, Any]:
    """The arguments of a block that describe a whole table."""
    del latent_loc
    return y, offset, mask, weights
