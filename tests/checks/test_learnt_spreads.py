"""Learnt scales, shapes, precisions, dispersions and sizes that have run to their bound."""

import pandas as pd
import pyro
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.checks.learnt_spreads import COPIED, learnt_spreads


@pytest.fixture(autouse=True)
def seeded():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def factors(num_rows=1000):
    """Noisy columns of two latents, of which one latent explains too little."""
    return torch.randn(num_rows, 2) @ torch.randn(2, 5) + torch.randn(num_rows, 5)


def fitted(family, y, latent_dim, **settings):
    model = pef.ExpFamPCA(family, y.shape[1], latent_dim, **settings)
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    return model, guide


def spreads_of(guide, y):
    (root,) = guide.group_roots(y)
    return learnt_spreads(root.tables[0], root)


def of_spread(report):
    return [found for found in report.findings[""] if found.subject == "spread"]


def test_a_column_that_a_latent_copies_is_a_problem_by_name():
    y = pd.DataFrame(factors().numpy(), columns=list("abcde"))
    model, guide = fitted(pef.families.Gaussian("per column"), y, 1)
    scale = model.family_scale.detach()
    assert float(scale[2]) < 0.1
    report = pef.check(model, guide, y, num_draws=50)
    (found,) = of_spread(report)
    assert found.level == "PROBLEM"
    assert found in report.problems
    assert "1 of 5 columns (c) is copied by a latent" in found.text
    assert f"the scale ({float(scale[2]):.2g})" in found.text
    assert "Take parameter_scale=1, a smaller loading_scale" in found.text
    assert "spread" in str(report)


def test_the_advice_cures_it():
    y = factors()
    for settings in ({"parameter_scale": 1.0}, {"loading_scale": 1.0}):
        _, guide = fitted(pef.families.Gaussian("per column"), y, 1, **settings)
        (spread,) = spreads_of(guide, y)
        assert not spread.copied
    _, guide = fitted(pef.families.Gaussian("per column"), y, 2)
    assert not spreads_of(guide, y)[0].copied


def test_the_share_of_a_column_is_what_factor_analysis_says():
    # The variance of a column given the others is one over the diagonal of the precision matrix.
    y = factors()
    model, guide = fitted(pef.families.Gaussian("per column"), y, 2)
    (spread,) = spreads_of(guide, y)
    scale = model.family_scale.detach().double()
    loading = guide.loading.detach().double() * scale[:, None]
    covariance = loading @ loading.mT + torch.diag(scale**2)
    share = 1 - scale**2 * torch.linalg.inv(covariance).diagonal()
    torch.testing.assert_close(spread.of_latents, share, rtol=1e-5, atol=1e-6)


POSITIVE = torch.exp(torch.linspace(-2, 2, 40)[:, None] * torch.linspace(0.2, 1, 5))
PROPORTIONS = POSITIVE / (1 + POSITIVE)


@pytest.mark.parametrize(
    ("family", "y", "name", "bound"),
    [
        (pef.families.Gamma(), POSITIVE, "shape", 1e5),
        (pef.families.Tweedie(1.5), POSITIVE, "dispersion", 1e-5),
        (pef.families.Beta(), PROPORTIONS, "precision", 1e4),
        (pef.families.NegativeBinomial(), (1e5 * POSITIVE).round(), "size", 1e5),
    ],
    ids=["gamma", "tweedie", "beta", "negative binomial"],
)
def test_every_learnt_spread_is_looked_at(family, y, name, bound):
    model = pef.ExpFamPCA(family, 5, 2)
    guide = pef.LaplaceGuide(model)
    guide(y)
    model.loading = torch.stack([torch.linspace(0.2, 1, 5), torch.full((5,), 0.1)], 1)
    values = torch.ones(5)
    values[3] = bound
    setattr(model, f"family_{name}", values)
    (spread,) = spreads_of(guide, y)
    assert spread.name == name
    assert list(spread.copied) == [3]
    assert spread.copied[3] == pytest.approx(bound)
    assert float(spread.of_latents[[0, 1, 2, 4]].max()) < COPIED


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (pef.families.Gaussian("per column"), "scale"),
        (pef.families.LogNormal(), "scale"),
        (pef.families.Weibull(), "shape"),
    ],
    ids=["normal", "log-normal", "weibull"],
)
def test_units_of_linear_predictors_are_looked_at(family, name):
    # The loading grows as the unit falls.
    model = pef.ExpFamPCA(family, 5, 2)
    guide = pef.LaplaceGuide(model)
    guide(POSITIVE)
    loading = torch.full((5, 2), 0.5)
    loading[3] *= 100
    model.loading = loading
    (spread,) = spreads_of(guide, POSITIVE)
    assert spread.name == name
    assert list(spread.copied) == [3]
    assert spread.copied[3] == pytest.approx(1.0)


def test_a_table_that_latents_explain_exactly_has_no_scale():
    y = torch.randn(30, 1) @ torch.randn(1, 6)
    with pytest.warns(pef.deq.ConvergenceWarning):
        model, guide = fitted(
            pef.families.Gaussian(), y, 2, loading_scale=None, intercept_scale=None
        )
    report = pef.check(model, guide, y, num_draws=50)
    (found,) = of_spread(report)
    assert found.level == "PROBLEM"
    assert "latents explain 6 of 6 columns (0, 1, 2, 3, 4, ...) exactly: the scale" in found.text
    assert "one scale for all columns" not in found.text
    # A loading_scale would not help: the unit of the natural parameters is what has run away.
    (training,) = [x for x in report.findings[""] if x.subject == "training"]
    assert "Give the block a loading_scale" not in training.text
    assert "a learnt spread that has run to nothing" in training.text


def test_poisson_counts_have_an_infinite_size_which_does_no_harm():
    y = torch.poisson(torch.exp(torch.randn(300, 2) @ torch.randn(2, 5)))
    model, guide = fitted(pef.families.NegativeBinomial("shared"), y, 2)
    model.family_size = torch.tensor(1e6)
    (found,) = of_spread(pef.check(model, guide, y, num_draws=50))
    assert found.level == "note"
    assert "the size of 5 of 5 columns (0, 1, 2, 3, 4) has run to its end (1e+06)" in found.text


def test_columns_of_a_mixed_table_are_looked_at_by_their_laws():
    laws = [
        (slice(0, 3), pef.families.Poisson()),
        (slice(3, 8), pef.families.Gaussian("per column")),
    ]
    family = pef.families.Columns(laws)
    amounts = factors()
    y = torch.cat([torch.poisson(torch.ones(1000, 3)), amounts], 1)
    model, guide = fitted(family, y, 1)
    (spread,) = spreads_of(guide, y)
    assert spread.columns == [3, 4, 5, 6, 7]
    scale = model.family_gaussian_scale.detach()
    assert spread.copied == {5: pytest.approx(float(scale[2]))}


def test_known_scales_are_not_looked_at():
    y = factors(50)
    _, guide = fitted(pef.families.Gaussian(0.01), y, 1)
    assert spreads_of(guide, y) == ()
