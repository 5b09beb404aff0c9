"""Gaussian tables with one optimum: where one start is enough, and that it is."""

import math

import numpy as np
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring
from pyro_expfam.joint import JointProblem, SparseTable, StreamedTable, TableInMemory
from pyro_expfam.joint import fit_coefficients as fit
from pyro_expfam.joint.one_optimum import has_one_optimum, prior_pull
from pyro_expfam.joint.row_effect import RowEffect

pytestmark = pytest.mark.several_starts

F = pef.families
NUM_ROWS, NUM_FEATURES = 40, 6
LIKE = torch.zeros((), dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


def random_y():
    """The same table at every call."""
    rng = np.random.default_rng(5)
    signal = rng.normal(size=(NUM_ROWS, 3)) @ (2 * rng.normal(size=(3, NUM_FEATURES)))
    return torch.from_numpy(5 + signal + rng.normal(size=(NUM_ROWS, NUM_FEATURES)))


def problem_of(table, loading_precision=0.5, intercept_precision=0.0, **kwargs):
    precision = torch.tensor(2.0, dtype=torch.float64)
    return JointProblem(table, precision, loading_precision, intercept_precision, **kwargs)


def table_of(family=None, y=None, num_covariates=0, **entries):
    family = F.Gaussian(1.0) if family is None else family
    y = random_y() if y is None else y
    return TableInMemory(family, NUM_FEATURES, LIKE, y, num_covariates=num_covariates, **entries)


SCALES = torch.linspace(0.5, 2.0, NUM_FEATURES).double()


@pytest.mark.parametrize("family", [F.Gaussian(1.0), F.Gaussian(SCALES)], ids=["one", "by column"])
@pytest.mark.parametrize("num_covariates", [0, 2])
def test_one_start_ends_at_the_shrunken_singular_values(family, num_covariates):
    latent_dim, offset = 2, torch.randn(NUM_ROWS, NUM_FEATURES).double()
    x = torch.randn(NUM_ROWS, num_covariates).double()
    entries = {"offset": offset, "covariates": x} if num_covariates else {"offset": offset}
    table = table_of(family, num_covariates=num_covariates, **entries)
    problem = problem_of(table)
    _, found = fit(problem, latent_dim, FisherScoring(), tol=1e-12)
    assert [start.kind for start in found.starts] == ["spectral"]

    scale = np.broadcast_to(np.asarray(family.scale), NUM_FEATURES)
    residual = random_y().numpy() / scale - offset.numpy()
    known = np.column_stack([np.ones(NUM_ROWS), x.numpy()])
    residual -= known @ np.linalg.lstsq(known, residual, rcond=None)[0]
    values = np.linalg.svd(residual, compute_uv=False)
    # The penalties of latents and loading are least at this multiple of the nuclear norm.
    multiple = math.sqrt(2.0 * 0.5)
    kept = np.maximum(values[:latent_dim] - multiple, 0)
    rest = np.square(values).sum() - np.square(values[:latent_dim]).sum()
    loss = 0.5 * (np.square(values[:latent_dim] - kept).sum() + rest) + multiple * kept.sum()
    constants = NUM_ROWS * np.log(np.sqrt(2 * np.pi) * scale).sum()
    assert found.objective == pytest.approx(loss + constants, rel=1e-9)


def with_missing():
    mask = torch.ones(NUM_ROWS, NUM_FEATURES, dtype=torch.bool)
    mask[3, 2] = False
    return {"mask": mask}


def with_nan():
    y = random_y()
    y[3, 2] = torch.nan
    return table_of(y=y, missing="nan")


SEVERAL = {
    "weights": lambda: problem_of(table_of(weights=torch.rand(NUM_ROWS, 1) + 0.5)),
    "weights by column": lambda: problem_of(table_of(weights=torch.rand(1, NUM_FEATURES) + 0.5)),
    "missing": lambda: problem_of(table_of(**with_missing())),
    "NaN": lambda: problem_of(with_nan()),
    "scales of the loading": lambda: problem_of(table_of(), torch.rand(NUM_FEATURES, 1) + 0.5),
    "flat loading": lambda: problem_of(table_of(), 0.0),
    "row effect": lambda: problem_of(table_of(), row_effect=RowEffect(1.0)),
    "held": lambda: problem_of(table_of(), free=torch.tensor([True, True, False])),
    "link": lambda: problem_of(table_of(F.Gaussian(SCALES, link=pef.links.Identity()))),
    "bits": lambda: problem_of(table_of(F.Bernoulli(), (random_y() > 5).double())),
    "mixed": lambda: problem_of(
        table_of(
            F.Columns([(slice(0, 3), F.Gaussian(1.0)), (slice(3, 6), F.Poisson())]),
            random_y().abs().round(),
        )
    ),
    "narrow intercept": lambda: problem_of(table_of(), intercept_precision=1.0),
    "means far from zero": lambda: problem_of(
        table_of(y=1e6 + random_y()), intercept_precision=1e-4
    ),
}

ONE = {
    "flat": lambda: problem_of(table_of()),
    "wide intercept": lambda: problem_of(table_of(), intercept_precision=1e-4),
    "wide by column": lambda: problem_of(
        table_of(), intercept_precision=torch.rand(NUM_FEATURES).double() * 1e-4
    ),
    "all there": lambda: problem_of(
        table_of(mask=torch.ones(NUM_ROWS, 1, dtype=torch.bool), weights=torch.ones(1, 1))
    ),
    "columns": lambda: problem_of(
        table_of(F.Columns([(slice(0, 3), F.Gaussian(1.0)), (slice(3, 6), F.Gaussian(2.0))]))
    ),
    "stream": lambda: problem_of(
        StreamedTable(F.Gaussian(1.0), NUM_FEATURES, LIKE, [*random_y().split(7)])
    ),
    "sparse": lambda: problem_of(
        SparseTable(F.Gaussian(1.0), NUM_FEATURES, LIKE, random_y().to_sparse_csr())
    ),
}


@pytest.mark.parametrize("make", SEVERAL.values(), ids=SEVERAL)
def test_other_objectives_may_have_several_optima(make):
    assert not has_one_optimum(make())


@pytest.mark.parametrize("make", ONE.values(), ids=ONE)
def test_gaussian_tables_have_one_optimum(make):
    assert has_one_optimum(make())


def test_a_batch_with_weights_makes_a_stream_incomplete():
    y, weights = random_y(), torch.ones(NUM_ROWS, NUM_FEATURES)
    weights[-1] = 2.0
    batches = [*zip(y.split(7), [None] * 6, [None] * 6, weights.split(7), strict=True)]
    table = StreamedTable(F.Gaussian(1.0), NUM_FEATURES, LIKE, batches)
    assert not has_one_optimum(problem_of(table))


def test_more_starts_are_taken_if_they_are_asked_for():
    problem = problem_of(table_of())
    _, found = fit(problem, 2, FisherScoring(), num_starts=3)
    assert len(found.starts) == 3
    assert found.num_optima == 1


def test_priors_of_what_is_known_bring_no_more_than_the_bound():
    """The prior's part of the objective, by one linear system, falls no faster than the bound."""
    x = torch.randn(NUM_ROWS, 1).double()
    table = table_of(covariates=x, num_covariates=1)
    of_intercept = torch.rand(NUM_FEATURES).double() * 5
    problem = problem_of(table, intercept_precision=of_intercept, covariate_precision=3.0)
    kappa, left = prior_pull(problem, LIKE.new_zeros(NUM_FEATURES, 2))

    y = random_y().numpy()
    known = np.column_stack([np.ones(NUM_ROWS), x.numpy()])
    best = np.linalg.lstsq(known, y, rcond=None)[0]
    residual = y - known @ best
    assert left == pytest.approx(np.square(residual).sum(), rel=1e-3)

    precision = np.column_stack([of_intercept.numpy(), np.full(NUM_FEATURES, 3.0)])

    def part(S):
        """The least of the losses and the prior, less the losses of the residuals."""
        of_losses = np.kron(np.linalg.inv(S), known.T @ known)
        prior, at = np.diag(precision.ravel()), best.T.ravel()
        b = np.linalg.solve(of_losses + prior, of_losses @ at)
        return 0.5 * ((b - at) @ of_losses @ (b - at) + b @ prior @ b)

    rng = np.random.default_rng(0)
    identity = np.eye(NUM_FEATURES)
    for scale in (1e-3, 0.1, 1.0, 10.0):
        W = scale * rng.normal(size=(NUM_FEATURES, 3))
        S = identity + W @ W.T
        largest = np.linalg.eigvalsh(S)[-1]
        fall = part(identity) - part(S)
        assert 0 <= fall <= 0.5 * kappa * (largest - 1)
    # All columns together fall as fast as the bound, at first.
    small = 1e-6
    fall = part(identity) - part((1 + small) * identity)
    assert fall == pytest.approx(0.5 * kappa * small, rel=1e-4)
