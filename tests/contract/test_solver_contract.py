"""Every solver finds the root where it says so, and answers ``at``."""

import copy
import pickle

import pytest
import torch
from all_families import ON_THE_REAL_LINE, one_of_each_way
from contract_problems import (
    SMOOTH,
    distance_outside,
    every,
    information_outside,
    random_problem,
    score_outside,
)

from pyro_expfam.deq import Anderson, FisherScoring, FixedPoint, NewtonCG, Solution, Solver
from pyro_expfam.deq.layer import solve


class Descent(Solver):
    """A user's solver: a few hundred short steps along the score, with nothing but ``solve``."""

    def solve(self, problem, start):
        z = start.clone()
        for _ in range(400):
            z = z + 0.05 * problem.score(z)
        residual = problem.score(z).norm(dim=-1) / problem.precision.sqrt()
        count = torch.full_like(residual, 400, dtype=torch.int64)
        return Solution(z, residual <= 1e-6, count, residual)


OF_THE_PACKAGE = [
    FisherScoring(),
    FisherScoring(compiled=False),
    FixedPoint(damping=0.2, max_iter=200),
    Anderson(),
    NewtonCG(),
]
SOLVERS = [*OF_THE_PACKAGE, Descent()]
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=repr)


def weak_problem(family, num_rows=12):
    """A problem of loadings so short that the fixed-point iteration is a contraction."""
    problem = random_problem(family, 2, num_rows=num_rows)
    at_zero = torch.zeros(num_rows, 2, dtype=torch.float64)
    information = information_outside(problem, at_zero) - 0.8 * torch.eye(2).double()
    largest = torch.linalg.eigvalsh(information).abs().max()
    return problem.with_fields({"W": (0.2 / largest).sqrt() * problem.W})


@every(ON_THE_REAL_LINE, solver=OF_THE_PACKAGE)
def test_rows_that_are_called_converged_are(family, solver):
    for scale in (0.1, 1.0):
        problem = random_problem(family, 2, num_rows=12)
        problem = problem.with_fields({"W": scale * problem.W})
        found = solver.solve(problem, torch.zeros(12, 2, dtype=torch.float64))
        assert found.value.isfinite().all()
        assert found.value.shape == (12, 2)
        assert found.converged.shape == found.num_iter.shape == found.residual.shape == (12,)
        score = score_outside(problem, found.value).norm(dim=-1)
        assert (score[found.converged] < 1e-5).all()


@every_solver
def test_start_and_problem_are_left_as_they_are(solver):
    problem = weak_problem(ON_THE_REAL_LINE[2])
    before = {name: x.clone() for name, x in problem.fields.items()}
    start = torch.randn(12, 2, dtype=torch.float64)
    given = start.clone()
    solver.solve(problem, start)
    assert torch.equal(start, given)
    assert all(torch.equal(before[name], x) for name, x in problem.fields.items())


@every(SMOOTH, one_of_each_way, solver=[Anderson(), FixedPoint()])
def test_solvers_agree_on_a_contraction(family, solver):
    problem = weak_problem(family)
    found = solver.solve(problem, torch.zeros(12, 2, dtype=torch.float64))
    expected = solve(problem, FisherScoring()).value
    assert found.converged.all()
    torch.testing.assert_close(found.value, expected, rtol=1e-5, atol=1e-6)


@every_solver
def test_gradients_do_not_depend_on_the_solver(solver):
    problem = weak_problem(ON_THE_REAL_LINE[2])
    gradients = []
    for each in (solver, FisherScoring()):
        W = problem.W.clone().requires_grad_()
        value = solve(problem.with_fields({"W": W}), each).value
        gradients.append(torch.autograd.grad(value.square().sum(), W)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@every_solver
def test_a_solver_at_a_tolerance_is_a_solver_of_its_kind(solver):
    loose = solver.at(0.1, torch.float64)
    assert type(loose) is type(solver)
    # Nothing is more exact than the solver itself.
    assert solver.at(0.0, torch.float64) == solver.at(1e-300, torch.float64)
    assert loose.at(0.0, torch.float64) == loose


@pytest.mark.parametrize("solver", OF_THE_PACKAGE, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_looser_solver_takes_fewer_iterations_and_is_as_exact_as_asked(solver, dtype):
    problem = weak_problem(ON_THE_REAL_LINE[2], num_rows=50)
    problem = problem.with_fields({k: x.to(dtype) for k, x in problem.fields.items()})
    start = torch.zeros(50, 2, dtype=dtype)
    loose = solver.at(0.01, dtype).solve(problem, start)
    tight = solver.at(0.0, dtype).solve(problem, start)
    assert loose.converged.all()
    assert tight.converged.all()
    assert loose.num_iter.sum() <= tight.num_iter.sum()
    assert distance_outside(problem, loose.value).max() <= 0.01
    assert distance_outside(problem, tight.value).max() <= 2e-3


@every_solver
def test_copies_of_a_solver_are_equal(solver):
    if isinstance(solver, Descent):
        return
    assert pickle.loads(pickle.dumps(solver)) == solver == copy.deepcopy(solver)
