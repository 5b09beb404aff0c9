"""Gaussian tables are solved by one factorisation, to the root of the normal equations."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem, cpu
from pyro_expfam.deq.quadratic_rows import solve_quadratic

F = pef.families
NUM_ROWS, NUM_FEATURES, LATENT_DIM = 7, 5, 3
LAWS = {
    "one scale": F.Gaussian(1.7),
    "scale by column": F.Gaussian(torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1])),
    "mean as predictor": F.Gaussian(1.7, link=pef.links.Identity()),
    "logarithms": F.LogNormal(0.6),
    "columns": F.Columns([([0, 3], F.Gaussian(0.3)), ([1, 2, 4], F.Gaussian(2.0))]),
}
EXTRAS = {
    "nothing": {},
    "offset": {"offset": torch.randn(NUM_ROWS, NUM_FEATURES)},
    "offset by row": {"offset": torch.randn(NUM_ROWS, 1)},
    "weights by column": {"weights": torch.rand(1, NUM_FEATURES)},
    "prior mean": {"loc": torch.randn(NUM_ROWS, LATENT_DIM)},
    "prior precision": {"precision_factor": torch.eye(LATENT_DIM) + torch.ones(3, 3).tril(-1)},
}
OWN_INFORMATION = {
    "weights by row": {"weights": torch.rand(NUM_ROWS, 1)},
    "weights by entry": {"weights": torch.rand(NUM_ROWS, NUM_FEATURES)},
}


def random_problem(law, extra, dtype=torch.float64):
    torch.manual_seed(0)
    W, b = torch.randn(NUM_FEATURES, LATENT_DIM), torch.randn(NUM_FEATURES)
    y = torch.randn(NUM_ROWS, NUM_FEATURES)
    y = y.exp() if isinstance(law, F.LogNormal) else y
    law = law.with_parameters({name: x.to(dtype) for name, x in law.parameters.items()})
    fields = {name: x.to(dtype) for name, x in extra.items()}
    precision = torch.tensor(0.7, dtype=dtype)
    return LatentProblem(law, y.to(dtype), W.to(dtype), b.to(dtype), precision, **fields)


def newton_step(problem):
    """The root of a quadratic objective, by autograd: one step of Newton's method from zero."""
    roots = []
    for s in range(problem.num_rows):
        row = problem.rows(slice(s, s + 1))

        def objective(z, row=row):
            return row.objective(z[None]).sum()

        zero = torch.zeros(problem.latent_dim, dtype=problem.b.dtype)
        hessian = torch.autograd.functional.hessian(objective, zero)
        gradient = torch.autograd.functional.jacobian(objective, zero)
        roots.append(-torch.linalg.solve(hessian, gradient))
    return torch.stack(roots)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS)
def test_the_root_is_the_end_of_one_newton_step(law, extra):
    problem = random_problem(law, extra)
    found = solve_quadratic(problem)
    torch.testing.assert_close(found.value, newton_step(problem), rtol=1e-10, atol=1e-10)
    assert found.converged.all()
    assert found.is_unique.all()
    assert (found.num_iter == 1).all()
    assert (found.residual == 0).all()


@pytest.mark.parametrize("law", [LAWS["scale by column"], LAWS["columns"]], ids=["one", "columns"])
@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_kernel_finds_the_same_root(law, extra, dtype, monkeypatch):
    monkeypatch.setattr(cpu, "WORTH_ONE_PASS", 0)
    problem = random_problem(law, extra, dtype)
    assert cpu.has_residual_products(problem)
    found = solve_quadratic(problem)
    tol = 1e-10 if dtype == torch.float64 else 1e-4
    exact = newton_step(problem.double())
    torch.testing.assert_close(found.value.double(), exact, rtol=tol, atol=tol)


@pytest.mark.parametrize("extra", OWN_INFORMATION.values(), ids=OWN_INFORMATION)
def test_rows_with_information_of_their_own_are_solved_one_by_one(extra):
    problem = random_problem(F.Gaussian(1.7), extra)
    assert solve_quadratic(problem) is None
    found = FisherScoring().solve(problem, torch.zeros(NUM_ROWS, LATENT_DIM, dtype=torch.float64))
    torch.testing.assert_close(found.value, newton_step(problem), rtol=1e-10, atol=1e-10)


def test_a_scale_by_row_is_information_of_its_own():
    law = F.Gaussian(torch.rand(NUM_ROWS, 1) + 0.5, link=pef.links.Identity())
    assert solve_quadratic(random_problem(law, {})) is None


def test_other_laws_are_not_quadratic():
    problem = random_problem(F.Gaussian(1.0), {})
    bits = LatentProblem(
        F.Bernoulli(), (problem.y > 0).double(), problem.W, problem.b, problem.precision
    )
    assert solve_quadratic(bits) is None


@pytest.mark.parametrize("worth", [0, 1 << 30], ids=["kernel", "PyTorch"])
def test_means_far_from_zero_do_not_round_the_latents(worth, monkeypatch):
    monkeypatch.setattr(cpu, "WORTH_ONE_PASS", worth)
    torch.manual_seed(1)
    num_features, mean = 400, 2.0**14
    W = torch.rand(num_features, 2) + 0.5
    # Numbers that single precision has without rounding.
    y = mean + torch.randint(-512, 512, (20, num_features)) / 256
    b = torch.full((num_features,), mean)
    problem = LatentProblem(F.Gaussian(1.0), y, W, b, torch.tensor(1.0))
    found, exact = solve_quadratic(problem), solve_quadratic(problem.double())
    torch.testing.assert_close(found.value.double(), exact.value, rtol=1e-5, atol=1e-6)


def test_information_beyond_single_precision_is_left_to_double_precision():
    W = torch.tensor([[1e4, 1e4], [1e4, 1.0001e4], [1e4, 1e4]])
    y, precision = torch.randn(4, 3), torch.tensor(1e-3)
    problem = LatentProblem(F.Gaussian(1.0), y, W, torch.zeros(3), precision)
    assert solve_quadratic(problem) is None
    found = FisherScoring().solve(problem, torch.zeros(4, 2))
    exact = newton_step(problem.double())
    assert found.converged.all()
    torch.testing.assert_close(found.value.double(), exact, rtol=1e-4, atol=1e-6)


def test_a_table_with_a_number_that_is_not_finite_does_not_converge():
    problem = random_problem(F.Gaussian(1.0), {})
    problem.y[2, 1] = torch.inf
    assert solve_quadratic(problem) is None
    found = FisherScoring().solve(problem, torch.zeros(NUM_ROWS, LATENT_DIM, dtype=torch.float64))
    assert found.converged.tolist() == [True, True, False, True, True, True, True]
