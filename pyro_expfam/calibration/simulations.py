"""Tables from a model, fitted again, and the ranks of the truth among draws of the fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_expfam.calibration.ranks import Calibration
from pyro_expfam.deq.covariates import as_covariates
from pyro_expfam.deq.limits import check_size
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.guides import BlockGuide, LaplaceGuide
from pyro_expfam.joint.account import refuse_interrupted
from pyro_expfam.loadings.column_names import single_block
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.runtime.ownership import LOCK
from pyro_expfam.runtime.progress import progress_bar

Draw = dict[str, Tensor]

PREDICTORS = 6
"""Linear predictors that are ranked in each simulation."""


def simulation_based_calibration(
    model: ExpFamPCA,
    num_rows: int,
    make_guide: Callable[[ExpFamPCA], BlockGuide] | None = None,
    num_simulations: int = 100,
    num_draws: int = 99,
    seed: int = 0,
    progress: bool | None = None,
    covariates: Any = None,
) -> Calibration:
    r"""Whether the posterior of a block holds the truth as often as it says.

    Each simulation draws loading, intercept, latents and a table from the model, fits a new guide
    to the table, and ranks the truth among draws of the guide. Under the exact posterior the ranks
    are uniform. A table says nothing about rotations of the latents, so that ranks are of numbers
    that no rotation changes:

    - ``intercept``: every intercept, ``(S, d)``;
    - ``coefficients``: the coefficients of covariates, ``(S, d p)``;
    - ``row_effect``: the effect of the first row, where rows have effects;
    - ``length``: the squared length of the loading of every column, ``(S, d)``;
    - ``predictor``: the linear predictors of the first row in the first six columns;
    - ``log_likelihood``: the log likelihood of the table, which depends on all of them and on the
      table (Modrák et al.).

    Args:
        model: a block whose loading and intercept have priors. Give them scales that tables of this
            kind have: under the weak default of the intercept, tables have counts beyond all
            bounds.
        num_rows: rows of each table.
        make_guide: makes a guide from the model; by default ``LaplaceGuide(model,
            globals="laplace")``.
        num_simulations: the number of tables.
        num_draws: posterior draws of each.
        seed: of the random numbers.
        progress: whether to show progress; by default in a terminal.
        covariates: known numbers of the rows, ``(num_rows, p)``, the same in every table; for a
            block with covariates.

    Raises:
        TypeError: if ``model`` is no block.
        ValueError: if a coefficient of the block has no prior to be drawn from, its row effects are
            fixed or their scale is learnt, covariates do not fit, or a size is out of range.

    Source: Talts et al. (2018); Modrák et al. (2023), *Simulation-based calibration checking for
    Bayesian computation: the choice of test quantities shapes sensitivity*.

    Example:
        >>> import pyro_expfam as pef
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), 5, 1, intercept_scale=1.0)
        >>> found = pef.simulation_based_calibration(model, 40, num_simulations=3, num_draws=9)
        >>> {name: ranks.shape for name, ranks in found.ranks.items()}["intercept"]
        (3, 5)
    """
    if not isinstance(model, ExpFamPCA):
        raise TypeError(f"model must be a block, an ExpFamPCA, got {type(model).__name__}")
    for name in model.coefficient_sites:
        if name not in model._pyro_samples:
            raise ValueError(
                f"{name} of the block must have a prior to be drawn from, got a point parameter: "
                f"give the block {'coefficient' if name == 'coefficients' else name}_scale"
            )
    _refuse_unknown_effects(model)
    if model.learns_row_effect:
        raise ValueError(
            "row_effect_scale of the block must be a number, from whose law effects are drawn, got "
            "a PyroParam, which every fit would change"
        )
    make = _laplace if make_guide is None else make_guide
    num_rows = check_size("num_rows", num_rows)
    x = as_covariates(covariates, model.num_covariates, num_rows, model.latent_precision)
    return _ranked(
        lambda: _fitted(model, num_rows, x, make), num_simulations, num_draws, seed, progress
    )


def latent_calibration(
    guide: BlockGuide,
    num_rows: int,
    num_draws: int = 99,
    seed: int = 0,
    covariates: Any = None,
) -> Calibration:
    """Whether posteriors of latents hold the truth, at the parameters of a guide.

    Rows are drawn from the block under the guide's loading and intercept, and every latent is
    ranked among draws of the guide, ``z`` of shape ``(num_rows, l)``. Rows are the simulations. A
    random row effect is the last of the latents.

    Args:
        guide: a fitted guide of a single block.
        num_rows: rows to draw.
        num_draws: draws of the latents of each row.
        seed: of the random numbers.
        covariates: known numbers of the rows, ``(num_rows, p)``; for a block with covariates.

    Raises:
        TypeError: if ``guide`` is no guide of this package.
        ValueError: if its model is no single block or has fixed row effects, covariates do not fit,
            or a size is out of range.

    Source: Talts et al. (2018).

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 20, latent_dim=2))
        >>> _ = guide.fit(torch.poisson(torch.exp(torch.randn(200, 2) @ torch.randn(2, 20) / 2)))
        >>> found = pef.latent_calibration(guide, num_rows=500)
        >>> bool(0.8 < found.table["90%"].mean() < 1)
        True
    """
    block = single_block(guide)
    num_rows = check_size("num_rows", num_rows)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        estimate = guide.block()
        precision = estimate.latent_precision
        z = torch.randn(num_rows, block.site_dim).to(precision) / precision.sqrt()
        _refuse_unknown_effects(block)
        if block.row_effect is not None:
            z[:, -1] *= block.row_effect_scale * precision.sqrt()
        eta = block.map_of(guide.loading)(z) + guide.intercept
        x = as_covariates(covariates, block.num_covariates, num_rows, precision)
        if x is not None:
            eta = eta + x @ guide.covariate_coefficients.mT
        y = block.family.decode(block.family.sample(eta))
        posterior = estimate.posterior(y, covariates=covariates)
        draws = torch.stack([posterior.sample() for _ in range(num_draws)])
    return Calibration({"z": (draws < z).sum(0).numpy()}, num_draws)


def _refuse_unknown_effects(block: ExpFamPCA) -> None:
    """An error for row effects of which no law is known."""
    if block.row_effect == "fixed":
        raise ValueError(
            "model must have no fixed row effects, which have no law to be drawn from, got "
            "row_effect='fixed': take row_effect='random'"
        )


def _laplace(model: ExpFamPCA) -> LaplaceGuide:
    return LaplaceGuide(model, globals="laplace")


def _ranked(
    simulate: Callable[[], tuple[Draw, Callable[[], Draw]] | None],
    num_simulations: int,
    num_draws: int,
    seed: int,
    progress: bool | None,
) -> Calibration:
    num_simulations = check_size("num_simulations", num_simulations)
    num_draws = check_size("num_draws", num_draws)
    ranks: dict[str, list[np.ndarray]] = {}
    failed = 0
    with (
        torch.random.fork_rng(devices=[]),
        progress_bar(progress, total=num_simulations, unit="table") as bar,
    ):
        for number in range(num_simulations):
            pyro.set_rng_seed(seed + number)
            found = simulate()
            bar.update()
            if found is None:
                failed += 1
                continue
            truth, draw = found
            draws = [draw() for _ in range(num_draws)]
            for name, value in truth.items():
                drawn = torch.stack([x[name] for x in draws])
                below, equal = (drawn < value).sum(0), (drawn == value).sum(0)
                # Equal numbers, such as a point estimate's, are ranked at random.
                extra = (torch.rand(below.shape) * (equal + 1)).floor()
                ranks.setdefault(name, []).append((below + extra).long().numpy())
    if not ranks:
        raise ValueError(f"no fit of {num_simulations} simulations has converged")
    return Calibration({k: np.stack(x) for k, x in ranks.items()}, num_draws, failed)


def _fitted(
    model: ExpFamPCA,
    num_rows: int,
    x: Tensor | None,
    make_guide: Callable[[ExpFamPCA], BlockGuide],
) -> tuple[Draw, Callable[[], Draw]] | None:
    """The truth of a simulated table, and what draws from the posterior of its fit."""
    with LOCK, torch.no_grad():
        trace = poutine.trace(model).get_trace(num_rows=num_rows, covariates=x)
    sites: dict[str, Any] = dict(trace.nodes)
    names = (*model.coefficient_sites, "z")
    truth, y = (
        {name: sites[model.site_name(name)]["value"] for name in names},
        sites[model.site_name("y")]["value"],
    )
    guide = make_guide(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            fit = guide.fit(y, covariates=x, progress=False)
        except ValueError:
            return None
    refuse_interrupted(fit)
    if not fit.converged:
        return None

    @torch.no_grad()
    def draw() -> Draw:
        drawn = guide(y, covariates=x)
        return _quantities(model, y, x, {name: drawn[model.site_name(name)] for name in names})

    return _quantities(model, y, x, truth), draw


def _quantities(model: ExpFamPCA, y: Tensor, x: Tensor | None, drawn: Draw) -> Draw:
    """Numbers that no rotation of the latents changes."""
    family, W, b, z = model.family, drawn["loading"], drawn["intercept"], drawn["z"]
    eta = model.map_of(W)(z) + b
    found = {"intercept": b}
    if x is not None:
        eta = eta + x @ drawn["coefficients"].mT
        found["coefficients"] = drawn["coefficients"].flatten()
    if model.row_effect is not None:
        found["row_effect"] = z[0, -1]
    return found | {
        "length": W.square().sum(-1),
        "predictor": eta[0, :PREDICTORS],
        "log_likelihood": family.log_prob(family.encode(y), eta).sum(),
    }
