"""Joint Fisher scoring finds the joint estimate, and its objective never increases."""

import math

import pytest
import torch
from quick_cases import in_turn, slow_unless

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring
from pyro_expfam.joint import JointProblem, TableInMemory, fit_coefficients
from pyro_expfam.joint.account import Account, Limits
from pyro_expfam.joint.quasi_newton import QuasiNewton
from pyro_expfam.joint.scoring import _evaluate, _scoring_step, _search
from pyro_expfam.joint.spectral import spectral_start

FAMILIES = (
    pef.families.Gaussian(scale=0.7),
    pef.families.Bernoulli(),
    pef.families.Ising(),
    pef.families.ContinuousBernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=16),
)
SOLVER = FisherScoring()


def simulated(family, num_rows=200, num_features=15, latent_dim=3, dtype=torch.float64):
    eta = torch.randn(num_rows, latent_dim, dtype=dtype) @ torch.randn(
        latent_dim, num_features, dtype=dtype
    )
    return family.sample(0.7 * eta)


def joint_problem(family, y, loading_precision=1.0, intercept_precision=0.0, **entries):
    return JointProblem(
        TableInMemory(family, y.shape[1], y, y, **entries),
        torch.tensor(0.5, dtype=y.dtype),
        loading_precision,
        intercept_precision,
    )


def objective(problem, coefficients, z):
    """The joint objective, written out."""
    W, b = coefficients[:, :-1], coefficients[:, -1]
    ((_, rows),) = problem.table.tiles()
    eta = z @ W.T + b
    if rows.offset is not None:
        eta = eta + rows.offset
    entries = -rows.family.log_prob(rows.y, eta)
    if rows.weights is not None:
        entries = entries * rows.weights
    penalty = (
        problem.latent_precision * z.square().sum()
        + problem.loading_precision * W.square().sum()
        + problem.intercept_precision * b.square().sum()
    )
    return entries.sum() + penalty / 2


@pytest.mark.parametrize(
    ("family", "given"), in_turn(FAMILIES, ["nothing", "offset and weights", "intercept prior"])
)
def test_it_ends_where_the_joint_objective_is_stationary(family, given):
    y = simulated(family)
    settings = {
        "nothing": {},
        "offset and weights": {
            "offset": 0.5 * torch.randn(200, 1).double(),
            "weights": torch.rand(200, 15).double(),
        },
        "intercept prior": {"intercept_precision": 2.0},
    }[given]
    problem = joint_problem(family, y, **settings)
    coefficients, fit = fit_coefficients(problem, 2, SOLVER, tol=1e-13)
    assert fit.converged
    coefficients.requires_grad_()
    z = fit.latents.requires_grad_()
    value = objective(problem, coefficients, z)
    assert fit.objective == pytest.approx(value.item(), rel=1e-12)
    for gradient in torch.autograd.grad(value, (coefficients, z)):
        assert gradient.abs().max() < 2e-4 * (1 + abs(value.item())) ** 0.5


@pytest.mark.parametrize(("family", "dtype"), in_turn(FAMILIES, [torch.float32, torch.float64]))
def test_the_objective_never_increases(family, dtype):
    problem = joint_problem(family, simulated(family, dtype=dtype), intercept_precision=0.1)
    start = 3.0 * torch.randn(15, 4, dtype=dtype)
    _, fit = fit_coefficients(problem, 3, SOLVER, start=start)
    objectives = [sweep.objective for sweep in fit.sweeps]
    assert len(objectives) > 1
    assert objectives == sorted(objectives, reverse=True)
    assert fit.converged


