"""Sums of a joint fit in compiled functions agree with products in float64."""

import pytest
import torch

pytest.importorskip("numba")

import pyro_expfam as pef
from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cpu.joint_sums import ROWS_AT_ONCE, FusedSums
from pyro_expfam.deq.row_sums import Wanted

LAWS = {
    "Poisson": pef.families.Poisson(),
    "Bernoulli": pef.families.Bernoulli(),
    "Binomial": pef.families.Binomial(7),
    "Gaussian": pef.families.Gaussian(scale=1.0),
}
NUM_ROWS = 2 * ROWS_AT_ONCE + 5
PRECISION = 0.7
SHAPES = {"none": None, "by row": (NUM_ROWS, 1), "by column": (1, -1), "by entry": (NUM_ROWS, -1)}


def terms(family, eta, statistic, weights):
    """Loss, residuals and variances, from the log-partition by automatic derivatives."""
    eta = eta.clone().requires_grad_()
    partition = family.log_partition(eta)
    (mean,) = torch.autograd.grad(partition.sum(), eta, create_graph=True)
    (variance,) = torch.autograd.grad(mean.sum(), eta)
    loss = (weights * (partition - statistic * eta)).sum().detach()
    return loss, (weights * (statistic - mean)).detach(), weights * variance


def packed(matrices):
    row, column = torch.tril_indices(*matrices.shape[-2:])
    return matrices[..., row, column]


def expected_of(design, coefficients, latent_dim, residual, variance):
    """Scores and information of rows and columns, written out."""
    W = coefficients[:, :latent_dim]
    of_rows = torch.einsum("si,ik,im->skm", variance, W, W)
    of_columns = torch.einsum("si,sk,sm->ikm", variance, design, design)
    own = of_rows + PRECISION * torch.eye(latent_dim).double()
    return residual @ W, own, design.T @ residual, packed(of_columns).T


def entries_of(shape, num_features, make):
    if shape is None:
        return None
    return make(*(num_features if x == -1 else x for x in shape)).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("latent_dim", "num_features"), [(1, 3), (3, 70), (11, 1100)])
@pytest.mark.parametrize(
    ("offset", "weights"),
    [("none", "none"), ("by row", "by entry"), ("by column", "by row"), ("by entry", "by column")],
)
@pytest.mark.parametrize("family", LAWS)
def test_sums_are_those_written_out(family, offset, weights, latent_dim, num_features, dtype):
    coefficients = torch.randn(num_features, latent_dim + 2).double() / latent_dim**0.5
    design = torch.randn(NUM_ROWS, latent_dim + 2).double()
    y = torch.randint(0, 2, (NUM_ROWS, num_features)).double()
    offset = entries_of(SHAPES[offset], num_features, torch.randn)
    weights = entries_of(SHAPES[weights], num_features, torch.rand)
    eta = design @ coefficients.T + (0.0 if offset is None else offset)
    w = torch.ones(1, 1).double() if weights is None else weights
    loss, residual, variance = terms(LAWS[family], eta, y, w)
    right = (loss, *expected_of(design, coefficients, latent_dim, residual, variance))

    scores = torch.full((NUM_ROWS, latent_dim), torch.nan, dtype=dtype)
    own = torch.full((NUM_ROWS, latent_dim, latent_dim), torch.nan, dtype=dtype)
    sums = FusedSums(coefficients.to(dtype), latent_dim, PRECISION)
    entries = (None if x is None else x.to(dtype) for x in (y, weights, offset))
    activation = activation_of(LAWS[family])
    found = sums.of_law(activation, design.to(dtype), *entries, Wanted(scores, own, True))
    tolerance = 2e-4 if dtype == torch.float32 else 1e-11
    each = (found.loss, scores, own, found.score, found.packed)
    for one, other in zip(each, right, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * scale)


def test_given_terms_are_multiplied_the_same():
    design, coefficients = torch.randn(NUM_ROWS, 4).double(), torch.randn(33, 4).double()
    residual, variance = torch.randn(2, NUM_ROWS, 33).double()
    right = expected_of(design, coefficients, 3, residual, variance)
    scores, own = design.new_empty(NUM_ROWS, 3), design.new_empty(NUM_ROWS, 3, 3)
    sums = FusedSums(coefficients, 3, PRECISION)
    found = sums.of_terms(design, residual, variance, Wanted(scores, own, True))
    for one, other in zip((scores, own, found.score, found.packed), right, strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_not_wanted_is_left_out():
    design, coefficients = torch.randn(NUM_ROWS, 4), torch.randn(33, 4)
    statistic = torch.randint(0, 2, (NUM_ROWS, 33)).float()
    sums, activation = FusedSums(coefficients, 3, PRECISION), activation_of(pef.families.Poisson())
    everything = Wanted(design.new_empty(NUM_ROWS, 3), design.new_empty(NUM_ROWS, 3, 3), True)
    all_of_them = sums.of_law(activation, design, statistic, None, None, everything)
    nothing = Wanted(None, None, False)
    found = sums.of_law(activation, design, statistic, None, None, nothing)
    assert found.packed.shape == (0, 33)
    assert found.loss == all_of_them.loss
    torch.testing.assert_close(found.score, all_of_them.score)


def test_a_mean_that_overflows_is_infinite():
    design, coefficients = torch.ones(1, 2), torch.full((50, 2), 50.0)
    scores = torch.empty(1, 1)
    sums, activation = FusedSums(coefficients, 1, PRECISION), activation_of(pef.families.Poisson())
    y = torch.ones(1, 50)
    found = sums.of_law(activation, design, y, None, None, Wanted(scores, None, True))
    assert found.loss == torch.inf
    assert bool((scores == -torch.inf).all())
    assert bool((found.score == -torch.inf).all())
