"""Newton's method with conjugate gradients: roots without a matrix, and their gradients."""

from dataclasses import replace

import pytest
import scipy.optimize
import torch
from torch.autograd import gradcheck, gradgradcheck

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem, NewtonCG
from pyro_expfam.deq.conjugate_gradients import Information, conjugate_gradients
from pyro_expfam.deq.layer import solve
from pyro_expfam.links import Probit, Softplus

families = pef.families
FAMILIES = [
    families.Bernoulli(),
    families.Binomial(16),
    families.Poisson(),
    families.NegativeBinomial(2.0),
    families.Gamma(2.0),
    families.ContinuousBernoulli(),
    families.Gaussian(0.5),
    families.Bernoulli(link=Probit()),
    families.Poisson(link=Softplus()),
]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=repr)
UP = pef.linear.ConvTranspose2d(2, 1, 4, stride=2, padding=1, latent_shape=(2, 3, 3))
FREE = replace(UP, dense_latents=0)


def random_problem(family, dtype=torch.float64, num_rows=20, scale=0.7, convolution=FREE):
    kernel = scale * torch.randn(convolution.kernel_shape).double()
    b = 0.3 * torch.randn(convolution.num_features).double()
    eta = convolution.map(kernel)(torch.randn(num_rows, convolution.latent_dim).double()) + b
    y = family.sample(eta.clamp(-3, 3))
    weights = (torch.rand(y.shape) < 0.8).to(dtype)
    offset = 0.2 * torch.randn(num_rows, 1).to(dtype)
    precision = torch.tensor(0.6, dtype=dtype)
    map = convolution.map(kernel.to(dtype))
    return LatentProblem(family, y.to(dtype), map, b.to(dtype), precision, offset, weights)


def dense(problem):
    """The same problem by the matrix of its map."""
    return replace(problem, map=UP.map(problem.map.kernel.reshape(UP.kernel_shape)).dense())


def objective_outside(problem, z):
    """Minus the log joint density in float64, by ``log_prob`` alone."""
    problem = dense(problem.double())
    eta = z @ problem.W.T + problem.b + problem.offset
    log_prob = problem.family.log_prob(problem.y, eta) * problem.weights
    return 0.5 * problem.precision * z.square().sum(-1) - log_prob.sum(-1)


def distance_outside(problem, z):
    """The score in the norm of the inverse information in float64, without the package."""
    z = z.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(objective_outside(problem, z).sum(), z, create_graph=True)
    columns = [
        torch.autograd.grad(gradient[:, k].sum(), z, retain_graph=True)[0]
        for k in range(z.shape[1])
    ]
    solved = torch.linalg.solve(torch.stack(columns, -1), gradient)
    return (gradient * solved).sum(-1).clamp(min=0).sqrt().detach()


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_root_is_the_root_of_the_matrix(family, dtype):
    problem = random_problem(family, dtype)
    found = solve(problem, FisherScoring())
    assert found.converged.all()
    assert found.value.dtype == dtype
    expected = solve(dense(problem.double()), FisherScoring()).value
    error = 1e-3 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(found.value.double(), expected, rtol=error, atol=error)


