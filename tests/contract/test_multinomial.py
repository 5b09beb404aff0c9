"""Compositions: against Poisson counts with free row offsets, SciPy, and autograd."""

import numpy as np
import pytest
import scipy.stats
import torch
from contract_problems import log_joint

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem, cpu
from pyro_expfam.deq.backend import kernels_of
from pyro_expfam.deq.layer import solve
from pyro_expfam.families import Categorical, Columns, Gaussian, Multinomial, Poisson

DRAW = {"dtype": torch.float64}


def problem_of(num_rows=6, num_parts=5, weights=False):
    torch.manual_seed(1)
    W, b = 0.7 * torch.randn(num_parts, 2, **DRAW), torch.randn(num_parts, **DRAW)
    y = torch.poisson(torch.exp(1 + torch.randn(num_rows, 2, **DRAW) @ W.T + b))
    y[0] = 0  # says nothing
    weight = 0.5 + torch.rand(num_rows, 1, **DRAW) if weights else None
    offset = 0.3 * torch.randn(num_rows, num_parts, **DRAW)
    return LatentProblem(Multinomial(), y, W, b, torch.tensor(0.8, **DRAW), offset, weight)


def test_log_probabilities_and_moments_are_those_of_scipy():
    torch.manual_seed(0)
    eta = torch.randn(4, 5, **DRAW)
    family = Multinomial(total=torch.tensor([[1.0], [5.0], [20.0], [300.0]]))
    y = family.sample(eta)
    assert bool((y.sum(-1, keepdim=True) == family.total).all())
    p = torch.softmax(eta, -1).numpy()
    for row in range(4):
        law = scipy.stats.multinomial(int(y[row].sum()), p[row])
        found = float(family.log_prob(y, eta)[row].sum())
        assert found == pytest.approx(law.logpmf(y[row].numpy()), rel=1e-12)
        np.testing.assert_allclose(family.expected_y(eta)[row], law.mean())
        np.testing.assert_allclose(family.variance_of_y(eta)[row], np.diag(law.cov()))


def test_draws_have_the_moments():
    torch.manual_seed(0)
    eta = torch.randn(3, 4, **DRAW)
    family = Multinomial(total=7)
    y = family.sample(eta, (20_000,))
    error = (y.mean(0) - family.expected_y(eta)).abs() / (y.std(0) / 20_000**0.5)
    assert bool((error < 5).all())
    covariance = torch.cov(y[:, 0].T)
    p = torch.softmax(eta[0], -1)
    expected = 7 * (torch.diag(p) - torch.outer(p, p))
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("weights", [False, True])
def test_score_information_and_root_are_those_of_the_log_density(weights):
    problem = problem_of(weights=weights)
    z = torch.randn(6, 2, **DRAW, requires_grad=True)
    (score,) = torch.autograd.grad(log_joint(problem, z).sum(), z, create_graph=True)
    torch.testing.assert_close(problem.score(z).detach(), score.detach())
    columns = [torch.autograd.grad(score[:, k].sum(), z, retain_graph=True)[0] for k in range(2)]
    torch.testing.assert_close(problem.information(z).detach(), -torch.stack(columns, -1))
    found = solve(problem, FisherScoring(tol=1e-9))
    assert bool(found.converged.all())
    assert float(problem.score(found.value).abs().max()) < 1e-7
    assert float(found.value[0].abs().max()) < 1e-12


@pytest.mark.parametrize("weights", [False, True])
def test_compiled_kernels_find_the_root_of_operations(weights, monkeypatch):
    problem = problem_of(weights=weights)
    assert kernels_of(problem) is not None
    found = solve(problem, FisherScoring(tol=1e-9)).value
    monkeypatch.setattr(cpu, "has_kernels", lambda problem: False)
    assert kernels_of(problem) is None
    torch.testing.assert_close(found, solve(problem, FisherScoring(tol=1e-9)).value)


def test_the_root_is_the_one_of_poisson_counts_with_free_row_offsets():
    problem = problem_of()
    z = solve(problem, FisherScoring(tol=1e-10)).value
    # The best offset of a row makes its expected counts sum to its total.
    eta = problem.predictor(z)
    present = problem.y.sum(-1, keepdim=True) > 0
    best = torch.log(problem.y.sum(-1, keepdim=True)) - torch.logsumexp(eta, -1, keepdim=True)
    poisson = LatentProblem(
        Poisson(),
        problem.y,
        problem.map,
        problem.b,
        problem.precision,
        problem.offset + torch.where(present, best, 0.0),
    )
    torch.testing.assert_close(poisson.score(z)[1:], torch.zeros(5, 2, **DRAW), rtol=0, atol=1e-8)
    torch.testing.assert_close(solve(poisson, FisherScoring(tol=1e-10)).value[1:], z[1:])
    rate = torch.exp(poisson.predictor(z))
    total = problem.y.sum(-1)[1:]
    of_total = Poisson().log_prob(total, torch.log(total))
    joint = Poisson().log_prob(problem.y, torch.log(rate)).sum(-1)[1:]
    conditional = Multinomial().log_prob(problem.y, eta).sum(-1)[1:]
    torch.testing.assert_close(joint - of_total, conditional)


