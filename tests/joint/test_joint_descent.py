"""Coefficients and latents move together: derivatives, and what every evaluation is good for."""

import math

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring
from pyro_expfam.joint import JointProblem, TableInMemory, fit_coefficients, joint_descent
from pyro_expfam.joint.account import Account, Limits
from pyro_expfam.joint.blocks import Blocks
from pyro_expfam.joint.joint_descent import JointDescent

SOLVER = FisherScoring()
NUM_ROWS, NUM_FEATURES = 30, 7
FAMILIES = (
    pef.families.Poisson(),
    pef.families.Bernoulli(),
    pef.families.Gaussian(scale=0.5),
    pef.families.NegativeBinomial(size=2.0),
)


def make_problem(family, **entries):
    eta = torch.randn(NUM_ROWS, 2).double() @ torch.randn(2, NUM_FEATURES).double()
    y = family.sample(0.7 * eta)
    table = TableInMemory(family, NUM_FEATURES, y, y, **entries)
    return JointProblem(table, torch.tensor(0.5).double(), 2.0, 0.3)


def written_out(problem, coefficients, z):
    ((_, rows),) = problem.table.tiles()
    eta = z @ coefficients[:, :-1].T + coefficients[:, -1]
    eta = eta if rows.offset is None else eta + rows.offset
    entries = -rows.family.log_prob(rows.y, eta)
    entries = entries if rows.weights is None else entries * rows.weights
    precision = problem.coefficient_precision(coefficients)
    penalty = problem.latent_precision * z.square().sum() + (precision * coefficients**2).sum()
    return entries.sum() + penalty / 2


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("given", ["nothing", "offset and weights"])
def test_the_gradient_is_the_derivative_of_the_objective(family, given):
    entries = {
        "offset": torch.randn(NUM_ROWS, 1).double(),
        "weights": torch.rand(NUM_ROWS, NUM_FEATURES).double(),
    }
    problem = make_problem(family, **(entries if given != "nothing" else {}))
    coefficients = torch.randn(NUM_FEATURES, 3).double().requires_grad_()
    z = torch.randn(NUM_ROWS, 2).double().requires_grad_()
    value = written_out(problem, coefficients, z)
    expected = torch.autograd.grad(value, (coefficients, z))
    with torch.no_grad():
        found = problem.derivatives(coefficients, z, Blocks(False, False))
    assert found.information == (None, None)
    assert found.objective == pytest.approx(value.item(), rel=1e-12)
    for one, other in zip(found.gradient, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES[:3], ids=repr)
def test_the_information_is_the_hessian_of_rows_and_columns_alone(family):
    problem = make_problem(family)
    coefficients, z = torch.randn(NUM_FEATURES, 3).double(), torch.randn(NUM_ROWS, 2).double()
    information = problem.derivatives(coefficients, z, Blocks(True, True)).information
    of_column = torch.autograd.functional.hessian(
        lambda x: written_out(problem, torch.cat([x[None], coefficients[1:]]), z), coefficients[0]
    )
    of_row = torch.autograd.functional.hessian(
        lambda x: written_out(problem, coefficients, torch.cat([x[None], z[1:]])), z[0]
    )
    torch.testing.assert_close(information.of_columns[0], of_column)
    torch.testing.assert_close(information.of_rows[0], of_row)


@pytest.mark.parametrize("family", FAMILIES[2:3], ids=repr)
def test_latents_that_are_eliminated_end_at_the_same_optimum(monkeypatch, family):
    problem, start = make_problem(family), torch.randn(NUM_FEATURES, 3).double()
    _, together = fit_coefficients(problem, 2, SOLVER, start=start, tol=1e-12)
    monkeypatch.setattr(joint_descent, "MOST_BYTES", 0)
    _, eliminated = fit_coefficients(problem, 2, SOLVER, start=start, tol=1e-12)
    assert together.converged
    assert eliminated.converged
    assert together.objective == pytest.approx(eliminated.objective, rel=1e-9)
    assert together.sweeps[1].decrement != eliminated.sweeps[1].decrement


def test_large_tables_remember_fewer_steps(monkeypatch):
    table = make_problem(FAMILIES[0]).table
    of_array = table.num_own_rows * 2 * 8
    remembered = []
    for arrays in (17, 18, 23, 26, 1000):
        monkeypatch.setattr(joint_descent, "MOST_BYTES", arrays * of_array)
        remembered.append(joint_descent.steps_in_memory(table, 2))
    assert remembered == [0, 2, 4, 6, 6]


