"""How many latents: numbers that are known, and closed forms of probabilistic PCA."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.coefficients import loading_scale as loading_scale_module
from pyro_expfam.selection import comparison as comparison_module
from pyro_expfam.selection.accurate_evidence import accurate_evidence


def table(family, num_rows, num_features, scale, latent_dim=3):
    W = scale * torch.randn(latent_dim, num_features, dtype=torch.float64)
    return family.sample(torch.randn(num_rows, latent_dim, dtype=torch.float64) @ W)


@pytest.mark.parametrize(
    ("family", "num_rows", "num_features", "scale"),
    [
        (pef.families.Poisson(), 150, 12, 0.6),
        pytest.param(pef.families.Bernoulli(), 250, 20, 1.5, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_both_criteria_find_three_latents(family, num_rows, num_features, scale):
    y = table(family, num_rows, num_features, scale)
    comparison = pef.compare_latent_dims(family, y, [2, 3, 4], num_folds=3)
    assert comparison.best == 3
    assert max(comparison.rows, key=lambda row: row.evidence).latent_dim == 3
    frame = comparison.to_frame()
    assert list(frame.index) == [2, 3, 4]
    assert frame.difference[3] == 0
    assert (frame.difference >= 0).all()
    assert (frame.held_out_se > 0).all()


def test_evidence_of_one_gaussian_latent_is_the_integral_over_its_loading():
    family = pef.families.Gaussian(1.0)
    y = table(family, 150, 2, 1.0, latent_dim=1)
    row = pef.compare_latent_dims(family, y, [1], intercept_scale=0.01).rows[0]
    grid = torch.linspace(-5, 5, 301, dtype=torch.float64)
    W = torch.cartesian_prod(grid, grid)
    covariance = W[:, :, None] * W[:, None, :] + torch.eye(2).double()
    # The intercepts are as good as zero, and their prior as good as integrated out.
    law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance)
    log_prior = torch.distributions.Normal(0.0, row.loading_scale).log_prob(W).sum(-1)
    total = law.log_prob(y[:, None]).sum(0) + log_prior + 2 * (grid[1] - grid[0]).log()
    assert row.evidence == pytest.approx(float(total.logsumexp(0)), abs=0.5)


def minka_evidence(y, latent_dim):
    """The log evidence of probabilistic PCA with unit noise by Minka's approximation (BIC)."""
    num_rows, num_features = y.shape
    centred = y - y.mean(0)
    values = torch.linalg.eigvalsh(centred.T @ centred / num_rows).flip(0)
    kept = values[:latent_dim].clamp(min=1)
    fit = kept.log() + values[:latent_dim] / kept
    log_likelihood = -0.5 * num_rows * (fit.sum() + values[latent_dim:].sum())
    size = num_features * latent_dim - latent_dim * (latent_dim - 1) / 2
    return float(log_likelihood) - 0.5 * size * torch.tensor(float(num_rows)).log().item()


def test_evidence_of_gaussian_tables_ranks_as_that_of_probabilistic_pca():
    family = pef.families.Gaussian(1.0)
    y = table(family, 200, 12, 0.8)
    dims = [2, 3, 4]
    rows = pef.compare_latent_dims(family, y, dims, num_folds=2).rows
    ours = sorted(dims, key=lambda dim: rows[dims.index(dim)].evidence)
    assert ours == sorted(dims, key=lambda dim: minka_evidence(y, dim))
    assert ours[-1] == 3


def test_the_plot_shows_evidence_and_standard_errors_of_differences():
    family = pef.families.Gaussian(1.0)
    comparison = pef.compare_latent_dims(family, table(family, 60, 5, 1.0), [1, 2], num_folds=2)
    ax = comparison.plot()
    assert ax.get_xlabel() == "number of latents"
    (bars,) = ax.containers[1].lines[2]
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    assert lengths == pytest.approx([2 * row.difference_se for row in comparison.rows])
    assert "best: " in repr(comparison)


def test_missing_entries_and_offsets_take_part():
    family = pef.families.Poisson()
    y = table(family, 120, 10, 0.6, latent_dim=2)
    mask = torch.rand(y.shape) < 0.9
    offset = 0.3 * torch.randn(len(y), 1)
    comparison = pef.compare_latent_dims(family, y, [1, 2], offset, mask, num_folds=2)
    poisoned = torch.where(mask, y, torch.nan)
    again = pef.compare_latent_dims(family, poisoned, [1, 2], offset, mask, num_folds=2)
    assert comparison.best == 2
    assert again.rows[0].evidence == pytest.approx(comparison.rows[0].evidence)


