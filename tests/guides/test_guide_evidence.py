"""The evidence of rows under what a guide has learnt."""

import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch.distributions.constraints import positive

import pyro_expfam as pef

NUM_ROWS, NUM_FEATURES = 60, 8


def counts():
    return torch.poisson((torch.randn(NUM_ROWS, 1) @ torch.randn(1, NUM_FEATURES) / 2).exp())


def fitted_guide(y, **settings):
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, 1, **settings))
    guide.fit(y)
    return guide


@pytest.mark.parametrize("order", [1, 2])
def test_it_knows_the_precision_and_the_parameters_of_the_family(order):
    torch.set_default_dtype(torch.float64)
    scale = PyroParam(torch.full((5,), 0.7), constraint=positive)
    model = pef.ExpFamPCA(
        pef.families.Gaussian(1.0), 5, 2, latent_precision=4.0, family_parameters={"scale": scale}
    )
    guide = pef.DEQMAPGuide(model)
    y = torch.randn(20, 5)
    guide(y)
    W, b = guide.loading, guide.intercept
    covariance = 0.49 * (W @ W.T / 4 + torch.eye(5))
    law = torch.distributions.MultivariateNormal(0.7 * b, covariance)
    evidence = guide.log_evidence(y, order=order)
    torch.testing.assert_close(evidence, law.log_prob(y))
    with torch.no_grad():
        assert not guide.log_evidence(y, order=order).requires_grad
    sampled = guide.importance_evidence(y, num_draws=50)
    torch.testing.assert_close(sampled.log_evidence, law.log_prob(y))


@pytest.mark.parametrize("order", [1, 2])
def test_evidence_takes_offset_mask_and_weights(order):
    y = counts()
    guide = fitted_guide(y, latent_precision=4.0)
    entries = {
        "offset": torch.randn(NUM_ROWS, 1),
        "mask": torch.rand(NUM_ROWS, NUM_FEATURES) < 0.8,
        "weights": 0.5 + torch.rand(1, NUM_FEATURES),
    }
    expected = pef.log_evidence(
        guide.model.family, y, guide.loading, guide.intercept, 4.0, order=order, **entries
    )
    torch.testing.assert_close(guide.log_evidence(y, **entries, order=order), expected)
    sampled = guide.importance_evidence(y, **entries, num_draws=2000)
    error = (sampled.log_evidence - guide.log_evidence(y, **entries, order=2)).abs()
    assert float((error / (sampled.standard_error + 0.01)).detach().max()) < 5


def test_resampled_latents_have_the_moments_of_the_posterior():
    y = counts()
    guide = fitted_guide(y, latent_precision=4.0)
    latents = guide.importance_latents(y, num_samples=1000, num_draws=5000)
    arguments = guide.model.family, y, guide.loading, guide.intercept, 4.0
    mean = pef.evidence.posterior_mean(*arguments)
    deviation = pef.evidence.posterior_covariance(*arguments)[..., 0].sqrt()
    assert latents.shape == (1000, NUM_ROWS, 1)
    assert ((latents.mean(0) - mean).abs() < 0.2 * deviation).all()


def test_a_block_of_a_model_has_its_own():
    class Two(PyroModule):
        def __init__(self):
            super().__init__()
            self.few = pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, 1, latent_precision=9.0)
            self.more = pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, 2)

        def forward(self, y):
            return self.few(y), self.more(y)

    y = counts()
    guide = pef.DEQMAPGuide(Two())
    guide(y)
    for name, precision in (("few", 9.0), ("more", 1.0)):
        block = guide.block(name)
        expected = pef.log_evidence(
            pef.families.Poisson(), y, block.loading, block.intercept, precision, order=2
        )
        torch.testing.assert_close(block.log_evidence(y, order=2), expected)
    with pytest.raises(ValueError, match="name must be one of"):
        guide.log_evidence(y)


def test_bad_order():
    y = counts()
    with pytest.raises(ValueError, match="order must be 1 or 2"):
        fitted_guide(y).log_evidence(y, order=3)
