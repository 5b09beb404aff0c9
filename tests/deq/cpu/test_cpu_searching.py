"""The kernels of tables under a link take the steps of the line search of PyTorch operations."""

import pytest
import torch
from link_formulas import distance, objective
from quick_cases import in_turn
from random_tables import posterior_distance, random_table

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem, backend, cpu, root_gradients

pytest.importorskip("numba")

from pyro_expfam.deq.cpu import kernels, linked_rows

F, L = pef.families, pef.links
DTYPES = [torch.float32, torch.float64]
TOTALS = torch.tensor([1, 2, 3, 5, 8, 13, 21, 34, 55])
FAMILIES = [
    F.Bernoulli(link=L.Probit()),
    F.Bernoulli(link=L.ComplementaryLogLog()),
    F.Binomial(6, link=L.Probit()),
    F.Binomial(TOTALS, link=L.ComplementaryLogLog()),
]
NUM_ROWS, NUM_FEATURES = 150, 9
FIELDS = {
    "nothing": {},
    "offset by row, weights by feature": {"offset": (NUM_ROWS, 1), "weights": (1, NUM_FEATURES)},
    "offset by feature, weights by row": {"offset": (1, NUM_FEATURES), "weights": (NUM_ROWS, 1)},
    "offset, mask, loc": {
        "offset": (NUM_ROWS, NUM_FEATURES),
        "mask": (NUM_ROWS, NUM_FEATURES),
        "loc": True,
    },
}


def random_problem(family, fields="nothing", latent_dim=2, dtype=torch.float64, **settings):
    table = random_table(family, NUM_ROWS, NUM_FEATURES, latent_dim, dtype=dtype, **settings)
    shapes = dict(FIELDS[fields])
    if "loc" in shapes:
        shapes["loc"] = (NUM_ROWS, latent_dim)
    given = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    if "mask" in given:
        given["weights"] = (given.pop("mask") < 0.4).to(dtype)
    if "weights" in given:
        given["weights"] = given["weights"].abs()
    return table.problem(**given)


def starts(problem):
    return torch.randn(problem.num_rows, problem.latent_dim, dtype=problem.W.dtype)


def by_operations(problem, start, **settings):
    return FisherScoring(compiled=False, **settings).solve(problem, start)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("family", "latent_dim", "fields"), in_turn(FAMILIES, [1, 2, 5, 16], list(FIELDS))
)
def test_both_ways_come_to_the_same_root(family, latent_dim, fields, dtype):
    problem = random_problem(family, fields, latent_dim, dtype)
    assert backend.kernels_of(problem) is kernels
    start = starts(problem)
    fast = FisherScoring().solve(problem, start)
    slow = by_operations(problem, start)
    assert fast.value.dtype == dtype
    assert fast.converged.all()
    tol = 1e-6 if dtype is torch.float32 else 1e-11
    torch.testing.assert_close(fast.value, slow.value, rtol=tol, atol=tol)
    left = distance(problem, fast.value)
    assert left.max() < (1e-4 if dtype is torch.float32 else 1e-10)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_both_ways_take_the_same_steps(family):
    problem = random_problem(family, "offset, mask, loc", 3, weight_scale=1.0, precision=0.1)
    start = 2 * starts(problem)
    for max_iter in (1, 2, 4, 8, 16):
        fast = FisherScoring(max_iter=max_iter).solve(problem, start)
        slow = by_operations(problem, start, max_iter=max_iter)
        torch.testing.assert_close(fast.value, slow.value, rtol=1e-6, atol=1e-6)
        assert (fast.num_iter == slow.num_iter).double().mean() > 0.98
        assert (fast.converged == slow.converged).double().mean() > 0.98


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_no_step_increases_the_objective(family):
    problem = random_problem(family, "offset, mask, loc", weight_scale=2.0, precision=0.1)
    start = 3 * starts(problem)
    before = objective(problem, start)
    for max_iter in range(1, 12):
        value = FisherScoring(max_iter=max_iter).solve(problem, start).value
        after = objective(problem, value)
        assert (after <= before + 1e-9 * (1 + before)).all()
        before = after


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("family", "fields", "latent_dim"), in_turn(FAMILIES, list(FIELDS), [1, 5])
)
def test_gradients(family, fields, latent_dim, dtype):
    problem = random_problem(family, fields, latent_dim, dtype)
    z = by_operations(problem, torch.zeros_like(starts(problem))).value
    grad = torch.randn_like(z)
    needed = root_gradients.SUMMED | ({"loc"} if problem.loc is not None else set())
    found = kernels.gradients(problem, z, grad, needed)
    expected = root_gradients.gradients(problem.double(), z.double(), grad.double(), needed)
    assert needed <= found.keys()
    tol = 1e-6 if dtype is torch.float32 else 1e-12
    for name, x in found.items():
        assert x.dtype == dtype
        assert float((x - expected[name]).norm()) <= tol * (1 + float(expected[name].norm()))


