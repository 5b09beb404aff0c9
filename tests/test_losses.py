"""The loss of the evidence: its value, its gradient, its optimum, and where it composes."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.optim import Adam

import pyro_expfam as pef

FAMILIES = (
    pef.families.Gaussian(scale=0.7),
    pef.families.Bernoulli(),
    pef.families.Ising(),
    pef.families.ContinuousBernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=16),
)
NUM_ROWS, NUM_FEATURES = 15, 6
PRECISION = 0.625
LOADING_SCALE, INTERCEPT_SCALE = 0.75, 1.5


def table(family, num_rows=NUM_ROWS):
    z = torch.randn(num_rows, 2).double()
    return family.sample(z @ torch.randn(2, NUM_FEATURES).double())


def block(family, precision=PRECISION):
    return pef.ExpFamPCA(
        family, NUM_FEATURES, 2, precision, LOADING_SCALE, INTERCEPT_SCALE
    ).double()


def guide_at_random_parameters(model, *args, make=pef.DEQMAPGuide, **kwargs):
    guide = make(model)
    guide(*args, **kwargs)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return guide


def log_prior(W, b):
    of_loading = dist.Normal(0.0, LOADING_SCALE).log_prob(W).sum()
    return of_loading + dist.Normal(0.0, INTERCEPT_SCALE).log_prob(b).sum()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_the_loss_and_its_gradient_are_those_of_evidence_and_priors(family, make, order):
    model, y = block(family), table(family)
    fields = {"offset": torch.randn(NUM_ROWS, 1).double(), "mask": torch.rand(y.shape) < 0.8}
    guide = guide_at_random_parameters(model, y, make=make, **fields)
    W, b = guide.global_guide.loading, guide.global_guide.intercept
    evidence = pef.log_evidence(family, y, W, b, PRECISION, **fields, order=order)
    expected = -evidence.sum() - log_prior(W, b)
    evidence_loss = pef.LaplaceEvidence(order=order)
    loss = evidence_loss.differentiable_loss(model, guide, y, **fields)
    torch.testing.assert_close(loss, expected)
    assert evidence_loss.loss(model, guide, y, **fields) == pytest.approx(expected.item())
    torch.testing.assert_close(
        torch.autograd.grad(loss, (W, b)), torch.autograd.grad(expected, (W, b))
    )


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_loss_of_a_minibatch_is_unbiased(size, order):
    model, y = block(pef.families.Poisson()), table(pef.families.Poisson())
    guide = guide_at_random_parameters(model, y)
    parameters = list(guide.parameters())

    def loss(rows):
        loss = pef.LaplaceEvidence(order=order)
        return loss.differentiable_loss(model, guide, rows, num_rows=NUM_ROWS)

    mean = torch.stack([loss(rows) for rows in y.split(size)]).mean()
    torch.testing.assert_close(mean, loss(y))
    torch.testing.assert_close(
        torch.autograd.grad(mean, parameters), torch.autograd.grad(loss(y), parameters)
    )


def test_gaussian_tables_have_the_optimum_of_probabilistic_pca():
    """Tipping and Bishop (1999): the loading spans the principal components above the noise."""
    torch.set_default_dtype(torch.float64)
    signal = torch.randn(200, 3) @ (1.5 * torch.randn(3, NUM_FEATURES))
    y = signal + torch.randn(200, NUM_FEATURES) + 2.0
    model = pef.ExpFamPCA(
        pef.families.Gaussian(1.0), NUM_FEATURES, 2, loading_scale=None, intercept_scale=None
    )
    guide = pef.DEQMAPGuide(model)
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=300, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = pef.LaplaceEvidence().differentiable_loss(model, guide, y)
        loss.backward()
        return loss

    optimiser.step(closure)
    values, vectors = torch.linalg.eigh(torch.cov(y.T, correction=0))
    kept, basis = values[-2:], vectors[:, -2:]
    torch.testing.assert_close(guide.intercept, y.mean(0), rtol=0.0, atol=1e-5)
    expected = basis * (kept - 1) @ basis.T
    torch.testing.assert_close(guide.loading @ guide.loading.T, expected, rtol=0.0, atol=1e-4)


class Supervised(PyroModule):
    """Labels from the latents of two tables."""

    def __init__(self):
        super().__init__()
        self.bits = block(pef.families.Bernoulli())
        self.counts = block(pef.families.Poisson())
        self.head = PyroModule[torch.nn.Linear](4, 1).double()
        self.head.weight = PyroSample(dist.Normal(torch.zeros(1, 4).double(), 1.0).to_event(2))

    def forward(self, bits, counts, label=None):
        z = torch.cat([self.bits(bits), self.counts(counts)], -1)
        mean = self.head(z).squeeze(-1)
        with pyro.plate("labels", len(z)):
            return pyro.sample("label", dist.Normal(mean, 0.5), obs=label)


def supervised():
    tables = table(pef.families.Bernoulli()), table(pef.families.Poisson())
    return Supervised(), (*tables, torch.randn(NUM_ROWS).double())


@pytest.mark.parametrize("order", [1, 2])
def test_several_blocks_have_their_evidence_and_a_head_sees_the_root(order):
    model, data = supervised()
    encoder = partial(pef.DEQMAPGuide, condition_on="table")
    guide = guide_at_random_parameters(model, *data, make=encoder)
    parameters = list(guide.global_guide.parameters())
    loss = pef.LaplaceEvidence(order=order).differentiable_loss(model, guide, *data)
    values = guide.sample_globals(*data)
    expected, latents = 0.0, []
    for name, y in (("bits", data[0]), ("counts", data[1])):
        arguments = (
            getattr(model, name).family,
            y,
            values[f"{name}.loading"],
            values[f"{name}.intercept"],
            PRECISION,
        )
        latents.append(pef.solve_latents(*arguments).value)
        evidence = pef.log_evidence(*arguments, order=order)
        expected = expected - evidence.sum() - log_prior(*arguments[2:4])
    weight = values["head.weight"]
    mean = (torch.cat(latents, -1) @ weight.T + model.head.bias).squeeze(-1)
    expected = expected - dist.Normal(mean, 0.5).log_prob(data[2]).sum()
    expected = expected - dist.Normal(0.0, 1.0).log_prob(weight).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    )


@pytest.mark.parametrize(
    "make", [pef.LaplaceGuide, pytest.param(pef.DEQMAPGuide, marks=pytest.mark.slow)]
)
def test_training_is_deterministic_and_decreases_the_loss(make):
    model, data = supervised()
    guide = make(model)
    svi = SVI(model, guide, Adam({"lr": 0.03}), pef.LaplaceEvidence())
    losses = [svi.step(*data) for _ in range(40)]
    assert losses[-1] < 0.97 * losses[0]
    # A warm start leaves the rounding of the root.
    assert svi.evaluate_loss(*data) == pytest.approx(svi.evaluate_loss(*data), rel=1e-12)


@pytest.mark.parametrize("global_guide", [AutoDelta, AutoNormal])
def test_particles_at_once_and_one_by_one(global_guide):
    model, y = block(pef.families.Bernoulli()), table(pef.families.Bernoulli())
    guide = pef.DEQMAPGuide(model, global_guide=global_guide)
    guide(y)
    losses, is_exact = [], global_guide is AutoDelta
    for together in (True, False):
        pyro.set_rng_seed(3)
        loss = pef.LaplaceEvidence(
            num_particles=5 if is_exact else 200,
            vectorize_particles=together,
            max_plate_nesting=1,
        )
        losses.append(loss.loss(model, guide, y))
    assert losses[0] == pytest.approx(losses[1], rel=1e-10 if is_exact else 0.02)


def test_the_precision_of_the_latents_may_have_a_prior():
    model, y = block(pef.families.Poisson()), table(pef.families.Poisson())
    model.latent_precision = PyroSample(dist.LogNormal(torch.zeros(()).double(), 1.0))
    guide = pef.DEQMAPGuide(model)
    guide(y)
    values = guide.sample_globals(y)
    precision = values["latent_precision"]
    expected = (
        pef.log_evidence(model.family, y, values["loading"], values["intercept"], precision).sum()
        + log_prior(values["loading"], values["intercept"])
        + dist.LogNormal(0.0, 1.0).log_prob(precision)
    )
    loss = pef.LaplaceEvidence().loss(model, guide, y)
    assert loss == pytest.approx(-expected.item())


def test_a_part_of_a_guide_list():
    model, data = supervised()
    guide = AutoGuideList(model)
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["head.weight"]), init_scale=1e-8))
    guide.append(pef.DEQMAPGuide(pyro.poutine.block(model, hide=["head.weight"])))
    loss = pef.LaplaceEvidence().loss(model, guide, *data)
    assert math.isfinite(loss)
    assert loss != pytest.approx(Trace_ELBO().loss(model, guide, *data))


@pytest.mark.parametrize("order", [0, 3, "2"])
def test_no_other_order_is_taken(order):
    with pytest.raises(ValueError, match=f"order must be 1 or 2, got {order!r}"):
        pef.LaplaceEvidence(order=order)


def test_a_guide_without_blocks_is_refused():
    model, y = block(pef.families.Poisson()), table(pef.families.Poisson())
    guide = AutoDelta(model)
    with pytest.raises(ValueError, match=r"guide must find the latents .* got one with the sites"):
        pef.LaplaceEvidence().loss(model, guide, y)
