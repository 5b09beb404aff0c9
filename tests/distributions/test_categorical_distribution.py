"""The distribution of categories against PyTorch's."""

import pyro.distributions as dist
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.distributions import Categorical, distribution

ETA = 2 * torch.randn(7, 12, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def reference():
    return dist.Categorical(logits=ETA.unflatten(-1, (4, 3)))


def test_shapes_are_by_column():
    law = Categorical(ETA, 3)
    assert law.batch_shape == (7, 4)
    assert law.expand((5, 7, 4)).batch_shape == (5, 7, 4)
    assert law.sample((6,)).shape == (6, 7, 4)
    assert isinstance(distribution(pef.families.Categorical(3), ETA), Categorical)


def test_log_probabilities_are_those_of_torch(reference):
    law = Categorical(ETA, 3)
    y = reference.sample()
    torch.testing.assert_close(law.log_prob(y.double()), reference.log_prob(y))
    torch.testing.assert_close(law.log_prob(y), reference.log_prob(y))
    several = reference.sample((5,))
    torch.testing.assert_close(law.log_prob(several), reference.log_prob(several))
    wide = law.expand((5, 7, 4))
    torch.testing.assert_close(wide.log_prob(several), reference.log_prob(several))
    torch.testing.assert_close(law.entropy(), reference.entropy())


def test_the_family_has_the_log_probabilities_of_the_distribution(reference):
    family, y = pef.families.Categorical(3), reference.sample().double()
    by_level = family.log_prob(family.encode(y), ETA).unflatten(-1, (4, 3)).sum(-1)
    torch.testing.assert_close(by_level, reference.log_prob(y))
    assert torch.equal(family.decode(family.encode(y)), y)


def test_mean_and_variance_are_those_of_the_levels():
    law = Categorical(ETA, 3)
    levels = law.enumerate_support().double()
    assert levels.shape == (3, 7, 4)
    p = law.log_prob(levels).exp()
    torch.testing.assert_close(p.sum(0), torch.ones(7, 4).double())
    torch.testing.assert_close(law.mean, (p * levels).sum(0))
    torch.testing.assert_close(law.variance, (p * (levels - law.mean).square()).sum(0))


def test_draws_have_the_probabilities():
    torch.manual_seed(0)
    law = Categorical(ETA[0], 3)
    drawn = torch.nn.functional.one_hot(law.sample((20_000,)).long(), 3).double().mean(0)
    torch.testing.assert_close(drawn, law.logits.exp(), rtol=0, atol=0.02)


@pytest.mark.parametrize("eta", [80.0, -80.0])
def test_certain_levels_have_finite_derivatives(eta):
    family = pef.families.Categorical(2)
    predictors = torch.tensor([[eta, -eta]]).double()
    y = family.encode(torch.zeros(1, 1).double())
    for name in ("loss", "score", "curvature", "third_derivative", "fourth_derivative"):
        assert bool(getattr(family, name)(predictors, y).isfinite().all())
    assert float(family.curvature(predictors, y)[0, 0]) == pytest.approx(
        float(torch.sigmoid(torch.tensor(-160.0).double())), rel=1e-9
    )


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="levels is 1, but should be at least 2"):
        pef.families.Categorical(1)
    with pytest.raises(TypeError, match=r"levels is 2\.5, but should be a whole number"):
        pef.families.Categorical(2.5)
    with pytest.raises(ValueError, match="predictor must have 5 entries for each column"):
        Categorical(ETA, 5)
    with pytest.raises(ValueError, match=r"the first is 3.0 at \(0, 0\)"):
        Categorical(ETA, 3, validate_args=True).log_prob(torch.full((7, 4), 3.0).double())
