"""Shrinkage of learnt parameters towards a value that the columns share."""

import pytest
import torch
from pyro.infer import Predictive

import pyro_expfam as pef

F = pef.families
EVIDENCE = pef.LaplaceEvidence()


def table(seed, size, num_rows=120):
    torch.manual_seed(seed)
    num_features = len(size)
    poor = torch.arange(num_features) < num_features // 2
    intercept = torch.where(poor, -2.0, 2.0)
    eta = torch.randn(num_rows, 1) @ (0.4 * torch.randn(1, num_features)) + intercept
    return F.NegativeBinomial(size).sample(eta), poor


def log_size(y, scale):
    torch.manual_seed(0)
    model = pef.ExpFamPCA(F.NegativeBinomial(), y.shape[1], 1, parameter_scale=scale)
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(y, loss=EVIDENCE, progress=False)
    return model.family_size.detach().log(), fit, model, guide


def test_poor_columns_are_drawn_to_the_common_value():
    errors = []
    for seed in range(3):
        torch.manual_seed(100 + seed)
        size = (0.5 * torch.randn(10)).exp()
        y, poor = table(seed, size)
        free, shrunk = log_size(y, None)[0], log_size(y, 1.0)[0]
        assert float(shrunk[poor].std()) < float(free[poor].std())
        assert float((shrunk - free).abs()[~poor].median()) < 0.15
        errors.append([float((x - size.log()).square().mean()) for x in (free, shrunk)])
    without, with_scale = torch.tensor(errors).mean(0)
    assert with_scale < 0.5 * without


def test_the_fit_has_the_density_of_the_model():
    y, _ = table(0, torch.ones(6))
    _, fit, model, guide = log_size(y, 0.7)
    assert EVIDENCE.loss(model, guide, y) == pytest.approx(fit.objective, rel=1e-6)
    slopes = torch.autograd.grad(
        EVIDENCE.differentiable_loss(model, guide, y), model.family_size_unconstrained
    )[0]
    assert float(slopes.abs().max()) < 0.1


def test_a_scale_of_noise_is_drawn_to_the_common_value_too():
    torch.manual_seed(0)
    y = torch.randn(100, 6) * torch.linspace(0.5, 1.5, 6)
    ends = []
    for scale in (None, 0.05):
        model = pef.ExpFamPCA(F.Gaussian("per column"), 6, 1, parameter_scale=scale)
        guide = pef.DEQMAPGuide(model)
        fit = guide.fit(y, loss=EVIDENCE, progress=False)
        assert EVIDENCE.loss(model, guide, y) == pytest.approx(fit.objective, rel=1e-6)
        ends.append(model.family_scale.detach().log())
    assert float(ends[1].std()) < 0.8 * float(ends[0].std())


def test_a_fit_by_the_quasi_newton_method_has_the_prior_too():
    torch.manual_seed(0)
    y = F.ZeroInflatedPoisson(0.3).sample(torch.full((80, 4), 1.5))
    ends = []
    for scale in (None, 0.05):
        model = pef.ExpFamPCA(F.ZeroInflatedPoisson(), 4, 1, parameter_scale=scale)
        pef.DEQMAPGuide(model).fit(y, loss=EVIDENCE, progress=False)
        ends.append(model.family_zero_probability.detach().logit())
    assert float(ends[1].std()) < 0.8 * float(ends[0].std())


def test_draws_leave_the_prior_out():
    y, _ = table(0, torch.ones(4))
    _, _, model, guide = log_size(y, 1.0)
    container = pef.to_arviz(model, pef.LaplaceGuide(model, params=guide), y, num_samples=5)
    assert "size_prior" not in container.log_likelihood
    assert container.posterior["family_size"].shape[-1] == 4


def test_sizes_of_poisson_counts_stay_finite():
    torch.manual_seed(0)
    y = torch.poisson(torch.full((200, 5), 3.0))
    shrunk, fit, *_ = log_size(y, 1.0)
    assert fit.converged
    assert float(shrunk.max()) < 12.0


def test_models_with_a_scale_can_be_drawn_from():
    model = pef.ExpFamPCA(F.NegativeBinomial(), 4, 1, parameter_scale=1.0)
    assert Predictive(model, num_samples=2)(num_rows=5)["y"].shape == (2, 5, 4)


def test_the_weak_prior_is_of_parameters_without_units():
    laws = {
        "a": F.NegativeBinomial(),
        "b": F.Gaussian(),
        "c": F.Tweedie(None),
        "d": F.ZeroInflatedPoisson(),
        "e": F.Gamma("shared"),
    }
    model = pef.ExpFamPCA(F.Columns(laws), latent_dim=1)
    priors = {name: model.common_prior(name) for name in model._learnt_of_family}
    assert {name for name, prior in priors.items() if prior is None} == {
        "gaussian_scale",
        "tweedie_dispersion",
        "gamma_shape",
    }
    assert {prior.scale for prior in priors.values() if prior is not None} == {1.0}
    # The common value has its prior about where each parameter starts.
    assert priors["zero_inflated_poisson_zero_probability"].centre == pytest.approx(
        -2.1972, abs=1e-3
    )
    number = pef.ExpFamPCA(F.Columns(laws), latent_dim=1, parameter_scale=0.5)
    assert number.common_prior("gaussian_scale").scale == 0.5
    flat = pef.ExpFamPCA(F.Columns(laws), latent_dim=1, parameter_scale=None)
    assert flat.common_prior("negative_binomial_size") is None


def test_a_scale_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"a positive number, 'weak' for 1 where .*, got 'strong'"):
        pef.ExpFamPCA(F.NegativeBinomial(), 4, 1, parameter_scale="strong")


def test_a_file_of_a_guide_keeps_the_scale(tmp_path):
    y, _ = table(0, torch.ones(4))
    _, _, _, guide = log_size(y, 0.3)
    guide.save(tmp_path / "guide")
    assert pef.load(tmp_path / "guide").model.parameter_scale == pytest.approx(0.3)


def test_a_scale_below_zero_is_refused():
    with pytest.raises(ValueError, match="parameter_scale must be a positive finite number"):
        pef.ExpFamPCA(F.NegativeBinomial(), 4, 1, parameter_scale=-1.0)
