"""Quadrature: the integral over latents, whatever the posterior, mask, weights and offset."""

import math

import numpy as np
import pytest
import torch
from evidence_problems import FAMILIES, SKEWED, log_joint, random_problem, root
from quick_cases import in_turn, slow_unless
from scipy import integrate, optimize

import pyro_expfam as pef
from pyro_expfam.evidence import evidence_with_error, laplace_evidence, quadrature_evidence
from pyro_expfam.evidence.quadrature import Integral, _trapezoidal

LSAT = [
    *(3, 6, 2, 11, 1, 1, 3, 4, 1, 8, 0, 16, 0, 3, 2, 15),
    *(10, 29, 14, 81, 3, 28, 15, 80, 16, 56, 21, 173, 11, 61, 28, 298),
]
"""How many of 1,000 persons gave each pattern of five answers, from 00000 to 11111.

Source: Bock and Lieberman (1970), section 6 of the Law School Admission Test.
"""


def lsat_patterns():
    patterns = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 5)
    return patterns, torch.tensor(LSAT, dtype=torch.float64)


def table(family, latent_dim, num_rows=6):
    """Arguments with everything: a mask, weights, offsets and a precision."""
    problem = random_problem(family, latent_dim, num_rows, num_features=7, precision=0.7)
    y = problem.y
    mask = torch.rand(num_rows, 7) < 0.8
    mask[0] = False
    weights = 0.5 + torch.rand(num_rows, 7, dtype=torch.float64)
    offset = 0.3 * torch.randn(num_rows, 1, dtype=torch.float64)
    return problem, y, {"precision": 0.7, "offset": offset, "mask": mask, "weights": weights}


def density_of(family, y, W, b, settings, row):
    """The density of a row's observations and latents, a function of latents ``(..., l)``."""
    present, weights = settings["mask"][row], settings["weights"][row]

    def density(z):
        eta = z @ W.T + b + settings["offset"][row]
        terms = torch.where(present, weights * family.log_prob(y[row], eta), 0.0)
        prior = torch.distributions.Normal(0.0, settings["precision"] ** -0.5).log_prob(z)
        return (terms.sum(-1) + prior.sum(-1)).exp()

    return density


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_one_latent_is_integrated_as_scipy_does(family):
    problem, y, settings = table(family, 1, num_rows=2)
    found = quadrature_evidence(family, y, problem.W, problem.b, **settings)
    for row in range(len(y)):
        density = density_of(family, y, problem.W, problem.b, settings, row)
        expected, _ = integrate.quad(
            lambda z, density=density: float(density(torch.tensor([z]).double())),
            -15,
            15,
            epsabs=0,
            epsrel=1e-9,
            limit=200,
        )
        assert float(found[row]) == pytest.approx(math.log(expected), abs=1e-6)


@pytest.mark.parametrize("family", [pef.families.Poisson(), pef.families.Bernoulli()], ids=str)
def test_two_latents_are_integrated_as_scipy_does(family):
    problem, y, settings = table(family, 2, num_rows=3)
    found = quadrature_evidence(family, y, problem.W, problem.b, **settings)
    axis = torch.linspace(-10, 10, 401, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    for row in range(3):
        density = density_of(family, y, problem.W, problem.b, settings, row)
        inner = integrate.simpson(density(grid).numpy(), x=axis.numpy())
        expected = integrate.simpson(inner, x=axis.numpy())
        assert float(found[row]) == pytest.approx(math.log(expected), abs=1e-4)


@pytest.mark.parametrize("latent_dim", slow_unless(lambda latent_dim: latent_dim < 3, [1, 2, 3]))
def test_gaussian_rows_are_exact(latent_dim):
    family = pef.families.Gaussian(0.7)
    problem = random_problem(family, latent_dim, num_rows=5)
    y = problem.y
    W, b = problem.W, problem.b
    covariance = 0.49 * (W @ W.T + torch.eye(len(W)).double())
    exact = torch.distributions.MultivariateNormal(0.7 * b, covariance).log_prob(y)
    for num_nodes in (9, 31 if latent_dim < 3 else 15):
        found = quadrature_evidence(family, y, W, b, num_nodes=num_nodes)
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)


def by_dense_grid(problem, row, half_width, steps):
    """The log evidence of a row by a fine grid of all latents."""
    axis = torch.linspace(-half_width, half_width, steps + 1, dtype=torch.float64)
    nodes = torch.cartesian_prod(*[axis] * problem.latent_dim).reshape(-1, 1, problem.latent_dim)
    density = log_joint(problem.rows(slice(row, row + 1)), nodes)[:, 0]
    return density.logsumexp(0) + problem.latent_dim * math.log(2 * half_width / steps)


