"""Fixtures that every test shares."""

import gc
import os
import random
import sys
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Triton reads it when a kernel is defined: without a device, kernels run on the CPU.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples in every run: what fails, fails again.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Modules and tests stay to the end: no collection of garbage has to look at them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        # Tests leave few cycles of objects: to look for them as often as by default takes longer.
        gc.set_threshold(20_000, 20, 10)
        gc.enable()


OF_LAWS = ("distributions", "families", "links")
FIRST = ("calibration", "checks", "coefficients", "contract", "deq", "diagnostics")
TESTS = Path(__file__).parent / "tests"


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path):
    """No docstring of a test has an example: nobody looks for one in each name of each file."""
    found = yield
    if file_path.is_relative_to(TESTS):
        return [collector for collector in found if type(collector) is pytest.Module]
    return found


def place_of(path):
    """Where the tests of a file stand: 0 for the first, 1 for the tests of laws, 2 for the rest."""
    folder = path.relative_to(TESTS).parts[0] if path.is_relative_to(TESTS) else ""
    return 0 if folder in FIRST else 1 if folder in OF_LAWS else 2


def pytest_collection_modifyitems(items):
    """Tests of laws come in the middle, where the second of two processes begins.

    They need no compiled kernels. Meanwhile the first process compiles kernels that all other tests
    need, and nobody waits for them.
    """
    items.sort(key=lambda item: place_of(item.path))


@pytest.fixture(autouse=True, scope="session")
def _one_change_of_language():
    """Triton's interpreter changes its language for a kernel, and in each call of a function again.

    Here it does so in the first call of a function of each module. To do it in all of them takes a
    third of the time of a kernel.
    """
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None:
        yield
        return
    launch, changed = interpreter.GridExecutor.__call__, set()

    def launched(self, *args, **named):
        changed.clear()
        return launch(self, *args, **named)

    def called(self, *args, **named):
        if self.fn.__module__ not in changed:
            changed.add(self.fn.__module__)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.GridExecutor, "__call__", launched)
        patch.setattr(interpreter.InterpretedFunction, "__call__", called)
        yield


def set_rng_seed(seed):
    """As ``pyro.set_rng_seed``, which notes a stack trace for each kind of device not there."""
    if torch.cuda.is_available():
        pyro.set_rng_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - pyro.set_rng_seed seeds it, and libraries draw on it.


@pytest.fixture(autouse=True)
def _one_start(request, monkeypatch):
    """Fits start from one place: several starts are most of the time of a fit of a small table.

    Tests with the mark ``several_starts`` have the starts that a user has.
    """
    if request.node.get_closest_marker("several_starts") is None:
        for module in ("best_start", "learnt_starts"):
            monkeypatch.setattr(
                f"pyro_expfam.joint.{module}.default_num_starts", lambda num_entries: 1
            )


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    """Comparisons draw fewer coefficients to leave rows out, which is most of their time."""
    monkeypatch.setattr("pyro_expfam.selection.leaving_out.NUM_DRAWS", 150)


@pytest.fixture(autouse=True)
def _few_replicates(request, monkeypatch):
    """Checks compare a table with fewer replicates, which are most of the time of a check.

    Tests with the mark ``all_replicates`` have the replicates that a user has.
    """
    if request.node.get_closest_marker("all_replicates") is None:
        monkeypatch.setattr("pyro_expfam.checks.fit_to_data.NUM_REPLICATES", 12)


@pytest.fixture
def first_seed():
    """Where random numbers of a test begin."""
    return 20240229


@pytest.fixture(autouse=True)
def fresh_state(first_seed):
    """Each test starts from the same seed, an empty parameter store and validation switched on."""
    pyro.clear_param_store()
    set_rng_seed(first_seed)
    pyro.enable_validation(True)
    default = torch.get_default_dtype()
    yield
    torch.set_default_dtype(default)
