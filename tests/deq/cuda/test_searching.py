"""The kernels of bits and counts under a link find the root of float64, and have its gradients."""

import pytest
import torch
import triton
import triton.language as tl
from kernel_tables import FIELDS, kernel_problem, to
from link_formulas import distance
from quick_cases import in_turn, slow_unless

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, Solution, backend, cuda, root_gradients
from pyro_expfam.deq.cuda import kernels
from pyro_expfam.deq.cuda.outcomes import entry_losses
from pyro_expfam.deq.layer import solve

F, L = pef.families, pef.links
FAMILIES = [
    F.Bernoulli(link=L.Probit()),
    F.Bernoulli(link=L.ComplementaryLogLog()),
    F.Binomial(6, link=L.Probit()),
    F.Binomial(6, link=L.ComplementaryLogLog()),
]
SIZES = [(1, 1, 1), (17, 5, 2), (9, 17, 7)]
"""Rows, features and latents: ragged, and around the sizes of blocks."""

SIZE = 1024


def solve_by_kernel(problem, start, max_iter=1000) -> Solution:
    return kernels.solve(problem, start, FisherScoring(max_iter=max_iter).rules(start.dtype))


def by_operations(problem, start, max_iter=1000):
    return FisherScoring(compiled=False, max_iter=max_iter).solve(
        to(problem, "cpu").double(), start.cpu().double()
    )


@triton.jit
def outcome_kernel(eta, y, found, LINK: tl.constexpr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    loss, slope, curvature = entry_losses(tl.load(eta + place), tl.load(y + place), 3.0, LINK)
    tl.store(found + place, loss)
    tl.store(found + SIZE + place, slope)
    tl.store(found + 2 * SIZE + place, curvature)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("link", [L.Probit(), L.ComplementaryLogLog()], ids=str)
def test_losses_and_derivatives_are_accurate(link, dtype, device):
    family = F.Binomial(3, link=link)
    # Beyond rates of e^80 float32 stays where it is.
    eta = torch.linspace(-60, 20, SIZE, dtype=dtype, device=device)
    y = torch.arange(SIZE, device=device).remainder(4).to(dtype)
    found = torch.full((3, SIZE), torch.nan, dtype=dtype, device=device)
    name = cuda.activation_of(family).name
    outcome_kernel[(1,)](eta, y, found, LINK=name, SIZE=SIZE)
    x, y = eta.double(), y.double()
    expected = family.loss(x, y), -family.score(x, y), family.curvature(x, y)
    rounding = 2e-5 if dtype is torch.float32 else 1e-11
    for value, exact in zip(found.double(), expected, strict=True):
        assert ((value - exact).abs() <= rounding * (1e-3 + exact.abs())).all()


@pytest.mark.parametrize("size", [-1e4, -300.0, 300.0, 1e4])
@pytest.mark.parametrize("link", ["probit", "complementary_log_log"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_predictors_give_finite_numbers(link, size, dtype, device):
    eta = torch.full((SIZE,), size, dtype=dtype, device=device)
    y = torch.arange(SIZE, device=device).remainder(4).to(dtype)
    found = torch.full((3, SIZE), torch.nan, dtype=dtype, device=device)
    outcome_kernel[(1,)](eta, y, found, LINK=link, SIZE=SIZE)
    assert found.isfinite().all()
    assert (found[2] >= 0).all()


@pytest.mark.parametrize(
    "family", slow_unless(lambda family: family.link == L.Probit(), FAMILIES[2:]), ids=str
)
def test_roots_of_many_latents(family, device):
    test_roots_of_ragged_tables(family, (5, 12, 16), device)


@pytest.mark.parametrize(("family", "size"), in_turn(FAMILIES[:2], SIZES))
def test_roots_of_ragged_tables(family, size, device):
    problem = kernel_problem(family, *size, "nothing", device)
    start = torch.randn(size[0], size[2], device=device)
    solution = solve_by_kernel(problem, start)
    exact = by_operations(problem, start)
    assert solution.converged.all()
    assert (solution.residual <= 1e-6).all()
    assert distance(to(problem, "cpu"), solution.value.cpu()).max() < 1e-4
    torch.testing.assert_close(solution.value.cpu().double(), exact.value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "fields"),
    in_turn(FAMILIES[:2], ["offset by feature", "offset, mask", "weights by row"]),
)
def test_offsets_masks_weights_and_prior_means(family, fields, device):
    problem = kernel_problem(family, 9, 11, 3, fields, device)
    loc = torch.randn(9, 3, device=device)
    problem = type(problem)(
        family,
        problem.y,
        problem.map,
        problem.b,
        problem.precision,
        problem.offset,
        problem.weights,
        loc,
    )
    start = torch.zeros(9, 3, device=device)
    solution = solve_by_kernel(problem, start)
    exact = by_operations(problem, start)
    assert solution.converged.all()
    torch.testing.assert_close(solution.value.cpu().double(), exact.value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES[:2], ids=str)
def test_both_ways_take_the_same_steps(family, device):
    problem = kernel_problem(family, 8, 8, 2, "offset, mask", device)
    start = 2 * torch.randn(8, 2, device=device)
    for max_iter in (1, 2, 4):
        found = solve_by_kernel(problem, start, max_iter)
        expected = by_operations(problem, start, max_iter)
        torch.testing.assert_close(found.value.cpu().double(), expected.value, rtol=1e-5, atol=1e-5)
        assert (found.num_iter <= max_iter).all()
        left = distance(to(problem, "cpu"), found.value.cpu())
        assert left[found.converged.cpu()].lt(1e-4).all()


@pytest.mark.parametrize(("family", "fields"), in_turn(FAMILIES[1:3], list(FIELDS)))
def test_gradients(family, fields, device):
    problem = kernel_problem(family, 19, 9, 3, fields, device)
    z = by_operations(problem, torch.zeros(19, 3)).value
    grad = torch.randn(19, 3)
    needed = {"W", "b", "precision", "weights", "offset"}
    found = kernels.gradients(problem, z.float().to(device), grad.to(device), needed)
    expected = root_gradients.gradients(to(problem, "cpu").double(), z, grad.double(), needed)
    expected["offset"] = expected["offset"].sum_to_size(found["offset"].shape)
    for name, x in found.items():
        error = (x.cpu().double() - expected[name]).norm()
        assert error <= 2e-5 * (1 + expected[name].norm()), name


@pytest.mark.parametrize("family", FAMILIES[:2], ids=str)
def test_the_layer_by_kernels(family, monkeypatch, device):
    problem = kernel_problem(family, 8, 5, 2, "offset, mask", device)
    results = []
    monkeypatch.setattr(backend.cpu, "has_kernels", lambda problem: False)
    for by_kernels in (True, False):
        monkeypatch.setattr(backend.cuda, "has_kernels", lambda problem, on=by_kernels: on)
        fields = {name: problem.fields[name].clone().requires_grad_() for name in ("W", "b")}
        value = solve(problem.with_fields(fields), FisherScoring()).value
        results.append([value, *torch.autograd.grad(value.sin().sum(), list(fields.values()))])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_gradients_of_observations_and_evidence_are_left_to_pytorch(monkeypatch):
    problem = kernel_problem(FAMILIES[0], 5, 3, 2, "nothing", "cpu")
    z = torch.zeros(5, 2)
    assert kernels.gradients(problem, z, z, {"W", "y"}) is None
    monkeypatch.setattr(cuda, "has_kernels", lambda problem: True)
    assert not cuda.has_evidence(problem)
