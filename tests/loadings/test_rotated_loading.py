"""Rotations of a loading to simple axes, and their uncertainty."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.decomposition import FactorAnalysis

import pyro_expfam as pef
from pyro_expfam.loadings import promax, varimax


def criterion(W):
    rows = W / W.norm(dim=1, keepdim=True)
    return float(rows.square().var(0, correction=0).sum())


def turned(angle):
    return torch.tensor(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float64
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_plane_rotation_is_better(seed):
    torch.manual_seed(seed)
    W = torch.randn(12, 3, dtype=torch.float64)
    R = varimax(W)
    assert torch.allclose(R.mT @ R, torch.eye(3, dtype=torch.float64), atol=1e-12)
    found = W @ R
    for pair in itertools.combinations(range(3), 2):
        for angle in torch.linspace(0, torch.pi, 50):
            other = found.clone()
            other[:, pair] = found[:, pair] @ turned(float(angle))
            assert criterion(other) <= criterion(found) + 1e-9


def test_two_latents_are_turned_by_the_best_angle():
    torch.manual_seed(1)
    W = torch.randn(9, 2, dtype=torch.float64)
    best = max(
        -minimize_scalar(
            lambda x: -criterion(W @ turned(x)), bounds=(start, start + 0.4), method="bounded"
        ).fun
        for start in np.arange(0, np.pi / 2, 0.4)
    )
    assert criterion(W @ varimax(W)) == pytest.approx(best, rel=1e-7)


def test_a_rotated_simple_structure_is_found_again():
    torch.manual_seed(2)
    simple = torch.zeros(9, 3, dtype=torch.float64)
    for k in range(3):
        simple[3 * k : 3 * k + 3, k] = torch.tensor([1.0, 2.0, 0.5])
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    for turn in (varimax, promax):
        found = simple @ rotation @ turn(simple @ rotation)
        assert torch.allclose(
            found.abs().sort(1).values[:, :2], torch.zeros(()).double(), atol=1e-7
        )


def test_promax_has_latents_of_variance_one_and_smaller_small_loadings():
    torch.manual_seed(3)
    W = torch.randn(12, 2, dtype=torch.float64) + torch.tensor([[2.0, 0.0]] * 6 + [[0.0, 2.0]] * 6)
    T, R = promax(W), varimax(W)
    inverse = torch.linalg.inv(T)
    assert torch.allclose((inverse @ inverse.mT).diagonal(), torch.ones(2).double())
    small = [(W @ x).abs().amin(1).mean() for x in (T, R)]
    assert small[0] < small[1]


def fitted(globals="laplace"):
    torch.manual_seed(4)
    W = torch.tensor([[1.5, 0.0]] * 4 + [[0.0, 1.5]] * 4)
    frame = pd.DataFrame(
        torch.bernoulli(torch.sigmoid(torch.randn(500, 2) @ W.mT)).numpy(), columns=list("abcdefgh")
    )
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 8, 2), globals=globals)
    guide.fit(frame)
    return guide, W


def test_intervals_hold_the_loading_that_made_the_table():
    guide, W = fitted()
    torch.manual_seed(5)
    rotated = pef.rotate(guide, num_draws=200)
    order = [0, 1] if rotated.loading[0, 0] > rotated.loading[0, 1] else [1, 0]
    inside = (rotated.lower[:, order] < W) & (rotated.upper[:, order] > W)
    assert int(inside.sum()) >= 12  # of 16, each with probability 0.9
    assert torch.all(rotated.lower < rotated.loading)
    assert torch.all(rotated.loading < rotated.upper)
    assert list(rotated.table.index) == list("abcdefgh")


def test_a_rotation_changes_no_linear_predictor():
    guide, _ = fitted()
    z = torch.randn(7, 2, dtype=torch.float64)
    for method in ("varimax", "promax"):
        rotated = pef.rotate(guide, method, num_draws=2)
        eta = rotated.latents(z) @ rotated.loading.mT
        assert torch.allclose(eta, z @ guide.loading.double().mT)
    assert not torch.allclose(rotated.latent_covariance, torch.eye(2).double())


def test_a_gaussian_loading_is_rotated_nearly_as_by_scikit_learn():
    torch.manual_seed(6)
    W = torch.tensor([[3.0, 0.5]] * 4 + [[0.2, 2.0]] * 4)
    y = torch.randn(800, 2) @ W.mT + torch.randn(800, 8)
    theirs = FactorAnalysis(2, rotation="varimax", tol=1e-8, max_iter=5000).fit(y.numpy())
    R = varimax(torch.as_tensor(theirs.components_.T))
    # Theirs is without the scaling of rows, which turns the latents by a few degrees.
    assert torch.allclose(R.abs(), torch.eye(2).double(), atol=0.1)


def test_without_a_posterior_there_are_no_intervals():
    guide, _ = fitted(globals=None)
    rotated = pef.rotate(guide)
    assert rotated.draws is None
    with pytest.raises(ValueError, match="globals='laplace'"):
        _ = rotated.lower


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "oblimin"}, "one of varimax, promax, got 'oblimin'"),
        ({"num_draws": 0}, "num_draws must be at least 1, got 0"),
        ({"level": 1.0}, "level must be between 0 and 1, got 1.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 3, 1))
    guide.fit(torch.bernoulli(torch.full((20, 3), 0.5)))
    with pytest.raises(ValueError, match=message):
        pef.rotate(guide, **settings)


def test_loadings_of_categories_are_differences_between_levels():
    torch.manual_seed(7)
    family = pef.families.Categorical(3)
    y = family.decode(family.sample(torch.randn(200, 1) @ torch.randn(1, 12)))
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, 4, 1), globals="laplace")
    guide.fit(y)
    rotated = pef.rotate(guide, num_draws=20)
    by_column = rotated.draws.unflatten(1, (4, 3))
    assert torch.allclose(by_column.sum(2), torch.zeros(()).double(), atol=1e-9)
    assert rotated.names[:4] == ["0=0", "0=1", "0=2", "1=0"]


def test_mixed_tables_have_a_name_for_each_linear_predictor():
    torch.manual_seed(8)
    family = pef.families.Columns(
        {"n": pef.families.Poisson(), "colour": pef.families.Categorical(3)}
    )
    y = family.decode(family.sample(torch.randn(100, 1) @ torch.randn(1, 4)))
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, latent_dim=1))
    guide.fit(y)
    assert list(pef.rotate(guide).table.index) == ["n", "colour=0", "colour=1", "colour=2"]


def test_untrained_guides_are_refused():
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 3, 1))
    with pytest.raises(ValueError, match="guide must be trained"):
        pef.rotate(guide)