@pytest.mark.parametrize("start", ["spectral", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_to_a_hundred_thousand(dtype, start):
    family = pef.families.Poisson()
    rate = torch.exp(torch.linspace(-2, 11, 15) + torch.randn(200, 2) @ torch.randn(2, 15) / 2)
    y = torch.poisson(rate.clamp(max=1e5)).to(dtype)
    assert y.max() > 5e4
    problem = joint_problem(family, y)
    first = None if start == "spectral" else torch.randn(15, 3, dtype=dtype)
    _, fit = fit_coefficients(problem, 2, SOLVER, start=first)
    objectives = [sweep.objective for sweep in fit.sweeps]
    assert objectives == sorted(objectives, reverse=True)
    assert fit.converged, fit.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_end_is_an_objective_of_its_own_coefficients_and_latents(dtype):
    family = pef.families.Poisson()
    rate = torch.exp(torch.linspace(-2, 9, 15) + torch.randn(200, 2) @ torch.randn(2, 15) / 2)
    y = torch.poisson(rate).to(dtype)
    problem = joint_problem(family, y)
    coefficients, fit = fit_coefficients(problem, 2, SOLVER)
    assert fit.converged
    written_out = objective(
        joint_problem(family, y.double()), coefficients.double(), fit.latents.double()
    )
    size = abs(problem.table.log_base_measure)
    assert fit.objective == pytest.approx(float(written_out), rel=0.0, abs=size * 1e-11)
    solved = pef.solve_latents(family, y, coefficients[:, :-1], coefficients[:, -1], 0.5).value
    torch.testing.assert_close(
        fit.latents, solved, rtol=0.0, atol=2e-4 if dtype is torch.float32 else 1e-9
    )


@pytest.mark.parametrize("largest", [1e3, 1e5])
def test_single_precision_states_the_objective_of_large_counts(largest):
    family = pef.families.Poisson()
    offset = math.log(largest) - 2 + 0.3 * torch.randn(200, 1)
    y = torch.poisson(torch.exp(offset + torch.randn(200, 2) @ torch.randn(2, 8) / 2))
    problem = joint_problem(family, y, offset=offset)
    exact = joint_problem(family, y.double(), offset=offset.double())
    coefficients, fit = fit_coefficients(problem, 2, SOLVER)
    for _ in range(2):
        value = float(objective(exact, coefficients.double(), fit.latents.double()))
        assert fit.objective == pytest.approx(value, rel=1e-9)
        objectives = [sweep.objective for sweep in fit.sweeps]
        assert objectives == sorted(objectives, reverse=True)
        coefficients, fit = fit_coefficients(problem, 2, SOLVER, start=coefficients)


@pytest.mark.parametrize(("family", "tol"), in_turn(FAMILIES, [1e-3, 1e-5, 1e-7]))
def test_a_converged_fit_promises_little_at_exact_latents(family, tol):
    problem = joint_problem(family, simulated(family))
    coefficients, fit = fit_coefficients(problem, 3, SOLVER, tol=tol)
    assert fit.converged
    z = torch.zeros_like(fit.latents)
    exact = problem.columns(coefficients, z, SOLVER)
    assert fit.objective == pytest.approx(exact.objective, rel=1e-9)
    step = torch.linalg.solve(exact.information, exact.gradient)
    assert (step * exact.gradient).sum() <= 1.01 * tol * (1 + abs(exact.objective))


def test_a_gaussian_table_is_thresholded():
    family = pef.families.Gaussian(1.0)
    y = simulated(family, num_rows=40, num_features=9)
    problem = joint_problem(family, y, loading_precision=4.0)
    coefficients, fit = fit_coefficients(problem, 9, SOLVER, tol=1e-14, max_sweeps=2_000)
    centred = y - y.mean(0)
    U, singular, V = torch.linalg.svd(centred, full_matrices=False)
    shrunk = (singular - (0.5 * 4.0) ** 0.5).clamp(min=0.0)
    expected = y.mean(0) + U * shrunk @ V
    fitted = fit.latents @ coefficients[:, :-1].T + coefficients[:, -1]
    torch.testing.assert_close(fitted, expected, rtol=0.0, atol=1e-4)


DEGENERATE = {
    "one row": torch.tensor([[3.0, 0.0, 1.0, 7.0]]),
    "constant columns": torch.tensor([[2.0, 0.0, 1.0, 5.0], [2.0, 0.0, 4.0, 0.0]]).repeat(5, 1),
    "zero rows": torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.0, 3.0]]).repeat(5, 1),
    "large counts": torch.tensor([[1e6, 0.0, 3.0, 1e5], [1.0, 1e6, 20.0, 0.0]]).repeat(5, 1),
    "nothing": torch.zeros(6, 4),
}


