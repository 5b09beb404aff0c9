"""What the processes of a test do."""

from __future__ import annotations

import functools
import os
import signal
import warnings

import pandas as pd
import torch
from pyro.infer import Trace_ELBO
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import pyro_expfam as pef
from pyro_expfam.deq.processes import processes_of
from pyro_expfam.joint import JointProblem, best_start, joint_descent


@functools.cache
def group_of(count):
    """The first processes, as a group; all processes must ask for it."""
    return distributed.new_group(range(count))


def splits(num_rows, count):
    """The rows of each process: unequal parts, of which the third of four is empty."""
    shares = {1: [1.0], 2: [0.3, 1.0], 3: [0.5, 0.6, 1.0], 4: [0.2, 0.55, 0.55, 1.0]}[count]
    ends = [round(share * num_rows) for share in shares]
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def part_of(value, rows, num_rows):
    """The part of an argument that belongs to some rows."""
    if value is None or value.dim() < 2 or value.shape[-2] != num_rows:
        return value
    return value[rows]


def fitted(make, y, arguments, loss, group=None, rows=slice(None), exact=False, **settings):
    """What a guide has learnt from the rows of a process, with latents exact in every sweep or not.

    How inexact a latent is depends on the rows that were solved for beside it.
    """
    guide = make(rows)
    share, loose = JointProblem.latent_share, joint_descent.LOOSE
    own = {name: part_of(x, rows, len(y)) for name, x in arguments.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exact:
            JointProblem.latent_share = joint_descent.LOOSE = 0.0
        try:
            fit = guide.fit(y[rows], **own, loss=loss, processes=group, **settings)
        finally:
            JointProblem.latent_share, joint_descent.LOOSE = share, loose
    return {
        "coefficients": torch.cat([guide.loading, guide.intercept[:, None]], 1).detach(),
        "parameters": {
            name: x.detach().clone() for name, x in guide.model.family.parameters.items()
        },
        "objectives": [sweep.objective for sweep in fit.sweeps],
        "seconds": [sweep.seconds for sweep in fit.sweeps],
        "reason": fit.reason,
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


def poisson_guide(rows=None):
    return pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 4, 1).double())


def message_of_bad_fit(number, y, change, settings):
    """The error of a fit in which a process differs from the others."""
    rows = y[number::4].clone()
    if number == 1 and change == "value":
        rows[0, 0] = -1.0
    num_features = 5 if number == 1 and change == "columns" else 4
    if number == 1 and change == "columns":
        rows = torch.cat([rows, rows[:, :1]], 1)
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), num_features, 1).double())
    if change == "start":
        guide.fit(rows if number == 1 else y, max_sweeps=1, max_time=1e-9)
    if number == 1 and change == "limit":
        settings = {**settings, "max_sweeps": 2}
    try:
        guide.fit(rows, processes="all", **settings)
    except (ValueError, RuntimeError) as error:
        return type(error).__name__, str(error)
    return "none", ""


def message_of_other_arguments(number, change):
    """The error of a fit in which the second process has something else than the others."""
    is_other = number == 1
    torch.manual_seed(number)
    y = pd.DataFrame(torch.poisson(torch.ones(10, 3)).numpy(), columns=list("abc"))
    family, settings, arguments, num_covariates = pef.families.Poisson(), {}, {}, 0
    if change == "family" and is_other:
        family = pef.families.Geometric()
    if change == "prior":
        settings = {"loading_scale": 2.0 if is_other else 1.0}
    if change == "loss" and is_other:
        arguments = {"loss": pef.LaplaceEvidence()}
    if change == "columns":
        # The first process has an array, which is taken by position.
        y = y.to_numpy() if number == 0 else y[["b", "a", "c"]] if number == 2 else y
    if change == "categories":
        hue = pd.Categorical(list("bcbcb" * 2), categories=list("bc" if is_other else "abc"))
        y = pd.DataFrame({"hue": hue, "n": 1.0})
        family = pef.families.Columns(
            {"hue": pef.families.Categorical(3), "n": pef.families.Poisson()}
        )
    if change == "covariates":
        num_covariates = 2
        x = torch.randn(10, 2).numpy()
        arguments = {"covariates": pd.DataFrame(x, columns=["w", "v"] if is_other else ["v", "w"])}
    if change == "rows":
        y = torch.zeros(0, 3) if is_other else []
    if change == "width" and is_other:
        y = torch.zeros(0, 4)
    block = pef.ExpFamPCA(
        family, 2 if change == "categories" else 3, 1, num_covariates=num_covariates, **settings
    )
    try:
        pef.DEQMAPGuide(block).fit(y, processes="all", max_sweeps=2, **arguments)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "none"


def message_of_other_sums(number, differ_in):
    """The error where the second process adds up something else than the others."""
    processes = processes_of("all", torch.zeros(()))
    is_other = number == 1
    try:
        if is_other and differ_in == "what they do":
            processes.gather(None)
        size = 3 if is_other and differ_in == "what they add up" else 2
        same = torch.full((2,), float(is_other)) if differ_in == "their coefficients" else None
        processes.sum((torch.ones(size),), same)
    except pef.joint.ProcessesError as error:
        return str(error)
    return "none"


