"""What the processes of a test do with a table that they hold together, after the fit."""

from __future__ import annotations

import warnings

import torch
from process_tasks import group_of, part_of, splits

import pyro_expfam as pef
from pyro_expfam.diagnostics import draws
from pyro_expfam.joint import ProcessesError
from pyro_expfam.selection import leaving_out

FEW = {"num_starts": 1, "tol": 1e-13}


def parts_of(arguments, rows, num_rows):
    return {name: part_of(x, rows, num_rows) for name, x in arguments.items()}


def fitted_guide(make, y, arguments, rows=slice(None), group=None, **settings):
    """A guide that a process has fitted with its rows."""
    guide = make(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guide.fit(y[rows], **parts_of(arguments, rows, len(y)), processes=group, **FEW, **settings)
    return guide


def own_rows(number, count, num_rows):
    """The group of the first processes, and the rows of one of them; None for the others."""
    group = group_of(count)
    return (group, splits(num_rows, count)[number]) if number < count else (None, None)


def coefficients(guide):
    found = guide.coefficients
    return {
        "mean": found.mean,
        "variance": found.variance(),
        "low": found.interval(0.9)[0],
        "sandwich": found.sandwich.variance(),
        "unreliable": found.unreliable_columns.double(),
    }


def coefficients_of_all(number, cases, count):
    """The posterior of the coefficients that processes make together, one of them without rows."""
    found = {}
    for name, (make, y, arguments) in cases.items():
        group, rows = own_rows(number, count, len(y))
        if group is not None:
            found[name] = coefficients(fitted_guide(make, y, arguments, rows, group))
    return found


def checked(guide, y, arguments, group=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = pef.check(guide.model, guide, y, **arguments, num_draws=100, processes=group)
    return report.blocks[""], str(report)


def checks_of_all(number, cases, states, count):
    """The checks of tables that processes hold together, at coefficients that are given."""
    found = {}
    for name, (make, y, arguments) in cases.items():
        group, rows = own_rows(number, count, len(y))
        if group is None:
            continue
        guide = make(rows)
        guide.load_state_dict(states[name])
        block, text = checked(guide, y[rows], parts_of(arguments, rows, len(y)), group)
        found[name] = numbers_of(block), text
    return found


def numbers_of(block):
    """What a check computes without draws."""
    rows, estimates = block.rows, block.estimates
    fit = block.fit_to_data
    return {
        "without latents": block.without_latents,
        "rows": torch.stack([rows.first_order, rows.second_order, rows.integral, rows.mean_shift]),
        "counts": [len(rows.khat), block.num_table_rows, fit.num_rows, *rows.num_entries.tolist()],
        "gains": torch.tensor([gap.gain for gap in estimates.gaps]),
        "information": torch.cat([estimates.information, estimates.reach]),
        "spread": estimates.spread,
        "places": [
            *(estimates.extreme_features, estimates.unseen_levels, estimates.empty_features),
            *(fit.worst.row, fit.worst.column),
        ],
    }


def comparisons_of_all(number, family, y, mask, dims, hold_out, count):
    """Comparisons of numbers of latents by rows or entries held out."""
    group, rows = own_rows(number, count, len(y))
    if group is None:
        return None
    return compared(family, y[rows], mask[rows], dims, hold_out, group)


def compared(family, y, mask, dims, hold_out, group=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pef.compare_latent_dims(
            family, y, dims, mask=mask, num_folds=3, hold_out=hold_out, processes=group
        )
    return torch.tensor([row[:-1] for row in found.rows], dtype=torch.float64)


def family_comparisons_of_all(number, families, y, offset, hold_out, count):
    """Comparisons of families, and the names of models that failed."""
    group, rows = own_rows(number, count, len(y))
    if group is None:
        return None
    return compared_families(families, y[rows], offset[rows], hold_out, group)


def compared_families(families, y, offset, hold_out, group=None):
    """What a comparison computes without draws of tables, in numbers and in words."""
    draws, leaving_out.NUM_DRAWS = leaving_out.NUM_DRAWS, 60
    settings = {"num_folds": 2, "hold_out": hold_out, "progress": False}
    try:
        found = pef.compare(families, y, [1], offset, processes=group, **settings)
    finally:
        leaving_out.NUM_DRAWS = draws
    numbers = [row[2:13] for row in found.rows]
    words = [row.failed for row in found.rows], found.best
    return torch.tensor(numbers, dtype=torch.float64), words, found.caveats


def containers_of_all(number, make, y, count):
    """The evidence and the container of the rows of each process."""
    group, rows = own_rows(number, count, len(y))
    if group is None:
        return None
    guide = fitted_guide(make, y, {}, rows, group)
    total = pef.joint.sum_rows(guide.log_evidence(y[rows]), group)
    return float(total), container(guide, y[rows], pef.joint.row_numbers(len(y[rows]), group))


def draws_of_all(number, make, y, count):
    """Draws of coefficients and latents of the rows of each process, which differ in number."""
    group, rows = own_rows(number, count, len(y))
    if group is None:
        return None
    guide, own = fitted_guide(make, y, {}, rows, group), y[rows]
    torch.manual_seed(number)
    at_once, draws.VALUES_AT_ONCE = draws.VALUES_AT_ONCE, 2_000
    try:
        idata = pef.to_arviz(
            guide.model,
            guide,
            own,
            num_samples=60,
            coords={"row": pef.joint.row_numbers(len(own), group)},
            processes=group,
        )
    finally:
        draws.VALUES_AT_ONCE = at_once
    found = {
        f"{part} {name}": torch.as_tensor(idata[part][name].values[0].copy())
        for part in ("posterior", "prior")
        for name in ("loading", "intercept", "z")
    }
    coefficients = guide.coefficients
    return found, coefficients.mean, coefficients.variance().sqrt()


def container(guide, y, numbers):
    """What a container has without draws, by the names of its rows."""
    idata = pef.to_arviz(guide.model, guide, y, num_samples=2, coords={"row": numbers})
    evidence = idata["log_likelihood"]["y_marginal"]
    return {
        "rows": evidence["row"].values.tolist(),
        "evidence": torch.as_tensor(evidence.values[0, 0].copy()),
        "y": torch.as_tensor(idata["observed_data"]["y"].values.copy()),
    }


def refusals_of_all(number, make, y):
    """The errors of checks and comparisons in which one of four processes has no rows."""
    rows = splits(len(y), 4)[number]
    guide = fitted_guide(make, y, {}, rows, "all")
    found = []
    for refused in (
        lambda: pef.check(guide.model, guide, y[rows], processes="all"),
        lambda: pef.compare_latent_dims(guide.model.family, y[rows], [1], processes="all"),
        lambda: pef.compare_latent_dims(
            guide.model.family, y[number::4], [1], processes="all", n_jobs=2
        ),
        lambda: make(rows).update_globals(y[rows], processes="all"),
        lambda: pef.compare({"a": guide.model.family}, y[rows], [1], processes="all"),
    ):
        try:
            refused()
        except (ValueError, ProcessesError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found
