"""A few processes of gloo that run functions, so that tests do not start their own each time."""

from __future__ import annotations

import importlib
import multiprocessing
import tempfile
import traceback
from pathlib import Path

import torch
from process_tasks import warm_up
from torch import distributed

from pyro_expfam.joint import best_start

COUNT = 4
MODULES = "shared_table_tasks", "test_processes", "test_shared_tables"
"""Whose functions the processes run."""
TIMEOUT = 120


class ProcessPool:
    """Processes that were started once, each with one thread.

    A process of its own imports the package and the tests of processes, and forks them: this takes
    the seconds of one import.
    """

    def __init__(self, count: int = COUNT) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, count))
        self._process.start()
        theirs.close()

    def run(self, function, *args):
        """What a function of a module returns in each process, given the process' number first."""
        self._pipe.send((function, args))
        assert self._pipe.poll(TIMEOUT), "the processes do not answer"
        answers = self._pipe.recv()
        failed = [text for is_well, text in answers if not is_well]
        assert not failed, "\n".join(failed)
        return [value for _, value in answers]

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe, count) -> None:
    torch.set_num_threads(1)
    for module in MODULES:
        importlib.import_module(module)
    warm_up()
    context = multiprocessing.get_context("fork")
    pairs = [context.Pipe() for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        for number, (_, theirs) in enumerate(pairs):
            arguments = (theirs, store, number, count)
            context.Process(target=_work, args=arguments, daemon=True).start()
        while True:
            try:
                task = pipe.recv()
            except EOFError:
                task = None
            for ours, _ in pairs:
                ours.send(task)
            if task is None:
                return
            pipe.send([ours.recv() for ours, _ in pairs])


def _work(pipe, store, number, count) -> None:
    # As in the other tests, fits start from one place unless they say otherwise.
    best_start.default_num_starts = lambda num_entries: 1
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=number, world_size=count
    )
    while (task := pipe.recv()) is not None:
        function, args = task
        try:
            pipe.send((True, function(number, *args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
