"""Pareto smoothing: what ArviZ computes, the shapes of known tails, and degenerate weights."""

import warnings

import arviz as az
import numpy as np
import pytest
import torch

from pyro_expfam.evidence.pareto import smooth


def by_arviz(log_ratios):
    """Log weights and shape of one set of draws, by the installed ArviZ."""
    if az.__version__.startswith("0."):
        return az.psislw(log_ratios.copy())
    from arviz_stats.base import array_stats

    # It takes log likelihoods, the ratios of leaving one out.
    return array_stats.psislw(-log_ratios)


# Numbers with a whole number of draws in the tail, which one line rounds up and the other down.
@pytest.mark.parametrize("num_draws", [50, 100, 400, 2500])
def test_smoothed_weights_are_those_of_arviz(num_draws):
    scale = torch.tensor([0.2, 0.3, 1.0, 2.0, 5.0], dtype=torch.float64)
    log_ratios = scale[:, None] * torch.randn(5, num_draws, dtype=torch.float64) - 300.0
    found = smooth(log_ratios)
    for row, log_weights, khat in zip(log_ratios, *found, strict=True):
        expected, shape = by_arviz(row.numpy())
        np.testing.assert_allclose(log_weights, expected, atol=1e-8)
        assert float(khat) == pytest.approx(float(shape), abs=1e-8)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_shapes_of_pareto_tails_are_found(shape):
    uniform = torch.rand(50, 20_000, dtype=torch.float64)
    khat = smooth(-shape * uniform.log()).khat
    assert abs(float(khat.mean()) - shape) < 0.03


def test_weights_are_normalised_and_keep_their_order():
    log_ratios = 2 * torch.randn(4, 3, 500, dtype=torch.float64)
    log_weights, khat = smooth(log_ratios)
    assert khat.shape == (4, 3)
    torch.testing.assert_close(log_weights.exp().sum(-1), torch.ones(4, 3).double())
    assert (log_weights.argsort(-1) == log_ratios.argsort(-1)).all()


def test_constant_weights_have_no_tail():
    log_ratios = 7.0 + 1e-6 * torch.randn(3, 200, dtype=torch.float64)
    log_weights, khat = smooth(log_ratios)
    assert (khat == -torch.inf).all()
    torch.testing.assert_close(log_weights.exp(), torch.full((3, 200), 1 / 200).double())


@pytest.mark.parametrize("tail", [0.7, 2.0, 5.0])
def test_weights_that_hardly_vary_have_no_tail_whatever_its_shape(tail):
    # A heavy tail that moves no weight by more than a hundredth.
    heavy = torch.rand(5, 1000, dtype=torch.float64) ** -tail
    log_ratios = 0.01 * heavy / heavy.amax(-1, keepdim=True)
    log_weights, khat = smooth(log_ratios)
    assert (khat == -torch.inf).all()
    torch.testing.assert_close(log_weights, log_ratios.log_softmax(-1))


def test_the_spread_below_which_weights_have_no_tail_is_a_tenth_of_their_mean():
    noise = torch.randn(1, 1000, dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    for spread, has_none in ((0.0999, True), (0.1001, False)):
        khat = smooth((1 + spread * noise).log()).khat
        assert bool(khat == -torch.inf) is has_none


def test_a_single_weight_that_is_not_zero_has_the_heaviest_tail():
    log_ratios = torch.full((2, 200), -1e4, dtype=torch.float64)
    log_ratios[:, 17] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_weights, khat = smooth(log_ratios)
    assert (khat == torch.inf).all()
    assert (log_weights[:, 17] == 0).all()
