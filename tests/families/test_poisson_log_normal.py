"""Poisson counts with a normal effect, against mpmath, the Poisson family and simulated tables."""

import mpmath
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.families import Family, Poisson, PoissonLogNormal

NAMES = ("log_prob", "loss", "score", "curvature", "third_derivative", "fourth_derivative")


def exact(eta, y, scale):
    """Log probability, loss and its derivatives by the moments of the log rate, in 40 digits."""
    with mpmath.workdps(40):
        eta, y, s = (mpmath.mpf(x) for x in (eta, y, scale))
        mode = eta + s**2 * y - mpmath.lambertw(s**2 * mpmath.exp(eta + s**2 * y)).real
        rate = mpmath.exp(mode)
        deviation = 1 / mpmath.sqrt(rate + s**-2)
        low = -min(13 * s, 30 / rate + mpmath.sqrt(200 / rate))
        step = (13 * deviation - low) / 400
        places = [low + step * k for k in range(401)]
        density = [mpmath.exp(-(u**2) / (2 * s**2) - rate * (mpmath.expm1(u) - u)) for u in places]
        total = mpmath.fsum(density)

        def expected(power, centre):
            terms = (p * (u - centre) ** power for p, u in zip(density, places, strict=True))
            return mpmath.fsum(terms) / total

        mean = expected(1, 0)
        variance, third, fourth = (expected(power, mean) for power in (2, 3, 4))
        loss = (mode - eta) ** 2 / (2 * s**2) - y * mode + rate
        loss += mpmath.log(s) + mpmath.log(2 * mpmath.pi) / 2 - mpmath.log(step * total)
        values = [
            -loss - mpmath.loggamma(y + 1),
            loss,
            (mode + mean - eta) / s**2,
            (1 - variance / s**2) / s**2,
            -third / s**6,
            -(fourth - 3 * variance**2) / s**8,
        ]
        return [float(x) for x in values]


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("y", [0, 1, 30, 1e6])
def test_log_probabilities_and_derivatives_are_those_of_mpmath(y, scale):
    family = PoissonLogNormal(scale)
    for eta in (-20.0, 0.4, 4.0, 13.0):
        at, count = torch.tensor(eta).double(), torch.tensor(float(y)).double()
        expected = exact(float(at), y, scale)
        found = [float(family.log_prob(count, at))]
        found += [float(getattr(family, name)(at, count)) for name in NAMES[1:]]
        assert found[:3] == pytest.approx(expected[:3], rel=1e-12, abs=1e-10)
        assert found[3] == pytest.approx(expected[3], rel=1e-11)
        # Those of large counts are far smaller than the second.
        assert found[4] == pytest.approx(expected[4], rel=1e-8, abs=1e-9 * expected[3])
        assert found[5] == pytest.approx(expected[5], rel=1e-8, abs=1e-8 * expected[3])


def test_a_small_scale_is_the_poisson_family():
    counts = torch.tensor([0.0, 1.0, 5.0, 40.0], dtype=torch.float64)
    y, eta = torch.meshgrid(counts, torch.linspace(-6, 6, 13).double(), indexing="ij")
    family = PoissonLogNormal(1e-7)
    for name in NAMES[1:]:
        found, expected = (getattr(x, name)(eta, y) for x in (family, Poisson()))
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(family.log_prob(y, eta), Poisson().log_prob(y, eta))


@pytest.mark.parametrize("scale", [0.05, 0.8, 2.0])
def test_probabilities_sum_to_one_with_the_moments(scale):
    family = PoissonLogNormal(min(scale, 1.0))
    eta = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64)
    y = torch.arange(20_000.0, dtype=torch.float64)[:, None]
    mass = torch.exp(family.log_prob(y, eta))
    torch.testing.assert_close(mass.sum(0), torch.ones_like(eta))
    mean = (mass * y).sum(0)
    torch.testing.assert_close(mean, family.expected_y(eta), rtol=1e-6, atol=0)
    variance = (mass * (y - mean).square()).sum(0)
    torch.testing.assert_close(variance, family.variance_of_y(eta), rtol=1e-3, atol=0)


def test_the_loss_is_convex_and_its_curvature_bounded():
    torch.manual_seed(0)
    eta = 30 * torch.rand(500, dtype=torch.float64) - 15
    y = torch.poisson(torch.exp(6 * torch.rand_like(eta)))
    scale = torch.exp(6 * torch.rand_like(eta) - 4.5)
    curvature = PoissonLogNormal(scale).curvature(eta, y)
    assert bool((curvature > 0).all())
    assert bool((curvature <= scale**-2 * (1 + 1e-12)).all())


def test_derivatives_map_over_tables_and_forward():
    eta = torch.randn(4, 3, dtype=torch.float64)
    y = torch.poisson(torch.exp(eta))
    scales = torch.tensor([0.2, 0.9], dtype=torch.float64)

    def loss(scale, eta):
        return PoissonLogNormal(1.0).with_parameters({"scale": scale}).loss(eta, y)

    mapped = torch.func.vmap(loss, (0, None))(scales, eta)
    torch.testing.assert_close(mapped, torch.stack([loss(s, eta) for s in scales]))
    tangent = torch.randn_like(eta)
    _, forward = torch.func.jvp(lambda x: loss(scales[1], x), (eta,), (tangent,))
    torch.testing.assert_close(forward, -PoissonLogNormal(0.9).score(eta, y) * tangent)


def test_a_fit_recovers_the_scales_of_the_columns():
    torch.manual_seed(3)
    scales = torch.tensor([0.3, 0.6, 0.9] * 2)
    z, loading = torch.randn(400, 1), 0.5 + 0.5 * torch.rand(6, 1)
    y = PoissonLogNormal(scales).sample(z @ loading.T + 2)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(PoissonLogNormal(), 6, 1))
    guide.fit(y, progress=False)
    learnt = guide.model.family_scale.detach()
    torch.testing.assert_close(learnt, scales, rtol=0, atol=0.12)
    covariance, found = loading @ loading.T, guide.loading @ guide.loading.T
    assert float((found.detach() - covariance).norm() / covariance.norm()) < 0.25


@pytest.mark.parametrize("scale", [0.0, -1.0, torch.tensor([1.0, -2.0])], ids=str)
def test_scales_that_are_not_positive_are_refused(scale):
    with pytest.raises(ValueError, match=r"scale must be positive and finite, got (0|-1|-2)"):
        PoissonLogNormal(scale)


def test_scores_of_the_scale_are_derivatives_of_the_log_probability():
    scale = torch.linspace(0.05, 2, 6, dtype=torch.float64)
    family = PoissonLogNormal(scale)
    eta = torch.linspace(-6, 6, 30, dtype=torch.float64).reshape(5, 6)
    y = torch.arange(30, dtype=torch.float64).reshape(5, 6)
    expected = Family.parameter_scores(family, ["scale"], eta, y)
    found = family.parameter_scores(["scale"], eta, y)
    assert found.shape == (1, 5, 6)
    torch.testing.assert_close(found, expected)