def test_the_root_is_the_minimum_that_scipy_finds():
    problem = random_problem(families.Poisson(), num_rows=2)
    found = solve(problem, NewtonCG()).value
    for row in range(2):
        one = problem.rows(slice(row, row + 1))

        def value_and_slope(z, one=one):
            at = torch.from_numpy(z)[None].requires_grad_()
            value = objective_outside(one, at)[0]
            return value.item(), torch.autograd.grad(value, at)[0][0].numpy()

        start = torch.zeros(UP.latent_dim).double().numpy()
        least = scipy.optimize.minimize(
            value_and_slope, start, jac=True, method="BFGS", options={"gtol": 1e-8}
        )
        torch.testing.assert_close(found[row], torch.from_numpy(least.x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [FAMILIES[0], FAMILIES[2], FAMILIES[7]], ids=repr)
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_rows_that_are_called_converged_have_no_score_left(family, scale):
    for dtype, allowed in ((torch.float32, 1e-3), (torch.float64, 1e-8)):
        problem = random_problem(family, dtype, num_rows=5, scale=scale)
        found = solve(problem, NewtonCG())
        assert found.converged.all()
        assert distance_outside(problem, found.value).max() < allowed


@pytest.mark.parametrize("max_iter", [1, 2, 3, 5])
def test_the_residual_is_a_bound_also_of_rows_that_were_cut_short(max_iter):
    problem = random_problem(families.Poisson(), num_rows=6, scale=2.0)
    found = NewtonCG(max_iter=max_iter).solve(problem, torch.zeros(6, UP.latent_dim).double())
    distance = distance_outside(problem, found.value)
    assert (distance <= found.residual * (1 + 1e-6)).all()
    assert (found.converged == (found.residual <= 1e-9)).all()
    assert found.value.isfinite().all()
    if max_iter < 3:
        assert not found.converged.any()


def test_the_bound_is_not_far_above_the_distance():
    problem = random_problem(families.Bernoulli(), num_rows=6)
    found = NewtonCG(max_iter=3).solve(problem, torch.zeros(6, UP.latent_dim).double())
    assert (found.residual < 1.5 * distance_outside(problem, found.value) + 1e-9).all()


def test_large_images_in_single_precision():
    up = pef.linear.ConvTranspose2d(8, 1, 8, stride=4, padding=2, latent_shape=(8, 7, 7))
    assert (up.num_features, up.latent_dim) == (784, 392)
    problem = random_problem(families.Bernoulli(), torch.float32, 30, 0.5, up)
    found = solve(problem, FisherScoring())
    assert found.converged.all()
    exact = problem.double()
    eta = exact.predictor(found.value.double())
    score = exact.map.transpose(exact.weights * (exact.y - eta.sigmoid()))
    score = score - 0.6 * found.value.double()
    # No eigenvalue of the information is below the prior's.
    assert (score.norm(dim=-1) / 0.6**0.5).max() < 1e-2


def test_solvers_of_one_name_and_rows_of_a_table_without_entries():
    problem = random_problem(families.Poisson(), num_rows=4)
    problem.weights[2] = 0.0
    found = pef.solve_latents(
        families.Poisson(),
        problem.y,
        problem.map,
        problem.b,
        0.6,
        offset=problem.offset,
        weights=problem.weights,
        solver="newton_cg",
        tol=1e-10,
    )
    torch.testing.assert_close(found.value, solve(problem, FisherScoring()).value)
    assert (found.value[2] == 0).all()


def test_a_prior_with_means_and_a_precision_matrix():
    problem = random_problem(families.Poisson())
    factor = torch.eye(18).double() + 0.3 * torch.randn(18, 18).double().tril()
    moved = replace(problem, loc=torch.randn(20, 18).double(), precision_factor=factor)
    tensors = [x.clone().requires_grad_() for x in (moved.loc, factor, moved.precision)]
    results = []
    for each in (moved, dense(moved)):
        at = replace(
            each,
            loc=tensors[0],
            precision_factor=tensors[1].tril(),
            precision=tensors[2],
        )
        value = solve(at, FisherScoring()).value
        results.append([value, *torch.autograd.grad(value.sin().sum(), tensors)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def root_of(problem):
    """The root as a function of kernel, intercept, precision, offset and weights."""
    names = ("kernel", "b", "precision", "offset", "weights")

    def root(*tensors):
        fields = dict(zip(names, tensors, strict=True))
        return solve(problem.with_fields(fields), NewtonCG(tol=1e-12)).value

    return root, [problem.fields[name].clone().requires_grad_() for name in names]


@pytest.mark.parametrize(
    "family",
    [families.Poisson(), FAMILIES[7], pytest.param(FAMILIES[8], marks=pytest.mark.slow)],
    ids=repr,
)
def test_gradients_are_those_of_finite_differences_and_of_the_matrix(family):
    problem = random_problem(family, num_rows=3)
    root, fields = root_of(problem)
    assert gradcheck(root, fields, atol=1e-5, rtol=1e-4, fast_mode=True)
    found = torch.autograd.grad(root(*fields).sin().sum(), fields)
    by_matrix = problem.with_fields(dict(zip(("kernel",), fields, strict=False)))
    by_matrix = replace(by_matrix, map=UP.map(fields[0].reshape(UP.kernel_shape)))
    value = solve(
        replace(by_matrix, b=fields[1], precision=fields[2], offset=fields[3], weights=fields[4]),
        FisherScoring(),
    ).value
    expected = torch.autograd.grad(value.sin().sum(), fields)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-8)


def test_second_and_forward_derivatives_and_maps_over_kernels():
    small = pef.linear.ConvTranspose1d(1, 1, 3, stride=2, latent_shape=(1, 3), dense_latents=0)
    problem = random_problem(families.Poisson(), num_rows=2, convolution=small)
    root, fields = root_of(problem)
    assert gradgradcheck(root, fields, atol=1e-4, rtol=1e-3, fast_mode=True)
    others = [x.detach() for x in fields[1:]]
    kernel = fields[0].detach()

    def of_kernel(kernel):
        return root(kernel, *others)

    backwards, forwards = (
        jacobian(of_kernel)(kernel) for jacobian in (torch.func.jacrev, torch.func.jacfwd)
    )
    torch.testing.assert_close(backwards, forwards)
    kernels = torch.stack([kernel, 2 * kernel])
    for mapped, each in zip(torch.func.vmap(of_kernel)(kernels), kernels, strict=True):
        torch.testing.assert_close(mapped, of_kernel(each))
    hessian = torch.func.hessian(lambda k: of_kernel(k).sin().sum())(kernel)
    torch.testing.assert_close(hessian, hessian.transpose(1, 3).transpose(0, 2))


def test_products_with_the_information_and_their_systems():
    problem = random_problem(families.Bernoulli())
    z = torch.randn(20, 18).double()
    information = Information(problem, problem.curvature(problem.predictor(z)))
    H = dense(problem).information(z)
    v = torch.randn(20, 18).double()
    torch.testing.assert_close(information.times(v), (H @ v.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(information.diagonal, H.diagonal(dim1=-2, dim2=-1))

    def never(decrement, residual, square):
        return residual < 1e-24

    found = conjugate_gradients(information.times, information.diagonal, v, never, 100)
    assert found.enough.all()
    torch.testing.assert_close(found.value, torch.linalg.solve(H, v))


def test_systems_that_are_not_positive_definite_are_not_called_solved():
    right = torch.ones(2, 3).double()

    def times(x):
        return torch.tensor([1.0, -1.0]).double().unsqueeze(-1) * x

    def enough(decrement, residual, square):
        return residual < 1e-20

    found = conjugate_gradients(times, torch.ones(2, 3).double(), right, enough, 10)
    assert found.enough.tolist() == [True, False]
    assert found.value.isfinite().all()


def test_a_layer_by_a_convolution_trains_under_a_head():
    layer = pef.DEQLayer(families.Bernoulli(), linear_map=FREE)
    y = torch.bernoulli(torch.full((6, 36), 0.5))
    loss = torch.nn.Sequential(layer, torch.nn.Linear(18, 1))(y).square().sum()
    loss.backward()
    assert layer.weight.grad.shape == UP.kernel_shape
    assert layer.weight.grad.abs().max() > 0
    assert "linear_map" not in repr(layer)
    assert "ConvTranspose2d" in repr(layer)
