"""Sums of tiles by the compiled kernel and by PyTorch's products agree."""

import pytest
import torch

pytest.importorskip("numba")

import pyro_expfam as pef
from pyro_expfam.deq import cpu, row_block
from pyro_expfam.joint import JointProblem, SparseTable, TableInMemory
from pyro_expfam.joint.blocks import Blocks
from pyro_expfam.joint.joint_problem import TILES_OF_KERNELS

NUM_ROWS, NUM_FEATURES, LATENT_DIM, NUM_COVARIATES = 120, 15, 3, 2
FAMILIES = (
    pef.families.Poisson(),
    pef.families.Binomial(4),
    pef.families.Ising(),
    pef.families.NegativeBinomial(size=2.0),
    pef.families.Gaussian(scale=0.5),
    pef.families.Categorical(3),
    pef.families.Bernoulli(link=pef.links.Probit()),
    pef.families.Poisson(link=pef.links.Softplus()),
    pef.families.Ordinal(4, cut_points=[-1.0, 0.0, 1.5]),
    pef.families.Columns(
        [
            ([0, 2, 4], pef.families.NegativeBinomial(2.0)),
            ([1], pef.families.LogNormal(0.5)),
            ([3], pef.families.Poisson()),
            (slice(5, 10), pef.families.PoissonLogNormal(0.5)),
            (slice(10, 15), pef.families.ZeroTruncatedPoisson()),
        ]
    ),
    # Their losses are not convex, so that steps take the expected information.
    pef.families.ZeroInflatedPoisson(0.3),
    pef.families.ZeroInflatedNegativeBinomial(2.0, 0.3),
    pef.families.Beta(5.0),
    pef.families.NegativeBinomial(2.0, link=pef.links.Softplus()),
    pef.families.Gamma(2.0, link=pef.links.Softplus()),
    pef.families.Tweedie(1.5, 1.2, link=pef.links.Softplus()),
    pef.families.Gaussian(0.5, link=pef.links.Softplus()),
    pef.families.Gaussian(0.5, link=pef.links.Log()),
)


def observations(family):
    if isinstance(family, pef.families.Categorical):
        return torch.randint(0, family.levels, (NUM_ROWS, NUM_FEATURES)).double()
    eta = torch.randn(NUM_ROWS, 2).double() @ torch.randn(2, NUM_FEATURES).double()
    return family.sample(0.5 * eta)


def entries_of(y):
    return {
        "offset": torch.randn(NUM_ROWS, 1).double(),
        "weights": torch.rand(y.shape).double(),
        "covariates": torch.randn(NUM_ROWS, NUM_COVARIATES).double(),
        "num_covariates": NUM_COVARIATES,
    }


def numbers(problem, coefficients, z):
    found = problem.derivatives(coefficients, z, Blocks(True, True))
    columns = problem.columns(coefficients, z.clone(), pef.deq.FisherScoring(tol=1e-10))
    of_columns = columns.objective, columns.gradient, columns.information
    values = (found.objective, *found.gradient, *found.information, *of_columns)
    return [torch.as_tensor(x, dtype=torch.float64) for x in values]


