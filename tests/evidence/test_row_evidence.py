"""The evidence as a user calls it: masks, batches, precision, memory and bad input."""

import numpy as np
import pytest
import torch
from evidence_problems import FAMILIES, random_problem
from quick_cases import in_turn
from torch.autograd import gradcheck

import pyro_expfam as pef
from pyro_expfam.deq import row_block

MEASURES = {
    "first": lambda *args, **kwargs: pef.log_evidence(*args, **kwargs),
    "second": lambda *args, **kwargs: pef.log_evidence(*args, **kwargs, order=2),
    "mean": lambda *args, **kwargs: pef.evidence.posterior_mean(*args, **kwargs),
}

WEIGHTED = {
    **MEASURES,
    "covariance": lambda *args, **kwargs: pef.evidence.posterior_covariance(*args, **kwargs),
    "importance": lambda *args, **kwargs: (
        pef.evidence.importance_evidence(*args, **kwargs, num_draws=100).log_evidence
    ),
    "resampled": lambda *args, **kwargs: pef.evidence.importance_latents(
        *args, **kwargs, num_samples=10, num_draws=100
    ),
}


@pytest.fixture(params=MEASURES, ids=str)
def measure(request):
    return MEASURES[request.param]


def arguments(family, latent_dim=2, num_rows=20, num_features=12, dtype=torch.float64):
    problem = random_problem(family, latent_dim, num_rows, num_features, dtype=dtype)
    return family, problem.y, problem.W, problem.b


@pytest.mark.parametrize(("family", "latent_dim", "order"), in_turn(FAMILIES, [1, 2, 3], [1, 2]))
def test_gradients_pass_gradcheck(family, latent_dim, order):
    family, y, W, b = arguments(family, latent_dim, num_rows=4, num_features=5)
    mask = torch.rand(4, 5) < 0.7
    inputs = (W, b, torch.tensor(0.7).double(), torch.randn(4, 1).double())
    cotangent = torch.randn(4).double()

    def weighted(W, b, precision, offset):
        return cotangent * pef.log_evidence(family, y, W, b, precision, offset, mask, order=order)

    assert gradcheck(weighted, tuple(x.requires_grad_() for x in inputs), fast_mode=True)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("shape", [(4, 5), (4, 1), (1, 5)], ids=str)
def test_gradients_in_the_weights_pass_gradcheck(order, shape):
    family, y, W, b = arguments(pef.families.Poisson(), num_rows=4, num_features=5)
    mask = torch.rand(4, 5) < 0.7
    cotangent = torch.randn(4).double()

    def weighted(weights):
        value = pef.log_evidence(family, y, W, b, mask=mask, order=order, weights=weights)
        return cotangent * value

    weights = 0.5 + torch.rand(shape, dtype=torch.float64)
    assert gradcheck(weighted, (weights.requires_grad_(),), fast_mode=True)


@pytest.mark.parametrize(("family", "name"), in_turn(FAMILIES, list(WEIGHTED)))
def test_an_entry_of_weight_two_counts_as_two_observations(family, name):
    family, y, W, b = arguments(family)
    mask = torch.rand(20, 12) < 0.8
    twice = torch.cat([torch.arange(12), torch.arange(0, 12, 3)])
    weights = torch.ones(1, 12)
    weights[:, ::3] = 2.0
    torch.manual_seed(0)
    repeated = WEIGHTED[name](family, y[:, twice], W[twice], b[twice], mask=mask[:, twice])
    torch.manual_seed(0)
    weighted = WEIGHTED[name](family, y, W, b, mask=mask, weights=weights)
    torch.testing.assert_close(weighted, repeated)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_missing_entries_do_not_matter_whatever_they_hold(family, measure):
    family, y, W, b = arguments(family)
    mask = torch.ones(20, 12, dtype=torch.bool)
    mask[:, 7:] = False
    expected = measure(family, y[:, :7], W[:7], b[:7])
    y[~mask] = torch.nan
    torch.testing.assert_close(measure(family, y, W, b, mask=mask), expected)


@pytest.mark.parametrize("precision", [0.3, 1.0, 20.0])
def test_a_row_without_any_entry_says_nothing(measure, precision):
    family, y, W, b = arguments(pef.families.Poisson(), latent_dim=3)
    mask = torch.ones(20, 12, dtype=torch.bool)
    mask[3] = False
    W.requires_grad_()
    value = measure(family, y, W, b, precision, mask=mask)[3]
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0.0, atol=1e-14)
    (gradient,) = torch.autograd.grad(value.sum(), W)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_evidence_does_not_depend_on_the_basis_of_the_latents():
    family, y, W, b = arguments(pef.families.Bernoulli(), latent_dim=5)
    basis, _ = torch.linalg.qr(torch.randn(5, 5).double())
    for order in (1, 2):
        torch.testing.assert_close(
            pef.log_evidence(family, y, W @ basis, b, order=order),
            pef.log_evidence(family, y, W, b, order=order),
        )


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
@pytest.mark.parametrize("where", ["y", "W", "both", "precision"])
def test_batches_equal_loops(batch, where, measure):
    family = pef.families.Bernoulli()
    y = torch.bernoulli(torch.full((*(batch if where in ("y", "both") else ()), 5, 7), 0.4))
    W = torch.randn(*(batch if where in ("W", "both") else ()), 7, 2).double().requires_grad_()
    b = torch.randn(7).double().requires_grad_()
    precision = 0.5 + torch.rand(batch if where == "precision" else ()).double()
    value = measure(family, y, W, b, precision)
    cotangent = torch.randn_like(value)
    looped = torch.zeros_like(value)
    for index in np.ndindex(*batch):
        looped[index] = measure(
            family,
            y[index if where in ("y", "both") else ()],
            W[index if where in ("W", "both") else ()],
            b,
            precision[index if where == "precision" else ()],
        )
    torch.testing.assert_close(value, looped)
    torch.testing.assert_close(
        torch.autograd.grad((value * cotangent).sum(), (W, b)),
        torch.autograd.grad((looped * cotangent).sum(), (W, b)),
    )


