"""The prior of the paper's experiments."""

import pytest
import torch
from pyro import poutine

import pyro_expfam as pef


@pytest.mark.parametrize(
    "family", [pef.families.Gaussian(1.0), pef.families.Bernoulli(), pef.families.Poisson()]
)
def test_its_gradient_is_that_of_a_mean_loss_with_weight_decay(family):
    torch.manual_seed(0)
    y = family.sample(0.3 * torch.randn(40, 6, dtype=torch.float64))
    z = torch.randn(40, 2, dtype=torch.float64)
    W = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(6, dtype=torch.float64)
    block = pef.ExpFamPCA(family, 6, 2, **pef.paper_prior(40)).double()
    fixed = poutine.condition(block, data={"loading": W, "intercept": b, "z": z})
    (ours,) = torch.autograd.grad(
        -poutine.trace(fixed).get_trace(y).log_prob_sum() / (2 * len(y)), W
    )
    # Minus the log density over twice the rows; Adam adds the decay times the loading.
    loss = family.loss(z @ W.mT + b, y).sum() / (2 * len(y))
    (of_loss,) = torch.autograd.grad(loss, W)
    torch.testing.assert_close(ours, of_loss + 0.52 * W.detach(), rtol=1e-6, atol=1e-8)


def test_its_numbers_are_those_of_the_paper():
    prior = pef.paper_prior(42_453)
    assert prior["loading_scale"] == pytest.approx(0.0048, abs=5e-5)
    assert prior["latent_precision"] == 0.1


def test_a_gaussian_table_is_shrunk_by_the_same_part_at_any_number_of_rows():
    # The joint estimate lowers every singular value by the root of the precisions' product.
    torch.manual_seed(0)
    y = torch.randn(30, 1, dtype=torch.float64) @ torch.randn(1, 6, dtype=torch.float64)
    y = y - y.mean(0)
    parts = []
    for copies in (1, 8):
        table = y.repeat(copies, 1)
        block = pef.ExpFamPCA(
            pef.families.Gaussian(1.0), 6, 1, **pef.paper_prior(len(table))
        ).double()
        guide = pef.DEQMAPGuide(block)
        guide.fit(table, progress=False)
        fitted = (guide.latents(table) @ guide.loading.mT).detach()
        expected = 1 - (0.1 * 1.04 * len(table)) ** 0.5 / torch.linalg.matrix_norm(table, 2)
        parts.append(float(fitted.norm() / table.norm()))
        assert parts[-1] == pytest.approx(float(expected), rel=1e-3)
    assert parts[0] == pytest.approx(parts[1], rel=1e-3)


def test_a_number_of_rows_below_one_is_refused():
    with pytest.raises(ValueError, match="num_rows"):
        pef.paper_prior(0)