def with_own_folder(number, y, path):
    """The objective of a fit whose first process alone has the folder of the checkpoint."""
    if number == 0:
        (path / "0").mkdir()
    checkpoint = path / str(number) / "fit.safetensors"
    rows, settings = slice(number, None, 4), {"checkpoint": checkpoint, "max_sweeps": 3}
    own = fitted(poisson_guide, y, {}, None, "all", rows, **settings)
    return own["objectives"][-1]


def ends_of_fits(number, y):
    """How fits end that the first process ends, or Ctrl-C in another one."""
    found = {}

    def stop_after_two(sweep):
        return number != 0 or sweep.number >= 2

    def press(sweep):
        if sweep.number == 0:
            os.kill(pressed, signal.SIGINT)

    numbers = [None] * 4
    distributed.all_gather_object(numbers, os.getpid())
    pressed = numbers[2]
    limits = {
        "callback": {"callback": stop_after_two},
        "max_time": {"max_time": 1e-9},
        "ctrl-c": {"callback": press},
    }
    for name, settings in limits.items():
        found[name] = fitted(poisson_guide, y, {}, None, "all", slice(number, None, 4), **settings)
    return found


def interrupted_on_the_way_to_a_start(number, y, path):
    """What Ctrl-C in one process leaves in each while a fit looks for its start."""
    original, guide = best_start.screened_starts, poisson_guide()
    guide(torch.ones(1, 4).double(), num_rows=len(y))
    before = [x.detach().clone() for x in guide.parameters()]

    def pressed(*args):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # torchrun sends it on.
        return original(*args)

    best_start.screened_starts = pressed
    try:
        guide.fit(y[number::4], processes="all", num_starts=3, checkpoint=path)
        error = None
    except KeyboardInterrupt as interrupt:
        error = type(interrupt).__name__
    finally:
        best_start.screened_starts = original
    same = all(torch.equal(x, y) for x, y in zip(before, guide.parameters(), strict=True))
    handler = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    was_trained = guide.is_trained
    fit = guide.fit(y[number::4], processes="all", max_sweeps=2)
    return error, same, was_trained, handler, len(fit.sweeps)


def with_checkpoint(number, y, path, count, settings):
    """A fit with a checkpoint by the first processes."""
    group = group_of(count)
    if number >= count:
        return None
    rows = splits(len(y), count)[number]
    return fitted(poisson_guide, y, {}, None, group, rows, checkpoint=path, **settings)


def message_of_bad_checkpoint(number, y, path):
    """The error of a fit whose checkpoint is damaged, and whether the guide stays as it was."""
    guide = poisson_guide()
    try:
        guide.fit(y[number::4], processes="all", checkpoint=path)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}", guide.is_trained
    return "", guide.is_trained


def latents_in_order(number, y, path):
    """The latents of all processes, in memory and on disk, and those of a table on disk."""
    rows = splits(len(y), 4)[number]
    fit = poisson_guide().fit(y[rows], processes="all", max_sweeps=3, max_time=1e9)
    pef.joint.write_rows(path / "latents", fit.latents)
    on_disk = poisson_guide().fit(
        pef.tables.memmap(path / "y.npy", rows_at_once=7), processes="all", tol=1e-13
    )
    return pef.joint.gather_rows(fit.latents), pef.joint.gather_rows(on_disk.latents)


def trained_by_svi(batches, wrap):
    """The parameters of a guide after steps of SVI on batches, in a wrapped module."""
    guide = poisson_guide()
    torch.manual_seed(1)
    guide(torch.ones(1, 4).double(), num_rows=400)
    loss_of = wrap(Trace_ELBO()(guide.model, guide))
    optimizer = torch.optim.SGD(loss_of.parameters(), lr=1e-4)
    for y in batches:
        loss = loss_of(y, num_rows=400)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: x.detach().clone() for name, x in guide.named_parameters()}


def trained_in_parallel(number, batches):
    """The same, with a part of each batch in each process."""
    torch.manual_seed(number)
    return trained_by_svi([y[number::4] for y in batches], DistributedDataParallel)


def warm_up():
    """Loads what the first fits of a process load."""
    counts, bits = pef.families.Poisson(), pef.families.Bernoulli()
    cases = [(counts, torch.float64), (pef.families.NegativeBinomial(2.0), torch.float64)]
    for family, dtype in [*cases, (bits, torch.float32)]:
        y = torch.bernoulli(torch.full((9, 3), 0.5)).to(dtype)
        for loss in (None, pef.LaplaceEvidence()):
            guide = pef.DEQMAPGuide(pef.ExpFamPCA(family, 3, 1).to(dtype))
            guide.fit(y, loss=loss, max_time=1e-3)
