"""A Gaussian block without a scale learns it, by a fit as by SVI."""

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from quick_cases import in_turn
from torch.utils.data import DataLoader

import pyro_expfam as pef

Gaussian = pef.families.Gaussian


def observations(unit=20.0):
    signal = torch.randn(150, 2) @ torch.randn(2, 6)
    noise = torch.linspace(0.5, 1.5, 6) * torch.randn(150, 6)
    return unit * (signal + noise + torch.randn(6)).double()


def guide_of(scale=None, **settings):
    pyro.clear_param_store()
    return pef.DEQMAPGuide(pef.ExpFamPCA(Gaussian(scale), 6, 2, **settings).double())


CASES = [
    (None, None),
    (None, pef.LaplaceEvidence()),
    (None, pef.LaplaceEvidence(order=2)),
    ("per column", pef.LaplaceEvidence()),
]


@pytest.mark.parametrize(("scale", "loss"), CASES)
def test_a_fit_ends_where_the_loss_of_svi_is_stationary(scale, loss):
    y, guide = observations(), guide_of(scale)
    guide.fit(y, loss=loss, tol=1e-9)
    fit = guide.fit(y, loss=loss, tol=1e-12)
    assert fit.converged
    # It went on from where the first had ended.
    assert fit.sweeps[0].objective - fit.objective < 1e-3
    value = (loss or Trace_ELBO()).differentiable_loss(guide.model, guide, y)
    assert fit.objective == pytest.approx(value.item(), rel=1e-10)
    value.backward()
    assert guide.model.family_scale_unconstrained.grad.abs().max() < 0.02
    for parameter in guide.parameters():
        assert parameter.grad.abs().max() < 0.02
    torch.testing.assert_close(fit.latents, guide.latents(y), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "loss"),
    [*CASES[:2], pytest.param(*CASES[2], marks=pytest.mark.slow), CASES[3]],
)
def test_batches_units_and_the_start_do_not_matter(scale, loss):
    y, guide = observations(), guide_of(scale)
    guide.fit(y, loss=loss, tol=1e-12)
    expected = guide.model.family_scale.detach()

    batches = guide_of(scale)
    batches.fit(DataLoader(y, batch_size=40), loss=loss, tol=1e-12)
    torch.testing.assert_close(batches.model.family_scale.detach(), expected, rtol=1e-4, atol=0.0)

    small = guide_of(scale)
    # A first call leaves random loadings and a scale of 1, ten thousand times too large.
    small(5e-6 * y)
    fit = small.fit(5e-6 * y, loss=loss, tol=1e-10, max_sweeps=1_000)
    assert fit.converged
    torch.testing.assert_close(
        small.model.family_scale.detach(), 5e-6 * expected, rtol=1e-2, atol=0.0
    )


