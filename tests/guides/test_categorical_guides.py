"""Guides of tables of categories."""

import math

import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

import pyro_expfam as pef
from pyro_expfam import coefficients

F = pef.families
LEVELS, COLUMNS = 3, 5


@pytest.fixture
def y():
    torch.manual_seed(2)
    W, b = torch.randn(LEVELS * COLUMNS, 2), 0.3 * torch.randn(LEVELS * COLUMNS)
    family = F.Categorical(LEVELS)
    return family.decode(family.sample(torch.randn(80, 2) @ W.T + b))


def block(**settings):
    return pef.ExpFamPCA(F.Categorical(LEVELS), COLUMNS, 2, **settings).double()


def log_joint(model, W, b, z, y):
    """The log density of everything, by PyTorch's cross entropy and normals."""
    eta = (z @ W.T + b).unflatten(-1, (COLUMNS, LEVELS))
    losses = torch.nn.functional.cross_entropy(
        eta.flatten(0, 1), y.long().flatten(), reduction="sum"
    )

    def normal(x, scale):
        return torch.distributions.Normal(0.0, scale).log_prob(x).sum()

    return normal(z, 1.0) + normal(W, 1.0) + normal(b, 10.0) - losses


def test_the_joint_fit_is_at_the_maximum_of_the_joint_density(y):
    model = block()
    guide = pef.DEQMAPGuide(model).double()
    fit = guide.fit(y, tol=1e-10)
    assert fit.converged
    W, b, z = guide.loading.detach(), guide.intercept.detach(), fit.latents
    leaves = [x.clone().requires_grad_() for x in (W, b, z)]
    value = log_joint(model, *leaves, y)
    assert fit.objective == pytest.approx(-float(value.detach()), rel=1e-9)
    for gradient in torch.autograd.grad(value, leaves):
        assert float(gradient.abs().max()) < 1e-3


@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_levels_of_a_column_sum_to_zero(make, y):
    guide = make(block()).double()
    assert guide.fit(y).converged
    for coefficient in (guide.loading, guide.intercept):
        sums = coefficient.detach().unflatten(0, (COLUMNS, LEVELS)).sum(1)
        torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-6)


def test_the_evidence_fit_maximises_the_evidence(y):
    model = block()
    guide = pef.LaplaceGuide(model).double()
    assert guide.fit(y, tol=1e-10).converged
    W = guide.loading.detach().requires_grad_()
    b = guide.intercept.detach().requires_grad_()
    evidence = pef.log_evidence(F.Categorical(LEVELS), y, W, b).sum()
    value = evidence - 0.5 * W.square().sum() - 0.5 * b.square().sum() / 100
    for gradient in torch.autograd.grad(value, (W, b)):
        assert float(gradient.abs().max()) < 1e-3


def test_batches_give_the_same_fit_as_a_table_in_memory(y):
    mask = torch.rand(80, COLUMNS) > 0.2
    whole = pef.DEQMAPGuide(block()).double()
    streamed = pef.DEQMAPGuide(block()).double()
    first = whole.fit(y, mask=mask)
    rows = (slice(0, 50), slice(50, 80))
    second = streamed.fit([{"y": y[part], "mask": mask[part]} for part in rows])
    assert first.objective == pytest.approx(second.objective, rel=1e-6)


@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_svi_trains(make, y):
    model = pef.ExpFamPCA(F.Categorical(LEVELS), COLUMNS, 2)
    guide = make(model)
    svi = SVI(model, guide, Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(y) for _ in range(30)]
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < sum(losses[:5])


