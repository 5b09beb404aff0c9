"""The equations of the paper as printed and as they should read, and the page that lists them."""

import math
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pyro import poutine
from scipy import integrate, special, stats
from torch.distributions import constraints

import pyro_expfam as pef
from pyro_expfam import families
from pyro_expfam.deq import LatentProblem

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "paper.md"

# ---------------------------------------------------------------- Table 1

TABLE_1 = {
    "Bernoulli": (
        families.Bernoulli(),
        lambda r: torch.log(1 + torch.exp(r)),
        lambda r: torch.exp(r) / (torch.exp(r) + 1),
        lambda y: 1.0,
    ),
    "Ising": (
        families.Ising(),
        lambda r: torch.log(torch.cosh(r)),
        torch.tanh,
        lambda y: 0.5,
    ),
    "continuous Bernoulli": (
        families.ContinuousBernoulli(),
        lambda r: torch.log((torch.exp(r) - 1) / r),
        lambda r: (torch.exp(r) * (r - 1) + 1) / ((torch.exp(r) - 1) * r),
        lambda y: 1.0,
    ),
    "Poisson": (
        families.Poisson(),
        torch.exp,
        torch.exp,
        lambda y: 1 / math.factorial(int(y)),
    ),
}


@pytest.mark.parametrize("row", TABLE_1)
def test_table_1_holds_row_by_row(row):
    family, log_partition, activation, base = TABLE_1[row]
    eta = torch.tensor([-2.3, -0.4, 0.7, 1.9], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_partition(eta).sum(), eta)
    torch.testing.assert_close(slope, activation(eta))
    torch.testing.assert_close(family.log_partition(eta), log_partition(eta))
    torch.testing.assert_close(family.mean(eta), activation(eta))
    for r, a in zip(eta.tolist(), log_partition(eta).tolist(), strict=True):
        if row == "continuous Bernoulli":
            total = integrate.quad(lambda y, r=r, a=a: base(y) * math.exp(r * y - a), 0, 1)[0]
        else:
            values = {"Bernoulli": (0, 1), "Ising": (-1, 1), "Poisson": range(60)}[row]
            total = sum(base(y) * math.exp(r * y - a) for y in values)
        assert total == pytest.approx(1.0, abs=1e-9)


def test_table_1_gaussian_base_measure_depends_on_the_scale():
    b, eta = 2.0, 0.7
    family = families.Gaussian(b)

    def integral(base, reach):
        return integrate.quad(
            lambda y: base(y) * math.exp(eta * y / b - eta**2 / 2), -reach, reach
        )[0]

    # As printed, h is a constant, and the integral has no bound.
    printed = [integral(lambda y: (2 * math.pi) ** -0.5, reach) for reach in (10, 20, 40)]
    assert printed[0] < printed[1] / 10 < printed[2] / 1000

    def normal(y):
        return math.exp(-(y**2) / (2 * b**2)) / math.sqrt(2 * math.pi) / b

    assert integral(normal, 60) == pytest.approx(1.0, abs=1e-9)
    y = torch.tensor([-3.0, 0.5, 4.0], dtype=torch.float64)
    expected = torch.tensor(stats.norm.logpdf(y, b * eta, b))
    torch.testing.assert_close(family.log_prob(y, torch.full_like(y, eta)), expected)
    assert float(family.log_base_measure(y)[1].exp()) == pytest.approx(normal(0.5))


# ---------------------------------------------------------------- Theorem 1 and appendix B


def problem(family, precision=0.3):
    torch.manual_seed(0)
    W = 0.5 * torch.randn(6, 2, dtype=torch.float64)
    b = 0.2 * torch.randn(6, dtype=torch.float64)
    y = family.sample(torch.randn(5, 2, dtype=torch.float64) @ W.mT + b)
    return LatentProblem(family, y, W, b, torch.tensor(precision, dtype=torch.float64))


FAMILIES = [
    families.Gaussian(2.0),
    families.Bernoulli(),
    families.Ising(),
    families.ContinuousBernoulli(),
    families.Poisson(),
]


def latents(p):
    return pef.solve_latents(p.family, p.y, p.W, p.b, p.precision).value