@pytest.mark.parametrize("loss", [None, pef.LaplaceEvidence()])
def test_means_far_from_zero_do_not_widen_the_noise(loss):
    y, guide = observations(unit=1.0), guide_of()
    guide.fit(y, loss=loss)
    expected = float(guide.model.family_scale.detach())
    far = guide_of()
    far.fit(y + 10_000.0, loss=loss)
    assert float(far.model.family_scale.detach()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_svi_trains_the_scale():
    y, fitted = observations(unit=1.0), guide_of()
    fitted.fit(y, loss=pef.LaplaceEvidence())
    expected = float(fitted.model.family_scale.detach())
    guide = guide_of()
    svi = SVI(guide.model, guide, Adam({"lr": 0.05}), pef.LaplaceEvidence())
    for _ in range(200):
        svi.step(y)
    assert float(guide.model.family_scale.detach()) == pytest.approx(expected, rel=0.02)


@pytest.mark.filterwarnings("error")
def test_a_fit_that_learns_the_scale_is_silent_and_leaves_a_known_one():
    y = observations()
    guide_of().fit(y)
    known = guide_of(20.0)
    known.fit(y)
    assert known.model.family.scale == 20.0
    assert not hasattr(known.model, "family_scale")


def test_the_joint_estimate_has_no_scale_by_column():
    with pytest.raises(ValueError, match=r"must be a pyro_expfam.LaplaceEvidence\(\) for a scale"):
        guide_of("per column").fit(observations())


@pytest.mark.filterwarnings("ignore:the fit has not converged")
def test_a_scale_that_runs_to_zero_is_a_warning():
    y = (torch.randn(100, 2) @ torch.randn(2, 6)).double()
    guide = guide_of(loading_scale=1e6)
    with pytest.warns(pef.ConvergenceWarning) as seen:
        guide.fit(y, loss=pef.LaplaceEvidence())
    assert any("scale of the noise has run to less than a" in str(x.message) for x in seen)
    assert guide.model.family_scale > 0


def test_results_after_a_fit_use_the_learnt_scale():
    y, guide = observations(), guide_of()
    guide.fit(y, loss=pef.LaplaceEvidence())
    scale = guide.model.family_scale.detach()
    W, b = guide.loading, guide.intercept
    law = torch.distributions.MultivariateNormal(
        scale * b, scale**2 * (W @ W.T + torch.eye(6).double())
    )
    torch.testing.assert_close(guide.log_evidence(y), law.log_prob(y))
    check = pef.check(guide.model, guide, y, num_draws=50)
    assert float(check.blocks[""].rows.first_order.sum()) == pytest.approx(
        float(law.log_prob(y).sum()), rel=1e-6
    )
    laplace = pef.LaplaceGuide(guide.model, params=guide, globals="laplace")
    assert laplace(y)["loading"].shape == (6, 2)
    inference_data = pef.to_arviz(guide.model, guide, y, num_samples=5)
    found = torch.as_tensor(inference_data.log_likelihood["y"].values)[0]
    eta = guide.latents(y) @ W.T + b
    expected = torch.distributions.Normal(scale * eta, scale).log_prob(y)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [None, "per column"])
def test_functions_that_learn_nothing_need_a_scale(scale):
    family, y, W, b = Gaussian(scale), torch.randn(5, 3), torch.randn(3, 1), torch.zeros(3)
    for call in (
        lambda: pef.solve_latents(family, y, W, b),
        lambda: pef.log_evidence(family, y, W, b),
        lambda: pef.DEQLayer(family, 3, 1),
        lambda: pef.distributions.distribution(family, y),
        lambda: family.log_prob(y, y),
        lambda: family.sample(y),
        lambda: family.sufficient_statistic(y),
        lambda: family.entropy(y),
    ):
        with pytest.raises(ValueError, match=r"scale must be known .* as in Gaussian\(scale=...\)"):
            call()
    with pytest.raises(TypeError, match="scale is 'per row', but should be"):
        Gaussian("per row")


def posterior_of(guide, y):
    guide(y)


def scale_of_loading(guide, y):
    guide.learn_loading_scale(y)


def updated(guide, y):
    guide.update_globals(y)


@pytest.mark.parametrize(
    ("use", "scale", "shares"),
    in_turn([scale_of_loading, updated, posterior_of], [None, "per column"], [True, False]),
)
def test_a_posterior_of_the_globals_learns_the_scale_before_the_first_fit(use, scale, shares):
    y = observations(unit=0.3)
    found = []
    for fits_first in (True, False):
        model = pef.ExpFamPCA(Gaussian(scale), 6, 2).double()
        params = pef.DEQMAPGuide(model).double() if shares else None
        guide = pef.LaplaceGuide(model, params=params, globals="laplace").double()
        if fits_first:
            guide.fit(y)
        use(guide, y)
        found.append(
            (
                model.family_scale.detach(),
                torch.as_tensor(model.loading_scale),
                guide.log_evidence(y).detach().sum(),
                guide.coefficients.variance().sum(),
            )
        )
    assert (found[0][0] < 0.6).all()
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_an_update_keeps_the_scale_that_another_guide_has_trained():
    y = observations(unit=0.3)
    first = guide_of()
    first.fit(y)
    scale = first.model.family_scale.detach().clone()
    other = pef.LaplaceGuide(first.model, globals="laplace").double()
    other.update_globals(y + torch.randn_like(y))
    assert torch.equal(first.model.family_scale, scale)
    first.latents(y)
