"""The test of whether a column loads: its size, its power, and its statistic."""

import numpy as np
import pytest
import torch
from scipy import stats

import pyro_expfam as pef
from pyro_expfam.loadings.wald_test import sampling_covariance

BERNOULLI, POISSON = pef.families.Bernoulli(), pef.families.Poisson()


def fit_and_test(y, family, latent_dim, **settings):
    model = pef.ExpFamPCA(family, y.shape[1], latent_dim, **settings).double()
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y.double(), progress=False)
    return guide, pef.loading_test(guide)


def simulated(family, num_rows, loading, seed):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(num_rows, loading.shape[1], generator=generator)
    torch.manual_seed(seed)
    return family.sample(z @ loading.mT)


def p_values(family, num_tables, num_rows=400):
    """The p-values of two columns without a loading and of a column with a weak one."""
    loading = torch.cat([torch.full((8, 1), 1.0), torch.zeros(2, 1), torch.full((1, 1), 0.35)])
    return np.stack(
        [
            fit_and_test(simulated(family, num_rows, loading, seed), family, 1)[1].p_value[-3:]
            for seed in range(num_tables)
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [pytest.param(BERNOULLI, marks=pytest.mark.slow), POISSON], ids=str
)
def test_p_values_of_columns_without_a_loading_are_not_small(family):
    found = p_values(family, 15)
    # The binomial law of 30 values below 0.05 has 6 or more with probability 0.003.
    assert (found[:, :2] < 0.05).sum() <= 5
    assert np.median(found[:, 2]) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("family", [BERNOULLI, POISSON], ids=str)
def test_size_and_power_over_many_tables(family):
    found = p_values(family, 300)
    null, alternative = found[:, :2].ravel(), found[:, 2]
    for level in (0.01, 0.05, 0.1):
        allowed = stats.binom.ppf([0.001, 0.999], null.size, level) / null.size
        assert allowed[0] <= (null < level).mean() <= allowed[1], level
    assert (alternative < 0.05).mean() > 0.5


@pytest.mark.slow
def test_false_discoveries_are_as_rare_as_promised():
    loading = torch.cat([torch.full((10, 1), 0.8), torch.zeros(20, 1)])
    rates = []
    for seed in range(60):
        loads = fit_and_test(simulated(BERNOULLI, 400, loading, seed), BERNOULLI, 1)[1].loads
        rates.append(loads[10:].sum() / max(loads.sum(), 1))
    # The rule keeps the rate below 0.05 * 20 / 30.
    assert np.mean(rates) < 0.06


def test_no_rotation_changes_the_statistic():
    torch.manual_seed(0)
    y = simulated(POISSON, 200, torch.randn(6, 2) / 2, 1)
    guide, first = fit_and_test(y, POISSON, 2)
    rotation, _ = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64))
    with torch.no_grad():
        (name,) = (name for name in guide.state_dict() if "loading" in name)
        guide.load_state_dict({**guide.state_dict(), name: guide.loading @ rotation})
    guide.update_globals(y.double())
    again = pef.loading_test(guide)
    np.testing.assert_allclose(again.statistic, first.statistic, rtol=1e-4)


def test_a_flat_prior_makes_it_the_ordinary_wald_statistic():
    torch.manual_seed(0)
    y = simulated(BERNOULLI, 400, torch.ones(6, 1), 2)
    model = pef.ExpFamPCA(BERNOULLI, 6, 1, loading_scale=1e4, intercept_scale=1e4).double()
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y.double())
    posterior = guide.coefficients
    expected = posterior.mode[:, 0].square() / posterior.variance()[:, 0]
    np.testing.assert_allclose(pef.loading_test(guide).statistic, expected, rtol=1e-6)


def test_categories_count_their_differences_alone():
    family = pef.families.Categorical(3)
    torch.manual_seed(3)
    y = family.sample(torch.randn(300, 2) @ torch.randn(2, 18)).unflatten(-1, (6, 3)).argmax(-1)
    _, found = fit_and_test(y, family, 2)
    assert found.degrees_of_freedom.tolist() == [4] * 6


def test_categories_beside_other_columns_have_the_statistics_of_their_columns():
    family = pef.families.Columns(
        [([0, 2, 4], pef.families.Poisson()), ([1, 3, 5], pef.families.Categorical(3))]
    )
    torch.manual_seed(3)
    eta = torch.randn(300, 2) @ torch.randn(2, 12) / 2
    guide, found = fit_and_test(family.decode(family.sample(eta)), family, 2)
    assert found.degrees_of_freedom.tolist() == [2, 4, 2, 4, 2, 4]
    posterior = guide.coefficients
    # The prior hardly counts for a column of counts: its statistic is that of its own block.
    W, C = posterior.mode[4, :2], posterior.covariance().view(12, 3, 12, 3)[4, :2, 4, :2]
    assert float(found.statistic[2]) == pytest.approx(float(W @ torch.linalg.solve(C, W)), rel=0.1)


def test_features_one_by_one_have_the_blocks_of_features_together(monkeypatch):
    torch.manual_seed(4)
    y = simulated(POISSON, 300, torch.randn(6, 1) / 2, 4)
    guide, together = fit_and_test(y, POISSON, 1)
    monkeypatch.setattr("pyro_expfam.coefficients.covariance.LARGEST_DENSE", 1)
    guide.update_globals(y.double())
    assert guide.coefficients.factor.dim() == 3
    alone = pef.loading_test(guide)
    np.testing.assert_allclose(alone.statistic, together.statistic, rtol=0.6)
    assert alone.statistic.shape == together.statistic.shape


def test_the_covariance_over_tables_is_smaller_than_the_posterior_covariance():
    torch.manual_seed(5)
    guide, _ = fit_and_test(simulated(POISSON, 60, torch.randn(5, 2) / 2, 5), POISSON, 2)
    posterior = guide.coefficients
    owners = torch.arange(len(posterior.mode))
    found = sampling_covariance(posterior, guide.model.coefficient_precision(), owners)
    variances = found.diagonal(dim1=1, dim2=2)
    assert torch.all(variances < posterior.variance())
    assert torch.all(variances > 0)


def test_the_result_is_a_table_with_the_names_of_the_columns():
    _, found = fit_and_test(simulated(BERNOULLI, 100, torch.ones(4, 1), 6), BERNOULLI, 1)
    assert list(found.table.columns) == ["length", "statistic", "df", "p", "q", "loads"]
    assert str(found).splitlines()[0].endswith("at a false discovery rate of 0.05")


def test_bad_arguments_are_refused():
    guide = pef.LaplaceGuide(pef.ExpFamPCA(BERNOULLI, 4, 1))
    with pytest.raises(ValueError, match="fdr must be between 0 and 1, got 0"):
        pef.loading_test(guide, fdr=0)
    with pytest.raises(ValueError, match="globals='laplace'"):
        pef.loading_test(guide)
    with pytest.raises(TypeError, match="guide must be a guide of this package"):
        pef.loading_test(guide.model)
