"""Solving starts from where the same rows were last, and comes to the same root."""

import copy
import pickle

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring


class Counting(FisherScoring):
    """Fisher scoring that keeps the evaluations of its last solve."""

    def solve(self, problem, start):
        solution = super().solve(problem, start)
        object.__setattr__(self, "evaluations", float(solution.num_iter.double().mean()))
        return solution


def table(num_rows=60, num_features=12):
    W = torch.randn(num_features, 2).double()
    return torch.bernoulli(torch.sigmoid(torch.randn(num_rows, 2).double() @ W.T))


def guide_of(y, **settings):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model = pef.ExpFamPCA(pef.families.Bernoulli(), y.shape[1], 2).double()
    return pef.DEQMAPGuide(model, **settings)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def train(y, warm_start, num_steps=15):
    guide = guide_of(y, warm_start=warm_start)
    svi = SVI(guide.model, guide, Adam({"lr": 0.05}), Trace_ELBO())
    losses = []
    for step in range(num_steps):
        rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(step))[:20]
        losses.append(svi.step(y[rows], num_rows=len(y), rows=rows))
    return losses, guide.loading


def test_training_is_the_same_with_and_without():
    y = table()
    (warm, warm_loading), (cold, cold_loading) = (train(y, start) for start in (True, False))
    torch.testing.assert_close(torch.tensor(warm), torch.tensor(cold), rtol=1e-9, atol=0.0)
    torch.testing.assert_close(warm_loading, cold_loading, rtol=1e-7, atol=1e-9)


def test_the_second_solve_of_the_same_rows_takes_one_evaluation():
    y, solver = table(), Counting()
    guide = guide_of(y, solver=solver)
    rows = torch.tensor([3, 50, 7, 21])
    evaluations = []
    for _ in range(2):
        guide(y[rows], num_rows=60, rows=rows)
        evaluations.append(solver.evaluations)
    assert evaluations[0] > 1
    assert evaluations[1] == 1
    # Other rows start from zero, and all rows of the table are known by their order.
    guide(y)
    assert solver.evaluations > 1
    guide(y)
    assert solver.evaluations == 1


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [({"warm_start": False}, {}), ({}, {"num_rows": 100})],
    ids=["switched off", "a batch of unknown rows"],
)
def test_solving_starts_from_zero_without_a_warm_start(settings, arguments):
    y, solver = table(), Counting()
    guide = guide_of(y, solver=solver, **settings)
    for _ in range(3):
        guide(y, **arguments)
        assert solver.evaluations > 1


def test_tables_of_other_sizes():
    guide = guide_of(table())
    for num_rows in (60, 20, 60):
        y = table(num_rows)
        assert guide(y)["z"].shape == (num_rows, 2)
        torch.testing.assert_close(guide(y)["z"], guide.latents(y), rtol=1e-9, atol=1e-9)


def test_copies_start_afresh():
    y, solver = table(), Counting()
    guide = guide_of(y, solver=solver)
    guide(y)
    for other in (copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        other(y)
        assert other.solver.evaluations > 1


@pytest.mark.parametrize(
    ("rows", "num_rows", "message"),
    [
        ([0, 1], 60, "rows must be 3 integers"),
        ([0.0, 1.0, 2.0], 60, "rows must be 3 integers"),
        ([0, 1, 60], 60, "rows must be between 0 and 59, got 0 to 60"),
        ([0, 1, 2], None, "num_rows must be given beside rows"),
    ],
)
def test_rows_that_do_not_fit(rows, num_rows, message):
    y = table()
    with pytest.raises(ValueError, match=message):
        guide_of(y).model(y[:3], num_rows=num_rows, rows=rows)