def test_gradients_of_entries_are_left_to_operations():
    problem = random_problem(FAMILIES[0], "offset, mask, loc")
    z = starts(problem)
    assert kernels.gradients(problem, z, z, {"W", "offset"}) is None


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_rows_without_observations_have_their_prior_mean(family):
    problem = random_problem(family, "offset, mask, loc")
    weights = problem.weights.clone()
    weights[::3] = 0
    problem = problem.with_fields({"weights": weights})
    found = FisherScoring().solve(problem, starts(problem))
    assert found.converged.all()
    torch.testing.assert_close(found.value[::3], problem.loc[::3])


@pytest.mark.parametrize("family", FAMILIES[:2], ids=str)
def test_entries_without_weight_do_not_count_whatever_they_are(family):
    problem = random_problem(family, "offset, mask, loc")
    far = torch.where(problem.weights == 0, 1e4, problem.offset)
    expected = FisherScoring().solve(problem, starts(problem))
    found = FisherScoring().solve(problem.with_fields({"offset": far}), starts(problem))
    torch.testing.assert_close(found.value, expected.value)


@pytest.mark.parametrize("size", [30.0, 300.0, 1e4])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_extreme_offsets_converge_or_say_that_they_do_not(family, size):
    table = random_table(family, NUM_ROWS, NUM_FEATURES, weight_scale=2.0)
    problem = table.problem(offset=size * (2 * torch.rand(NUM_ROWS, 1).double() - 1))
    found = FisherScoring().solve(problem, torch.zeros_like(starts(problem)))
    assert found.value.isfinite().all()
    # Terms of predictors are rounded, which changes the score by at most this part of its norm.
    terms = size + found.value.abs() @ problem.W.abs().mT
    curvature = problem.curvatures(problem.predictor(found.value)).nan_to_num(0.0).abs()
    rounding = torch.finfo(torch.float64).eps * (curvature * terms.square()).sum(-1).sqrt()
    left = distance(problem, found.value)[found.converged]
    assert (left < 1e-12 + 2 * rounding[found.converged]).all()
    # Nobody waits for rows whose score is nothing but rounding.
    assert found.num_iter.max() < 2 * size
    if isinstance(family.link, L.Probit) and size < 1e4:
        assert found.converged.all()


@pytest.mark.parametrize("family", FAMILIES[:2], ids=str)
def test_a_prior_with_correlations(family):
    table = random_table(family, NUM_ROWS, NUM_FEATURES, 3)
    factor = torch.linalg.cholesky(torch.eye(3).double() + 0.5)
    problem = table.problem(precision_factor=factor, loc=torch.randn(NUM_ROWS, 3).double())
    found = pef.deq.layer.solve(problem, FisherScoring())
    expected = pef.deq.layer.solve(problem, FisherScoring(compiled=False))
    torch.testing.assert_close(found.value, expected.value, rtol=1e-11, atol=1e-11)