def test_draws_have_the_probabilities_of_the_model():
    model = block()
    drawn = poutine.trace(model).get_trace(num_rows=4000).nodes
    eta = drawn["z"]["value"] @ drawn["loading"]["value"].T + drawn["intercept"]["value"]
    expected = eta.unflatten(-1, (COLUMNS, LEVELS)).softmax(-1).mean(0)
    found = torch.nn.functional.one_hot(drawn["y"]["value"].long(), LEVELS).double().mean(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_check_and_to_arviz_know_categories(y):
    model = pef.ExpFamPCA(F.Categorical(LEVELS), COLUMNS, 2)
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    assert not pef.check(model, guide, y).problems
    idata = pef.to_arviz(model, guide, y, num_samples=20)
    assert idata.posterior["loading"].dims[-2:] == ("predictor", "latent")
    assert idata.posterior["loading"].shape[-2:] == (LEVELS * COLUMNS, 2)
    assert idata.log_likelihood["y"].shape[-2:] == (80, COLUMNS)
    assert set(idata.posterior_predictive["y"].values.flatten()) <= set(range(LEVELS))


def test_coefficients_are_normal_around_the_maximum_of_the_evidence(y):
    model = block()
    guide = pef.LaplaceGuide(model, globals="laplace").double()
    guide.fit(y, tol=1e-12)
    posterior = guide.coefficients

    def objective(coefficients):
        W, b = coefficients.view(-1, 3).tensor_split([2], 1)
        evidence = pef.log_evidence(F.Categorical(LEVELS), y, W, b.squeeze(1)).sum()
        return 0.5 * W.square().sum() + 0.5 * b.square().sum() / 100 - evidence

    mode = posterior.mode.flatten()
    slope = torch.autograd.functional.jacobian(objective, mode)
    assert float(slope.abs().max()) < 1e-4
    # Gradients of the evidence are exact; their differences give its Hessian.
    step, eye = 1e-4, torch.eye(len(mode)).double()
    information = torch.stack(
        [
            torch.autograd.functional.jacobian(objective, mode + step * e)
            - torch.autograd.functional.jacobian(objective, mode - step * e)
            for e in eye
        ]
    ) / (2 * step)
    expected = torch.linalg.pinv(0.5 * (information + information.T), rtol=1e-5, hermitian=True)
    torch.testing.assert_close(posterior.covariance(), expected, rtol=1e-3, atol=1e-4)


def test_the_common_part_of_the_levels_has_its_prior(y):
    model = block(intercept_scale=2.0)
    guide = pef.LaplaceGuide(model, globals="laplace").double()
    guide.fit(y)
    posterior = guide.coefficients
    sums = torch.eye(COLUMNS).repeat_interleave(LEVELS, 1).double() / LEVELS**0.5
    both = posterior.covariance().view(COLUMNS * LEVELS, 3, COLUMNS * LEVELS, 3)
    found = torch.einsum("ci,iajb,ej->caeb", sums, both, sums)
    for number, variance in ((0, 1.0), (1, 1.0), (2, 4.0)):
        torch.testing.assert_close(
            found[:, number, :, number],
            variance * torch.eye(COLUMNS).double(),
            rtol=1e-6,
            atol=1e-6,
        )
    # The mean has no common part.
    assert (sums @ posterior.mean).abs().max() < 1e-5


def test_columns_of_a_large_table_are_taken_alone(y, monkeypatch):
    guide = pef.LaplaceGuide(block(), globals="laplace").double()
    guide.fit(y)
    size = LEVELS * 3
    dense = torch.linalg.pinv(guide.coefficients.covariance(), rtol=1e-9, hermitian=True)
    dense = dense.unflatten(1, (-1, size)).unflatten(0, (-1, size))
    monkeypatch.setattr(coefficients.covariance, "LARGEST_DENSE", 1)
    guide.update_globals(y)
    posterior = guide.coefficients
    assert posterior.factor.shape == (COLUMNS, size, size)
    for column in range(COLUMNS):
        block_of_column = posterior.factor[column] @ posterior.factor[column].T
        torch.testing.assert_close(
            torch.linalg.inv(block_of_column), dense[column, :, column], rtol=0.05, atol=0.5
        )
    assert guide.with_sandwich()(y)["loading"].shape == (COLUMNS * LEVELS, 2)
    assert posterior.unreliable_columns.shape == (COLUMNS,)


def test_the_second_order_and_the_scale_of_the_loading_know_levels():
    torch.manual_seed(1)
    family, columns = F.Categorical(LEVELS), 4
    W = torch.randn(LEVELS * columns, 1).double()
    y = family.decode(family.sample(torch.randn(200, 1).double() @ W.T))
    model = pef.ExpFamPCA(family, columns, 1, intercept_scale=2.0)
    guide = pef.LaplaceGuide(model.double(), globals="laplace").double()
    guide.fit(y)
    first = guide.coefficients.covariance()
    guide.update_globals(y, order=2)
    second = guide.coefficients.covariance()
    assert 1.02 < float((second.diagonal() / first.diagonal()).max()) < 1.5
    # What the levels share is normal, and has no correction.
    sums = torch.eye(columns).repeat_interleave(LEVELS, 1).double() / LEVELS**0.5
    for covariance in (first, second):
        both = covariance.view(LEVELS * columns, 2, LEVELS * columns, 2)
        shared = torch.einsum("ci,iajb,ej->caeb", sums, both, sums)[:, 1, :, 1]
        torch.testing.assert_close(shared, 4 * torch.eye(columns).double(), rtol=1e-3, atol=1e-3)
    guide.learn_loading_scale(y)
    # The loadings have standard deviation 1, less what the levels share.
    assert 0.5 < float(model.loading_scale) < 1.5


@pytest.mark.slow
def test_numbers_of_latents_are_compared(y):
    comparison = pef.compare_latent_dims(F.Categorical(LEVELS), y, [1, 2, 3], num_folds=2)
    assert comparison.best in (1, 2)
    assert all(math.isfinite(row.evidence) for row in comparison.rows)


def test_two_levels_compare_as_bits_under_their_priors():
    """The evidence of two levels is that of a bit whose coefficients have twice the variance."""
    torch.manual_seed(1)
    y = torch.bernoulli((torch.randn(60, 1) @ torch.randn(1, 6)).sigmoid())
    levels = pef.compare_latent_dims(F.Categorical(2), y, [1], num_folds=2, intercept_scale=2.0)
    bits = pef.compare_latent_dims(F.Bernoulli(), y, [1], num_folds=2, intercept_scale=2 * 2**0.5)
    (one,), (other,) = levels.rows, bits.rows
    assert one.held_out == pytest.approx(other.held_out, abs=0.01)
    assert one.loading_scale * 2**0.5 == pytest.approx(other.loading_scale, rel=1e-2)
    assert one.evidence == pytest.approx(other.evidence, abs=0.05)


def test_a_flat_prior_of_the_intercept_is_refused(y):
    with pytest.raises(ValueError, match="only a prior determines it"):
        pef.compare_latent_dims(F.Categorical(LEVELS), y, [1, 2], intercept_scale=None)
