"""The weakly informative prior of an intercept, which is the default."""

import pyro
import pytest
import torch
from pyro.nn import PyroSample
from scipy.optimize import brentq

import pyro_expfam as pef

POISSON = pef.families.Poisson()
FAMILIES = [
    (pef.families.Poisson(), 10.0),
    (pef.families.Bernoulli(), 10.0),
    (pef.families.Binomial(5), 10.0),
    (pef.families.Ising(), 5.0),
    (pef.families.ContinuousBernoulli(), 1_000.0),
    (pef.families.Gaussian(2.0), 1e10),
]


def counts(num_rows=60, num_features=6):
    return torch.poisson(
        torch.exp(torch.randn(num_rows, 2) @ torch.randn(2, num_features) / 2)
    ).double()


@pytest.mark.parametrize(("family", "scale"), FAMILIES, ids=str)
def test_the_weak_intercept_scale_is_the_familys(family, scale):
    model = pef.ExpFamPCA(family, 3, 1)
    prior = pyro.poutine.trace(model).get_trace(num_rows=4).nodes["intercept"]["fn"].base_dist
    assert torch.equal(prior.loc, torch.zeros(3))
    assert torch.equal(prior.scale, torch.full((3,), scale))
    flat = pef.ExpFamPCA(family, 3, 1, intercept_scale=None)
    assert pyro.poutine.trace(flat).get_trace(num_rows=4).nodes["intercept"]["type"] == "param"


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="intercept_scale must be a positive number, 'weak' for"):
        pef.ExpFamPCA(POISSON, 3, 1, intercept_scale="strong")
    with pytest.raises(ValueError, match="intercept_scale must be a positive number, 'weak' for"):
        pef.compare_latent_dims(POISSON, counts(), [1], intercept_scale="flat")


@pytest.mark.parametrize("loss", [None, pef.LaplaceEvidence()])
def test_a_column_of_zeros_has_the_intercept_that_balances_its_prior(loss):
    y = counts(40)
    y[:, 2] = 0.0
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(POISSON, 6, 1).double())
    assert guide.fit(y, loss=loss, tol=1e-12).converged
    # The loading of the column is as good as zero.
    expected = brentq(lambda b: 40 * torch.tensor(b).exp().item() + b / 100, -20.0, 0.0)
    assert float(guide.intercept[2]) == pytest.approx(expected, abs=0.02)


def test_held_out_evidence_of_a_column_whose_only_count_is_held_out_has_a_limit():
    y = counts()
    y[:, 0] = 0.0
    train = y.clone()
    y[7, 0] = 1.0
    keep = torch.arange(60) != 7
    found = []
    for tol in (1e-6, 1e-8, 1e-11):
        pyro.clear_param_store()
        guide = pef.DEQMAPGuide(pef.ExpFamPCA(POISSON, 6, 1).double())
        assert guide.fit(train[keep], loss=pef.LaplaceEvidence(), tol=tol).converged
        found.append(float(guide.log_evidence(y[7:8])))
    assert found == pytest.approx([found[-1]] * 3, abs=0.01)


def test_a_gaussian_mean_far_from_zero_hardly_moves():
    """By less than 0.01 standard deviations of the noise."""
    y = 1e5 + torch.randn(100, 3).double()
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Gaussian(1.0), 3, 1).double())
    guide.fit(y, tol=1e-14)
    mean = (guide.latents(y) @ guide.loading.T + guide.intercept).mean(0)
    torch.testing.assert_close(mean, y.mean(0), rtol=0.0, atol=0.01)


def test_spins_and_bits_have_the_same_prior():
    bits = torch.bernoulli(torch.sigmoid(torch.randn(80, 1) @ torch.randn(1, 5) - 1)).double()
    bits[:, 0] = 0.0
    intercepts = []
    for family, y, scale in (
        (pef.families.Bernoulli(), bits, 1.0),
        (pef.families.Ising(), 2 * bits - 1, 0.5),
    ):
        pyro.clear_param_store()
        guide = pef.DEQMAPGuide(pef.ExpFamPCA(family, 5, 1, loading_scale=scale).double())
        guide.fit(y, tol=1e-13)
        intercepts.append(guide.intercept)
    torch.testing.assert_close(2 * intercepts[1], intercepts[0], rtol=1e-4, atol=1e-4)


def test_point_estimates_start_at_zero_under_the_blocks_prior_alone():
    y = counts().float()
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(POISSON, 6, 2))
    guide(y)
    assert torch.equal(guide.intercept, torch.zeros(6))
    pyro.clear_param_store()
    model = pef.ExpFamPCA(POISSON, 6, 2)
    model.intercept = PyroSample(pyro.distributions.Normal(5.0, 0.1).expand([6]).to_event(1))
    guide = pef.DEQMAPGuide(model)
    guide(y)
    assert (guide.intercept - 5.0).abs().max() < 0.5


@pytest.mark.parametrize("precision", [0.0, 0.01, 1.0])
def test_centring_takes_part_in_a_fit(precision):
    """Latents whose mean is not zero are as good a start as those whose mean is."""
    y = counts(200)
    table = pef.joint.TableInMemory(POISSON, 6, y, y, 3 * torch.randn(200, 1).double())
    problem = pef.joint.JointProblem(table, torch.ones(()).double(), 1.0, precision)
    coefficients, _ = pef.joint.fit_coefficients(problem, 2, pef.deq.FisherScoring(), tol=1e-12)
    W, b = coefficients[:, :-1], coefficients[:, -1]
    z = torch.randn(200, 2).double()
    moved = torch.cat([W, (b - W @ torch.tensor([2.0, -1.0]).double())[:, None]], 1)
    at_mean, z_at_mean = problem.change_basis(moved, z + torch.tensor([2.0, -1.0]).double())
    expected, z_expected = problem.change_basis(coefficients, z)
    torch.testing.assert_close(at_mean, expected)
    torch.testing.assert_close(z_at_mean, z_expected)
