"""Problems with a further log density of the latents."""

import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import softplus

import pyro_expfam as pef
from pyro_expfam.deq.layer import make_solver, solve
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_term import RowTerm
from pyro_expfam.evidence import integrate_evidence, sample_evidence
from pyro_expfam.evidence.row_evidence import evidence_at_root

NUM_ROWS, NUM_FEATURES, LATENTS = 8, 6, 2
torch.manual_seed(0)
LABELS = torch.bernoulli(torch.full((NUM_ROWS,), 0.5)).double()
COUNTS = torch.poisson(torch.full((NUM_ROWS,), 2.0)).double()
SIGNS = 2 * LABELS - 1
TERMS = {
    "logistic": lambda z, A, c: -softplus(-SIGNS * (z @ A[:, 0] + c[0])),
    "counts": lambda z, A, c: COUNTS * (z @ A[:, 0] + c[0]) - torch.exp(z @ A[:, 0] + c[0]),
    "network": lambda z, A, c: -softplus(-SIGNS * (torch.tanh(z @ A + c) @ c)),
    "not convex": lambda z, A, c: -2 * (torch.tanh(z @ A + c) @ c - LABELS).square(),
    "linear": lambda z, A, c: z @ A[:, 0],
}
every_term = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)


def tensors(seed=0):
    torch.manual_seed(seed)
    W = 0.6 * torch.randn(NUM_FEATURES, LATENTS, dtype=torch.float64)
    A = torch.randn(LATENTS, 5, dtype=torch.float64)
    c = 0.7 * torch.randn(5, dtype=torch.float64)
    return [x.requires_grad_() for x in (W, A, c)]


BITS = torch.bernoulli(torch.full((NUM_ROWS, NUM_FEATURES), 0.4)).double()


def problem_of(term, W, A, c):
    zero, one = torch.zeros(NUM_FEATURES).double(), torch.tensor(1.0).double()
    row_term = RowTerm(lambda z: term(z, A, c), NUM_ROWS)
    return LatentProblem(pef.families.Bernoulli(), BITS, Dense(W), zero, one, term=row_term)


@every_term
def test_the_root_is_a_minimum_of_the_objective(term):
    problem = problem_of(term, *tensors())
    solution = solve(problem, make_solver())
    assert bool(solution.converged.all())
    z = solution.value.detach()
    for row in range(NUM_ROWS):

        def objective(x, row=row):
            at = z.clone()
            at[row] = torch.tensor(x)
            at.requires_grad_()
            value = problem.objective(at)[row]
            (gradient,) = torch.autograd.grad(value, at)
            return float(value.detach()), gradient[row].numpy()

        found = minimize(objective, z[row], jac=True, method="BFGS", options={"gtol": 1e-9})
        assert objective(z[row].numpy())[0] <= found.fun + 1e-10


@every_term
def test_derivatives_are_those_of_autograd(term):
    problem = problem_of(term, *tensors())
    z = torch.randn(NUM_ROWS, LATENTS, dtype=torch.float64)

    def of_row(x, row):
        at = torch.cat([z[:row], x[None], z[row + 1 :]])
        return problem.objective(at)[row]

    for row in range(NUM_ROWS):
        gradient = torch.autograd.functional.jacobian(lambda x, r=row: of_row(x, r), z[row])
        hessian = torch.autograd.functional.hessian(lambda x, r=row: of_row(x, r), z[row])
        assert torch.allclose(-problem.score(z)[row], gradient)
        assert torch.allclose(problem.information(z)[row], hessian)


@every_term
def test_gradients_reach_everything_that_the_term_depends_on(term):
    def at(*tensors):
        problem = problem_of(term, *tensors)
        z = solve(problem, make_solver()).value
        return z, evidence_at_root(problem, z, 1), evidence_at_root(problem, z, 2)

    assert torch.autograd.gradcheck(at, tensors(), fast_mode=True)


@pytest.mark.parametrize("name", ["logistic", "counts", "linear"])
@torch.no_grad()
def test_evidence_is_that_of_importance_sampling(name):
    torch.manual_seed(1)
    problem = problem_of(TERMS[name], *tensors(1))
    z = solve(problem, make_solver()).value
    sampled = sample_evidence(problem, z, 20_000)
    first, second = (
        (evidence_at_root(problem, z, k) - sampled.log_evidence).abs().sum() for k in (1, 2)
    )
    assert second < 0.5 * first
    assert float(second) < NUM_ROWS * 0.02


def test_some_rows_have_the_numbers_that_they_have_among_all():
    problem = problem_of(TERMS["network"], *tensors())
    z = torch.randn(NUM_ROWS, LATENTS, dtype=torch.float64)
    index = torch.tensor([5, 2])
    assert torch.allclose(problem.rows(index).objective(z[index]), problem.objective(z)[index])
    part = problem.rows(slice(1, 5)).rows(torch.tensor([2, 0]))
    assert torch.allclose(part.score(z[[3, 1]]), problem.score(z)[[3, 1]])


def test_only_a_problem_without_a_term_is_known_to_have_one_root():
    problem = problem_of(TERMS["network"], *tensors())
    assert not bool(solve(problem, make_solver()).is_unique.any())


def test_a_second_derivative_of_the_root_is_refused():
    problem = problem_of(TERMS["network"], *tensors())
    z = solve(problem, make_solver()).value
    with pytest.raises(RuntimeError, match="differentiated once more"):
        torch.autograd.grad(z.sum(), problem.map.loading, create_graph=True)


@pytest.mark.parametrize("solver", ["anderson", "fixed_point"])
def test_other_solvers_are_refused(solver):
    with pytest.raises(ValueError, match=r"solver must be .*FisherScoring"):
        solve(problem_of(TERMS["linear"], *tensors()), make_solver(solver))


def test_quadrature_is_refused():
    problem = problem_of(TERMS["linear"], *tensors())
    with pytest.raises(ValueError, match="importance_evidence"):
        integrate_evidence(problem, torch.zeros(NUM_ROWS, LATENTS).double())
