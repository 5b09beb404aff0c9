"""The kernels of counts, durations and ordered answers take the steps of the PyTorch operations."""

import pytest
import torch
from quick_cases import in_turn
from random_tables import posterior_distance, random_table

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem, backend, cpu, root_gradients
from pyro_expfam.deq.reduction import ReducedKernels, canonical_problem

pytest.importorskip("numba")

from pyro_expfam.deq.cpu import kernels

F = pef.families
DTYPES = [torch.float32, torch.float64]
BY_COLUMN = torch.linspace(0.3, 40, 9)
HAVE_FORMS = [
    F.NegativeBinomial(0.4),
    F.NegativeBinomial(1e4),
    F.NegativeBinomial(BY_COLUMN),
    F.Gamma(0.7),
    F.Gamma(BY_COLUMN),
]
CUTS_BY_COLUMN = torch.tensor([-2.0, 0.0, 0.3, 1.5]) + torch.linspace(-1, 1, 9).unsqueeze(-1)
FAMILIES = [*HAVE_FORMS, F.Ordinal(3, [-0.5, 1.0]), F.Ordinal(5, CUTS_BY_COLUMN)]
NUM_ROWS, NUM_FEATURES = 150, 9
FIELDS = {
    "nothing": {},
    "offset by row, weights by feature": {"offset": (NUM_ROWS, 1), "weights": (1, NUM_FEATURES)},
    "offset by feature, weights by row": {"offset": (1, NUM_FEATURES), "weights": (NUM_ROWS, 1)},
    "offset, mask": {"offset": (NUM_ROWS, NUM_FEATURES), "mask": (NUM_ROWS, NUM_FEATURES)},
}


def random_problem(family, fields="nothing", latent_dim=2, dtype=torch.float64, **settings):
    table = random_table(family, NUM_ROWS, NUM_FEATURES, latent_dim, dtype=dtype, **settings)
    given = {name: torch.randn(shape, dtype=dtype) for name, shape in FIELDS[fields].items()}
    if "mask" in given:
        given["weights"] = (given.pop("mask") < 0.4).to(dtype)
    if "weights" in given:
        given["weights"] = given["weights"].abs()
    return table.problem(**given)


def starts(problem):
    return torch.randn(problem.num_rows, problem.latent_dim, dtype=problem.W.dtype)


def shared_start(problem):
    zero = torch.zeros((), dtype=problem.W.dtype)
    return zero.expand(problem.num_rows, problem.latent_dim)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize(("family", "latent_dim"), in_turn(FAMILIES, [1, 2, 5, 16]))