@pytest.mark.parametrize("most_bytes", [0, 1 << 30], ids=["eliminated", "together"])
def test_every_evaluation_is_a_sweep_that_the_callback_sees(monkeypatch, most_bytes):
    monkeypatch.setattr(joint_descent, "MOST_BYTES", most_bytes)
    problem = make_problem(FAMILIES[0])
    evaluations, seen = [], []

    class Counting(JointProblem):
        def columns(self, *args):
            evaluations.append(args)
            return super().columns(*args)

        def derivatives(self, *args):
            evaluations.append(args)
            return super().derivatives(*args)

    start = 3 * torch.randn(NUM_FEATURES, 3).double()
    _, fit = fit_coefficients(
        Counting(**vars(problem)), 2, SOLVER, start=start, callback=seen.append
    )
    assert len(seen) == len(evaluations)
    assert tuple(seen) == fit.sweeps
    assert [sweep.number for sweep in seen] == list(range(len(seen)))
    objectives = [sweep.objective for sweep in seen]
    assert objectives == sorted(objectives, reverse=True)


def test_vanishing_priors_and_heavy_tails_come_to_rest():
    eta = 1.5 * torch.randn(60, 2) @ torch.randn(2, 20) + torch.linspace(-2, 6, 20)
    y = torch.poisson(eta.clamp(max=11).exp()).double()
    table = TableInMemory(pef.families.Poisson(), 20, y, y)
    problem = JointProblem(table, torch.tensor(0.01).double(), 0.01, 0.0)
    _, fit = fit_coefficients(problem, 2, SOLVER, num_starts=2)
    assert fit.converged
    objectives = [sweep.objective for sweep in fit.sweeps]
    assert objectives == sorted(objectives, reverse=True)


class NotesLengths(JointDescent):
    """Notes with which lengths quasi-Newton directions are tried first, and which was taken."""

    def __init__(self, *args):
        super().__init__(*args)
        self.lengths = []

    def _search(self, direction, length, most):
        is_quasi_newton = not self._turns
        taken = super()._search(direction, length, most)
        if is_quasi_newton:
            self.lengths.append((length, taken))
        return taken


def test_a_direction_is_first_tried_at_twice_the_length_of_the_last_one():
    y = torch.poisson((2 * torch.randn(60, 2) @ torch.randn(2, 12)).clamp(max=8).exp()).double()
    table = TableInMemory(pef.families.Poisson(), 12, y, y)
    problem = JointProblem(table, torch.tensor(0.01).double(), 0.01, 0.0)
    descent = NotesLengths(problem, SOLVER, Account(Limits(500, 1e-9, None, None, 0.0)))
    descent.run(torch.randn(12, 3).double(), 2)
    # After a direction without a step the next is tried in full.
    wanted = [min(1.0, 2 * taken) or 1.0 for _, taken in descent.lengths]
    assert [first for first, _ in descent.lengths] == [1.0, *wanted[:-1]]
    assert any(0 < taken < 1 for _, taken in descent.lengths)


class WithoutStepsOfColumns(JointDescent):
    """Finds no step of all columns, and notes turns and inverses."""

    def __init__(self, *args):
        super().__init__(*args)
        self.turns, self.accepted = [], None

    def _take_turn(self):
        self.turns.append(self._turns)
        return super()._take_turn()

    def _accept(self, found):
        super()._accept(found)
        self.accepted = found.steps.inverse.of_rows.clone()

    def _search(self, direction, length, most):
        if direction.of_rows.any():
            return super()._search(direction, length, most)
        # A trial far away overwrites the inverses of the rows.
        far = self._problem.derivatives(*self._state.at, Blocks(False, True), self._of_rows)
        far.information.of_rows.fill_(torch.nan)
        self._are_spoilt = True
        return False

    def _quasi_newton(self):
        assert torch.equal(self._state.steps.inverse.of_rows, self.accepted)
        return super()._quasi_newton()


def test_turns_end_and_directions_are_sound_where_columns_have_no_step():
    problem = make_problem(FAMILIES[0])
    account = Account(Limits(500, 1e-9, None, None, 0.0))
    descent = WithoutStepsOfColumns(problem, SOLVER, account)
    _, end = descent.run(torch.randn(NUM_FEATURES, 3).double(), 2)
    assert end.converged
    assert descent.turns
    # Rows and columns take turns down from a number of them, and none is left at zero.
    assert min(descent.turns) >= 1
    assert all(math.isfinite(sweep.decrement) for sweep in account.sweeps)
