"""When a fit is at rest or finds no step, and which columns have no scale to learn."""

import math
from dataclasses import replace

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.joint import (
    JointProblem,
    NoiseScaleProblem,
    Sweep,
    TableInMemory,
    fit_coefficients,
    scoring,
)
from pyro_expfam.joint.account import INTERRUPTED, is_at_rest, reason_of_no_step

ROUNDING = {torch.float32: 2.0**-11.5, torch.float64: 2.0**-26}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("objective", [0.0, 1.0, -1e6, 1e6])
def test_without_a_step_a_fit_has_converged_if_rounding_hides_what_is_promised(dtype, objective):
    level = ROUNDING[dtype] * (1 + abs(objective))
    below, above = (
        reason_of_no_step(Sweep(3, objective, share * level, 1.0), dtype)
        for share in (0.999, 1.001)
    )
    assert (below.converged, above.converged) == (True, False)
    assert below.reason == "no step decreases the objective beyond rounding"
    assert above.reason == (
        f"no step decreases the objective, although {1.001 * level / 2:.3g} are promised"
    )


@pytest.mark.parametrize("value", [0.0, 3.0, -1e8])
def test_a_constant_column_has_no_scale_whatever_its_value(value):
    y = torch.randn(50, 4).double()
    y[:, 2] = value
    table = TableInMemory(pef.families.Gaussian(1.0), 4, y, y)
    known = JointProblem(table, torch.ones(()).double(), 1.0, 0.0)
    with pytest.raises(ValueError, match=r"got constant columns \[2\]"):
        NoiseScaleProblem.of(known, by_column=True)


@pytest.mark.parametrize("objective", [0.0, -1e3, 1e3])
@pytest.mark.parametrize("tol", [1e-3, 1e-7])
def test_a_fitis_at_rest_if_both_the_next_and_the_last_step_are_small(objective, tol):
    below, above = (share * tol * (1 + abs(objective)) for share in (0.999, 1.001))
    for decrement, gain, expected in (
        (below, below, True),
        (above, below, False),
        (below, above, False),
        (below, float("inf"), False),
    ):
        assert is_at_rest(Sweep(3, objective, decrement, 1.0), gain, tol) is expected
    for not_finite in (float("inf"), float("nan")):
        assert not is_at_rest(Sweep(3, not_finite, 0.0, 1.0), 0.0, tol)


class WithoutRoots(JointProblem):
    """A joint objective that overflows where the latents are solved for exactly."""

    def columns(self, *args, **kwargs):
        return super().columns(*args, **kwargs)._replace(objective=math.nan)


def test_a_fit_whose_exact_latents_have_no_objective_keeps_what_it_had():
    torch.manual_seed(0)
    y = torch.poisson(torch.exp(torch.randn(30, 1) @ torch.randn(1, 4))).double()
    table = TableInMemory(pef.families.Poisson(), 4, y, y)
    problem = WithoutRoots(table, torch.ones(()).double(), 1.0, 0.01)
    start = torch.cat([torch.randn(4, 1), torch.zeros(4, 1)], 1).double()
    theta, fit = pef.joint.fit_coefficients(problem, 1, pef.deq.FisherScoring(), start=start)
    assert not fit.converged
    assert fit.reason == "the objective is nan where the latents are solved for exactly"
    assert fit.objective == pytest.approx(problem.value(theta, fit.latents), abs=1e-9)


def test_a_second_attempt_keeps_the_starts_of_the_first():
    torch.manual_seed(0)
    y = torch.poisson(torch.exp(torch.randn(30, 1) @ torch.randn(1, 4))).double()
    table = TableInMemory(pef.families.Poisson(), 4, y, y)
    problem = JointProblem(table, torch.ones(()).double(), 1.0, 0.01)

    def again():
        return torch.zeros(4, 2).double()

    _, fit = pef.joint.fit_coefficients(
        replace(problem, constant=math.nan),
        1,
        pef.deq.FisherScoring(),
        start_again=again,
        num_starts=3,
    )
    assert len(fit.starts) == 3


def test_the_callback_of_a_second_attempt_sees_no_objective_rise(monkeypatch):
    torch.manual_seed(0)
    y = torch.poisson(torch.exp(torch.randn(30, 1) @ torch.randn(1, 4))).double()
    table = TableInMemory(pef.families.Poisson(), 4, y, y)
    problem = JointProblem(table, torch.ones(()).double(), 1.0, 0.01)
    descend, ends = scoring._descend, []

    def stuck_at_first(*args):
        coefficients, fit = descend(*args)
        ends.append(fit)
        is_first = len(ends) == 1
        return coefficients, replace(fit, converged=not is_first)

    monkeypatch.setattr(scoring, "_descend", stuck_at_first)
    seen = []
    start = torch.cat([torch.ones(4, 1), torch.zeros(4, 1)], 1).double()
    _, fit = fit_coefficients(
        problem,
        1,
        pef.deq.FisherScoring(),
        start=start,
        start_again=lambda: 3 * start,
        callback=lambda sweep: seen.append(sweep),
    )
    assert ends[1].sweeps[0].objective > ends[0].objective
    numbers = [sweep.number for sweep in seen]
    assert numbers == list(range(len(ends[0].sweeps) + len(ends[1].sweeps)))
    objectives = [sweep.objective for sweep in seen]
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[-1] == fit.objective


def test_ctrl_c_in_double_precision_ends_a_fit_in_single_precision(monkeypatch):
    """Where the digits have run out, and the sweeps in double precision have gained nothing yet."""
    y = torch.poisson(torch.ones(40, 4))
    table = TableInMemory(pef.families.Poisson(), 4, torch.zeros(()), y)
    problem = JointProblem(table, torch.tensor(1.0), 1.0, 0.0)
    descend = scoring._descend

    def interrupted(problem, *args):
        coefficients, fit = descend(problem, *args)
        if coefficients.dtype == torch.float32:
            return coefficients, replace(fit, lacks_digits=True)
        last = fit.sweeps[-1]._replace(objective=fit.objective + 1.0)
        return coefficients, replace(fit, sweeps=(last,), converged=False, reason=INTERRUPTED)

    monkeypatch.setattr(scoring, "_descend", interrupted)
    _, fit = fit_coefficients(problem, 1, pef.deq.FisherScoring(), num_starts=1)
    assert (fit.reason, fit.converged, fit.chosen) == (INTERRUPTED, False, True)
    assert fit.latents.dtype == torch.float32
