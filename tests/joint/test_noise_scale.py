"""The scale of Gaussian noise at the optimum, against closed forms and another program."""

import warnings

import pytest
import torch
from sklearn.decomposition import FactorAnalysis

import pyro_expfam as pef
from pyro_expfam.coefficients import EvidenceProblem
from pyro_expfam.joint import (
    JointProblem,
    NoiseScaleProblem,
    StreamedTable,
    TableInMemory,
    fit_coefficients,
)

SOLVER = pef.deq.FisherScoring()
FLAT = 1e-10


def observations(num_rows=200, num_features=7, latent_dim=2, dtype=torch.float64):
    signal = torch.randn(num_rows, latent_dim) @ torch.randn(latent_dim, num_features)
    noise = torch.linspace(0.5, 1.5, num_features) * torch.randn(num_rows, num_features)
    return (20.0 * (signal + noise + torch.randn(num_features))).to(dtype)


def known(kind, y, loading_precision=FLAT, intercept_precision=0.0, **entries):
    table = TableInMemory(pef.families.Gaussian(1.0), y.shape[1], y, y, **entries)
    precision = torch.ones((), dtype=y.dtype)
    return kind(table, precision, loading_precision, intercept_precision)


def fitted(objective, by_column, latent_dim=2, **limits):
    problem, start = NoiseScaleProblem.of(objective, by_column).spectral_start(latent_dim, SOLVER)
    coefficients, fit = fit_coefficients(problem, latent_dim, SOLVER, start=start, **limits)
    assert fit.converged, fit.reason
    objectives = [sweep.objective for sweep in fit.sweeps]
    assert objectives == sorted(objectives, reverse=True)
    return problem.natural(coefficients), fit


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("kind", [JointProblem, EvidenceProblem])
@pytest.mark.parametrize("given", ["nothing", "mask", "offset", "weights"])
def test_the_gradient_is_the_derivative_of_the_objective(kind, by_column, given):
    y = observations(30)
    entries = {
        "nothing": {},
        "mask": {"mask": torch.rand(y.shape) < 0.7},
        "offset": {"offset": torch.randn(len(y), 1).double()},
        "weights": {"weights": 2 * torch.rand(y.shape).double()},
    }[given]
    objective = known(kind, y, 0.7, 0.2, **entries)
    problem, at = NoiseScaleProblem.of(objective, by_column).spectral_start(2, SOLVER)

    def perturbation():
        move = torch.randn_like(at)
        # The scale of a table is the same in every column.
        return move if by_column else torch.cat([move[:, :-1], move[:1, -1:].expand(7, 1)], 1)

    at = at + 0.2 * perturbation()
    direction, step, z = perturbation(), 1e-5, torch.zeros(30, 2).double()
    ahead, behind = (
        problem.columns(at + signed * direction, z.clone(), SOLVER).objective
        for signed in (step, -step)
    )
    slope = (problem.columns(at, z, SOLVER).gradient * direction).sum()
    assert float(slope) == pytest.approx((ahead - behind) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("latent_dim", [1, 2, 4])
def test_one_scale_is_that_of_probabilistic_pca(latent_dim):
    """Tipping and Bishop (1999): the mean of the eigenvalues that are discarded."""
    y = observations()
    natural, fit = fitted(known(EvidenceProblem, y), False, latent_dim, tol=1e-13)
    values, vectors = torch.linalg.eigh(torch.cov(y.T, correction=0))
    variance = values[:-latent_dim].mean()
    torch.testing.assert_close(natural.scale, variance.sqrt().expand(7), rtol=1e-6, atol=0.0)
    kept, basis = values[-latent_dim:], vectors[:, -latent_dim:]
    covariance = basis * (kept - variance) @ basis.T + variance * torch.eye(7)
    law = torch.distributions.MultivariateNormal(y.mean(0), covariance)
    assert fit.objective == pytest.approx(-law.log_prob(y).sum().item(), rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_scale_by_column_is_that_of_factor_analysis(seed):
    torch.manual_seed(seed)
    y = observations(num_features=9)
    natural, fit = fitted(known(EvidenceProblem, y), True, tol=1e-12)
    reference = FactorAnalysis(2, tol=1e-10, max_iter=50_000, svd_method="lapack").fit(y.numpy())
    assert fit.objective == pytest.approx(-len(y) * reference.score(y.numpy()), rel=1e-6)
    expected = torch.as_tensor(reference.noise_variance_).sqrt()
    torch.testing.assert_close(natural.scale, expected, rtol=2e-3, atol=0.0)


@pytest.mark.parametrize("by_column", [False, True])
def test_single_precision_has_the_scale_of_double(by_column):
    y = observations()
    double, _ = fitted(known(EvidenceProblem, y, 1.0, 1e-6), by_column)
    single, _ = fitted(known(EvidenceProblem, y.float(), 1.0, 1e-6), by_column)
    assert single.scale.dtype == torch.float32
    torch.testing.assert_close(single.scale.double(), double.scale, rtol=5e-3, atol=0.0)


@pytest.mark.parametrize("kind", [JointProblem, EvidenceProblem])
def test_the_objective_is_the_log_density_under_the_scale(kind):
    y = observations(60)
    natural, fit = fitted(known(kind, y, 0.7, 0.2), False, tol=1e-12)
    scale, W, b = natural.scale[0], natural.coefficients[:, :-1], natural.coefficients[:, -1]
    if kind is EvidenceProblem:
        law = torch.distributions.MultivariateNormal(
            scale * b, scale**2 * (W @ W.T + torch.eye(7).double())
        )
        density = law.log_prob(y).sum()
    else:
        eta = fit.latents @ W.T + b
        density = torch.distributions.Normal(scale * eta, scale).log_prob(y).sum()
        density -= 0.5 * fit.latents.square().sum()
    density -= 0.5 * (0.7 * W.square().sum() + 0.2 * b.square().sum())
    assert fit.objective == pytest.approx(-density.item(), rel=1e-10)


def test_missing_entries_are_not_read_and_batches_are_the_table():
    y = observations()
    mask = torch.rand(y.shape) < 0.8
    expected, fit = fitted(known(EvidenceProblem, y, mask=mask), True, tol=1e-12)
    poisoned = torch.where(mask, y, torch.nan)
    again, _ = fitted(known(EvidenceProblem, poisoned, mask=mask), True, tol=1e-12)
    torch.testing.assert_close(again.scale, expected.scale)
    batches = [{"y": poisoned[rows], "mask": mask[rows]} for rows in (slice(0, 90), slice(90, 200))]
    table = StreamedTable(pef.families.Gaussian(1.0), 7, y, batches)
    streamed = EvidenceProblem(table, torch.ones(()).double(), FLAT, 0.0)
    found, streamed_fit = fitted(streamed, True, tol=1e-12)
    assert streamed_fit.objective == pytest.approx(fit.objective, rel=1e-10)
    torch.testing.assert_close(found.scale, expected.scale, rtol=1e-4, atol=0.0)


def test_constant_columns_and_tables_have_no_scale_to_learn():
    y = observations()
    y[:, [1, 4]] = 3.0
    with pytest.raises(ValueError, match=r"got constant columns \[1, 4\]"):
        NoiseScaleProblem.of(known(EvidenceProblem, y), by_column=True)
    assert fitted(known(EvidenceProblem, y, 1.0), False)[1].converged
    with pytest.raises(ValueError, match="y must vary for its scale to be learnt"):
        NoiseScaleProblem.of(known(EvidenceProblem, torch.ones_like(y)), by_column=False)


@pytest.mark.parametrize("num_rows", [150, 600])
def test_latents_of_the_joint_estimate_copy_columns_that_have_scales_of_their_own(num_rows):
    """So a fit refuses it: a copied column has the scale ``sd / sqrt(N)`` under unit priors.

    With the column as latent and the loading that divides it best, the joint objective leaves
    ``N log s + sqrt(N) sd / s``.
    """
    y = observations(num_rows)
    natural, _ = fitted(known(JointProblem, y, 1.0, 1e-6), True)
    ratio = (natural.scale / y.std(0)).sort().values * num_rows**0.5
    torch.testing.assert_close(ratio[:2], torch.ones(2).double(), rtol=0.1, atol=0.0)
    assert ratio[2] > 3


def test_an_offset_in_units_of_the_observations_is_taken_up_by_the_intercept():
    y = torch.randn(100, 1) @ torch.randn(1, 8) * 3 + torch.randn(100, 8) * 2 + 50
    model = pef.ExpFamPCA(pef.families.Gaussian(), 8, latent_dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = pef.LaplaceGuide(model).fit(y, offset=torch.full((1, 8), 50.0))
    assert fit.converged
    # The intercept takes up what an offset in units of the noise leaves.
    plain = pef.ExpFamPCA(pef.families.Gaussian(), 8, latent_dim=1)
    pef.LaplaceGuide(plain).fit(y)
    torch.testing.assert_close(model.family_scale, plain.family_scale, rtol=0.02, atol=0.0)


def test_a_mask_without_an_entry_is_an_error():
    y = torch.randn(20, 4)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Gaussian(1.0), 4, latent_dim=1))
    with pytest.raises(ValueError, match="mask must leave at least one entry present, got none"):
        guide.fit(y, mask=torch.zeros(20, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must leave at least one entry present, got none"):
        guide.fit(y, weights=torch.zeros(20, 4))


POSITIVE = pef.families.LogNormal
CONSTANT = {
    "a scale of logarithms": (POSITIVE(), r"got constant columns \[1\]"),
    "one scale of logarithms": (POSITIVE("shared"), None),
    "columns by name": (
        pef.families.Columns({"a": POSITIVE(), "b": pef.families.Gaussian(), "c": POSITIVE()}),
        r"got constant columns \['b'\]",
    ),
    "columns with categories before them": (
        pef.families.Columns({"c": pef.families.Categorical(3), "b": POSITIVE(), "a": POSITIVE()}),
        r"got constant columns \['b'\]",
    ),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_column_is_named_under_any_law_with_a_scale(name):
    family, message = CONSTANT[name]
    y = torch.randn(40, 3).exp()
    y[:, 1] = 2.0
    if "categories" in name:
        y[:, 0] = torch.arange(40) % 3
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, num_features=3, latent_dim=1))
    if message is not None:
        with pytest.raises(ValueError, match=message):
            guide.fit(y)
    else:
        assert guide.fit(y).converged
        with pytest.raises(ValueError, match="got a constant table"):
            pef.LaplaceGuide(pef.ExpFamPCA(family, 3, 1)).fit(torch.full((40, 3), 2.0))


def test_weights_below_zero_alone_are_no_missing_entries():
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), num_features=2, latent_dim=1))
    with pytest.raises(ValueError, match="weights must be non-negative and finite; got -1 at"):
        guide.fit(torch.ones(5, 2), weights=-torch.ones(5, 1))
