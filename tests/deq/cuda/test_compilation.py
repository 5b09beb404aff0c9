"""The kernels compile for devices of compute capability 8.0 and 9.0, and spill next to nothing."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "compile_ahead.py"

NEGLIGIBLE = 8
"""Bytes that ptxas spills of a thread with registers to spare, to fit more blocks."""

KERNELS = [
    "scoring_kernel",
    "information_kernel",
    "row_kernel",
    "gradient_kernel",
    "evidence_kernel",
    "matrix_kernel",
    "moment_kernel",
    "evidence_gradient_kernel",
    "covariance_kernel",
]
ACTIVATIONS = ["identity", "exponential", "logistic", "continuous_bernoulli"]

OF_CATEGORIES = ["scoring_kernel", "information_kernel", "gradient_kernel"]
REDUCED = ["negative_binomial", "gamma"]
"""Families whose tables go to the kernels of bits and counts, with an offset and weights."""


LINKS = ["probit", "complementary_log_log"]
UNDER_A_LINK = ["searching_kernel", "information_kernel", "row_kernel", "gradient_kernel"]


def compile_ahead(cases):
    """Registers and bytes of local memory of each case."""
    # Where kernels are interpreted nothing is compiled.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, SCRIPT, json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def assert_no_spills(cases):
    for case, (registers, local_bytes) in zip(cases, compile_ahead(cases), strict=True):
        assert 0 < registers <= 255, case
        assert local_bytes <= NEGLIGIBLE, case


EACH_ONCE = [
    ("scoring_kernel", "exponential", 10, "all", 90),
    ("scoring_kernel", "softmax", 3, "none", 80),
    ("information_kernel", "softmax", 3, "all", 90),
    ("row_kernel", "complementary_log_log", 3, "all", 90),
    ("gradient_kernel", "softmax", 3, "all", 90),
    ("evidence_kernel", "logistic", 10, "none", 80),
    ("matrix_kernel", "continuous_bernoulli", 10, "all", 90),
    ("moment_kernel", "identity", 10, "all", 90),
    ("evidence_gradient_kernel", "exponential", 10, "all", 80),
    ("covariance_kernel", "logistic", 10, "all", 90),
    ("searching_kernel", "probit", 3, "all", 90),
]
"""Every kernel, and every activation that kernels have of their own."""


@pytest.mark.slow
def test_kernels_compile_without_spills():
    """All at once, since a process takes longer to start than kernels take to compile."""
    named = {kernel for kernel, *_ in EACH_ONCE}
    assert named == {*KERNELS, *OF_CATEGORIES, *UNDER_A_LINK}
    assert {activation for _, activation, *_ in EACH_ONCE} == {*ACTIVATIONS, "softmax", *LINKS}
    assert_no_spills(EACH_ONCE)


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim", [1, 2, 6, 7, 11, 16])
@pytest.mark.parametrize("kernel", UNDER_A_LINK)
def test_every_kernel_under_a_link_compiles_without_spills(kernel, latent_dim):
    settings = itertools.product(LINKS, [latent_dim], ["all", "none"], [80, 90])
    assert_no_spills([(kernel, *setting) for setting in settings])


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim", [2, 16, 17, 32])
@pytest.mark.parametrize("kernel", OF_CATEGORIES)
def test_kernels_of_categories_compile_without_spills(kernel, latent_dim):
    settings = itertools.product(["softmax"], [latent_dim], ["all", "none"], [80, 90])
    assert_no_spills([(kernel, *setting) for setting in settings])


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim", [2, 16, 17, 32])
@pytest.mark.parametrize("activation", REDUCED)
def test_kernels_of_reduced_tables_compile_without_spills(activation, latent_dim):
    assert_no_spills([(kernel, activation, latent_dim, "all", 90) for kernel in KERNELS])


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim", [2, 16, 17, 32])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_specialisation_compiles_without_spills(kernel, latent_dim):
    settings = itertools.product(ACTIVATIONS, [latent_dim], ["all", "none"], [80, 90])
    assert_no_spills([(kernel, *setting) for setting in settings])
