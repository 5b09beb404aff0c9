"""What is built on a guide trains it: gradients of what it says of rows."""

import inspect

import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoGaussian, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch.distributions.constraints import positive

import pyro_expfam as pef

POISSON = pef.families.Poisson()


def counts(num_rows=20):
    return torch.poisson(torch.exp(torch.randn(num_rows, 2) @ torch.randn(2, 5) / 2)).double()


def called(guide, y):
    """A guide with parameters of ordinary size, which differ from zero."""
    guide(y)
    with torch.no_grad():
        for parameter in [*guide.parameters(), *guide.model.parameters()]:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return guide


@pytest.fixture(autouse=True)
def in_double():
    torch.set_default_dtype(torch.float64)


class Encoder(torch.nn.Module):
    """A guide as a layer of a network."""

    def __init__(self, guide):
        super().__init__()
        self.guide = guide

    def forward(self, y):
        return self.guide.latents(y)


def test_a_network_with_a_guide_in_it_trains_its_loading():
    y = counts()
    guide = called(pef.DEQMAPGuide(pef.ExpFamPCA(POISSON, 5, 2)), y)
    net = torch.nn.Sequential(Encoder(guide), torch.nn.Linear(2, 1))
    target = y.sum(1, keepdim=True).log1p()
    loading = guide.loading.clone()
    assert any(x is guide.global_guide.loading_unconstrained for x in net.parameters())
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = torch.nn.functional.mse_loss(net(y), target)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert float((guide.loading - loading).abs().max()) > 0.1


def learnt(value):
    return PyroParam(torch.tensor(value), constraint=positive)


def block(**settings):
    return pef.ExpFamPCA(POISSON, 5, 2, **settings)


GUIDES = {
    "point intercept": lambda: pef.LaplaceGuide(block(intercept_scale=None)),
    "priors": lambda: pef.LaplaceGuide(block(intercept_scale=2.0)),
    "learnt precision": lambda: pef.LaplaceGuide(block(latent_precision=learnt(2.0))),
    "sampled precision": lambda: pef.LaplaceGuide(
        block(latent_precision=PyroSample(dist.Gamma(2.0, 1.0)))
    ),
    "normal": lambda: pef.LaplaceGuide(block(), global_guide=AutoNormal),
    "correlated": lambda: pef.LaplaceGuide(block(), global_guide=AutoMultivariateNormal),
}

SAID = {
    "latents": lambda guide, *table: guide.latents(*table),
    "solution": lambda guide, *table: guide.block().solution(*table).value,
    "precision": lambda guide, *table: guide.posterior(*table).precision_matrix,
    "evidence": lambda guide, *table: guide.log_evidence(*table),
    "second order": lambda guide, *table: guide.block().log_evidence(*table, order=2),
}


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("kind", GUIDES)
def test_gradients_equal_finite_differences(kind, said):
    y = counts()
    offset = torch.randn(20, 5, requires_grad=True)
    weights = (torch.rand(20, 5) + 0.5).requires_grad_()
    mask = torch.rand(20, 5) < 0.8
    guide = called(GUIDES[kind](), y)
    cotangent = None

    def loss():
        nonlocal cotangent
        value = SAID[said](guide, y, offset, mask, weights)
        if cotangent is None:
            cotangent = torch.randn_like(value)
        return (cotangent * value).sum()

    inputs = [offset, weights]
    for name, parameter in [*guide.named_parameters(), *guide.model.named_parameters()]:
        # Scales of a normal guide do not affect its medians.
        if "scale" not in name:
            inputs.append(parameter)
    gradients = torch.autograd.grad(loss(), inputs)
    for parameter, gradient in zip(inputs, gradients, strict=True):
        direction, step = torch.randn_like(parameter), 1e-5
        around = []
        with torch.no_grad():
            for signed in (step, -2 * step):
                parameter.add_(signed * direction)
                around.append(loss())
            parameter.add_(step * direction)
        expected = (around[0] - around[1]) / (2 * step)
        found = (gradient * direction).sum()
        assert float(gradient.abs().max()) > 0
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_observations_that_have_gradients_have_them():
    y = torch.rand(10, 5).requires_grad_()
    guide = called(pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Gaussian(0.5), 5, 2)), y.detach())
    (gradient,) = torch.autograd.grad(guide.latents(y).sum(), y)
    # Latents of Gaussian observations are linear in them.
    W, b = guide.loading, guide.intercept
    expected = torch.linalg.solve(torch.eye(2) + W.T @ W, W.T).sum(0) / 0.5
    zero = guide.latents(torch.zeros(1, 5))
    torch.testing.assert_close(gradient, expected.expand(10, 5))
    torch.testing.assert_close(zero[0], torch.linalg.solve(torch.eye(2) + W.T @ W, -W.T @ b))


