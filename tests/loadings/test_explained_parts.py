"""What latents explain, by column and by component."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA

import pyro_expfam as pef

F = pef.families


def fitted(family, y, latent_dim, **settings):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, y.shape[1], latent_dim, **settings).double())
    guide.fit(y.double(), progress=False)
    return guide


def test_parts_of_a_gaussian_table_are_those_of_principal_components():
    torch.manual_seed(0)
    y = torch.randn(200, 3, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0])
    y = y @ torch.randn(3, 6, dtype=torch.float64) + 5
    flat = {"loading_scale": None, "intercept_scale": None}
    guide = fitted(F.Gaussian(1e-3), y, 2, **flat)
    found, pca = pef.explained_deviance(guide, y), PCA(2).fit(y)
    assert found.total == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-6)
    np.testing.assert_allclose(found.by_component, pca.explained_variance_ratio_, rtol=2e-3)
    np.testing.assert_allclose(np.abs(found.components.rows), np.abs(pca.components_), atol=2e-2)
    residual = y - torch.as_tensor(pca.inverse_transform(pca.transform(y)))
    expected = 1 - residual.var(0) / y.var(0)
    assert torch.allclose(found.by_column, expected, atol=1e-6)


def test_noise_takes_a_share_off_the_parts_of_the_variance():
    torch.manual_seed(0)
    y = torch.randn(300, 2, dtype=torch.float64) @ torch.randn(2, 6, dtype=torch.float64)
    y = y + torch.randn(300, 6, dtype=torch.float64)
    guide = fitted(F.Gaussian(), y, 2, loading_scale=None, intercept_scale=None)
    values = np.linalg.eigvalsh(np.cov(y.numpy().T, bias=True))[::-1]
    noise = values[2:].mean()  # the largest likelihood of probabilistic PCA
    expected = values[:2] / values.sum() * (1 - (noise / values[:2]) ** 2)
    found = pef.explained_deviance(guide, y).by_component
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "family", [F.Poisson(), F.Bernoulli(), F.Gamma(2.0), F.Categorical(3)], ids=str
)
def test_the_parts_add_up_to_the_deviance_explained(family):
    torch.manual_seed(1)
    levels = family.predictors_per_column
    eta = torch.randn(80, 2) @ torch.randn(2, 5 * levels) / 2
    y = family.decode(family.sample(eta))
    mask = torch.rand(80, 5) < 0.9
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, 5, 2))
    guide.fit(y, mask=mask, progress=False)
    found = pef.explained_deviance(guide, y, mask=mask)
    assert found.total == pytest.approx(pef.deviance_explained(guide, y, mask=mask), abs=1e-9)
    assert float(found.by_component.sum()) == pytest.approx(found.total, abs=1e-9)
    assert torch.allclose(found.share.sum(1), torch.ones(5).double())
    assert list(found.by_component) == sorted(found.by_component, reverse=True)
    assert found.table.shape == (6, 3)


def test_a_column_without_a_loading_is_not_explained():
    torch.manual_seed(2)
    W = torch.cat([torch.ones(5, 1), torch.zeros(1, 1)])
    y = torch.poisson(torch.exp(1 + torch.randn(300, 1) @ W.mT))
    found = pef.explained_deviance(fitted(F.Poisson(), y, 1), y)
    assert float(found.by_column[-1]) < 0.03 < 0.3 < float(found.by_column[:-1].min())


def test_communalities_are_shares_of_variance_over_rows_of_the_model():
    torch.manual_seed(3)
    y = torch.poisson(torch.exp(torch.randn(300, 2) @ torch.randn(2, 5) / 2))
    guide = fitted(F.Poisson(), y, 2)
    z = torch.randn(1_000_000, 2, dtype=torch.float64)
    mean = F.Poisson().expected_y(z @ guide.loading.mT + guide.intercept)
    expected = mean.var(0) / (mean.var(0) + mean.mean(0))
    assert torch.allclose(pef.communalities(guide), expected, rtol=0.03)


@pytest.mark.parametrize(
    "family",
    [F.Categorical(3), F.Multinomial(), F.Columns({"a": F.Categorical(3), "b": F.Poisson()})],
    ids=str,
)
def test_categories_and_compositions_have_no_communality(family):
    torch.manual_seed(4)
    y = torch.randint(0, 3, (30, 2)).float()
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, 2, 1))
    guide.fit(y)
    with pytest.raises(ValueError, match="one linear predictor per column"):
        pef.communalities(guide)


def test_the_parts_of_a_composition_are_explained_by_its_component():
    torch.manual_seed(5)
    z = torch.randn(300, 1)
    y = F.Poisson().sample(z * torch.tensor([0.3, 0.6, 1.0, -0.8, 0.5]) + 2)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Multinomial(), 5, 1))
    guide.fit(y)
    found = pef.explained_deviance(guide, y)
    assert torch.allclose(found.share, torch.ones(5, 1).double())
    assert float(found.by_component[0]) == pytest.approx(found.total)


@pytest.mark.parametrize("row_effect", [None, "random"])
def test_more_latents_than_columns_have_a_component_per_column(row_effect):
    torch.manual_seed(2)
    y = torch.poisson(torch.exp(torch.randn(80, 2) @ torch.randn(2, 3) / 2)).double()
    guide = fitted(F.Poisson(), y, 5, row_effect=row_effect)
    found = pef.explained_deviance(guide, y)
    assert found.components.rows.shape == (3, 3)
    assert found.table.shape == (4, 4 + (row_effect is not None))
    # Latents beyond the rank of the loading are zero, and a model without them explains the same.
    values = torch.linalg.svd(guide.loading)[1]
    assert found.total == pytest.approx(pef.deviance_explained(guide, y), abs=1e-9)
    assert float(found.by_component.sum()) == pytest.approx(found.total, abs=1e-9)
    assert (found.by_component[:3] > 1e-3).sum() <= (values > 1e-3).sum()


def test_tables_of_results_take_labels_of_several_levels():
    torch.manual_seed(3)
    columns = pd.MultiIndex.from_product([["a", "b"], [1, 2]])
    y = torch.poisson(torch.exp(1 + torch.randn(90, 1) @ torch.randn(1, 4) / 2))
    frame = pd.DataFrame(y.numpy(), columns=columns)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Poisson(), 4, 1).double(), globals="laplace")
    guide.fit(frame, progress=False)
    tables = (
        pef.explained_deviance(guide, frame).table[:-1],
        pef.rotate(guide).table,
        pef.loading_test(guide).table,
        pef.variance_shares(guide).table,
    )
    for table in tables:
        assert list(table.index) == list(columns)
