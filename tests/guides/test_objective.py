"""What is trained is the objective of Theorem 1, with its total derivative."""

import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.elbo import ELBO
from pyro.optim import ClippedAdam
from scipy.optimize import minimize

import pyro_expfam as pef

FAMILIES = (
    pef.families.Gaussian(scale=0.7),
    pef.families.Bernoulli(),
    pef.families.Ising(),
    pef.families.ContinuousBernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=16),
)
NUM_ROWS, NUM_FEATURES, LATENT_DIM = 15, 6, 2
PRECISION, LOADING_SCALE, INTERCEPT_SCALE = 0.625, 0.75, 1.5


def table(family):
    z = torch.randn(NUM_ROWS, LATENT_DIM).double()
    return family.sample(z @ torch.randn(LATENT_DIM, NUM_FEATURES).double())


def guide_with_random_loading(family, y, make=pef.DEQMAPGuide):
    model = pef.ExpFamPCA(
        family, NUM_FEATURES, LATENT_DIM, PRECISION, LOADING_SCALE, INTERCEPT_SCALE
    ).double()
    guide = make(model)
    guide(y)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model, guide


def normal_constant(size, variance):
    return 0.5 * size * math.log(2 * math.pi * variance)


def objective(family, y, W, b, z):
    """Theorem 1's objective, written out with every constant of the densities."""
    eta = z @ W.T + b
    statistic = family.sufficient_statistic(y)
    rows = family.log_partition(eta) - statistic * eta - family.log_base_measure(y)
    penalty = (
        PRECISION * z.square().sum() / 2
        + W.square().sum() / (2 * LOADING_SCALE**2)
        + b.square().sum() / (2 * INTERCEPT_SCALE**2)
    )
    constants = (
        normal_constant(z.numel(), 1 / PRECISION)
        + normal_constant(W.numel(), LOADING_SCALE**2)
        + normal_constant(b.numel(), INTERCEPT_SCALE**2)
    )
    return rows.sum() + penalty + constants


def profile(family, y, parameters):
    """The objective at the latents that scipy finds, as a function of loading and intercept."""
    W = parameters[: NUM_FEATURES * LATENT_DIM].view(NUM_FEATURES, LATENT_DIM)
    b = parameters[NUM_FEATURES * LATENT_DIM :]

    def value_and_gradient(flat):
        z = torch.as_tensor(flat).view(-1, LATENT_DIM).clone().requires_grad_()
        value = objective(family, y, W, b, z)
        (gradient,) = torch.autograd.grad(value, z)
        return value.item(), gradient.flatten().numpy()

    start = torch.zeros(NUM_ROWS * LATENT_DIM).double().numpy()
    options = {"maxiter": 3000, "ftol": 0.0, "gtol": 1e-9}
    return minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options).fun


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_trace_elbo_is_the_objective_of_theorem_1_to_rounding(family):
    y = table(family)
    model, guide = guide_with_random_loading(family, y)
    loss = Trace_ELBO().loss(model, guide, y)
    expected = objective(family, y, guide.loading, guide.intercept, guide.latents(y)).item()
    assert loss == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_its_gradient_is_the_total_derivative(family):
    y = table(family)
    model, guide = guide_with_random_loading(family, y)
    parameters = [guide.global_guide.loading, guide.global_guide.intercept]
    loss = Trace_ELBO().differentiable_loss(model, guide, y)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    here = torch.cat([p.detach().flatten() for p in parameters])
    direction = torch.nn.functional.normalize(torch.randn_like(here), dim=0)
    step = 1e-4
    difference = profile(family, y, here + step * direction) - profile(
        family, y, here - step * direction
    )
    expected = difference / (2 * step)
    assert float(gradient @ direction) == pytest.approx(expected, rel=1e-5, abs=1e-4)


def batch_loss(model, guide, rows, elbo):
    return elbo().differentiable_loss(model, guide, rows, num_rows=NUM_ROWS)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_loss_of_a_minibatch_is_unbiased(size):
    family = pef.families.Poisson()
    y = table(family)
    model, guide = guide_with_random_loading(family, y)
    parameters = list(guide.parameters())
    whole = batch_loss(model, guide, y, Trace_ELBO)
    batches = [batch_loss(model, guide, rows, Trace_ELBO) for rows in y.split(size)]
    mean = torch.stack(batches).mean()
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(
        torch.autograd.grad(mean, parameters), torch.autograd.grad(whole, parameters)
    )


def whole_optimum(model, guide, y, elbo: type[ELBO]) -> float:
    """The least loss of the whole table, by L-BFGS on the guide's parameters."""
    optimiser = torch.optim.LBFGS(
        guide.parameters(), max_iter=500, tolerance_grad=1e-8, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = elbo().differentiable_loss(model, guide, y)
        loss.backward()
        return loss

    optimiser.step(closure)
    return closure().item()


@pytest.mark.slow
def test_minibatches_lead_to_the_optimum_of_the_whole_table():
    family = pef.families.Bernoulli()
    y = table(family)
    model, guide = guide_with_random_loading(family, y)
    best = whole_optimum(model, guide, y, Trace_ELBO)

    pyro.clear_param_store()
    model, guide = guide_with_random_loading(family, y)
    epochs, batches = 300, 3
    decay = 0.002 ** (1 / (epochs * batches))
    svi = SVI(model, guide, ClippedAdam({"lr": 0.1, "lrd": decay}), Trace_ELBO())
    for _ in range(epochs):
        for rows in y[torch.randperm(NUM_ROWS)].split(NUM_ROWS // batches):
            svi.step(rows, num_rows=NUM_ROWS)
    assert svi.evaluate_loss(y) == pytest.approx(best, rel=1e-4)
