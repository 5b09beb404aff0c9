"""Scores of rows against automatic differentiation of their evidence."""

import pytest
import torch
from coefficient_problems import WITH_CATEGORIES, at, coefficients_of, random_problem, root

import pyro_expfam as pef
from pyro_expfam.coefficients.scores import row_scores, score_products, score_products_by_feature
from pyro_expfam.deq import FisherScoring, row_block
from pyro_expfam.deq.layer import solve
from pyro_expfam.evidence import laplace_evidence
from pyro_expfam.evidence.expansion import Expansion


@pytest.mark.parametrize("family", WITH_CATEGORIES, ids=str)
def test_scores_are_the_gradients_of_the_evidence_of_each_row(family):
    problem = random_problem(family)

    def evidence(coefficients):
        there = at(problem, coefficients)
        return laplace_evidence(there, solve(there, FisherScoring()).value)

    expected = torch.autograd.functional.jacobian(evidence, coefficients_of(problem))
    found = row_scores(Expansion(problem, root(problem)))
    torch.testing.assert_close(found.flatten(1), expected)


@pytest.mark.parametrize("family", [pef.families.Poisson(), pef.families.Categorical(3)], ids=str)
@pytest.mark.parametrize("tile", [1, 1 << 20])
def test_products_are_sums_over_rows(tile, family, monkeypatch):
    problem = random_problem(family, num_rows=50)
    z = root(problem)
    scores = row_scores(Expansion(problem, z)).flatten(1)
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", tile)
    products = score_products(problem, z)
    torch.testing.assert_close(products, scores.T @ scores)
    size = 3 * family.predictors_per_column
    by_feature = products.unflatten(1, (-1, size)).unflatten(0, (-1, size))
    blocks = by_feature.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    torch.testing.assert_close(score_products_by_feature(problem, z), blocks)