@pytest.mark.parametrize(
    ("name", "dtype", "latent_dim"),
    in_turn(list(DEGENERATE), [torch.float32, torch.float64], [1, 6]),
)
def test_degenerate_tables(name, dtype, latent_dim):
    problem = joint_problem(pef.families.Poisson(), DEGENERATE[name].to(dtype))
    coefficients, fit = fit_coefficients(problem, latent_dim, SOLVER)
    objectives = [sweep.objective for sweep in fit.sweeps]
    assert objectives == sorted(objectives, reverse=True)
    assert coefficients.isfinite().all()
    assert fit.latents.isfinite().all()


def test_the_spectral_start_points_at_the_truth():
    family = pef.families.Bernoulli()
    W = torch.randn(30, 2)
    y = family.sample(torch.randn(3_000, 2) @ W.T)
    start = spectral_start(joint_problem(family, y), 2)[:, :2]
    cosines = torch.linalg.svdvals(torch.linalg.qr(start)[0].T @ torch.linalg.qr(W)[0])
    assert cosines.min() > 0.95


@pytest.mark.parametrize("max_sweeps", slow_unless(lambda number: number % 7 < 2, range(1, 30)))
def test_no_fit_takes_more_evaluations_than_its_limit(max_sweeps):
    problem = joint_problem(pef.families.Poisson(), simulated(pef.families.Poisson()))
    evaluated = []

    class Counting(type(problem)):
        def columns(self, *args):
            evaluated.append(args)
            return super().columns(*args)

        def derivatives(self, *args):
            evaluated.append(args)
            return super().derivatives(*args)

    start = 3.0 * torch.randn(15, 3, dtype=torch.float64)
    counting = Counting(**vars(problem))
    _, fit = fit_coefficients(counting, 2, SOLVER, start=start, max_sweeps=max_sweeps)
    # The start is not a sweep.
    assert len(evaluated) <= max_sweeps + 1
    assert fit.sweeps[-1].number <= max_sweeps


def test_limits_and_reasons():
    problem = joint_problem(pef.families.Poisson(), simulated(pef.families.Poisson()))
    seen = []
    _, fit = fit_coefficients(problem, 2, SOLVER, max_sweeps=3, callback=seen.append)
    assert (fit.converged, fit.reason) == (False, "max_sweeps, 3, have been taken")
    assert tuple(seen) == fit.sweeps
    _, fit = fit_coefficients(problem, 2, SOLVER, max_time=1e-9)
    assert (fit.converged, len(fit.sweeps)) == (False, 1)
    _, fit = fit_coefficients(problem, 2, SOLVER, callback=lambda sweep: sweep.number >= 2)
    assert fit.reason == "the callback said so"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_sweeps": 0}, "max_sweeps must be a whole number of at least 1, got 0"),
        ({"max_sweeps": 1.5}, "max_sweeps must be a whole number of at least 1, got 1.5"),
        ({"max_sweeps": True}, "max_sweeps must be a whole number of at least 1, got True"),
        ({"tol": -1}, "tol must be a positive finite number, got -1"),
        ({"tol": 0.0}, "tol must be a positive finite number, got 0.0"),
        ({"tol": float("nan")}, "tol must be a positive finite number, got nan"),
        ({"tol": float("inf")}, "tol must be a positive finite number, got inf"),
        ({"tol": "small"}, "tol must be a positive finite number, got 'small'"),
        ({"max_time": 0.0}, "max_time must be a positive number of seconds or None, got 0.0"),
        ({"max_time": -3}, "max_time must be a positive number of seconds or None, got -3"),
        ({"max_time": float("nan")}, "max_time must be a positive number of seconds or .*nan"),
    ],
)
def test_limits_that_are_none_are_refused(limits, message):
    y = simulated(pef.families.Poisson())
    with pytest.raises(ValueError, match=message):
        fit_coefficients(joint_problem(pef.families.Poisson(), y), 2, SOLVER, **limits)
    model = pef.ExpFamPCA(pef.families.Poisson(), 15, 2).double()
    with pytest.raises(ValueError, match=message):
        pef.DEQMAPGuide(model).fit(y, **limits)


