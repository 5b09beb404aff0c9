"""The part of the deviance of a table that a fit explains."""

import pytest
import torch
from pyro.nn import PyroModule

import pyro_expfam as pef

F = pef.families


class Larger(PyroModule):
    """A block within a model."""

    def __init__(self):
        super().__init__()
        self.table = pef.ExpFamPCA(F.Poisson(), 4, 1)

    def forward(self, y):
        return self.table(y)


def fitted(family, y, latent_dim=1, **arguments):
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(family, y.shape[1], latent_dim))
    guide.fit(y, progress=False, **arguments)
    return guide


def test_it_is_the_share_of_variance_of_a_gaussian_table():
    torch.manual_seed(0)
    y = 3 + torch.randn(60, 1) @ torch.randn(1, 5) + 0.5 * torch.randn(60, 5)
    guide = fitted(F.Gaussian(0.5), y)
    residual = y - 0.5 * (guide.latents(y) @ guide.loading.mT + guide.intercept)
    expected = 1 - residual.square().sum() / (y - y.mean(0)).square().sum()
    assert pef.deviance_explained(guide, y) == pytest.approx(expected.item(), rel=1e-5)


def test_it_heeds_mask_weights_and_offset():
    torch.manual_seed(0)
    offset = 0.5 * torch.randn(50, 1)
    y = torch.poisson(torch.exp(offset + 1 + torch.randn(50, 1) @ torch.randn(1, 6)))
    mask, weights = torch.rand(50, 6) < 0.8, torch.rand(6) + 0.5
    entries = {"offset": offset, "mask": mask, "weights": weights}
    guide = fitted(F.Poisson(), y, **entries)
    eta = guide.latents(y, **entries) @ guide.loading.mT + guide.intercept + offset
    w = mask * weights
    # The rate of an intercept alone: observed counts over exposures.
    rate = (w * y).sum(0) / (w * offset.exp()).sum(0) * offset.exp()
    remaining = (w * F.Poisson().deviance(y, eta.detach())).sum()
    without = (w * F.Poisson().deviance(y, rate.log())).sum()
    found = pef.deviance_explained(guide, y, **entries)
    assert found == pytest.approx(float(1 - remaining / without), rel=1e-4)
    assert found > 0.3
    # Missing entries are not read.
    y[~mask] = 1e6
    assert pef.deviance_explained(guide, y, **entries) == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("family", [F.Categorical(3), F.Bernoulli(), F.NegativeBinomial(2.0)])
def test_noise_is_explained_less_than_what_rows_share(family):
    torch.manual_seed(0)
    levels = family.predictors_per_column
    shared = torch.randn(80, 1) @ (3 * torch.randn(1, 8 * levels))
    found = []
    for eta in (shared, torch.zeros_like(shared)):
        y = family.decode(family.sample(eta))
        found.append(pef.deviance_explained(fitted(family, y), y))
    assert 0 <= found[1] < found[0] < 1


@pytest.mark.parametrize(
    ("family", "constant"),
    [(F.Bernoulli(), 1.0), (F.Bernoulli(), 0.0), (F.Poisson(), 0.0), (F.Binomial(3), 3.0)],
)
def test_a_constant_column_has_nothing_to_explain(family, constant):
    torch.manual_seed(0)
    y = family.sample(torch.randn(50, 1) @ torch.tensor([[1.0, -1.0, 2.0, 1.5, -2.0]]))
    y[:, 2] = constant
    guide = fitted(family, y)
    by_column = pef.deviance_explained_by_column(guide, y)
    assert by_column[2] == 0
    assert (by_column[[0, 1, 3, 4]] > 0).all()
    y[:] = constant
    assert pef.deviance_explained(guide, y) == 0


def test_what_has_no_explained_deviance_is_refused():
    torch.manual_seed(0)
    y = torch.rand(20, 4)
    guide = fitted(F.ContinuousBernoulli(), y)
    assert pef.deviance_explained(guide, y) < 1
    y[3, 2] = 0.0
    with pytest.raises(
        ValueError, match=r"y must have entries of bounded density, got 0 at \(3, 2"
    ):
        pef.deviance_explained(guide, y)
    with pytest.raises(TypeError, match=r"guide must be a guide of this package.*got Linear"):
        pef.deviance_explained(torch.nn.Linear(2, 1), y)
    with pytest.raises(ValueError, match=r"guide must be of a single block.*got one of Larger"):
        pef.deviance_explained(pef.DEQMAPGuide(Larger()), y)
    with pytest.raises(ValueError, match="guide must be trained"):
        pef.deviance_explained(pef.DEQMAPGuide(pef.ExpFamPCA(F.Poisson(), 4, 1)), y)


def test_columns_of_one_deviance_are_explained_as_the_table():
    torch.manual_seed(0)
    family = pef.families.Columns(
        {"a": pef.families.Poisson(), "b": pef.families.Categorical(3), "c": pef.families.Poisson()}
    )
    eta = torch.randn(80, 1) @ torch.tensor([[1.0, 1.0, -1.0, 0.0, 0.0]])
    y = family.decode(family.sample(eta))
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(family, latent_dim=1))
    guide.fit(y)
    by_column = pef.deviance_explained_by_column(guide, y)
    assert by_column.shape == (3,)
    assert by_column[0] > 0.3 > by_column[2]
    alone = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 1, latent_dim=1))
    alone.fit(y[:, :1])
    assert float(pef.deviance_explained_by_column(alone, y[:, :1])) == pytest.approx(
        pef.deviance_explained(alone, y[:, :1])
    )
