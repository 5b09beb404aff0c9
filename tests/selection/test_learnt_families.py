"""Parameters of a family that are learnt for each number of latents, and without each fold."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq.observations import check_observations
from pyro_expfam.selection import comparison as comparison_module
from pyro_expfam.selection.learnt_family import LearntFamily

F = pef.families


def table(num_rows=80):
    torch.manual_seed(0)
    eta = torch.randn(num_rows, 1) @ (0.7 * torch.randn(1, 5)) + 1.0
    return F.NegativeBinomial(2.0).sample(eta).double()


def test_a_size_that_is_learnt_scores_as_the_same_size_known(monkeypatch):
    y = table()
    known = F.NegativeBinomial(torch.full((5,), 2.0, dtype=torch.float64))
    monkeypatch.setattr(comparison_module.LearntFamily, "__call__", lambda *_: known)
    learnt = pef.compare_latent_dims(F.NegativeBinomial("shared"), y, [1], num_folds=2).rows[0]
    wanted = pef.compare_latent_dims(F.NegativeBinomial(2.0), y, [1], num_folds=2).rows[0]
    assert learnt.held_out == pytest.approx(wanted.held_out, abs=1e-3)
    assert learnt.evidence == pytest.approx(wanted.evidence, abs=1e-3)
    assert learnt.loading_scale == pytest.approx(wanted.loading_scale, rel=1e-3)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_the_size_is_the_best_under_the_scale_of_the_loading(scale):
    y = table()
    observed = check_observations(F.NegativeBinomial(1.0), y, 5, torch.zeros(()).double())
    learn = LearntFamily(F.NegativeBinomial("shared"), 1, 10.0)
    size = float(learn(observed, scale).size.mean())

    def loss(known):
        block = pef.ExpFamPCA(F.NegativeBinomial(known), 5, 1, loading_scale=scale).double()
        return pef.LaplaceGuide(block).fit(y, tol=1e-9, progress=False).objective

    best, below, above = (loss(size * factor) for factor in (1.0, 0.93, 1.07))
    assert best < min(below, above)
    # The minimum of the parabola through the three is at the size too.
    offset = 0.5 * (below - above) / (below - 2 * best + above)
    assert abs(offset) < 0.1


def test_a_wider_loading_leaves_less_spread_for_the_size():
    y = table()
    observed = check_observations(F.NegativeBinomial(1.0), y, 5, torch.zeros(()).double())
    learn = LearntFamily(F.NegativeBinomial("shared"), 1, 10.0)
    assert float(learn(observed, 0.1).size.mean()) < float(learn(observed, 1.0).size.mean())


@pytest.mark.slow
def test_one_size_costs_about_what_one_parameter_costs():
    differences = []
    for seed in range(12):
        torch.manual_seed(seed)
        eta = torch.randn(80, 1) @ (0.7 * torch.randn(1, 5)) + 1.0
        y = F.NegativeBinomial(2.0).sample(eta)
        held_out = [
            pef.compare_latent_dims(family, y, [1], num_folds=2).rows[0].held_out
            for family in (F.NegativeBinomial(2.0), F.NegativeBinomial("shared"))
        ]
        differences.append(held_out[0] - held_out[1])
    # Half a nat for each fold in large tables, and more in small ones.
    assert 0.0 < sum(differences) / len(differences) < 5.0