def test_both_ways_come_to_the_same_root(family, latent_dim, fields, dtype):
    problem = random_problem(family, fields, latent_dim, dtype)
    assert backend.kernels_of(problem) is kernels
    start = starts(problem)
    slow = FisherScoring(compiled=False).solve(problem, start)
    # The second start is the solver's to choose.
    for given in (start, shared_start(problem)):
        fast = FisherScoring().solve(problem, given)
        assert fast.converged.all()
        if dtype is torch.float32:
            assert posterior_distance(problem, fast.value).max() < 2e-4
        else:
            torch.testing.assert_close(fast.value, slow.value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_both_ways_take_equal_steps(family):
    problem = random_problem(family, "offset, mask", 3, weight_scale=2.0)
    start = starts(problem)
    for max_iter in (1, 2, 4, 8):
        fast = FisherScoring(max_iter=max_iter).solve(problem, start)
        slow = FisherScoring(max_iter=max_iter, compiled=False).solve(problem, start)
        torch.testing.assert_close(fast.value, slow.value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("latent_dim", [1, 5])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_gradients_of_loading_intercept_and_precision(family, latent_dim, fields, dtype):
    problem = random_problem(family, fields, latent_dim, dtype)
    z = FisherScoring(compiled=False).solve(problem, shared_start(problem)).value
    grad = torch.randn_like(z)
    found = kernels.gradients(problem, z, grad, root_gradients.SUMMED)
    expected = root_gradients.gradients(
        problem.double(), z.double(), grad.double(), root_gradients.SUMMED
    )
    tol = 2e-5 if dtype is torch.float32 else 1e-12
    for name, x in found.items():
        assert float((x - expected[name]).norm()) <= tol * (1 + float(expected[name].norm()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_steep_loadings_and_a_weak_prior(family, dtype):
    settings = {"weight_scale": 5.0, "precision": 0.01, "dtype": dtype}
    problem = random_problem(family, **settings)
    near = FisherScoring().solve(problem, shared_start(problem))
    far = FisherScoring().solve(problem, torch.zeros_like(starts(problem)))
    assert near.converged.all()
    assert far.converged.all()
    apart = (near.value - far.value).abs().max()
    assert apart <= (2e-3 if dtype is torch.float32 else 1e-9) * (1 + far.value.abs().max())


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("fields", FIELDS)
def test_a_regression_starts_closer_to_the_root(family, fields):
    problem = random_problem(family, fields)
    near = FisherScoring().solve(problem, shared_start(problem))
    far = FisherScoring().solve(problem, torch.zeros_like(starts(problem)))
    torch.testing.assert_close(near.value, far.value, rtol=1e-9, atol=1e-9)
    assert near.num_iter.double().mean() < far.num_iter.double().mean() - 0.2


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_large_weights_do_not_spoil_the_start(family):
    table = random_table(family, NUM_ROWS, NUM_FEATURES)
    weights = 50 * torch.rand(NUM_ROWS, NUM_FEATURES).double()
    problem = table.problem(weights=weights)
    near = FisherScoring().solve(problem, shared_start(problem))
    far = FisherScoring().solve(problem, torch.zeros_like(starts(problem)))
    assert near.num_iter.double().mean() < far.num_iter.double().mean() + 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_table_without_observations_is_the_prior(family, dtype):
    table = random_table(family, 20, NUM_FEATURES, dtype=dtype)
    problem = table.problem(weights=torch.zeros_like(table.y))
    solution = FisherScoring().solve(problem, shared_start(problem))
    assert solution.converged.all()
    assert not solution.value.any()


def test_one_row_and_one_column():
    for family in (F.NegativeBinomial(2.0), F.Gamma(2.0), F.Ordinal(3, [-1.0, 1.0])):
        problem = random_table(family, 1, 1, 1).problem()
        found = FisherScoring().solve(problem, shared_start(problem)).value
        expected = FisherScoring(compiled=False).solve(problem, torch.zeros(1, 1).double()).value
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("unit", [1e-30, 1e-36, 1e30])
def test_durations_in_any_unit(unit):
    """A power of two of the log mean is out of range where its product with the duration is not."""
    family = F.Gamma(2.0)
    table = random_table(family, 60, 12, dtype=torch.float32)
    y = unit * table.y.double()
    b = table.b.double() + torch.tensor(unit).double().log()
    found = pef.solve_latents(family, y.float(), table.W, b.float()).value
    expected = pef.solve_latents(family, table.y, table.W, table.b).value
    # Log means of 70 and 83 have rounding errors of 4e-6.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_sizes_per_entry_are_left_to_the_kernels_of_bits():
    family = F.NegativeBinomial(0.5 + torch.rand(30, 4).double())
    problem = random_table(family, 30, 4).problem()
    assert not cpu.has_kernels(problem)
    assert isinstance(backend.kernels_of(problem), ReducedKernels)
    found = FisherScoring().solve(problem, shared_start(problem)).value
    expected = FisherScoring(compiled=False).solve(problem, starts(problem)).value
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", HAVE_FORMS, ids=str)
def test_the_kernels_of_bits_and_counts_have_the_same_root(family):
    problem = random_problem(family, "offset, mask")
    canonical, sign = canonical_problem(problem)
    found = FisherScoring().solve(problem, shared_start(problem)).value
    other = FisherScoring().solve(canonical, shared_start(canonical)).value
    torch.testing.assert_close(found, sign * other, rtol=1e-9, atol=1e-9)


def test_the_layer_has_gradients_with_and_without_kernels():
    for family in (F.NegativeBinomial(2.0), F.Gamma(2.0), F.Ordinal(3, [-1.0, 1.0])):
        table = random_table(family, 150, 8)
        found = []
        for compiled in (True, False):
            W, b = table.W.clone().requires_grad_(), table.b.clone().requires_grad_()
            solver = FisherScoring(compiled=compiled)
            z = pef.solve_latents(family, table.y, W, b, solver=solver).value
            found.append(torch.autograd.grad(z.sin().sum(), (W, b)))
        for x, expected in zip(*found, strict=True):
            torch.testing.assert_close(x, expected)


def test_a_learnt_size_has_its_gradient():
    size = torch.tensor(2.0).double().requires_grad_()
    table = random_table(F.NegativeBinomial(2.0), 50, 8)
    z = pef.solve_latents(F.NegativeBinomial(size), table.y, table.W, table.b).value
    (found,) = torch.autograd.grad(z.sin().sum(), size)
    step = 1e-5
    values = [
        pef.solve_latents(F.NegativeBinomial(2.0 + h), table.y, table.W, table.b).value.sin().sum()
        for h in (-step, step)
    ]
    torch.testing.assert_close(found, (values[1] - values[0]) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_ordered_answers_are_bits(dtype):
    table = random_table(F.Bernoulli(), NUM_ROWS, NUM_FEATURES, dtype=dtype)
    offset = 30 * torch.randn(NUM_ROWS, 1, dtype=dtype)
    bits = table.problem(offset=offset)
    answers = LatentProblem(
        F.Ordinal(2, [0.5]), bits.y, bits.W, bits.b + 0.5, bits.precision, offset
    )
    assert backend.kernels_of(answers) is kernels
    found, expected = (
        FisherScoring().solve(problem, shared_start(problem)) for problem in (answers, bits)
    )
    assert found.converged.all()
    assert posterior_distance(bits, found.value).max() < (2e-4 if dtype is torch.float32 else 1e-9)
    torch.testing.assert_close(found.value, expected.value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "cuts", [torch.tensor([-60.0, 60.0]), torch.randn(NUM_ROWS, 1, 2).cumsum(-1).sort(-1).values]
)
def test_cut_points_far_apart_or_by_row_are_left_to_operations(cuts):
    problem = random_table(F.Ordinal(3, cuts.double()), NUM_ROWS, NUM_FEATURES).problem()
    assert backend.kernels_of(problem) is None
    assert FisherScoring().solve(problem, shared_start(problem)).converged.all()


def test_the_widest_cut_points_have_accurate_roots():
    cuts = torch.tensor([-50.0, -49.0, 0.0, 49.5, 50.0])
    table = random_table(F.Ordinal(6, cuts), NUM_ROWS, NUM_FEATURES, 2, weight_scale=25.0)
    problem = table.problem()
    single = LatentProblem(
        problem.family, *(x.float() for x in (table.y, table.W, table.b)), torch.tensor(1.0)
    )
    assert backend.kernels_of(single) is kernels
    assert (
        posterior_distance(single, FisherScoring().solve(single, shared_start(single)).value).max()
        < 2e-3
    )


def test_subclasses_keep_their_own_functions():
    class Other(F.NegativeBinomial):
        def score(self, eta, y):
            return 0.5 * super().score(eta, y)

    table = random_table(F.NegativeBinomial(2.0), 20, 4)
    problem = LatentProblem(Other(2.0), table.y, table.W, table.b, torch.tensor(1.0).double())
    assert not cpu.has_kernels(problem)