@pytest.mark.parametrize(
    ("dims", "num_folds", "message"),
    [
        ([], 5, "dims must name at least one"),
        ([0], 5, "dims must be a whole number"),
        ([True], 5, "dims must be a whole number of at least 1, got True"),
        ([1.0], 5, "dims must be a whole number of at least 1, got 1.0"),
        ([9], 5, "dims must be at most 4"),
        ([1], 1, "num_folds must be between 2 and 30"),
        ([1], 31, "num_folds must be between 2 and 30"),
    ],
)
def test_bad_input(dims, num_folds, message):
    with pytest.raises(ValueError, match=message):
        pef.compare_latent_dims(
            pef.families.Gaussian(1.0), torch.randn(30, 4), dims, num_folds=num_folds
        )


def test_data_frames_and_numbers_of_numpy_are_as_good_as_tensors_and_ints():
    y = table(pef.families.Poisson(), 60, 5, 0.5, latent_dim=1)
    expected = pef.compare_latent_dims(pef.families.Poisson(), y, [1, 2], num_folds=2)
    frame = pd.DataFrame(y.numpy().astype(int))
    found = pef.compare_latent_dims(
        pef.families.Poisson(), frame, np.arange(1, 3), num_folds=np.int64(2)
    )
    assert [row.latent_dim for row in found.rows] == [1, 2]
    assert all(type(row.latent_dim) is int for row in found.rows)
    assert [row.held_out for row in found.rows] == pytest.approx(
        [row.held_out for row in expected.rows]
    )


def test_a_single_number_is_no_comparison():
    with pytest.raises(TypeError, match=r"such as \[1, 2, 3\], got 2"):
        pef.compare_latent_dims(pef.families.Gaussian(1.0), torch.randn(30, 4), 2)
    with pytest.raises(TypeError, match="y must hold real numbers"):
        pef.compare_latent_dims(pef.families.Gaussian(1.0), [["a", "b"]], [1])


def noisy_table(unit):
    signal = torch.randn(200, 3) @ torch.randn(3, 10)
    return unit * (signal + 0.7 * torch.randn(200, 10)).double()


@pytest.mark.parametrize("unit", [1e-3, pytest.param(40.0, marks=pytest.mark.slow)])
def test_a_scale_that_is_learnt_finds_the_latents_in_any_unit(unit):
    y = noisy_table(unit)
    comparison = pef.compare_latent_dims(pef.families.Gaussian(), y, [2, 3, 4], num_folds=2)
    assert comparison.best == 3
    assert max(comparison.rows, key=lambda row: row.evidence).latent_dim == 3


@pytest.mark.slow
def test_a_scale_by_column_finds_the_latents_of_a_standardised_table():
    y = noisy_table(1.0)
    y = (y - y.mean(0)) / y.std(0)
    family = pef.families.Gaussian("per column")
    comparison = pef.compare_latent_dims(family, y, [2, 3, 4], num_folds=2)
    assert comparison.best == 3


def rare_table():
    y = table(pef.families.Poisson(), 60, 6, 0.6, latent_dim=1)
    y[:, 0] = 0.0
    return y


def test_a_rare_column_that_decides_is_named():
    y = rare_table()
    y[7, 0] = 40.0
    wanted = r"1 columns have fewer than 3 .* outside a fold, 0\."
    with pytest.warns(UserWarning, match=wanted) as caught:
        pef.compare_latent_dims(pef.families.Poisson(), y, [1, 2], num_folds=3)
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.filterwarnings("error:rare columns")
def test_a_rare_column_that_decides_nothing_is_no_warning():
    y = rare_table()
    pef.compare_latent_dims(pef.families.Poisson(), y, [1, 2], num_folds=3)


def evidence_by_grid(family, y, W, b):
    """The log evidence of every row under one latent, by the trapezoidal rule."""
    z = torch.linspace(-8.0, 8.0, 2_001, dtype=torch.float64)
    eta = z[:, None] * W[:, 0] + b
    log_joint = torch.stack([family.log_prob(row, eta).sum(-1) for row in y]) - 0.5 * z.square()
    return log_joint.logsumexp(1) + (z[1] - z[0]).log() - 0.5 * torch.tensor(2 * torch.pi).log()