class Interrupted(JointProblem):
    """A fit whose user presses Ctrl-C during an evaluation."""

    evaluations = 0
    last = 6

    def derivatives(self, coefficients, z, wanted, memory=None):
        type(self).evaluations += 1
        if type(self).evaluations > self.last:
            raise KeyboardInterrupt
        return super().derivatives(coefficients, z, wanted, memory)


def test_an_interrupted_fit_keeps_its_best_coefficients_and_their_latents(monkeypatch):
    monkeypatch.setattr(Interrupted, "evaluations", 0)
    problem = joint_problem(pef.families.Poisson(), simulated(pef.families.Poisson()))
    seen = []
    coefficients, fit = fit_coefficients(
        Interrupted(**vars(problem)), 2, SOLVER, callback=seen.append, num_starts=1
    )
    assert (fit.converged, fit.chosen, fit.reason) == (False, True, "it was interrupted by Ctrl-C")
    assert len(fit.sweeps) >= 2
    assert tuple(seen) == fit.sweeps
    value = objective(problem, coefficients, fit.latents)
    assert fit.objective == pytest.approx(value.item(), rel=1e-12)


def test_an_interrupt_before_the_first_sweep_is_an_interrupt(monkeypatch):
    monkeypatch.setattr(Interrupted, "evaluations", 100)
    problem = joint_problem(pef.families.Poisson(), simulated(pef.families.Poisson()))
    with pytest.raises(KeyboardInterrupt):
        fit_coefficients(Interrupted(**vars(problem)), 2, SOLVER)


def far_offsets(dtype=torch.float64):
    family = pef.families.Poisson()
    y = simulated(family, dtype=dtype)
    return family, y, 7 + 0.3 * torch.randn(200, 1, dtype=dtype)


@pytest.mark.parametrize(
    ("intercept", "dtype"), in_turn([0.0, 5.0, -30.0, 500.0], [torch.float32, torch.float64])
)
def test_a_start_without_hope_is_left(intercept, dtype):
    family, y, offset = far_offsets(dtype)
    problem = joint_problem(family, y, offset=offset)
    _, expected = fit_coefficients(problem, 2, SOLVER, num_starts=1)
    start = 0.1 * torch.randn(15, 3, dtype=dtype)
    start[:, -1] = intercept
    coefficients, fit = fit_coefficients(
        problem, 2, SOLVER, start=start, start_again=lambda: spectral_start(problem, 2)
    )
    assert fit.converged
    assert fit.objective == pytest.approx(expected.objective, rel=1e-4)
    objectives = [sweep.objective for sweep in fit.sweeps]
    assert objectives == sorted(objectives, reverse=True)
    assert coefficients.isfinite().all()


class Overflowing(JointProblem):
    """An objective that is infinite everywhere, and whose gradient vanishes."""

    def derivatives(self, coefficients, z, wanted, memory=None):
        found = super().derivatives(coefficients, z, wanted, memory)
        nothing = found.gradient._make(0 * x for x in found.gradient)
        return found._replace(objective=self.value, gradient=nothing)

    def columns(self, coefficients, z, solver):
        columns = super().columns(coefficients, z, solver)
        return columns._replace(objective=self.value, gradient=0 * columns.gradient)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_objective_that_is_not_finite_has_not_converged(monkeypatch, value):
    monkeypatch.setattr(Overflowing, "value", value, raising=False)
    problem = joint_problem(pef.families.Poisson(), simulated(pef.families.Poisson()))
    _, fit = fit_coefficients(Overflowing(**vars(problem)), 2, SOLVER)
    assert (fit.converged, fit.chosen) == (False, False)
    assert f"the objective is {value}" in fit.reason