def statistic_and_mean(p, z):
    return p.family.sufficient_statistic(p.y), p.family.mean(z @ p.W.mT + p.b)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_equation_10_is_the_root_of_the_layer(family):
    p = problem(family)
    z = latents(p)
    statistic, mean = statistic_and_mean(p, z)
    torch.testing.assert_close(z, (statistic - mean) @ p.W / p.precision, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_equation_9_wants_a_minus_and_one_transpose_less(family):
    p = problem(family)
    z = latents(p)
    statistic, mean = statistic_and_mean(p, z)
    corrected = p.precision * z - (statistic - mean) @ p.W
    torch.testing.assert_close(corrected, torch.zeros_like(z), rtol=0, atol=1e-6)
    with_plus = p.precision * z - (statistic + mean) @ p.W
    assert float(with_plus.abs().max()) > 0.1
    with pytest.raises(RuntimeError, match="size of tensor"):
        statistic + mean @ p.W  # as printed, T(Y) + W' sigma


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_minimand_of_appendix_b_wants_brackets(family):
    p = problem(family)
    z = latents(p)
    statistic = family.sufficient_statistic(p.y)

    def minimand(b, sign):
        # The bracket of (W z + b)' T(y) decides the sign of b' T(y).
        eta = z @ p.W.mT + b
        linear = (z @ p.W.mT * statistic).sum() - sign * (b * statistic).sum()
        return 0.5 * p.precision * z.square().sum() - linear + family.log_partition(eta).sum()

    def minus_log_posterior(b):
        eta = z @ p.W.mT + b
        return -family.log_prob(p.y, eta).sum() + 0.5 * p.precision * z.square().sum()

    wanted = torch.func.grad(minus_log_posterior)(p.b)
    torch.testing.assert_close(torch.func.grad(minimand)(p.b, -1.0), wanted)
    printed = torch.func.grad(minimand)(p.b, 1.0)
    assert float((printed - wanted).abs().max()) > 0.1


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_hessian_of_appendix_d_is_of_minus_the_log_posterior(family):
    p = problem(family)
    z = latents(p)
    H = p.precision * torch.eye(2).double() + p.W.mT @ (
        family.variance(z @ p.W.mT + p.b)[..., None] * p.W
    )

    def minus_log_posterior(row, y):
        return 0.5 * p.precision * row.square().sum() - family.log_prob(y, p.W @ row + p.b).sum()

    for s in range(len(z)):
        hessian = torch.autograd.functional.hessian(
            lambda row, y=p.y[s]: minus_log_posterior(row, y), z[s]
        )
        torch.testing.assert_close(H[s], hessian)
    torch.testing.assert_close(p.information(z), H)
    if isinstance(family, families.Gaussian):
        gaussian = p.precision * torch.eye(2).double() + p.W.mT @ p.W
        torch.testing.assert_close(H, gaussian.expand_as(H))


def test_equation_5_is_an_argmax():
    p = problem(families.Bernoulli())
    z = latents(p)

    def log_posterior(z):
        return -p.objective(z).sum()

    best = log_posterior(z)
    for _ in range(20):
        assert log_posterior(z + 0.1 * torch.randn_like(z)) < best
    # There is no argmin: the density falls to zero without reaching it.
    far = [float(log_posterior(scale * torch.ones_like(z))) for scale in (10.0, 100.0, 1000.0)]
    assert far[0] > 10 * far[1] / 11 > 100 * far[2] / 121


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_log_densities_are_concave(family):
    # Section 1: "when the log density is convex" the root of the score would be a minimum.
    p = problem(family)
    eta = torch.linspace(-3, 3, 5, dtype=torch.float64)[:, None]
    assert bool((-family.curvature(eta, p.y) < 0).all())


def test_the_precision_of_the_prior_is_lambda_and_not_one():
    # Section 2 says standard Gaussian priors; equations 6 and 10 have a precision lambda.
    p = problem(families.Poisson(), precision=0.1)
    z = torch.randn(5, 2, dtype=torch.float64)
    fixed = {"loading": p.W, "intercept": p.b}

    def log_joint(z):
        model = pef.ExpFamPCA(families.Poisson(), 6, 2, latent_precision=0.1).double()
        known = poutine.condition(model, data={**fixed, "z": z})
        return poutine.trace(known).get_trace(p.y).log_prob_sum()

    difference = log_joint(z) - log_joint(torch.zeros_like(z))
    expected = p.objective(torch.zeros_like(z)).sum() - p.objective(z).sum()
    torch.testing.assert_close(difference, expected, rtol=1e-6, atol=1e-6)
    of_table = (p.losses(p.predictor(0 * z)) - p.losses(p.predictor(z))).sum()
    torch.testing.assert_close(
        difference - of_table, -0.05 * z.square().sum(), rtol=1e-5, atol=1e-5
    )


# ---------------------------------------------------------------- appendix A


def integral(j, r, sign):
    """The Bose-Einstein (-1) or Fermi-Dirac (+1) integral of order j."""
    value = integrate.quad(
        lambda y: y**j * math.exp(r - y) / (1 + sign * math.exp(r - y)), 0, math.inf
    )[0]
    return value / special.gamma(j + 1)


@pytest.mark.parametrize("r", [-2.0, -0.4])
def test_the_logarithms_of_a4_and_a5_are_the_orders_zero(r):
    assert integral(0, r, -1) == pytest.approx(-math.log(1 - math.exp(r)))
    assert integral(0, r, 1) == pytest.approx(math.log(1 + math.exp(r)))
    # Of order 1, as printed, they are dilogarithms.
    series = sum(math.exp(r * k) / k**2 for k in range(1, 200))
    assert integral(1, r, -1) == pytest.approx(series)
    assert abs(series + math.log(1 - math.exp(r))) > 0.005
    for sign in (-1, 1):  # the derivative of order j is order j - 1
        slope = (integral(2, r + 1e-4, sign) - integral(2, r - 1e-4, sign)) / 2e-4
        assert slope == pytest.approx(integral(1, r, sign), rel=1e-6)


def test_the_geometric_series_of_a4_and_a5_have_p_minus_one():
    p, r = 1.4, torch.linspace(-3, 3, 13, dtype=torch.float64)
    turn = torch.exp(1j * r)
    powers = turn[:, None] ** torch.arange(200)

    def series(ratio):
        return (powers * ratio ** torch.arange(200, dtype=torch.float64)).sum(-1)

    torch.testing.assert_close(1 / (1 - (p - 1) * turn), series(p - 1))
    assert float((1 / (1 - (1 - p) * turn) - series(p - 1)).abs().max()) > 0.1  # as printed in A.4
    torch.testing.assert_close(1 / (1 + (p - 1) * turn), series(1 - p))
    assert float((1 / (1 + (1 - p) * turn) - series(1 - p)).abs().max()) > 0.1  # as printed in A.5


def coefficients(sign, order, count, multiple=1):
    """Those of exp(multiple * sum_m sign^(m + 1) m^-order x^m) as fractions."""
    powers = [Fraction(multiple * sign ** (m + 1), m**order) for m in range(1, count)]
    found = [Fraction(1)]
    for k in range(1, count):
        total = sum(m * powers[m - 1] * found[k - m] for m in range(1, k + 1))
        found.append(total / k)
    return found


def test_the_fourth_coefficient_of_fermi_dirac_order_one_is_negative():
    assert coefficients(-1, 2, 5) == [
        1,
        1,
        Fraction(1, 4),
        Fraction(1, 36),
        Fraction(-1, 288),
    ]
    for multiple in (2, 3):
        far = coefficients(-1, 2, 60, multiple)[30:]
        assert all(a * b < 0 for a, b in pairwise(far))
    # Order 0 has an indefinite integrand, too, and is a bit all the same: 1 + x.
    assert coefficients(-1, 1, 6) == [1, 1, 0, 0, 0, 0]
    # All coefficients of Bose-Einstein are positive; order 0 is the geometric law.
    assert coefficients(1, 1, 9) == [1] * 9
    assert min(coefficients(1, 2, 30)) > 0


def test_the_lemma_wants_a_point_of_the_domain():
    # The proof takes c = exp(-A(0)). The geometric law has A(r) = -log(1 - e^r), infinite at 0.
    log_partition = lambda r: -torch.log(-torch.expm1(r))  # noqa: E731
    with pytest.raises(ValueError, match="must be finite at 0"):
        families.check_admissible(log_partition, at=0.0)
    found = families.check_admissible(
        lambda r: -torch.log(1 - torch.exp(r)), constraints.less_than(0.0)
    )
    assert found
    ratio = math.exp(-0.5)
    torch.testing.assert_close(
        found.lattice_masses(64)[:8],
        (1 - ratio) * ratio ** torch.arange(8, dtype=torch.float64),
        rtol=1e-6,
        atol=1e-9,
    )


def test_not_every_bregman_divergence_belongs_to_a_family():
    # A.6 says every; Banerjee et al. say every regular one. The antiderivative of softplus is
    # strictly convex and smooth, so that its conjugate has a divergence, and no law has it.
    eta = torch.linspace(-8, 8, 33, dtype=torch.float64)
    assert bool((torch.sigmoid(eta) > 0).all())  # the second derivative
    with pytest.raises(families.NotAdmissibleError):
        families.from_activation(torch.nn.functional.softplus)


# ---------------------------------------------------------------- appendix C


def test_figure_2_is_a_grid_of_316_points_a_side():
    def points(side):
        # In whole numbers, half a step of the grid each: some points are on the edge of a disc.
        g = 2 * torch.arange(side) - (side - 1)
        unit = (side - 1) / 5
        x, y = torch.meshgrid(g, g, indexing="ij")
        inside = (x - 2 * unit) ** 2 + (y - 2 * unit) ** 2 < (3 * unit) ** 2
        inside |= (x + 3 * unit) ** 2 + (y + 3 * unit) ** 2 < (2 * unit) ** 2
        inside |= (x - 4 * unit).abs() + (y + 4 * unit).abs() < unit
        return int(inside.sum())

    assert points(316) == 42_453
    assert abs(316**2 - 1e5) < 200


# ---------------------------------------------------------------- the page


def test_what_the_page_names_is_there():
    text = PAGE.read_text(encoding="utf-8")
    tests = {
        (match[1], match[2]) for match in re.finditer(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    }
    assert len(tests) > 20
    for path, name in tests:
        assert re.search(
            rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE
        ), (
            path,
            name,
        )
    names = set(re.findall(r"`pef\.([\w.]+)", text))
    assert len(names) > 10
    for name in names:
        found = pef
        for part in name.split("."):
            found = getattr(found, part)


def test_every_equation_table_figure_and_appendix_has_its_place_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    for number in range(1, 11):
        assert f"({number})" in text, number
    for place in ("Table 1", "Table 2", "Figure 1", "Figure 2", "Figure 3", "Theorem 1", "Lemma 1"):
        assert place in text
    for appendix in ("A.1", "A.2", "A.3", "A.4", "A.5", "A.6", "B", "C", "D"):
        assert f"Appendix {appendix}" in text or f"appendix {appendix}" in text, appendix