def fits_without_a_fold(monkeypatch):
    """The loadings and intercepts of the fits that leave a fold out, as they come."""
    found = []

    def remember(problem, prior, solver, tol):
        fitted = maximise(problem, prior, solver, tol=tol)
        found.append((fitted[0].W, fitted[0].b))
        return fitted

    maximise = comparison_module.maximise_evidence
    monkeypatch.setattr(comparison_module, "maximise_evidence", remember)
    return found


def test_rows_that_are_held_out_have_the_evidence_of_the_fit_without_them(monkeypatch):
    """Its error is of the second order, far below the difference between the two orders."""
    family = pef.families.Bernoulli()
    y = table(family, 60, 6, 1.5, latent_dim=1)
    fits = fits_without_a_fold(monkeypatch)
    row = pef.compare_latent_dims(family, y, [1], intercept_scale=2.0, num_folds=2).rows[0]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    parts, first_order = [], []
    for fold, (W, b) in enumerate(fits):
        held_out = y[order[fold::2]]
        parts.append(evidence_by_grid(family, held_out, W, b))
        first_order.append(pef.log_evidence(family, held_out, W, b))
    exact, first = torch.cat(parts), float(torch.cat(first_order).sum())
    total = float(exact.sum())
    assert abs(row.held_out - total) <= 0.25 * abs(first - total)
    # The standard error of a sum of independent rows.
    deviation = (exact - exact.mean()).square().sum() / (len(exact) - 1)
    assert row.held_out_se == pytest.approx(float((len(exact) * deviation).sqrt()), rel=0.02)


def test_differences_are_from_the_best_number_row_by_row(monkeypatch):
    family = pef.families.Gaussian(1.0)
    y = table(family, 40, 5, 1.0, latent_dim=2)
    fits = fits_without_a_fold(monkeypatch)
    rows = pef.compare_latent_dims(family, y, [1, 2], num_folds=2).rows
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    by_number = [
        torch.cat(
            [
                pef.log_evidence(family, y[order[fold::2]], *fits[2 * number + fold])
                for fold in range(2)
            ]
        ).numpy()
        for number in range(2)
    ]
    assert rows[1].difference == rows[1].difference_se == 0
    change = by_number[1] - by_number[0]
    assert rows[0].difference == pytest.approx(change.sum(), rel=1e-6)
    assert rows[0].difference_se == pytest.approx(
        np.sqrt(len(change)) * np.std(change, ddof=1), rel=1e-6
    )


def test_it_says_when_more_latents_may_be_better():
    family = pef.families.Gaussian(1.0)
    y = table(family, 80, 8, 2.0, latent_dim=3)
    with pytest.warns(UserWarning, match="the best number of latents, 2, is the largest") as seen:
        short = pef.compare_latent_dims(family, y, [2, 1], num_folds=2)
    assert seen[0].filename == __file__
    assert f"than under 1 by {short.rows[1].difference:,.1f} nats" in str(seen[0].message)
    assert short.still_rises
    assert repr(short).endswith("best: 2, the largest that was tried: try larger ones")


@pytest.mark.parametrize(
    "dims", [[3], [2, 3, 4], pytest.param([3, 3], marks=pytest.mark.slow)], ids=str
)
def test_it_is_silent_where_the_largest_number_is_not_best_or_alone(dims, recwarn):
    family = pef.families.Gaussian(1.0)
    comparison = pef.compare_latent_dims(family, table(family, 80, 8, 2.0), dims, num_folds=2)
    assert comparison.best == 3
    assert not comparison.still_rises
    assert not [warning for warning in recwarn if "dims should" in str(warning.message)]
    assert repr(comparison).endswith("best: 3")


def test_there_are_no_more_latents_than_columns():
    family = pef.families.Gaussian(1.0)
    y = table(family, 200, 2, 3.0, latent_dim=2)
    comparison = pef.compare_latent_dims(family, y, [1, 2], num_folds=2)
    assert comparison.best == 2
    assert not comparison.still_rises


