"""Categories in the layer: levels are coupled by the softmax."""

import pytest
import torch
from scipy.optimize import minimize
from torch.autograd import gradcheck, gradgradcheck

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem
from pyro_expfam.deq.layer import solve

F = pef.families
ONE = torch.tensor(1.0).double()


def random_problem(levels=4, columns=5, rows=12, latent_dim=2, scale=1.0, precision=1.0):
    family = F.Categorical(levels)
    W = scale * torch.randn(columns * levels, latent_dim).double()
    b = 0.5 * torch.randn(columns * levels).double()
    y = family.sample(torch.randn(rows, latent_dim).double() @ W.T + b)
    weights = (0.2 + torch.rand(rows, columns).double()).repeat_interleave(levels, -1)
    offset = 0.3 * torch.randn(rows, columns * levels).double()
    return LatentProblem(family, y, W, b, precision * ONE, offset, weights)


def written_out(problem, z):
    """Minus the log posterior of one row, by PyTorch's own cross entropy."""
    levels = problem.family.levels
    eta = (problem.W @ z + problem.b + problem.offset[0]).view(-1, levels)
    losses = torch.nn.functional.cross_entropy(
        eta, problem.y.view(-1, levels).argmax(-1), reduction="none"
    )
    penalty = 0.5 * problem.precision * z.square().sum()
    return (losses * problem.weights.view(-1, levels)[:, 0]).sum() + penalty


@pytest.mark.parametrize(("scale", "precision"), [(0.1, 0.01), (1.0, 1.0), (5.0, 100.0)])
def test_the_root_is_the_minimum_that_scipy_finds(scale, precision):
    problem = random_problem(rows=4, scale=scale, precision=precision)
    solution = solve(problem, FisherScoring())
    assert solution.converged.all()
    for s in range(4):
        row = problem.rows(slice(s, s + 1))

        def value(x, row=row):
            z = torch.tensor(x, requires_grad=True)
            loss = written_out(row, z)
            (gradient,) = torch.autograd.grad(loss, z)
            return float(loss.detach()), gradient.numpy()

        found = minimize(value, [0.0, 0.0], jac=True, method="BFGS", options={"gtol": 1e-9})
        torch.testing.assert_close(solution.value[s], torch.tensor(found.x), rtol=1e-5, atol=1e-5)


def test_the_information_is_the_hessian_of_the_cross_entropy():
    problem = random_problem()
    z = torch.randn(12, 2).double()
    for s in range(12):
        row = problem.rows(slice(s, s + 1))
        hessian = torch.autograd.functional.hessian(lambda x, row=row: written_out(row, x), z[s])
        torch.testing.assert_close(row.information(z[s : s + 1])[0], hessian)


def test_two_levels_are_bits_of_their_difference():
    two = random_problem(levels=2, columns=6, rows=40)
    bits = LatentProblem(
        F.Bernoulli(),
        two.y[:, 1::2],
        two.W[1::2] - two.W[::2],
        two.b[1::2] - two.b[::2],
        two.precision,
        two.offset[:, 1::2] - two.offset[:, ::2],
        two.weights[:, ::2],
    )
    found, expected = solve(two, FisherScoring()).value, solve(bits, FisherScoring()).value
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(two.information(found), bits.information(found))


@pytest.mark.parametrize("latent_dim", [1, 3, 5])
def test_gradients_of_every_field_pass_gradcheck(latent_dim):
    problem = random_problem(rows=3, columns=2, levels=3, latent_dim=latent_dim)
    weights = problem.weights[:, ::3].clone()
    inputs = (problem.W, problem.b, problem.precision.clone(), problem.offset, weights)

    def root(W, b, precision, offset, weights):
        changed = LatentProblem(
            problem.family, problem.y, W, b, precision, offset, weights.repeat_interleave(3, -1)
        )
        return solve(changed, FisherScoring()).value

    inputs = tuple(x.requires_grad_() for x in inputs)
    assert gradcheck(root, inputs, fast_mode=True)
    assert gradgradcheck(root, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("precision", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("latent_dim", [1, 4, 20])
def test_all_rows_converge_and_are_at_the_root(dtype, scale, precision, latent_dim):
    problem = random_problem(5, 8, 30, latent_dim, scale, precision)
    fields = {name: x.to(dtype) for name, x in problem.fields.items()}
    given = problem.with_fields(fields)
    solution = solve(given, FisherScoring())
    assert solution.converged.all()
    exact, z = given.double(), solution.value.double()
    score = exact.score(z)
    distance = (score * torch.linalg.solve(exact.information(z), score)).sum(-1).sqrt()
    # Rounding of the latents alone moves the score of steep loadings.
    rounding = torch.finfo(dtype).eps * 100 * (1 + z.norm(dim=-1) * exact.W.norm())
    assert bool((distance <= (1e-5 if dtype == torch.float32 else 1e-10) + rounding).all())


def test_masks_offsets_and_weights_are_by_column_of_the_table():
    torch.manual_seed(3)
    family = F.Categorical(3)
    W, b = torch.randn(12, 2).double(), torch.randn(12).double()
    y = family.decode(family.sample(torch.randn(20, 2).double() @ W.T + b))
    mask = torch.rand(20, 4) > 0.3
    found = pef.solve_latents(family, torch.where(mask, y, torch.nan), W, b, mask=mask).value
    weighted = pef.solve_latents(family, y, W, b, weights=mask.double()).value
    torch.testing.assert_close(found, weighted)
    shifted = pef.solve_latents(family, y, W, b, offset=torch.ones(20, 1).double()).value
    torch.testing.assert_close(shifted, pef.solve_latents(family, y, W, b).value)


def test_a_category_out_of_range_is_named():
    W, b = torch.randn(12, 2), torch.zeros(12)
    y = torch.zeros(5, 4)
    y[2, 1] = 3.0
    with pytest.raises(ValueError, match=r"Categorical\(levels=3\).*got 3 at position \(2, 1\)"):
        pef.solve_latents(F.Categorical(3), y, W, b)
    y[2, 1] = 0.5
    with pytest.raises(ValueError, match=r"got 0.5 at position \(2, 1\)"):
        pef.solve_latents(F.Categorical(3), y, W, b)
    with pytest.raises(ValueError, match="W must have 3 rows for each column of y, got 11"):
        pef.solve_latents(F.Categorical(3), y, W[:11], b[:11])


def test_a_mask_by_column_goes_with_an_offset_by_level():
    torch.manual_seed(5)
    family = F.Categorical(3)
    W, b = torch.randn(12, 2).double(), torch.randn(12).double()
    y, offset = torch.randint(0, 3, (20, 4)).double(), torch.randn(20, 12).double()
    mask = torch.rand(20, 4) > 0.3
    holes = torch.where(mask.repeat_interleave(3, -1), offset, torch.nan)
    found = pef.solve_latents(family, y, W, b, offset=holes, mask=mask).value
    expected = pef.solve_latents(family, y, W, b, offset=offset, weights=mask.double()).value
    torch.testing.assert_close(found, expected)


def test_codes_in_place_of_indicators_are_refused():
    with pytest.raises(ValueError, match=r"y must hold the indicators .* pass family.encode\(y\)"):
        F.Categorical(3).log_prob(torch.tensor([2.0]), torch.zeros(3))
