"""Functions of rows at their root, under autograd of higher order and function transforms."""

import pytest
import torch
from evidence_problems import random_problem, root
from torch.autograd import gradgradcheck

import pyro_expfam as pef
from pyro_expfam.deq import LatentProblem
from pyro_expfam.evidence import (
    laplace_evidence,
    mode_log_density,
    second_order_mean,
    second_order_term,
)

FUNCTIONS = (laplace_evidence, mode_log_density, second_order_term, second_order_mean)
COUNTS = pef.families.Poisson()


@pytest.fixture(params=FUNCTIONS, ids=lambda function: function.__name__)
def function(request):
    return request.param


def small_problem():
    return random_problem(COUNTS, latent_dim=2, num_rows=3, num_features=4)


def test_second_derivatives_pass_gradgradcheck(function):
    problem = small_problem()
    inputs = (problem.W, problem.b, problem.precision, torch.randn(3, 1).double())

    def evaluate(*fields):
        rebuilt = LatentProblem(COUNTS, problem.y, *fields)
        return function(rebuilt, root(rebuilt))

    assert gradgradcheck(evaluate, tuple(x.requires_grad_() for x in inputs), fast_mode=True)


def test_function_transforms_agree_with_loops(function):
    problem = small_problem()

    def total(W, row):
        rebuilt = LatentProblem(COUNTS, row[None], W, problem.b, problem.precision)
        return function(rebuilt, root(rebuilt)).sum()

    W, rows = problem.W, problem.y
    values = torch.stack([total(W, row) for row in rows])
    torch.testing.assert_close(torch.func.vmap(total, (None, 0))(W, rows), values)
    looped = []
    for row in rows:
        leaf = W.clone().requires_grad_()
        looped.append(torch.autograd.grad(total(leaf, row), leaf)[0])
    by_row = torch.func.vmap(torch.func.grad(total), (None, 0))(W, rows)
    torch.testing.assert_close(by_row, torch.stack(looped))


def test_the_root_is_followed_whether_it_is_attached_or_not(function):
    problem = small_problem()
    W = problem.W.requires_grad_()
    z = root(problem)
    attached, detached = (
        torch.autograd.grad(function(problem, latents).sum(), W, retain_graph=True)[0]
        for latents in (z, z.detach())
    )
    if function is second_order_mean:
        # The root is a part of it, beside what is computed there.
        attached = attached - torch.autograd.grad(z.sum(), W)[0]
    torch.testing.assert_close(attached, detached)