@pytest.mark.parametrize("kind", GUIDES)
def test_results_have_no_gradients_under_no_grad(kind):
    y = counts()
    guide = called(GUIDES[kind](), y)
    with_gradients = [say(guide, y) for say in SAID.values()]
    with torch.no_grad():
        without = [say(guide, y) for say in SAID.values()]
    for value, expected in zip(with_gradients, without, strict=True):
        assert value.requires_grad
        assert not expected.requires_grad
        torch.testing.assert_close(value, expected, rtol=0.0, atol=0.0)
    assert not guide.loading.requires_grad
    assert not guide.intercept.requires_grad
    assert not guide.importance_evidence(y).log_evidence.requires_grad
    assert not guide.importance_latents(y).requires_grad
    assert not any(value.requires_grad for value in guide.median(y).values())


@pytest.mark.parametrize(
    "make",
    [
        lambda model: pef.LaplaceGuide(model, global_guide=AutoGaussian),
        lambda model: pef.LaplaceGuide(model, globals="laplace"),
    ],
)
def test_gradients_that_cannot_be_had_are_refused(make):
    y = counts()
    guide = make(block(intercept_scale=2.0))
    guide(y)
    latents = guide.latents(y)
    with pytest.raises(RuntimeError, match=r"no gradient.*AutoDelta"):
        latents.sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(guide.latents(y), latents)


def test_several_blocks_each_have_gradients():
    class Two(PyroModule):
        def __init__(self):
            super().__init__()
            self.few, self.many = block(), pef.ExpFamPCA(POISSON, 5, 1)

        def forward(self, y):
            return self.few(y), self.many(y)

    y = counts()
    guide = called(pef.DEQMAPGuide(Two()), y)
    guide.block("many").latents(y).sum().backward()
    assert guide.global_guide.many.loading_unconstrained.grad is not None
    assert guide.global_guide.few.loading_unconstrained.grad is None


def test_a_guide_of_the_users_own_global_guide_is_read_as_it_is():
    class Shifted(AutoDelta):
        def forward(self, *args, **kwargs):
            values = super().forward(*args, **kwargs)
            return {name: value + 1 for name, value in values.items()}

    y = counts()
    guide = pef.DEQMAPGuide(block(), global_guide=Shifted)
    guide(y)
    expected = guide.global_guide.loading_unconstrained.detach() + 1
    torch.testing.assert_close(guide.loading, expected)


# ------------------------------------------------------------------ before the first call


def test_results_before_a_fit_are_no_attributes():
    guide = pef.LaplaceGuide(block(), globals="laplace")
    for name in ("loading", "intercept", "coefficients"):
        assert not hasattr(guide, name)
        with pytest.raises(RuntimeError, match="fit it"):
            getattr(guide, name)
        with pytest.raises(AttributeError, match="fit it"):
            getattr(guide, name)
    with pytest.raises(RuntimeError, match="has not seen data"):
        guide.latents(counts())
    with pytest.raises(AttributeError, match="no attribute 'loadings'"):
        _ = guide.loadings
    assert dict(inspect.getmembers(guide))["latents"] == guide.latents
    guide(counts())
    assert all(hasattr(guide, name) for name in ("loading", "intercept", "coefficients"))


def test_the_loading_of_several_blocks_is_no_attribute():
    class Two(PyroModule):
        def __init__(self):
            super().__init__()
            self.few, self.many = block(), block()

        def forward(self, y):
            return self.few(y), self.many(y)

    guide = pef.DEQMAPGuide(Two())
    guide(counts())
    assert not hasattr(guide, "loading")
    with pytest.raises(ValueError, match="one of the blocks"):
        _ = guide.loading


# ------------------------------------------------------------------ other formats


@pytest.mark.parametrize("settings", [{}, {"intercept_scale": 2.0}])
@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_a_model_in_double_wants_its_guide_in_double(make, settings):
    torch.set_default_dtype(torch.float32)
    y = counts()
    model = block(**settings)
    guide = make(model)
    guide.fit(y.float())
    latents = guide.latents(y)
    model.double()
    for use in (guide.latents, guide.fit, guide, guide.median, guide.log_evidence):
        with pytest.raises(TypeError, match=r"float32.*float64.*guide.double\(\)"):
            use(y)
    guide.double()
    found = guide.latents(y)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), latents, rtol=1e-3, atol=1e-3)
    assert guide.fit(y).converged
    assert guide(y)["z"].dtype == torch.float64