class Overshooting(JointProblem):
    """Steps of scoring that are too long by far."""

    def scoring_step(self, coefficients, factor, gradient):
        return 50.0 * super().scoring_step(coefficients, factor, gradient)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_step_that_increases_the_objective_is_shortened(family):
    problem = joint_problem(family, simulated(family))
    overshooting = Overshooting(**vars(problem))
    z = torch.zeros(200, 2).double()
    state = _evaluate(overshooting, spectral_start(problem, 2), z, SOLVER)
    gradient = state.columns.gradient
    direction = -_scoring_step(overshooting, state)(gradient)
    slope = float((gradient * direction).sum())
    before = state.columns.objective

    def after(length):
        trial, at = problem.change_basis(state.coefficients + length * direction, state.z)
        return problem.columns(trial, at, SOLVER).objective

    assert after(1.0) > before
    account = Account(Limits(100, 1e-7, None, None, 0.0))
    account.record(before, 1.0)
    found = _search(overshooting, state, QuasiNewton(), SOLVER, account)
    assert len(account.sweeps) > 1
    reached = found.columns.objective
    lengths = [0.5**k for k in range(1, 12) if after(0.5**k) == pytest.approx(reached, rel=1e-13)]
    # A part of what the gradient promises of a step of this length has to be kept.
    assert len(lengths) == 1
    assert reached <= before + 1e-4 * lengths[0] * slope < before


class Deceptive(JointProblem):
    """An objective whose gradient says that it grows where it falls."""

    def derivatives(self, coefficients, z, wanted, memory=None):
        found = super().derivatives(coefficients, z, wanted, memory)
        return found._replace(objective=-found.objective)


def test_a_fit_that_finds_no_step_has_not_converged_where_much_is_promised():
    problem = joint_problem(pef.families.Poisson(), simulated(pef.families.Poisson()))
    _, fit = fit_coefficients(Deceptive(**vars(problem)), 2, SOLVER, num_starts=1)
    assert not fit.converged
    assert fit.reason.startswith("no step decreases the objective, although ")


def test_the_account_is_short():
    problem = joint_problem(pef.families.Poisson(), simulated(pef.families.Poisson()))
    _, fit = fit_coefficients(problem, 2, SOLVER)
    assert repr(fit).startswith("Fit(converged=True, objective=")
    assert len(repr(fit)) < 200


def test_quasi_newton_solves_a_quadratic_in_as_many_steps_as_it_has_dimensions():
    A = torch.randn(6, 6).double()
    A = A @ A.T + torch.eye(6)
    memory, x = QuasiNewton(), torch.randn(2, 3).double()
    gradient = (A @ x.flatten()).view(2, 3)
    for _ in range(7):
        p = memory.direction(gradient, torch.clone)
        exact_length = -(gradient * p).sum() / (p.flatten() @ A @ p.flatten())
        memory.remember(exact_length * p, exact_length * (A @ p.flatten()).view(2, 3))
        x = x + exact_length * p
        gradient = (A @ x.flatten()).view(2, 3)
    assert gradient.abs().max() < 1e-8


def test_offsets_that_are_sizes_are_refused():
    family = pef.families.Poisson()
    y = simulated(family, dtype=torch.float32)
    problem = joint_problem(family, y, offset=torch.full((200, 1), 300.0))
    with pytest.raises(ValueError, match=r"offset must leave every mean finite.*logarithm"):
        spectral_start(problem, 2)
