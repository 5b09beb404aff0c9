"""What the processes of a test do."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import distributed

import pyro_expfam as pef


@functools.cache
def group_of(count):
    """The first processes, as a group; all processes must ask for it."""
    return distributed.new_group(range(count))


def splits(num_rows, count):
    """Where the rows of each process end: unequal parts, of which the last of four is empty."""
    shares = {1: [1.0], 2: [0.3, 1.0], 3: [0.5, 0.6, 1.0], 4: [0.2, 0.55, 1.0, 1.0]}[count]
    ends = [round(share * num_rows) for share in shares]
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def part_of(value, rows, num_rows):
    """The part of an argument that belongs to some rows."""
    if value is None or not hasattr(value, "shape") or len(value.shape) < 2:
        return value
    return value[rows] if value.shape[-2] == num_rows else value


def fitted(make, y, arguments, loss, group=None, rows=slice(None), **settings):
    """What a guide has learnt from the rows of a process."""
    guide = make()
    own = {name: part_of(x, rows, len(y)) for name, x in arguments.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pef.ConvergenceWarning)
        fit = guide.fit(y[rows], **own, loss=loss, processes=group, progress=False, **settings)
    family = guide.model.family
    return {
        "coefficients": torch.cat([guide.loading, guide.intercept[:, None]], 1).detach(),
        "parameters": {name: x.detach().clone() for name, x in family.parameters.items()},
        "objective": fit.objective,
        "objectives": [sweep.objective for sweep in fit.sweeps],
        "seconds": [sweep.seconds for sweep in fit.sweeps],
        "reason": fit.reason,
        "converged": fit.converged,
        "latents": fit.latents,
    }


def fit_cases(number, cases, counts):
    """The fits of several cases, each by several numbers of processes."""
    found = {}
    for count in counts:
        group = group_of(count)
        if number >= count:
            continue
        for name, (make, y, arguments, loss, settings) in cases.items():
            rows = splits(len(y), count)[number]
            found[name, count] = fitted(make, y, arguments, loss, group, rows, **settings)
    return found


def warm_up():
    """Loads what the first fit of a process loads."""
    y = torch.poisson(torch.ones(9, 3))
    for loss in (None, pef.LaplaceEvidence()):
        guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 3, 1).double())
        guide.fit(y, loss=loss, max_time=1e-3)
