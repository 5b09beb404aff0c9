"""Joint fits that learn parameters of a family start from several places."""

import math

import pytest
import torch

import pyro_expfam as pef

F = pef.families

pytestmark = pytest.mark.several_starts


def many_optima(num_rows=60, num_features=8, seed=4):
    """Counts of four latents, whose joint objective with two latents has several minima."""
    torch.manual_seed(seed)
    eta = 2.5 * torch.randn(num_rows, 4) @ torch.randn(4, num_features)
    return F.NegativeBinomial(30.0).sample(eta.clamp(max=8).double())


def fit(y, family=None, model=None, **settings):
    torch.manual_seed(0)
    if model is None:
        model = pef.ExpFamPCA(family or F.NegativeBinomial(), y.shape[1], 2).to(y.dtype)
    return pef.DEQMAPGuide(model).fit(y, **settings)


def test_the_fit_ends_at_the_best_optimum_of_its_starts():
    y = many_optima()
    found, alone = fit(y, num_starts=10), fit(y, num_starts=1)
    kinds = [start.kind for start in found.starts]
    assert sorted(kinds) == ["random"] * 9 + ["spectral"]
    ends = [start.objective for start in found.starts]
    assert ends[0] == pytest.approx(min(ends), rel=1e-4)
    assert found.objective <= min(ends) + 1e-6 * abs(min(ends))
    assert found.objective < alone.objective - 10.0
    assert [start.refined for start in found.starts].count(True) >= 4
    assert found.num_optima >= 2


@pytest.mark.parametrize(
    ("num_rows", "loss", "expected"),
    [(60, None, 32), (60, pef.LaplaceEvidence(), 1), (5_000, None, 1)],
    ids=["small", "evidence", "large"],
)
def test_small_tables_have_many_starts_under_the_joint_objective(num_rows, loss, expected):
    y = many_optima(num_rows)
    with pytest.warns(pef.ConvergenceWarning, match="max_sweeps"):
        found = fit(y, loss=loss, max_sweeps=1)
    assert len(found.starts) == expected


@pytest.mark.parametrize(
    "limit", [{"max_time": 1e-9}, {"callback": lambda sweep: True}], ids=["time", "callback"]
)
def test_the_time_and_the_callback_end_the_comparison(limit):
    found = fit(many_optima(), **limit)
    assert found.chosen
    assert not any(math.isfinite(start.objective) for start in found.starts)


def test_mixed_tables_with_effects_of_rows_have_random_starts():
    columns = {"visits": F.NegativeBinomial(), "calls": F.Poisson(), "rating": F.Ordinal(3)}
    y = many_optima(60, 3)
    y[:, 2] = y[:, 2].clamp(max=2)
    model = pef.ExpFamPCA(F.Columns(columns), latent_dim=1, row_effect="random").double()
    found = fit(y, model=model, num_starts=4)
    assert found.converged
    assert len(found.starts) == 4
    assert found.objective <= min(start.objective for start in found.starts) + 1e-3


@pytest.mark.slow
def test_the_fit_finds_the_best_of_many_starts_in_nearly_all_tables():
    found = []
    for seed in range(20):
        y = many_optima(seed=seed)
        default, other = fit(y), fit(y, num_starts=60)
        found.append(default.objective <= other.objective + 1e-4 * abs(other.objective))
    assert sum(found) >= 18
