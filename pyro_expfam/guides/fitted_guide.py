"""Training a guide on a whole table, without SVI."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.deq.inference_mode import outside_inference_mode
from pyro_expfam.deq.mixed_frames import in_order_of_names
from pyro_expfam.deq.processes import Processes, processes_of
from pyro_expfam.deq.sparse_rows import is_sparse
from pyro_expfam.guides.coefficient_guide import trained_part
from pyro_expfam.guides.column_labels import covariate_key
from pyro_expfam.guides.fit_checkpoint import FitCheckpoint
from pyro_expfam.guides.model_fit import fit_model
from pyro_expfam.guides.same_model import check_same_model
from pyro_expfam.guides.structure_rows import for_structure, rows_for_structure
from pyro_expfam.guides.structured_guide import StructuredGuide
from pyro_expfam.guides.table_fit import coefficient_parameters, fit_parameters
from pyro_expfam.guides.table_objective import (
    block_objective,
    has_safe_steps,
    is_read_in_parts,
    learns_by_column,
    takes_row_effect,
)
from pyro_expfam.guides.training_table import TrainingTable
from pyro_expfam.guides.unseen_answers import LearntAnswers
from pyro_expfam.joint import Fit, Sweep
from pyro_expfam.joint.account import check_limits
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.models import ExpFamPCA, check_alike
from pyro_expfam.runtime.interrupts import Interrupts
from pyro_expfam.runtime.own_errors import own_errors
from pyro_expfam.runtime.ownership import LOCK
from pyro_expfam.table_frames import as_pandas

TABLE = ("y", "offset", "mask", "weights", "covariates")
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
        processes: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: float = 60.0,
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
        learns this scale from the table. It takes about twice as long. A loading scale
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
        tuple or list ``(y, offset, mask, weights, covariates)`` or the first of these; or a mapping
        from these names. A sweep is one pass over the loader, and about ten more passes find the
        start. The estimate is the same as for the table in memory. The latents of all rows are
        kept from pass to pass, so the order of the rows has to stay. A fit refuses a loader that
        shuffles, or that changes a batch between passes. Beside the table, or one batch of it, a
        fit takes memory for latents, coefficients and one tile of rows.

        Covariates of which one is a linear combination of others, or of the intercept, are named in
        words: a full set of indicators is one. Under proper priors the fit warns, since the priors
        alone tell their coefficients apart; under flat ones it refuses.

        Several processes fit one table together with ``processes="all"``, in a script that
        ``torchrun`` starts. Each passes rows of its own, or none, and keeps their latents. All
        other numbers of the fit are sums over the processes, so that all of them end with the same
        parameters. One process with all rows would end with these parameters too, up to rounding.

        A fit with ``checkpoint`` keeps where it is in a file. After a crash the same call goes on
        from there, also with another number of processes.

        After a fit to a data frame the guide refuses a frame with other columns, or with the same
        columns in another order.

        Args:
            *args: the arguments of the model. Those of a block are ``y``, observations ``(N, d)``,
                dense, or sparse as a matrix of SciPy or a ``torch.sparse_csr`` tensor, of which
                some rows at a time are made dense; or a loader of batches of rows, always in the
                same order, such as a
                :class:`~torch.utils.data.DataLoader` that does not shuffle; ``offset``, the known
                part of the natural parameters, broadcastable to ``(N, d)``, under a Gaussian family
                in units of the noise, not of ``y``; ``mask``, False for a missing entry;
                ``weights``, of the log densities of entries, where 2 counts as two observations;
                and ``covariates``, known numbers of each row, ``(N, p)``.
            max_sweeps: the most evaluations of the whole table, at least 1.
            tol: the fit stops when a step promises less than this part of the objective, and the
                last step gained less; positive.
            max_time: seconds after which no further sweep begins, positive; None for no limit.
            callback: called with each :class:`~pyro_expfam.joint.Sweep`; a true result ends the
                fit.
            progress: whether to show a line with sweep, objective, decrement, rows a second and a
                guess of the seconds left. By default it is shown in a terminal and in a notebook.
            loss: a :class:`~pyro_expfam.LaplaceEvidence`, whose ``order`` alone matters here, or
                None for the joint MAP estimate.
            processes: the processes that fit together: None for this one alone, ``"all"`` for all
                processes of ``torch.distributed``, or one of its groups. All call ``fit`` with the
                same arguments but the rows. The clock, the callback and the progress are of the
                first process. Ctrl-C in one ends the fit in all after the sweep.
            checkpoint: a file of safetensors, which the fit replaces now and then and at its end.
                If the file is there, the fit goes on from it; sweeps and seconds count on. It must
                be of the same model and table.
            every: seconds between two checkpoints, positive.
            num_starts: how many starts a new guide of a single block takes: the spectrum of the
                residuals, the linear predictors of the entries, and random ones, which
                ``torch.manual_seed`` fixes. By default they are 32 for a table of up to 8,192
                entries, 16 up to 32,768, 4 up to a million, and 2 beyond. Starts of a table of
                many more rows are compared on a sample of them. A Gaussian table without weights
                and missing entries has one, since all its minima are the same but for rotation.
                A fit that learns parameters of the family has the spectral start alone if the table
                has more than 32,768 entries, or the fit is of the evidence.
                ``fit.starts`` says where they led. While they are compared, ``callback`` sees
                sweeps of number 0 with the objective ``inf``. Later it sees the sweeps of the best
                one.
            **kwargs: the arguments of the model by name.

        Returns:
            The :class:`~pyro_expfam.joint.Fit`: objective by sweep, whether it converged, why it
            ended, and the latents ``(N, l)``, with the latents of several blocks side by side.
            Ctrl-C ends a fit as ``max_time`` does:
            the guide has the best coefficients so far, and ``reason`` says what has ended the fit.
            Before the first sweep it raises ``KeyboardInterrupt``, and the guide stays as it was.

        Raises:
            TypeError: if ``loss`` is something else, or model and guide differ in dtype or device.
            ValueError: if an argument does not fit, a limit is out of range, covariates determine
                one another under a flat prior, or the guide of all other latents is no point
                estimate; if the checkpoint is damaged, or of another model or table. The file and
                the guide stay as they are.
            ~pyro_expfam.joint.ProcessesError: if another process has stopped, or does not do the
                same.

        Warns:
            UserWarning: if the block has hyperparameters that SVI would train.
            UserWarning: if Ctrl-C has ended the fit, or a checkpoint could not be written.
            ConvergenceWarning: if the fit has not converged and neither ``max_time`` nor
                ``callback`` has ended it; if objective or coefficients are not finite; if single
                precision rounds linear predictors of large observations too coarsely.
            ConvergenceWarning: if the loading has run away to where the evidence to second order
                does not hold: if the second order adds more than 1 nat per row and 0.1 nats per
                latent, or the log evidence of discrete rows is above 0, which no log probability
                is; or, under a loss that is not convex, if the posterior of a row is more than 10
                times as wide as the prior. Also if a learnt scale of Gaussian noise runs to zero.

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
        group = processes_of(processes, on_its_device(self.model))
        # Pyro has one stack of handlers for all threads: fits take turns.
        with (
            LOCK,
            own_errors(),
            outside_inference_mode(),
            _interrupts_of(group) as interrupts,
            group.together(),
        ):
            is_in_parts = group.count > 1 or checkpoint is not None
            if _is_one_table(self.model, args, kwargs, is_in_parts):
                if checkpoint is not None:
                    settings["checkpoint"] = FitCheckpoint(Path(checkpoint), every, group)
                table = table_arguments(*args, **kwargs)
                settings |= {"num_starts": num_starts, "interrupts": interrupts}
                return self._fit(self.model, (loss, *table), group, **settings)
            if is_in_parts:
                raise ValueError(_why_not_in_parts(self.model, kwargs, group, checkpoint))
            _refuse_parts(self.model, args, kwargs)
            with self._unseen_if_it_fails():
                return fit_model(self, loss, args, kwargs, **settings)

    def _fit(
        self,
        block: ExpFamPCA,
        loss_and_table: tuple[Any, ...],
        processes: Processes,
        **settings: Any,
    ) -> Fit:
        self._claim()
        trained = self._trained_guide()
        is_new = trained.prototype_trace is None
        from_here = not (is_new or trained._is_untrained())
        same = {
            "dtype": on_its_device(block).dtype,
            "loss": loss_and_table[0],
            "the guide": "a trained one" if from_here else "a new one",
            "checkpoint": "a file" if settings.get("checkpoint") else None,
            **{name: settings[name] for name in ("max_sweeps", "tol", "max_time", "num_starts")},
        }
        check_same_model(processes, block, same)
        problem = block_objective(block, *loss_and_table, processes=processes)
        rows = for_structure(block, rows_for_structure(problem))
        with self._unseen_if_it_fails():
            self._see(*rows)
            trained._see(*rows)
            parameters = coefficient_parameters(block, trained_part(trained.global_guide))
            check_alike(parameters[0], parameters[1], block.latent_precision)
            self._begin_training()
            fit = fit_parameters(
                block,
                problem,
                parameters,
                from_here=from_here,
                solver=self.solver,
                **settings,
            )
        LearntAnswers(block).warn_of_unseen_in(problem.table)
        trained._trained_on = TrainingTable.of_fit(problem.table)
        # A fit that goes on from another one is at the optimum that this one has found.
        trained._starts = fit.starts or trained._starts
        (sites,) = trained._known_blocks().values()
        y, covariates = problem.table.named_rows or (loss_and_table[1], loss_and_table[5])
        (y,) = in_order_of_names(block.family, y)
        trained._columns.remember(sites.labels, y)
        trained._columns.remember(covariate_key(sites.labels), as_pandas(covariates))
        names = trained._columns.of(sites.labels), trained._columns.categories_of(sites.labels)
        LearntAnswers(block, *names).warn_of_unseen_in(problem.table)
        return fit


def _is_one_table(model: Any, args: Any, kwargs: dict[str, Any], is_in_parts: bool) -> bool:
    """Whether a block alone is fitted, in which loading and intercept are all that is learnt.

    Its loading is dense, and its latents have one known precision. Parameters of a family may be
    learnt too, one for the table or one per column. Where the objective is far from quadratic in
    them, a table in memory is left to the quasi-Newton method.
    """
    if _other_than_one_table(model, kwargs) is not None:
        return False
    if learns_by_column(model) and (has_safe_steps(model) or is_in_parts):
        return True
    y = args[0] if args else kwargs.get("y")
    return is_read_in_parts(y)


def _other_than_one_table(model: Any, kwargs: dict[str, Any]) -> str | None:
    """What keeps a model from being fitted by columns, in words; None if nothing does."""
    if not isinstance(model, ExpFamPCA):
        return "a model that is more than one block"
    if not _is_plain_block(model):
        return f"a {type(model).__name__} with a forward of its own"
    if model.linear_map is not None:
        return f"a block with linear_map={model.linear_map}"
    if not model.has_one_precision:
        return "a block whose latents have a latent_scale, or a prior that is not normal"
    if kwargs.get("latent_loc") is not None:
        return "a block with latent_loc"
    if model.row_effect is not None and not takes_row_effect(model):
        return "a block with a row_effect beside a learnt scale, or whose own scale is bounded"
    return None


def _why_not_in_parts(
    model: Any, kwargs: dict[str, Any], processes: Processes, checkpoint: Any
) -> str:
    """Why a model has no fit of several processes or with a checkpoint, and what to do."""
    what = _other_than_one_table(model, kwargs) or "a block with learnt parameters by row or level"
    names, instead = [], []
    if processes.count > 1:
        names.append("processes")
        instead.append(
            "fit it to rows that are gathered in one process, or train it with SVI in several, "
            "under DistributedDataParallel"
        )
    if checkpoint is not None:
        names.append("checkpoint")
        instead.append(
            "fit it with max_time, save the state_dict of model and guide, and fit again: a fit "
            "goes on from what has been learnt"
        )
    return (
        f"{' and '.join(names)} must be None for {what}, since they are for one block with a dense "
        "loading, normal latents of one known precision and parameters by column. "
        f"{'. '.join(x[0].upper() + x[1:] for x in instead)}"
    )


def _refuse_parts(model: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """An error for a sparse table, or batches, of a block that wants a dense table in memory.

    What another model makes of its arguments is its own.
    """
    y = args[0] if args else kwargs.get("y")
    # A dictionary of columns is no loader, and is refused as such.
    if not _is_plain_block(model) or isinstance(y, Mapping) or not is_read_in_parts(y):
        return
    what = _other_than_one_table(model, kwargs)
    got, instead = f"batches, a {type(y).__name__}", "join the batches to one table"
    if is_sparse(y):
        got, instead = (
            f"a sparse {type(y).__name__}",
            "pass its dense form",
        )
    raise TypeError(
        f"y must be one dense table in memory for {what}, got {got}: {instead}, or take a block "
        "with a dense loading, normal latents of one known precision and parameters by column"
    )


def _is_plain_block(model: Any) -> bool:
    return isinstance(model, ExpFamPCA) and type(model).forward is ExpFamPCA.forward


def _interrupts_of(processes: Processes) -> Interrupts | nullcontext[Interrupts]:
    """Ctrl-C of several processes, which leave the fit together. A single one leaves at once."""
    return Interrupts() if processes.count > 1 else nullcontext(Interrupts())


def on_its_device(model: Any) -> Tensor:
    """A tensor on the device of a model."""
    is_module = isinstance(model, torch.nn.Module)
    tensors = chain(model.parameters(), model.buffers()) if is_module else iter(())
    return next(tensors, torch.empty(0)).detach()


def table_arguments(
    y: Any,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    latent_loc: None = None,
) -> tuple[Any, ...]:
    """The arguments of a block that describe a whole table."""
    del latent_loc
    return y, offset, mask, weights, covariates
