"""Implicit gradients are those of the root, to every order and under function transforms."""

import pytest
import torch
from quick_cases import in_turn
from random_tables import FAMILIES, random_table
from torch.autograd import gradcheck, gradgradcheck

from pyro_expfam.deq import FisherScoring, LatentProblem, implicit
from pyro_expfam.deq.layer import solve


def random_inputs(latent_dim, batch=()):
    """Continuous ys, weights and all else that a root depends on."""
    table = random_table(FAMILIES[1], num_rows=4, num_features=6, latent_dim=latent_dim)
    inputs = (
        torch.rand(*batch, 4, 6),
        table.W,
        table.b,
        torch.tensor(0.7),
        torch.randn(4, 1),
        0.1 + torch.rand(4, 6),
    )
    return tuple(x.double().requires_grad_() for x in inputs)


def root(family):
    return lambda *fields: solve(LatentProblem(family, *fields), FisherScoring()).value


@pytest.mark.parametrize(("family", "latent_dim"), in_turn(FAMILIES, [1, 2, 5]))
def test_gradients_of_every_argument_pass_gradcheck(family, latent_dim):
    assert gradcheck(root(family), random_inputs(latent_dim), fast_mode=True)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_second_derivatives_pass_gradgradcheck(family):
    assert gradgradcheck(root(family), random_inputs(2), fast_mode=True)


def test_gradients_pass_gradcheck_with_a_batch_of_problems():
    y, W, b, precision, offset, weights = random_inputs(2, batch=(2,))
    W = torch.stack([W, 0.5 * W]).detach().requires_grad_()
    assert gradcheck(root(FAMILIES[1]), (y, W, b, precision, offset, weights), fast_mode=True)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_implicit_gradients_equal_those_through_200_unrolled_iterations(family):
    table = random_table(family, weight_scale=0.12, latent_dim=3, num_rows=10)
    cotangent = torch.randn(10, 3, dtype=torch.float64)
    gradients = {}
    for name in ("implicit", "unrolled"):
        W, b = table.W.clone().requires_grad_(), table.b.clone().requires_grad_()
        problem = LatentProblem(
            family, table.problem().y, W, b, torch.tensor(1.0, dtype=torch.float64)
        )
        if name == "implicit":
            z = solve(problem, FisherScoring())
            z = z.value
        else:
            z = torch.zeros(10, 3, dtype=torch.float64)
            for _ in range(200):
                z = z + 0.3 * problem.score(z)
        gradients[name] = torch.autograd.grad((z * cotangent).sum(), (W, b))
    for implicit_gradient, unrolled_gradient in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(implicit_gradient, unrolled_gradient, rtol=1e-6, atol=1e-8)


def test_function_transforms_agree_with_loops():
    fields = tuple(x.detach() for x in random_inputs(2))
    family = FAMILIES[1]
    f = root(family)
    y, W, b, precision, offset, weights = fields
    looped = torch.stack([f(row[None], W, b, precision, None, None)[0] for row in y])
    mapped = torch.func.vmap(lambda t: f(t[None], W, b, precision, None, None)[0])(y)
    torch.testing.assert_close(mapped, looped)

    loadings = torch.randn(3, *W.shape, dtype=torch.float64)
    looped = torch.stack([f(y, w, b, precision, offset, weights) for w in loadings])
    mapped = torch.func.vmap(lambda w: f(y, w, b, precision, offset, weights))(loadings)
    torch.testing.assert_close(mapped, looped)

    precisions = torch.tensor([0.3, 1.0, 5.0], dtype=torch.float64)
    nested = torch.func.vmap(
        lambda w: torch.func.vmap(lambda p: f(y, w, b, p, offset, None))(precisions)
    )(loadings)
    looped = torch.stack(
        [torch.stack([f(y, w, b, p, offset, None) for p in precisions]) for w in loadings]
    )
    torch.testing.assert_close(nested, looped)


def test_functional_gradients_agree_with_autograd():
    fields = tuple(x.detach() for x in random_inputs(3))
    f = root(FAMILIES[4])

    def loss(W, y):
        return f(y, W, *fields[2:]).square().sum()

    W = fields[1].clone().requires_grad_()
    reference = torch.autograd.grad(loss(W, fields[0]), W)[0]
    torch.testing.assert_close(torch.func.grad(loss)(fields[1], fields[0]), reference)

    def row_loss(W, row):
        return f(row[None], W, *fields[2:4], None, None).square().sum()

    per_row = torch.func.vmap(torch.func.grad(row_loss), in_dims=(None, 0))(*fields[1::-1])
    whole = torch.func.grad(lambda W: f(fields[0], W, *fields[2:4], None, None).square().sum())(
        fields[1]
    )
    torch.testing.assert_close(per_row.sum(0), whole)

    hessian = torch.func.jacrev(torch.func.jacrev(lambda b: f(*fields[:2], b, *fields[3:]).sum()))
    torch.testing.assert_close(hessian(fields[2]), hessian(fields[2]).mT, rtol=1e-8, atol=1e-10)


def test_rows_of_problems_with_one_loading_are_solved_together(monkeypatch):
    y, W, b, precision, *_ = (x.detach() for x in random_inputs(2))
    calls = []

    class Counting(FisherScoring):
        def solve(self, problem, start):
            calls.append(len(start))
            return super().solve(problem, start)

    problem = LatentProblem(FAMILIES[1], y.expand(3, 4, 6).clone(), W, b, precision)
    start = torch.zeros(3, 4, 2, dtype=torch.float64)
    value = implicit.solve(problem, Counting(), start).value
    assert calls == [12]
    torch.testing.assert_close(value[0], value[2])