@pytest.mark.parametrize("progress", [None, True])
def test_progress_is_shown_where_it_is_asked_for(progress, capsys):
    family = pef.families.Gaussian(1.0)
    y = table(family, 30, 4, 1.0, latent_dim=1)
    pef.compare_latent_dims(family, y, [1, 2], num_folds=2, progress=progress)
    shown = capsys.readouterr().err
    if progress:
        assert "1 latent:" in shown
        assert "2 latents: 100%" in shown
        assert "6/6" in shown
    else:
        assert not shown


def test_a_number_without_a_fit_is_left_out_and_named(monkeypatch):
    fit = comparison_module._fit

    def fails_with_two(problem, *args):
        if problem.latent_dim == 2:
            raise ValueError("the evidence has no maximum there")
        return fit(problem, *args)

    monkeypatch.setattr(comparison_module, "_fit", fails_with_two)
    y = torch.poisson(torch.exp(torch.randn(60, 1) @ torch.randn(1, 5)))
    with pytest.warns(UserWarning, match="Left out are 2: the evidence has no maximum") as seen:
        found = pef.compare_latent_dims(pef.families.Poisson(), y, [2, 1], num_folds=2)
    assert seen[0].filename == __file__
    assert found.best == 1
    frame = found.to_frame()
    assert frame.loc[2, ["evidence", "held_out", "difference", "loading_scale"]].isna().all()
    assert frame.loc[1].notna().all()
    found.plot()
    with pytest.raises(ValueError, match="no maximum there"):
        pef.compare_latent_dims(pef.families.Poisson(), y, [2], num_folds=2)


def test_a_scale_of_the_loading_that_runs_away_is_held_at_a_bound(monkeypatch):
    monkeypatch.setattr(loading_scale_module, "LARGEST", 0.5)
    y = torch.poisson(torch.exp(torch.randn(60, 1) @ torch.randn(1, 5)))
    with pytest.warns(pef.ConvergenceWarning, match="the scale of the loading is held at 0.5"):
        found = pef.compare_latent_dims(pef.families.Poisson(), y, [1], num_folds=2)
    assert found.rows[0].loading_scale == pytest.approx(0.5)
    assert math.isfinite(found.rows[0].held_out)


@pytest.mark.parametrize("scale", [-1.0, 0.0, float("nan"), torch.ones(7), True])
def test_a_bad_scale_of_the_intercept_is_named(scale):
    y = torch.ones(20, 4)
    with pytest.raises(ValueError, match="intercept_scale must be a positive finite number, got"):
        pef.compare_latent_dims(pef.families.Poisson(), y, [1], intercept_scale=scale)


@pytest.mark.parametrize(
    "family",
    [
        pef.families.Gaussian(2.0),
        pef.families.Poisson(),
        pef.families.Gamma(0.5),
        pef.families.NegativeBinomial(0.5),
    ],
    ids=str,
)
def test_a_table_that_varies_less_than_its_family_needs_no_latents(family):
    generator = np.random.default_rng(0)
    y = 3.0 + generator.integers(0, 3, (60, 5))
    comparison = pef.compare_latent_dims(family, y, [1, 2], num_folds=2)
    assert comparison.best == 1
    for row in comparison.rows:
        assert math.isfinite(row.evidence)
        assert row.loading_scale <= 2e-3


@pytest.mark.parametrize(
    ("latent_dim", "nats"), [(1, 3), pytest.param(2, 10, marks=pytest.mark.slow)]
)
def test_held_out_rows_of_few_categories_have_their_evidence_by_quadrature(latent_dim, nats):
    """The second order alone is that many nats off on these rows."""
    torch.manual_seed(7)
    family, W = pef.families.Categorical(5), 6 * torch.randn(15, latent_dim, dtype=torch.float64)
    b = torch.zeros(15, dtype=torch.float64)
    indicators = family.sample(torch.randn(60, latent_dim, dtype=torch.float64) @ W.T)
    y = indicators.unflatten(-1, (3, 5)).argmax(-1)
    problem = pef.deq.LatentProblem(family, indicators, W, b, torch.ones((), dtype=torch.float64))
    found = accurate_evidence(problem, pef.deq.FisherScoring())
    exact = pef.evidence.quadrature_evidence(family, y, W, b)
    second_order = pef.log_evidence(family, y, W, b, order=2)
    assert (second_order - exact).sum().abs() > nats
    assert (found - exact).sum().abs() < 2