@pytest.mark.parametrize("tile", ["many", "one row"])
def test_tiles_do_not_change_the_result(measure, tile, monkeypatch):
    family, y, W, b = arguments(pef.families.Poisson(), latent_dim=3, num_rows=40)
    family = pef.families.Poisson()
    mask = torch.rand(40, 12) < 0.8
    inputs = [W, b, torch.tensor(0.8).double(), torch.randn(40, 1).double()]
    by_column = torch.randn(1, 12).double()

    def evaluate():
        leaves = [x.clone().requires_grad_() for x in (*inputs, by_column)]
        W, b, precision, by_row, by_column_leaf = leaves
        values = [
            measure(family, y, W, b, precision, offset=offset, mask=mask)
            for offset in (by_row, by_column_leaf)
        ]
        generator = torch.Generator().manual_seed(0)
        total = sum(
            (value * torch.randn(value.shape, generator=generator)).sum() for value in values
        )
        return values, torch.autograd.grad(total, leaves)

    whole = evaluate()
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", 1)
    monkeypatch.setattr(row_block, "SMALLEST_TILE", 16 if tile == "many" else 1)
    torch.testing.assert_close(evaluate(), whole)


def test_binomial_totals_by_row_follow_their_tile(measure, monkeypatch):
    total = torch.randint(1, 30, (40, 1))
    family, y, W, b = arguments(pef.families.Binomial(total), num_rows=40)
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", 1)
    W.requires_grad_()
    value = measure(family, y, W, b)
    by_row = torch.cat(
        [
            measure(pef.families.Binomial(int(n)), row[None], W, b)
            for n, row in zip(total, y, strict=True)
        ]
    )
    torch.testing.assert_close(value, by_row)
    torch.testing.assert_close(
        torch.autograd.grad(value.sum(), W), torch.autograd.grad(by_row.sum(), W)
    )


@pytest.mark.parametrize("order", [1, 2])
def test_the_graph_holds_no_further_tensor_of_the_size_of_the_table(order):
    family, y, W, b = arguments(pef.families.Bernoulli(), num_rows=500, num_features=30)
    W.requires_grad_()
    saved = []

    def keep(x):
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        value = pef.log_evidence(family, y, W, b, order=order)
    value.sum().backward()
    large = [x for x in saved if x.numel() >= y.numel()]
    assert large
    assert all(x.data_ptr() == y.data_ptr() for x in large)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("latent_dim", [2, 6])
def test_single_precision_is_close_to_double(family, latent_dim, measure):
    family, y, W, b = arguments(family, latent_dim, num_features=40)
    results = []
    for dtype in (torch.float32, torch.float64):
        loading = W.to(dtype).requires_grad_()
        value = measure(family, y, loading, b.to(dtype))
        assert value.dtype == dtype
        (gradient,) = torch.autograd.grad(value.sum(), loading)
        results.append((value.double(), gradient.double()))
    torch.testing.assert_close(*(r[0] for r in results), rtol=1e-6, atol=1e-6)
    size = float(results[1][1].abs().max())
    torch.testing.assert_close(*(r[1] for r in results), rtol=0.0, atol=3e-6 * size)


@pytest.mark.parametrize("order", [1, 2])
def test_single_precision_of_large_counts_with_more_latents_than_features(order):
    family = pef.families.Poisson()
    W, b = torch.randn(3, 5), torch.full((3,), 11.0)
    y = family.sample(torch.randn(20, 5) @ W.T + b)
    value = pef.log_evidence(family, y, W, b, order=order)
    expected = pef.log_evidence(family, y, W.double(), b.double(), order=order)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0.0)


def test_rows_that_do_not_converge_are_reported(monkeypatch):
    family, y, W, b = arguments(pef.families.Poisson(), num_rows=2)
    monkeypatch.setattr(
        "pyro_expfam.evidence.row_evidence.make_solver",
        lambda: pef.deq.FixedPoint(max_iter=1, tol=1e-12),
    )
    with pytest.warns(pef.ConvergenceWarning, match="2 of 2 rows"):
        pef.log_evidence(family, y, W, b)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"order": 3}, ValueError, "order must be 1 or 2, got 3"),
        ({"y": torch.full((2, 3), 0.5)}, ValueError, "y must be in the support"),
        ({"b": torch.zeros(2)}, ValueError, r"b must have shape"),
        ({"mask": torch.ones(2, 3)}, TypeError, "mask must hold booleans"),
    ],
)
def test_bad_input_is_refused_by_name(changed, error, message):
    settings = {"y": torch.ones(2, 3), "W": torch.ones(3, 2), "b": torch.zeros(3), **changed}
    with pytest.raises(error, match=message):
        pef.log_evidence(pef.families.Bernoulli(), **settings)