def is_quick(family):
    """The family whose integrals over three latents are least normal in a second."""
    return isinstance(family, pef.families.Poisson)


LOADING_SCALES = [0.1, 1.0, 5.0, 30.0]


def steep_problem(family, latent_dim, num_rows, loading_scale):
    """A table under steep loadings, if they leave counts of ordinary size."""
    largest = {"Poisson()": 2.0}.get(str(family), 30.0 if latent_dim == 1 else 10.0)
    return random_problem(
        family, latent_dim, num_rows, 5, loading_scale=min(loading_scale, largest)
    )


@pytest.mark.parametrize("loading_scale", LOADING_SCALES)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_one_latent_is_exact_under_any_loading(family, loading_scale):
    problem = steep_problem(family, 1, 20, loading_scale)
    found = evidence_with_error(problem, root(problem))
    assert float(found.error.max()) < 1e-5
    for row in range(0, 20, 4):
        exact = by_dense_grid(problem, row, 9.0, 20_000)
        assert float(found.log_value[row]) == pytest.approx(float(exact), abs=1e-7)


@pytest.mark.parametrize(("family", "loading_scale"), in_turn(FAMILIES, LOADING_SCALES))
def test_two_latents_are_exact_under_any_loading(family, loading_scale):
    problem = steep_problem(family, 2, 2, loading_scale)
    found = evidence_with_error(problem, root(problem))
    assert float(found.error.max()) < 1e-5
    is_steep = isinstance(family, pef.families.Poisson) and loading_scale > 1
    steps = 1_600 if is_steep else 700
    exact = by_dense_grid(problem, 1, 9.0, steps)
    assert float(found.log_value[1]) == pytest.approx(float(exact), abs=1e-6)


@pytest.mark.parametrize("family", slow_unless(is_quick, SKEWED), ids=str)
def test_three_latents_come_to_rest_within_their_error(family):
    problem = random_problem(family, latent_dim=3, num_rows=2)
    z = root(problem)
    coarse, fine = (evidence_with_error(problem, z, num_nodes) for num_nodes in (9, 21))
    torch.testing.assert_close(coarse.log_value, fine.log_value, rtol=0, atol=1e-7)
    assert float(torch.stack([coarse.error, fine.error]).max()) < 1e-4
    assert float((fine.log_value - laplace_evidence(problem, z)).abs().max()) > 1e-3


@pytest.mark.parametrize("loading_scale", [100.0, 300.0])
@pytest.mark.parametrize("link", [None, pef.links.Probit()], ids=str)
def test_the_stated_error_of_edges_is_honest(link, loading_scale):
    """Two rules may agree by chance where an edge falls between their nodes."""
    family = pef.families.Bernoulli(link=link)
    W, b = loading_scale * torch.randn(5, 1).double(), torch.randn(5).double()
    y = family.sample(torch.randn(40, 1).double() @ W.T + b)
    problem = pef.deq.LatentProblem(family, y, W, b, torch.tensor(1.0).double())
    found = evidence_with_error(problem, root(problem))
    axis = torch.linspace(-9, 9, 300_001, dtype=torch.float64)
    log_prior = -0.5 * axis.square() - 0.5 * math.log(2 * math.pi)
    patterns, place = y.unique(dim=0, return_inverse=True)
    densities = [family.log_prob(row, axis[:, None] * W[:, 0] + b).sum(-1) for row in patterns]
    exact = torch.stack([(x + log_prior).logsumexp(0) for x in densities])
    missing = (found.log_value - exact[place] - (axis[1] - axis[0]).log()).abs()
    assert (missing <= found.error + 1e-7).all()
    assert missing.max() < 1e-5


def test_the_stated_error_of_kinks_is_honest_wherever_they_are():
    kink = torch.rand(3_000, dtype=torch.float64)

    def log_density(x, rows):
        return Integral(-4 * (x - kink[rows]).abs(), torch.zeros_like(x))

    centre, scale = torch.full_like(kink, 0.5), torch.full_like(kink, 0.4)
    for most in (1 << 6, 1 << 7, 1 << 9, 1 << 12):
        found = _trapezoidal(log_density, centre, scale, 30, most, 1e-6)
        missing = (found.log_value - math.log(2 / 4)).abs()
        assert missing.max() > 1e-8
        assert (missing <= found.error + 1e-9).all()


