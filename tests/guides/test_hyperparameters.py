"""Scales, precisions and parameters of families that are learnt."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroParam, PyroSample
from pyro.optim import Adam
from torch.distributions.constraints import positive

import pyro_expfam as pef

GAUSSIAN = pef.families.Gaussian(1.0)


def table(num_rows=300, num_features=8, scale=1.0, latent_dim=2):
    W = torch.randn(latent_dim, num_features)
    return torch.randn(num_rows, latent_dim) @ W + scale * torch.randn(num_rows, num_features)


def train(model, guide, y, loss, steps=300, lr=0.03):
    svi = SVI(model, guide, Adam({"lr": lr}), loss)
    for _ in range(steps):
        svi.step(y)


def learnt(value):
    return PyroParam(torch.as_tensor(value), constraint=positive)


def test_the_scale_of_gaussian_observations_is_that_of_probabilistic_pca():
    y = table(scale=0.6)
    model = pef.ExpFamPCA(
        GAUSSIAN,
        8,
        2,
        loading_scale=None,
        intercept_scale=None,
        family_parameters={"scale": learnt(1.0)},
    )
    guide = pef.DEQMAPGuide(model)
    train(model, guide, y, pef.LaplaceEvidence(), steps=150, lr=0.05)
    variances = torch.linalg.eigvalsh(torch.cov(y.T, correction=0))
    # Tipping and Bishop (1999): the mean of the eigenvalues that are left.
    scale = model.family_scale.detach()
    assert float(scale) == pytest.approx(float(variances[:-2].mean().sqrt()), rel=0.01)
    assert float(model.family.scale.detach()) == float(scale)
    assert guide.latents(y).shape == (300, 2)


@pytest.mark.slow
def test_latent_precision_is_learnt_where_the_loading_is_known():
    W = torch.randn(8, 2)
    y = 0.5 * torch.randn(1_000, 2) @ W.T + torch.randn(1_000, 8)
    block = pef.ExpFamPCA(GAUSSIAN, 8, 2, latent_precision=learnt(1.0), intercept_scale=None)
    model = pyro.poutine.condition(block, {"loading": W})
    guide = pef.DEQMAPGuide(model)
    train(model, guide, y, pef.LaplaceEvidence(), steps=150, lr=0.05)
    # Latents have the standard deviation 0.5.
    assert float(block.latent_precision.detach()) == pytest.approx(4.0, rel=0.15)


def test_a_scale_with_a_prior_is_a_site():
    model = pef.ExpFamPCA(
        GAUSSIAN, 8, 3, loading_scale=PyroSample(dist.HalfNormal(1.0).expand([3]).to_event(1))
    )
    trace = pyro.poutine.trace(model).get_trace(num_rows=5)
    assert trace.nodes["loading_scale"]["value"].shape == (3,)
    loading = trace.nodes["loading"]
    expected = trace.nodes["loading_scale"]["value"].expand(8, 3)
    torch.testing.assert_close(loading["fn"].base_dist.scale, expected)
    with pyro.plate("draws", 4, dim=-2):
        trace = pyro.poutine.trace(model).get_trace(num_rows=5)
    assert trace.nodes["loading"]["value"].shape == (4, 1, 8, 3)
    assert trace.nodes["z"]["value"].shape == (4, 5, 3)


@pytest.mark.slow
def test_a_distribution_over_the_loading_prunes_latents_under_svi():
    y = table()
    model = pef.ExpFamPCA(GAUSSIAN, 8, 3, loading_scale=learnt(torch.ones(3)))
    guide = pef.DEQMAPGuide(model, global_guide=lambda m: AutoNormal(m, init_scale=0.05))
    train(model, guide, y, pef.LaplaceEvidence(), steps=1_000, lr=0.06)
    scale = model.loading_scale.detach().sort().values
    assert scale[0] < 0.25 * scale[1]


def test_learnt_scales_prune_a_latent_that_is_not_needed():
    torch.set_default_dtype(torch.float64)
    y = table()
    model = pef.ExpFamPCA(GAUSSIAN, 8, 3, loading_scale=torch.ones(3))
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.learn_loading_scale(y)
    scale = model.loading_scale.sort().values
    assert scale[0] <= 0.15 * scale[1]
    assert guide.loading.norm(dim=0).min() <= 0.2


@pytest.mark.parametrize("scale", [1.0, PyroParam(torch.tensor(1.0), constraint=positive)])
def test_a_learnt_scale_is_a_fixed_point(scale):
    torch.set_default_dtype(torch.float64)
    if isinstance(scale, PyroParam):
        scale = PyroParam(scale.init_value.double(), scale.constraint)
    y = table()
    model = pef.ExpFamPCA(GAUSSIAN, 8, 2, loading_scale=scale)
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.learn_loading_scale(y)
    posterior = guide.coefficients
    moment = (posterior.mode.square() + posterior.variance())[:, :-1].mean()
    assert float(model.loading_scale.detach()) == pytest.approx(float(moment.sqrt()), rel=2e-3)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("family", "num_rows", "num_features", "size"),
    [
        pytest.param(pef.families.Poisson(), 200, 10, 0.7, id="Poisson"),
        pytest.param(
            pef.families.Bernoulli(), 300, 12, 1.0, marks=pytest.mark.slow, id="Bernoulli"
        ),
    ],
)
def test_scales_of_counts_and_bits_come_to_rest(family, num_rows, num_features, size, seed):
    torch.manual_seed(seed)
    W = size * torch.randn(2, num_features)
    y = family.sample(torch.randn(num_rows, 2) @ W)
    model = pef.ExpFamPCA(family, num_features, 4, loading_scale=torch.ones(4))
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y, loss=pef.LaplaceEvidence())
    # A scale that does not come to rest is a warning, and an error here.
    guide.learn_loading_scale(y)
    scale = model.loading_scale.sort().values
    assert scale[0] == pytest.approx(1e-3 * float(scale[3]), rel=0.01)
    assert scale[1] <= 0.3 * scale[2]
    assert scale[2] == pytest.approx(size, rel=0.5)


def test_fit_by_the_evidence_takes_a_scale_by_latent():
    y = table()
    one = pef.ExpFamPCA(GAUSSIAN, 8, 2, loading_scale=0.7)
    guide = pef.DEQMAPGuide(one)
    expected = guide.fit(y, loss=pef.LaplaceEvidence()).objective
    pyro.clear_param_store()
    same = pef.ExpFamPCA(GAUSSIAN, 8, 2, loading_scale=torch.full((2,), 0.7))
    guide = pef.DEQMAPGuide(same)
    assert guide.fit(y, loss=pef.LaplaceEvidence()).objective == pytest.approx(expected, rel=1e-6)
    for scale in ([0.2, 1.0], [1.0, 0.2]):
        pyro.clear_param_store()
        model = pef.ExpFamPCA(GAUSSIAN, 8, 2, loading_scale=torch.tensor(scale))
        guide = pef.DEQMAPGuide(model)
        fit = guide.fit(y, loss=pef.LaplaceEvidence())
        loss = pef.LaplaceEvidence().loss(model, guide, y)
        assert fit.converged
        assert fit.objective == pytest.approx(loss, rel=1e-5)
        size = guide.loading.norm(dim=0)
        assert size.argmax() == torch.tensor(scale).argmax()


def test_the_joint_fit_refuses_scales_that_differ():
    y = table()
    model = pef.ExpFamPCA(GAUSSIAN, 8, 2, loading_scale=torch.tensor([0.5, 1.0]))
    with pytest.raises(ValueError, match="loading_scale must be one number for the joint MAP"):
        pef.DEQMAPGuide(model).fit(y)


def test_fit_names_what_it_does_not_learn():
    y = table()
    model = pef.ExpFamPCA(
        GAUSSIAN,
        8,
        2,
        latent_precision=learnt(2.0),
        loading_scale=learnt(0.7),
        family_parameters={"scale": learnt(3.0)},
    )
    message = "trains loading, intercept, family_scale, and leaves latent_precision, loading_scale"
    for loss in (None, pef.LaplaceEvidence()):
        with pytest.warns(UserWarning, match=message):
            pef.DEQMAPGuide(model).fit(y, loss=loss)
    assert float(model.latent_precision.detach()) == pytest.approx(2.0)
    assert float(model.family_scale.detach()) == pytest.approx(1.0, rel=0.1)


def test_fit_takes_a_learnt_scale_as_it_is():
    y = table()
    known = pef.ExpFamPCA(GAUSSIAN, 8, 2, loading_scale=0.7)
    expected = pef.DEQMAPGuide(known).fit(y).objective
    pyro.clear_param_store()
    model = pef.ExpFamPCA(GAUSSIAN, 8, 2, loading_scale=learnt(0.7), latent_precision=learnt(1.0))
    with pytest.warns(UserWarning, match="leaves latent_precision, loading_scale as they are"):
        fit = pef.DEQMAPGuide(model).fit(y)
    assert fit.objective == pytest.approx(expected, rel=1e-5)


def test_svi_trains_all_hyperparameters_together():
    y = table()
    model = pef.ExpFamPCA(
        GAUSSIAN,
        8,
        2,
        loading_scale=PyroSample(dist.LogNormal(0.0, 1.0)),
        intercept_scale=learnt(1.0),
        family_parameters={"scale": learnt(torch.ones(8))},
    )
    guide = pef.DEQMAPGuide(model)
    svi = SVI(model, guide, Adam({"lr": 0.03}), Trace_ELBO())
    losses = [svi.step(y) for _ in range(50)]
    assert losses[-1] < losses[0]
    assert model.family_scale.shape == (8,)


def test_bad_input():
    with pytest.raises(ValueError, match=r"loading_scale must have shape \(\) or \(2,\)"):
        pef.ExpFamPCA(GAUSSIAN, 8, 2, loading_scale=torch.ones(3))
    with pytest.raises(ValueError, match=r"latent_precision must have shape \(\)"):
        pef.ExpFamPCA(GAUSSIAN, 8, 2, latent_precision=torch.ones(2))
    with pytest.raises(ValueError, match="family_parameters must be among"):
        pef.ExpFamPCA(GAUSSIAN, 8, 2, family_parameters={"rate": learnt(1.0)})
    with pytest.raises(TypeError, match="family_parameters must be PyroParams"):
        pef.ExpFamPCA(GAUSSIAN, 8, 2, family_parameters={"scale": 2.0})
    y = table()
    points = pef.ExpFamPCA(GAUSSIAN, 8, 2, loading_scale=None, intercept_scale=1.0)
    with pytest.raises(ValueError, match="a loading_scale to learn"):
        pef.LaplaceGuide(points, globals="laplace").learn_loading_scale(y)
