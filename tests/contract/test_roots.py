"""Every family that the layer takes keeps the promises of the layer: roots and their gradients.

The tests of this folder are one contract. They mirror no part of the package: each takes one
object, a family of ``tests/families/all_families.py``, a solver or a table, and asks of it what
every such object must do. A new family is added to that list, and to nothing else. What is
compared with is computed from ``log_prob`` alone, by autograd, finite differences, SciPy, draws or
numerical integration. Families alone are checked by ``tests/families/family_contract.py``.
"""

import copy
import pickle

import numpy as np
import pytest
import scipy.optimize
import torch
from all_families import ON_THE_REAL_LINE, one_of_each_way
from contract_problems import (
    SMOOTH,
    differentiable_fields,
    distance_outside,
    every,
    log_joint,
    of_fields,
    random_problem,
    score_outside,
)
from torch.autograd import gradcheck, gradgradcheck

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring
from pyro_expfam.deq.layer import solve
from pyro_expfam.families import Bernoulli, Gamma, Gaussian, NegativeBinomial
from pyro_expfam.links import ComplementaryLogLog, Probit, Softplus

every_family = every(SMOOTH)
every_way = every(SMOOTH, one_of_each_way)
CONVEX = [family for family in SMOOTH if family.is_convex]
SOME = [
    NegativeBinomial(torch.tensor([0.7, 2.0, 9.0], dtype=torch.float64)),
    Gamma(torch.tensor([0.7, 2.0, 9.0], dtype=torch.float64)),
    Bernoulli(link=Probit()),
    Bernoulli(link=ComplementaryLogLog()),
    Gaussian(1.0, link=Softplus()),
]


def minimum_by_scipy(problem, row, start):
    """The latents of a row where minus the log joint density is least, by SciPy."""
    one = problem.rows(slice(row, row + 1))

    def value_and_slope(z):
        at = torch.from_numpy(z)[None]
        return -float(log_joint(one, at)), -score_outside(one, at)[0].numpy()

    found = scipy.optimize.minimize(
        value_and_slope, start, jac=True, method="BFGS", options={"gtol": 1e-7}
    )
    return torch.from_numpy(found.x)


@every(CONVEX, latent_dim=[1, 3])
def test_the_root_is_the_minimum_that_scipy_finds(family, latent_dim):
    problem = random_problem(family, latent_dim)
    found = solve(problem, FisherScoring())
    assert found.converged.all()
    for row in range(2):
        expected = minimum_by_scipy(
            problem, row, np.random.default_rng(row).normal(size=latent_dim)
        )
        torch.testing.assert_close(found.value[row], expected, rtol=1e-5, atol=1e-5)


@every(SMOOTH, dtype=[torch.float32, torch.float64])
def test_rows_that_are_called_converged_have_no_score_left(family, dtype):
    problem = random_problem(family, 2, dtype=dtype, num_rows=40)
    found = solve(problem, FisherScoring())
    assert found.value.dtype == dtype
    assert found.converged.all()
    allowed = 1e-8 if dtype == torch.float64 else 1e-3
    assert distance_outside(problem, found.value).max() < allowed


@every_way
def test_the_root_is_better_than_the_start(family):
    problem = random_problem(family, 2, num_rows=40)
    found = solve(problem, FisherScoring()).value
    assert (log_joint(problem, found) >= log_joint(problem, torch.zeros_like(found))).all()


@every(ON_THE_REAL_LINE, one_of_each_way)
def test_a_search_that_is_cut_short_does_not_call_itself_converged(family):
    problem = random_problem(family, 2, num_rows=40)
    for max_iter in (1, 2, 3, 200):
        found = FisherScoring(max_iter=max_iter).solve(problem, torch.zeros(40, 2).double())
        distance = distance_outside(problem, found.value)
        assert (distance[found.converged] < 1e-8).all()
        assert found.value.isfinite().all()


@every_way
def test_the_layer_takes_a_mask_and_names(family):
    problem = random_problem(family, 2)
    mask = problem.weights > 0
    y = torch.where(mask, problem.y, torch.nan)
    found = pef.solve_latents(
        problem.family,
        y,
        problem.W,
        problem.b,
        problem.precision,
        offset=problem.offset,
        mask=mask,
        weights=problem.weights,
    )
    torch.testing.assert_close(found.value, solve(problem, FisherScoring()).value)


def root(problem):
    return solve(problem, FisherScoring()).value


def check_gradients(family, fast_mode):
    problem = random_problem(family, 2, num_rows=3)
    fields = differentiable_fields(problem).keys()
    assert {"W", "b", "precision", "offset", "weights"} <= fields
    assert {f"family.{name}" for name in family.parameters if "count" not in name} <= fields
    assert gradcheck(*of_fields(problem, root), atol=1e-5, rtol=1e-4, fast_mode=fast_mode)


@every_family
def test_implicit_gradients_of_every_field_along_random_directions(family):
    check_gradients(family, fast_mode=True)


@pytest.mark.slow
@every_family
def test_implicit_gradients_of_every_field(family):
    check_gradients(family, fast_mode=False)


@pytest.mark.parametrize("family", SOME, ids=str)
def test_second_derivatives_of_every_field(family):
    problem = random_problem(family, 1, num_rows=2)
    assert gradgradcheck(*of_fields(problem, root), atol=1e-4, rtol=1e-3, fast_mode=True)


@every_family
def test_single_precision_finds_the_root_of_double_precision(family):
    problem = random_problem(family, 2, dtype=torch.float32, num_rows=40)
    single = solve(problem, FisherScoring()).value
    double = solve(problem.double(), FisherScoring()).value
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)


@every_family
def test_kernels_of_the_processor_find_the_root_of_operations(family):
    problem = random_problem(family, 3, dtype=torch.float32, num_rows=40)
    results = []
    for compiled in (True, False):
        fields = {name: problem.fields[name].clone().requires_grad_() for name in ("W", "b")}
        solver = FisherScoring(compiled=compiled)
        value = solve(problem.with_fields(fields), solver).value
        results.append([value, *torch.autograd.grad(value.sin().sum(), list(fields.values()))])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=2e-3, atol=2e-3)


@every_way
def test_copies_of_a_problem_have_the_same_root(family):
    problem = random_problem(family, 2)
    for copied in (pickle.loads(pickle.dumps(problem)), copy.deepcopy(problem)):
        torch.testing.assert_close(root(copied), root(problem), rtol=0, atol=0)


@every_way
def test_a_batch_of_problems_is_as_many_problems(family):
    problem = random_problem(family, 2)
    loadings = torch.stack([problem.W, 0.5 * problem.W])
    together = root(problem.with_fields({"W": loadings}))
    for loading, found in zip(loadings, together, strict=True):
        torch.testing.assert_close(found, root(problem.with_fields({"W": loading})))


@every_way
def test_a_weight_of_two_counts_twice_and_a_weight_of_zero_not_at_all(family):
    problem = random_problem(family, 2, given=("offset",))
    weights = torch.ones_like(problem.y)
    weights[:, 1], weights[:, 2] = 2.0, 0.0
    columns = [0, 1, 1, 3, 4, 5]
    copies = {
        "y": problem.y[:, columns],
        "W": problem.W[columns],
        "b": problem.b[columns],
        **{k: x[:, columns] for k, x in problem.fields.items() if k.startswith("family.")},
    }
    repeated, weighted = problem.with_fields(copies), problem.with_fields({"weights": weights})
    torch.testing.assert_close(root(weighted), root(repeated), rtol=1e-6, atol=1e-7)
