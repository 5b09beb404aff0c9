"""The layer as a user calls it: shapes, batches, masks, weights and bad input."""

import numpy as np
import pytest
import torch
from random_tables import FAMILIES, random_table

import pyro_expfam as pef


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("where", ["y", "W", "both", "precision"])
def test_batches_equal_loops(batch, where):
    family = pef.families.Bernoulli()
    y = torch.bernoulli(torch.full((*(batch if where in ("y", "both") else ()), 5, 7), 0.4))
    W = torch.randn(*(batch if where in ("W", "both") else ()), 7, 2)
    b = torch.randn(7)
    precision = 0.5 + torch.rand(batch if where == "precision" else ())
    value = pef.solve_latents(family, y.double(), W.double(), b.double(), precision.double()).value
    assert value.shape == (*batch, 5, 2)
    for index in np.ndindex(*batch):
        single = pef.solve_latents(
            family,
            y[index if where in ("y", "both") else ()].double(),
            W[index if where in ("W", "both") else ()].double(),
            b.double(),
            precision[index if where == "precision" else ()].double(),
        )
        torch.testing.assert_close(value[index], single.value)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_missing_entries_do_not_matter_whatever_they_hold(family):
    table = random_table(family)
    mask = torch.rand(20, 12) < 0.6
    y = table.y.clone()
    reference = pef.solve_latents(family, y, table.W, table.b, mask=mask).value
    for hole in (torch.nan, torch.inf, -7.5):
        y[~mask] = hole
        torch.testing.assert_close(
            pef.solve_latents(family, y, table.W, table.b, mask=mask).value, reference
        )
    weighted = pef.solve_latents(family, table.y, table.W, table.b, weights=mask.double()).value
    torch.testing.assert_close(weighted, reference)


def test_a_row_without_any_entry_has_latents_zero():
    table = random_table(pef.families.Poisson())
    mask = torch.ones(20, 12, dtype=torch.bool)
    mask[3] = False
    value = pef.solve_latents(table.family, table.y, table.W, table.b, mask=mask).value
    assert (value[3] == 0).all()


def test_a_weight_of_two_is_an_entry_seen_twice():
    table = random_table(pef.families.Bernoulli())
    weights = torch.ones(20, 12).double()
    weights[:, 0] = 2.0
    weighted = pef.solve_latents(table.family, table.y, table.W, table.b, weights=weights).value
    doubled = pef.solve_latents(
        table.family,
        torch.cat([table.y, table.y[:, :1]], 1),
        torch.cat([table.W, table.W[:1]]),
        torch.cat([table.b, table.b[:1]]),
    ).value
    torch.testing.assert_close(weighted, doubled)


@pytest.mark.parametrize("shape", [(12,), (20, 1), (20, 12), (1, 12), ()])
def test_offsets_broadcast(shape):
    table = random_table(pef.families.Poisson())
    offset = torch.randn(shape).double()
    value = pef.solve_latents(table.family, table.y, table.W, table.b, offset=offset).value
    full = pef.solve_latents(
        table.family, table.y, table.W, table.b, offset=offset.expand(20, 12).clone()
    ).value
    torch.testing.assert_close(value, full)
    if shape == (12,):
        shifted = pef.solve_latents(table.family, table.y, table.W, table.b + offset).value
        torch.testing.assert_close(value, shifted)


@pytest.mark.parametrize("kind", ["list", "numpy int", "numpy object", "bool tensor", "int tensor"])
def test_observations_of_any_numeric_kind_serve(kind):
    W, b = torch.randn(3, 2), torch.zeros(3)
    rows = [[1, 0, 1], [0, 0, 1]]
    y = {
        "list": rows,
        "numpy int": np.array(rows),
        "numpy object": np.array(rows, dtype=object),
        "bool tensor": torch.tensor(rows).bool(),
        "int tensor": torch.tensor(rows),
    }[kind]
    value = pef.solve_latents(pef.families.Bernoulli(), y, W, b).value
    reference = pef.solve_latents(pef.families.Bernoulli(), torch.tensor(rows).float(), W, b).value
    torch.testing.assert_close(value, reference)