def compare(monkeypatch, problem, num_predictors):
    size = LATENT_DIM + 1 + problem.table.num_covariates
    coefficients = 0.4 * torch.randn(num_predictors, size).double()
    z = torch.randn(NUM_ROWS, LATENT_DIM).double()
    by_products = numbers(problem, coefficients, z)
    monkeypatch.setattr(cpu, "WORTH_ONE_PASS", 0)
    monkeypatch.setattr(cpu, "WORTH_AN_EVIDENCE", 0)
    assert cpu.has_joint_sums(coefficients, NUM_ROWS, LATENT_DIM)
    for one, other in zip(numbers(problem, coefficients, z), by_products, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("given", ["nothing", "entries"])
def test_the_kernel_finds_what_products_find(monkeypatch, family, given):
    y = observations(family)
    entries = entries_of(y) if given == "entries" else {}
    table = TableInMemory(family, NUM_FEATURES, torch.zeros(()).double(), y, **entries)
    problem = JointProblem(table, torch.tensor(0.5).double(), 2.0, 0.3, covariate_precision=0.1)
    compare(monkeypatch, problem, family.num_predictors(NUM_FEATURES))


def test_entries_without_weight_have_no_terms(monkeypatch):
    """Whatever stands for a missing entry, and however far its linear predictor is."""
    monkeypatch.setattr(cpu, "WORTH_ONE_PASS", 0)
    monkeypatch.setattr(cpu, "WORTH_AN_EVIDENCE", 0)
    family = pef.families.ZeroTruncatedPoisson()
    y, coefficients = observations(family), torch.zeros(NUM_FEATURES, LATENT_DIM + 1).double()
    coefficients[3, -1], mask = 900.0, torch.ones(y.shape, dtype=torch.bool)
    mask[:, 3] = False
    table = TableInMemory(family, NUM_FEATURES, torch.zeros(()).double(), y, mask=mask)
    problem = JointProblem(table, torch.tensor(0.5).double(), 2.0, 0.3)
    found = numbers(problem, coefficients, torch.zeros(NUM_ROWS, LATENT_DIM).double())
    assert all(bool(x.isfinite().all()) for x in found)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_which_laws_have_terms_by_functions(monkeypatch, family):
    monkeypatch.setattr(cpu, "WORTH_AN_EVIDENCE", 0)
    y = observations(family)
    table = TableInMemory(family, NUM_FEATURES, torch.zeros(()).double(), y)
    size = family.num_predictors(NUM_FEATURES)
    (_, rows), *_ = table.tiles()
    problem = rows.problem(torch.zeros(size, LATENT_DIM + 1).double(), torch.tensor(1.0).double())
    without = (pef.families.Poisson, pef.families.Binomial, pef.families.Gaussian)
    has_none = type(family) in (*without, pef.families.Categorical)
    assert cpu.has_law_terms(problem, NUM_ROWS) is not has_none


@pytest.mark.parametrize("given", ["nothing", "entries"])
def test_the_kernel_takes_stored_entries(monkeypatch, given):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    y = observations(pef.families.Poisson())
    entries = entries_of(y) if given == "entries" else {}
    like = torch.zeros(()).double()
    table = SparseTable(
        pef.families.Poisson(), NUM_FEATURES, like, scipy_sparse.csr_array(y.numpy()), **entries
    )
    problem = JointProblem(table, torch.tensor(0.5).double(), 2.0, 0.3, covariate_precision=0.1)
    compare(monkeypatch, problem, NUM_FEATURES)


@pytest.mark.parametrize(
    ("family", "latent_dim", "expected"),
    [
        (pef.families.Poisson(), LATENT_DIM, TILES_OF_KERNELS),
        (pef.families.Gaussian(scale=0.5), 64, TILES_OF_KERNELS),
        (pef.families.Poisson(), 65, 1),
        (pef.families.NegativeBinomial(size=2.0), LATENT_DIM, 1),
    ],
    ids=["counts", "real numbers", "more latents than a kernel takes", "terms by PyTorch"],
)
def test_tiles_are_taken_together_where_a_kernel_sums_them(
    family, latent_dim, expected, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(cpu, "WORTH_ONE_PASS", 0)
    table = TableInMemory(family, NUM_FEATURES, torch.zeros(()), observations(family))
    problem = JointProblem(table, torch.tensor(1.0), 1.0, 0.0)
    coefficients = torch.zeros(NUM_FEATURES, latent_dim + 1)
    assert problem.tiles_at_once(coefficients, latent_dim) == expected


def test_sums_by_pytorch_are_over_single_tiles(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", NUM_ROWS * NUM_FEATURES // 4)
    family = pef.families.Poisson()
    table = TableInMemory(family, NUM_FEATURES, torch.zeros(()), observations(family))
    problem, places = JointProblem(table, torch.tensor(1.0), 1.0, 0.0), []

    def of_rows(place, rows):
        places.append(place)
        return (rows.y.sum(),)

    problem.sum(torch.zeros(NUM_FEATURES, 1), of_rows)
    assert len(places) == 4