def test_one_row_and_one_column():
    for family in FAMILIES[:2]:
        problem = random_table(family, 1, 1, 1).problem()
        start = torch.zeros(1, 1).double()
        found = FisherScoring().solve(problem, start).value
        torch.testing.assert_close(found, by_operations(problem, start).value)


class Steeper(L.Probit):
    """A link of one's own, which the kernels must not take for the normal one."""

    def log_odds(self, eta):
        return super().log_odds(2 * eta)


class Halved(F.Bernoulli):
    """A family of one's own."""

    def residual(self, eta, y):
        return 0.5 * super().residual(eta, y)


LEFT = {
    "link": F.Bernoulli(link=Steeper()),
    "family": F.Linked(Halved(), L.Probit()),
    "kink": F.Poisson(link=L.Softplus()),
}


@pytest.mark.parametrize("family", LEFT.values(), ids=LEFT)
def test_other_links_and_families_are_left_to_operations(family):
    problem = random_table(F.Bernoulli()).problem()
    problem = LatentProblem(family, problem.y, problem.map, problem.b, problem.precision)
    assert not cpu.has_kernels(problem)
    assert backend.kernels_of(problem) is None


def test_totals_per_entry_are_left_to_operations():
    family = F.Binomial(torch.randint(1, 9, (20, 4)), link=L.Probit())
    problem = random_table(family, 20, 4).problem()
    assert backend.kernels_of(problem) is None
    assert FisherScoring().solve(problem, starts(problem)).converged.all()


def test_threads_share_the_rows():
    table = random_table(FAMILIES[0], 20_000, 20)
    start = torch.zeros(20_000, 2).double()
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    found = FisherScoring().solve(table.problem(), start)
    torch.set_num_threads(threads)
    assert found.converged.all()
    assert posterior_distance(table.problem(), found.value).max() < 1e-11


@pytest.mark.parametrize("size", [3.0, 30.0, 300.0])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_roots_in_float32_are_the_roots_in_float64(family, size):
    table = random_table(family, NUM_ROWS, NUM_FEATURES, weight_scale=2.0, dtype=torch.float32)
    problem = table.problem(offset=size * (2 * torch.rand(NUM_ROWS, 1) - 1))
    start = torch.zeros_like(starts(problem))
    found = FisherScoring().solve(problem, start)
    exact = FisherScoring().solve(problem.double(), start.double())
    both = found.converged & exact.converged
    assert found.value.isfinite().all()
    # Terms of predictors are rounded, which changes the score by about this part of its norm.
    z = exact.value.float()
    terms = size + z.abs() @ problem.W.abs().mT
    curvature = problem.double().curvatures(problem.double().predictor(exact.value))
    curvature = curvature.nan_to_num(0.0).abs()
    eps = torch.finfo(torch.float32).eps
    rounding = eps * (curvature * (terms + 1).double().square()).sum(-1).sqrt()
    left = distance(problem.double(), found.value.double())
    assert (left[both] < 1e-5 + 4 * rounding[both]).all()
    if isinstance(family.link, L.Probit):
        assert found.converged.all()


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_rows_that_float32_cannot_solve_search_in_float64(family, monkeypatch):
    problem = random_problem(family, "offset, mask, loc", 3, torch.float32)
    start = starts(problem)
    monkeypatch.setattr(linked_rows, "MOST_IN_SINGLE", 2)
    found = FisherScoring().solve(problem, start)
    assert found.converged.all()
    assert (found.num_iter > 2).any()
    slow = by_operations(problem, start)
    torch.testing.assert_close(found.value, slow.value, rtol=1e-6, atol=1e-6)


def test_no_row_takes_more_evaluations_than_the_solver_allows():
    problem = random_problem(FAMILIES[1], "nothing", 3, torch.float32)
    found = FisherScoring(max_iter=2).solve(problem, starts(problem))
    assert found.num_iter.max() == 2
    assert not found.converged.all()