def test_a_total_of_one_is_one_category():
    torch.manual_seed(0)
    codes = torch.randint(0, 4, (20, 1)).double()
    category = Categorical(4)
    y, W, b = category.encode(codes), torch.randn(4, 2, **DRAW), torch.randn(4, **DRAW)
    for order in (1, 2):
        found = pef.log_evidence(Multinomial(), y, W, b, order=order)
        torch.testing.assert_close(found, pef.log_evidence(category, codes, W, b, order=order))


def test_gradients_of_the_evidence_are_those_of_differences():
    problem = problem_of()

    def evidence(W, b, order):
        return pef.log_evidence(Multinomial(), problem.y, W, b, order=order).sum()

    for order in (1, 2):
        leaves = [x.clone().requires_grad_() for x in (problem.W, problem.b)]
        assert torch.autograd.gradcheck(
            lambda W, b, order=order: evidence(W, b, order), leaves, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("guide", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_a_fit_finds_compositions(guide):
    torch.manual_seed(0)
    loading = torch.randn(8, 2)
    eta = torch.randn(200, 2) @ loading.T
    y = Multinomial(total=100).sample(eta)
    fitted = guide(pef.ExpFamPCA(Multinomial(), 8, 2))
    fitted.fit(y, progress=False)
    share = torch.softmax(fitted.latents(y) @ fitted.loading.T + fitted.intercept, -1)
    assert float((share - torch.softmax(eta, -1)).abs().mean()) < 0.02
    torch.testing.assert_close(fitted.loading.sum(0), torch.zeros(2), rtol=0, atol=1e-2)


def test_compositions_are_a_part_of_a_wider_table():
    torch.manual_seed(0)
    y = torch.cat([torch.randn(40, 2), torch.poisson(torch.full((40, 4), 3.0))], -1).double()
    family = Columns.side_by_side([(Gaussian(1.0), 2), (Multinomial(), 4)])
    W, b = torch.randn(6, 2, **DRAW), torch.zeros(6, **DRAW)
    found = pef.solve_latents(family, y, W, b, tol=1e-9)
    problem = LatentProblem(family, y, W, b, torch.tensor(1.0, **DRAW))
    z = found.value.detach().requires_grad_()
    (score,) = torch.autograd.grad(log_joint(problem, z).sum(), z)
    assert float(score.detach().abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total": torch.tensor([[6.0], [7.0]])}, "got row 1 with the sum 6 and the total 7"),
        ({"total": 5}, "got row 0 with the sum 6 and the total 5: leave total out"),
    ],
)
def test_rows_that_do_not_sum_to_their_total_are_refused(arguments, message):
    y = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
    with pytest.raises(ValueError, match=message):
        pef.solve_latents(Multinomial(**arguments), y, torch.ones(3, 1), torch.zeros(3))


@pytest.mark.parametrize("name", ["mask", "weights"])
def test_parts_of_a_composition_cannot_be_missing(name):
    y = torch.ones(2, 3)
    entries = torch.tensor([[True, True, True], [True, False, True]])
    given = {name: entries if name == "mask" else entries.double()}
    with pytest.raises(ValueError, match=rf"{name} must be the same for all .* got row 1"):
        pef.solve_latents(Multinomial(), y, torch.ones(3, 1), torch.zeros(3), **given)
    whole = torch.tensor([[True], [False]])
    found = pef.solve_latents(Multinomial(), y, torch.ones(3, 1), torch.zeros(3), mask=whole)
    assert float(found.value[1]) == 0


def test_a_row_of_a_frame_is_named_by_its_label():
    pandas = pytest.importorskip("pandas")
    y = pandas.DataFrame([[2.0, 4.0], [2.0, 3.0]], index=["first", "second"], columns=["a", "b"])
    model = pef.ExpFamPCA(Multinomial(total=6), 2, 1)
    with pytest.raises(ValueError, match="got row 'second' with the sum 5 and the total 6"):
        pef.LaplaceGuide(model)(y)
    with pytest.raises(ValueError, match=r"mask must be the same .* got row 'second'"):
        pef.LaplaceGuide(pef.ExpFamPCA(Multinomial(), 2, 1))(y, mask=y != 3)


def test_a_total_is_a_whole_number():
    with pytest.raises(ValueError, match=r"total must be a whole number, got 2\.5"):
        Multinomial(total=2.5)


def test_draws_without_a_total_are_refused():
    with pytest.raises(NotImplementedError, match=r"take Multinomial\(total=...\)"):
        Multinomial().sample(torch.zeros(3))
