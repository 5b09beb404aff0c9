"""Fits by quadrature whose rule is too coarse at the estimate say so."""

from __future__ import annotations

import re
import warnings

import pyro
import pytest
import torch
from torch.distributions import Normal

import pyro_expfam as pef

F = pef.families


def bits():
    # Precise answers, whose posteriors are far from normal.
    torch.manual_seed(0)
    return torch.bernoulli(torch.sigmoid(torch.randn(300, 1) @ (3 * torch.randn(1, 5))))


def fit_of_table(y, nodes):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Bernoulli(), y.shape[1], 1))
    fit = guide.fit(y, loss=pef.LaplaceEvidence(nodes=nodes))
    return fit, guide.loading, guide.intercept


def fit_of_model(y, nodes):
    block = pef.ExpFamPCA(F.Bernoulli(), y.shape[1], 1)

    def model(y):
        scale = pyro.sample("scale", pyro.distributions.LogNormal(0.0, 0.1))
        return block(y, offset=0.01 * scale.expand(y.shape[1]))

    guide = pef.LaplaceGuide(model)
    fit = guide.fit(y, loss=pef.LaplaceEvidence(nodes=nodes), tol=1e-6)
    known = 0.01 * guide.median(y)["scale"]
    return fit, guide.block().loading, guide.block().intercept + known


def on_a_grid(y, W, b):
    """The log evidence of a table of bits with one latent, by a sum over a fine grid."""
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None, None]
    eta = z * W[:, 0] + b
    log_density = (y * eta - torch.nn.functional.softplus(eta)).sum(-1)
    log_joint = log_density + Normal(0.0, 1.0).log_prob(z[..., 0])
    return float((log_joint.logsumexp(0) + (z[1, 0, 0] - z[0, 0, 0]).log()).sum())


@pytest.mark.parametrize("fit_of", [fit_of_table, fit_of_model])
def test_the_warning_says_how_far_the_rule_is_off(fit_of):
    pyro.clear_param_store()
    y = bits()
    with pytest.warns(pef.deq.ConvergenceWarning, match="5 nodes are too coarse") as found:
        _, W, b = fit_of(y, 5)
    (message,) = [str(x.message) for x in found if "too coarse" in str(x.message)]
    assert "LaplaceEvidence(nodes=11)" in message
    (gap, side) = re.search(r"logarithm ([0-9.]+) nats (\w+) theirs", message).groups()
    W, b = W.detach().double(), b.detach().double()
    coarse = float(pef.log_evidence(F.Bernoulli(), y.double(), W, b, nodes=5).sum())
    # The finer rule is off by less than a twentieth of it.
    wanted = on_a_grid(y, W, b) - coarse
    assert (float(gap) if side == "above" else -float(gap)) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("fit_of", [fit_of_table, fit_of_model])
def test_a_rule_that_is_fine_enough_is_no_warning(fit_of):
    pyro.clear_param_store()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit, *_ = fit_of(bits(), 15)
    assert fit.converged
