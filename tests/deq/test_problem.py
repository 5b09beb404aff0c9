"""The derivatives of a problem are those of its objective."""

import itertools

import pytest
import torch
from random_tables import FAMILIES, random_table

import pyro_expfam as pef
from pyro_expfam.deq.packed import solve_packed, unpack
from pyro_expfam.deq.positive_definite import (
    cholesky,
    cholesky_solve,
    robust_cholesky,
    solve_lower,
    solve_upper,
)
from pyro_expfam.deq.symmetric import weighted_gram


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_score_and_information_are_derivatives_of_the_objective(family):
    table = random_table(family, latent_dim=3)
    problem = table.problem(
        offset=torch.randn(20, 1, dtype=torch.float64), weights=torch.rand(20, 12).double()
    )
    z = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(problem.objective(z).sum(), z, create_graph=True)
    torch.testing.assert_close(-gradient, problem.score(z))
    rows = [torch.autograd.grad(gradient[:, k].sum(), z, retain_graph=True)[0] for k in range(3)]
    torch.testing.assert_close(torch.stack(rows, -1), problem.information(z))


def test_the_objective_is_minus_the_log_posterior_up_to_a_constant():
    table = random_table(FAMILIES[4])
    problem = table.problem()
    z = torch.randn(2, 20, 2, dtype=torch.float64)
    joint = table.family.log_prob(table.y, problem.predictor(z)).sum(-1)
    joint = joint - 0.5 * table.precision * z.square().sum(-1)
    difference = joint + problem.objective(z)
    torch.testing.assert_close(difference[0], difference[1])


def test_a_zero_weight_removes_an_entry():
    table = random_table(FAMILIES[1])
    weights = torch.ones(20, 12, dtype=torch.float64)
    weights[:, :4] = 0.0
    z = torch.randn(20, 2, dtype=torch.float64)
    fewer = table._replace(y=table.y[:, 4:], W=table.W[4:], b=table.b[4:]).problem()
    weighted = table.problem(weights=weights)
    torch.testing.assert_close(weighted.score(z), fewer.score(z))
    torch.testing.assert_close(weighted.information(z), fewer.information(z))


def test_distinct_problems_keep_dimensions_that_differ():
    table = random_table(FAMILIES[1])
    problem = table.problem()
    repeated = table._replace(W=table.W.expand(5, 1, 12, 2)).problem()
    assert repeated.batch_shape == (5, 1)
    assert repeated.distinct().batch_shape.numel() == 1
    torch.testing.assert_close(repeated.distinct().W.reshape(12, 2), problem.W)
    varied = table._replace(W=torch.randn(5, 12, 2, dtype=torch.float64)).problem()
    assert varied.distinct().batch_shape == (5,)


FIELDS = ["y", "W", "b", "precision", "offset", "weights"]
SUBSETS = [
    subset for size in range(len(FIELDS) + 1) for subset in itertools.combinations(FIELDS, size)
]


@pytest.mark.parametrize("varying", SUBSETS, ids="+".join)
def test_a_dimension_is_narrowed_only_if_all_fields_repeat_along_it(varying):
    single = random_table(FAMILIES[4]).problem(
        offset=torch.randn(20, 1).double(), weights=torch.rand(20, 12).double()
    )
    fields = {}
    for name in FIELDS:
        # Three copies in a dimension of their own, beside one along which nothing differs.
        copies = single.fields[name].expand(4, 3, *single.fields[name].shape)
        factor = torch.tensor([1.0, 2.0, 3.0]).double()
        factor = factor.reshape(3, *(1,) * (copies.dim() - 2))
        fields[name] = (copies[:1] * factor).expand(copies.shape) if name in varying else copies
    problem = single.with_fields(fields)
    distinct = problem.distinct()
    assert problem.batch_shape == (4, 3)
    assert distinct.batch_shape == (1, 3 if varying else 1)
    z = torch.randn(20, 2, dtype=torch.float64)
    expected, found = problem.objective(z), distinct.objective(z)
    torch.testing.assert_close(found.expand(expected.shape), expected, rtol=0, atol=0)


def random_matrices(size, count=50, dtype=torch.float64):
    root = torch.randn(count, size, size + 2, dtype=dtype)
    return root @ root.mT + 0.1 * torch.eye(size, dtype=dtype)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_factorisations_and_solves_agree_with_lapack(size):
    matrix, vector = random_matrices(size), torch.randn(50, size, dtype=torch.float64)
    exact = torch.linalg.solve(matrix, vector)
    factor, exists = cholesky(matrix)
    assert exists.all()
    torch.testing.assert_close(factor @ factor.mT, matrix)
    torch.testing.assert_close(cholesky_solve(factor, vector), exact)
    torch.testing.assert_close((factor @ solve_lower(factor, vector)[..., None])[..., 0], vector)
    torch.testing.assert_close((factor.mT @ solve_upper(factor, vector)[..., None])[..., 0], vector)
    row, column = torch.tril_indices(size, size)
    packed = matrix[:, row, column].T.contiguous()
    torch.testing.assert_close(unpack(packed, size), matrix)
    solution, definite = solve_packed(packed, vector.T.contiguous())
    assert definite.all()
    torch.testing.assert_close(solution.T, exact)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_matrices_that_are_not_positive_definite_are_told(size):
    matrix = random_matrices(size, count=3)
    matrix[1] -= 1e3 * torch.eye(size, dtype=torch.float64)
    matrix[2, -1, -1] = torch.nan
    _, exists = cholesky(matrix)
    assert exists.tolist() == [True, False, False]
    row, column = torch.tril_indices(size, size)
    packed = matrix[:, row, column].T.contiguous()
    _, definite = solve_packed(packed, torch.ones(size, 3, dtype=torch.float64))
    assert definite.tolist() == [True, False, False]


def test_float32_factors_are_made_in_float64_where_they_have_to_be():
    direction = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    exact = 1e9 * torch.outer(direction, direction) + 0.01 * torch.eye(4, dtype=torch.float64)
    matrix = torch.stack([exact, torch.eye(4, dtype=torch.float64)])
    _, exists = cholesky(matrix.float())
    factor, exists_again = robust_cholesky(matrix.float(), lambda index: matrix[index])
    assert exists.tolist() == [False, True]
    assert exists_again.all()
    assert factor.dtype == torch.float32
    torch.testing.assert_close(factor.double(), torch.linalg.cholesky(matrix), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("latent_dim", [1, 2, 6])
def test_the_weighted_gram_is_that_of_einsum(latent_dim):
    entries, W = torch.rand(3, 10, 8).double(), torch.randn(3, 8, latent_dim).double()
    expected = torch.einsum("bnd,bdk,bdm->bnkm", entries, W, W)
    torch.testing.assert_close(weighted_gram(entries, W), expected)


@pytest.mark.parametrize("shape", [(60, 1), (60, 9)])
def test_total_counts_may_differ_by_row(shape):
    total = torch.randint(1, 30, shape)
    family = pef.families.Binomial(total)
    table = random_table(family, num_rows=60, num_features=9)
    together = pef.solve_latents(family, table.y, table.W, table.b)
    for row in range(0, 60, 17):
        alone = pef.solve_latents(
            pef.families.Binomial(total[row]), table.y[row : row + 1], table.W, table.b
        )
        torch.testing.assert_close(together.value[row : row + 1], alone.value)
    model = pef.ExpFamPCA(family, 9, 2)
    assert pef.DEQMAPGuide(model).fit(table.y.float()).converged