Y, W, B = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), torch.ones(3, 2), torch.zeros(3)
NAN = torch.tensor([[1.0, torch.nan, 1.0]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"y": 3 * Y}, ValueError, r"y must be in the support .* got 3 at position \(0, 0\)"),
        ({"y": Y - 0.5}, ValueError, r"got 0.5 at position \(0, 0\) and 5 more such entries"),
        ({"y": NAN}, ValueError, r"y must be finite; pass mask= .* got nan at position \(0, 1\)"),
        ({"y": Y / 0}, ValueError, "y must be finite"),
        ({"y": Y[:, :2]}, ValueError, r"y must have shape \(..., rows, 3\).* got \(2, 2\)"),
        ({"y": Y[0]}, ValueError, r"y must have shape .* got \(3,\)"),
        ({"y": Y[:0]}, ValueError, r"y must have at least one row, got shape \(0, 3\)"),
        ({"y": [["a", "b", "c"]]}, TypeError, "y must hold real numbers, got .* dtype <U1"),
        (
            {"y": np.array([[1, "x", 0]], dtype=object)},
            TypeError,
            "y must hold numbers; got an object array that does not convert: .*.x.",
        ),
        ({"y": Y.to(torch.complex64)}, TypeError, "y must hold real numbers, .*complex64"),
        ({"y": Y.to("meta")}, ValueError, "y must be on device cpu, got meta"),
        ({"W": torch.ones(3, 2).int()}, TypeError, "W must be a float32 or float64 .*int32"),
        ({"W": W * torch.nan}, ValueError, "W must be finite, got 6 entries of NaN or infinity"),
        ({"b": B - torch.inf}, ValueError, "b must be finite, got 3 entries of NaN or infinity"),
        ({"tol": -1.0}, ValueError, "tol must be a positive finite number, got -1.0"),
        ({"tol": float("nan")}, ValueError, "tol must be a positive finite number, got nan"),
        ({"max_iter": 0}, ValueError, "max_iter must be a whole number of at least 1, got 0"),
        ({"max_iter": 2.5}, ValueError, "max_iter must be a whole number of at least 1, got 2.5"),
        ({"W": torch.ones(3)}, ValueError, r"W must have shape .* got \(3,\)"),
        ({"b": torch.zeros(4)}, ValueError, r"b must have shape \(..., 3\).* got \(4,\)"),
        ({"precision": 0.0}, ValueError, "precision must be positive and finite, got 0.0"),
        ({"precision": -2.0}, ValueError, "precision must be positive and finite, got -2.0"),
        ({"offset": torch.zeros(5, 3)}, ValueError, r"offset must broadcast .* got \(5, 3\)"),
        ({"offset": torch.full((2, 1), torch.nan)}, ValueError, "offset must be finite"),
        ({"mask": torch.ones(2, 3)}, TypeError, "mask must hold booleans, got dtype torch.float32"),
        ({"mask": torch.ones(3, 3).bool()}, ValueError, r"mask must broadcast .* got \(3, 3\)"),
        ({"weights": -torch.ones(2, 3)}, ValueError, "weights must be non-negative and finite"),
        ({"solver": "newton"}, ValueError, r"solver must be a Solver or one of .* got 'newton'"),
        (
            {"solver": pef.deq.FisherScoring(), "tol": 1e-3},
            ValueError,
            "tol must be left out if solver is an object",
        ),
    ],
)
def test_bad_input_is_refused_by_name(arguments, error, message):
    settings = {"y": Y, "W": W, "b": B, **arguments}
    with pytest.raises(error, match=message):
        pef.solve_latents(pef.families.Bernoulli(), **settings)


def test_the_layer_trains_under_a_head():
    layer = pef.DEQLayer(pef.families.Bernoulli(), num_features=10, latent_dim=2, precision=0.5)
    net = torch.nn.Sequential(layer, torch.nn.Linear(2, 1))
    y = torch.bernoulli(torch.full((60, 10), 0.5))
    target = y[:, :5].sum(-1, keepdim=True) - y[:, 5:].sum(-1, keepdim=True)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (net(y) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert set(dict(layer.named_parameters())) == {"weight", "bias"}


def test_the_layer_moves_and_pickles_as_a_module(tmp_path):
    layer = pef.DEQLayer(pef.families.Poisson(), 4, 2).double()
    y = torch.poisson(torch.ones(6, 4)).double()
    assert layer(y).dtype == torch.float64
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = pef.DEQLayer(pef.families.Poisson(), 4, 2).double()
    other.load_state_dict(torch.load(tmp_path / "layer.pt"))
    torch.testing.assert_close(other(y), layer(y))
    assert layer.solution(y).converged.all()
    assert "Poisson()" in repr(layer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be a whole number of at least 1, got 0"),
        ({"num_features": 2.5}, "num_features must be a whole number of at least 1, got 2.5"),
        ({"precision": -1.0}, "precision must be positive"),
    ],
)
def test_an_impossible_layer_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        pef.DEQLayer(pef.families.Bernoulli(), **{"num_features": 3, "latent_dim": 1, **settings})


def test_sparse_tables_are_refused():
    from scipy.sparse import csr_array

    y, W = torch.eye(3), torch.randn(3, 2)
    for sparse in (y.to_sparse(), csr_array(y.numpy())):
        with pytest.raises(TypeError, match="y must be dense, got a sparse"):
            pef.solve_latents(pef.families.Bernoulli(), sparse, W, torch.zeros(3))


def test_a_solution_says_whether_its_roots_are_unique():
    W, b = torch.tensor([[0.8], [-0.5]]), torch.zeros(2)
    y = torch.tensor([[0.5, 1.5], [1.0, 0.2], [2.0, 0.1]])
    for family, expected in (
        (pef.families.Gaussian(1.0), True),
        (pef.families.Gamma(2.0), True),
        (pef.families.Gaussian(1.0, link=pef.links.Softplus()), False),
    ):
        for solver in (None, "anderson"):
            solution = pef.solve_latents(family, y, W, b, solver=solver)
            assert solution.is_unique.tolist() == [expected] * 3
    batch = pef.solve_latents(pef.families.Gaussian(1.0), y, W.expand(4, 2, 1), b)
    assert batch.is_unique.shape == (4, 3)