def test_an_error_is_stated_where_the_finest_step_is_too_long(monkeypatch):
    monkeypatch.setattr(pef.evidence.quadrature, "MOST_NODES", {1: 32})
    problem = random_problem(pef.families.Bernoulli(), 1, 40, 5, loading_scale=30.0)
    exact = torch.stack([by_dense_grid(problem, row, 9.0, 100_000) for row in range(40)])
    found = evidence_with_error(problem, root(problem))
    missing = (found.log_value - exact).abs()
    assert float(missing.max()) > 1e-2
    assert bool((missing <= 3 * found.error + 1e-6).all())
    arguments = pef.families.Bernoulli(), problem.y, problem.W, problem.b
    with pytest.warns(pef.ConvergenceWarning, match=r"of 40 rows by quadrature still changes"):
        quadrature_evidence(*arguments)


def test_the_centre_of_the_nodes_does_not_matter():
    problem = random_problem(pef.families.Poisson(), latent_dim=2, num_rows=5)
    z = root(problem)
    for centre in (z + 1.0, z - torch.tensor([3.0, 0.0])):
        found = evidence_with_error(problem, centre).log_value
        torch.testing.assert_close(found, evidence_with_error(problem, z).log_value)


def test_tiles_of_rows_and_nodes_do_not_matter(monkeypatch):
    problem = random_problem(pef.families.Poisson(), latent_dim=2, num_rows=10)
    z = root(problem)
    whole = evidence_with_error(problem, z)
    monkeypatch.setattr(pef.deq.row_block, "TILE_ENTRIES", {"cpu": 500})
    torch.testing.assert_close(evidence_with_error(problem, z), whole)


def test_batches_and_single_precision_keep_their_shape_and_dtype():
    family = pef.families.Poisson()
    W, b = torch.randn(3, 1, 6, 2) / 2, torch.randn(2, 6) / 2
    y = torch.poisson(torch.ones(5, 6))
    found = quadrature_evidence(family, y, W, b)
    assert found.dtype == torch.float32
    assert found.shape == (3, 2, 5)
    torch.testing.assert_close(found[1, 1], quadrature_evidence(family, y, W[1, 0], b[1]))


def test_a_guide_knows_its_quadrature():
    y = torch.poisson(torch.exp(torch.randn(30, 1) @ torch.randn(1, 6)))
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, 1, latent_precision=2.0))
    guide.fit(y)
    expected = quadrature_evidence(
        pef.families.Poisson(), y, guide.loading, guide.intercept, precision=2.0
    )
    torch.testing.assert_close(guide.quadrature_evidence(y), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_nodes": 0}, "num_nodes must be a whole number of at least 1, got 0"),
        ({"num_nodes": 2.5}, "num_nodes must be a whole number of at least 1, got 2.5"),
        ({"num_nodes": 2}, "num_nodes must be at least 3, got 2"),
        ({"num_nodes": 65_537}, "num_nodes must be at most 65536, got 65537"),
        ({"W": torch.zeros(6, 4)}, "W must have at most 3 latents for quadrature, got 4"),
    ],
)
def test_bad_arguments_of_quadrature_are_named(settings, message):
    arguments = {"y": torch.ones(2, 6), "W": torch.zeros(6, 1), "b": torch.zeros(6)}
    with pytest.raises(ValueError, match=message):
        quadrature_evidence(pef.families.Poisson(), **{**arguments, **settings})


def test_the_maximum_of_the_classic_table_of_five_answers_is_the_published_one():
    patterns, counts = lsat_patterns()
    assert int(counts.sum()) == 1000
    assert (counts @ patterns).tolist() == [924, 709, 553, 763, 870]

    def objective(numbers):
        loading, intercept = torch.tensor(numbers).split(5)
        rows = quadrature_evidence(pef.families.Bernoulli(), patterns, loading[:, None], intercept)
        return -float(counts @ rows)

    start = np.concatenate([np.ones(5), np.log(np.array([924, 709, 553, 763, 870]) / 500)])
    found = optimize.minimize(objective, start, method="L-BFGS-B")
    assert -found.fun == pytest.approx(-2466.65, abs=0.01)


def test_five_answers_under_a_loading_of_the_laplace_evidence():
    patterns, counts = lsat_patterns()
    y = patterns.repeat_interleave(counts.long(), 0)
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 5, 1).double())
    guide.fit(y, loss=pef.LaplaceEvidence())
    found = guide.quadrature_evidence(patterns)
    axis = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    eta = axis[:, None] * guide.loading[:, 0] + guide.intercept
    log_prior = -0.5 * axis.square() - 0.5 * math.log(2 * math.pi)
    by_row = [pef.families.Bernoulli().log_prob(row, eta).sum(-1) + log_prior for row in patterns]
    exact = torch.stack(by_row).logsumexp(1) + (axis[1] - axis[0]).log()
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)
