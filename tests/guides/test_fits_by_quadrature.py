"""Fits of the evidence by quadrature whose first latents are at saddles."""

from dataclasses import replace

import pyro
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.guides.table_fit import _warn_unless_converged
from pyro_expfam.joint import Fit, Sweep

F = pef.families


@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize("seed", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_fit_starts_where_a_row_is_at_a_saddle(seed):
    # The normal around such a row does not exist: it was an error of Pyro, or an infinite loss.
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    torch.manual_seed(seed)
    W = torch.randn(6, 2)
    y = F.ZeroInflatedPoisson(0.3).sample(torch.randn(100, 2) @ W.T + 1)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.ZeroInflatedPoisson(), 6, 2))
    assert guide.fit(y, loss=pef.LaplaceEvidence(nodes=7)).converged
    assert bool(torch.isfinite(guide.loading).all())


def test_the_loss_is_the_evidence_by_quadrature_and_the_priors_with_its_gradient():
    pyro.set_rng_seed(1)
    y = F.ZeroInflatedPoisson(0.3).sample(torch.randn(30, 2) @ torch.randn(2, 6) + 1).double()
    model = pef.ExpFamPCA(F.ZeroInflatedPoisson(0.3), 6, 2).double()
    guide = pef.DEQMAPGuide(model)
    guide(y)
    loss = pef.LaplaceEvidence(nodes=15).differentiable_loss(model, guide, y)
    (found,) = torch.autograd.grad(loss, [p for n, p in guide.named_parameters() if "loading" in n])
    W = guide.loading.detach().clone().requires_grad_()
    b = guide.intercept.detach()
    evidence = pef.log_evidence(model.family, y, W, b, nodes=15).sum()
    priors = (
        torch.distributions.Normal(0.0, model.loading_scale).log_prob(W).sum()
        + torch.distributions.Normal(0.0, model.intercept_scale).log_prob(b).sum()
    )
    torch.testing.assert_close(loss.detach(), -(evidence + priors).detach())
    (expected,) = torch.autograd.grad(-(evidence + priors), W)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_rule_that_is_too_coarse_for_its_gradient_is_said_to_want_more_nodes():
    fit = Fit((), torch.empty(0), False, "no step decreases the objective, although 1 are promised")
    coefficients = torch.zeros(3, 2)
    with pytest.warns(pef.deq.ConvergenceWarning, match=r"7 nodes .* LaplaceEvidence\(nodes=15\)"):
        _warn_unless_converged(coefficients, replace(fit, sweeps=(Sweep(0, 1.0, 1.0, 0.0),)), 7)
    with pytest.warns(pef.deq.ConvergenceWarning) as found:
        _warn_unless_converged(coefficients, replace(fit, sweeps=(Sweep(0, 1.0, 1.0, 0.0),)))
    assert "nodes" not in str(found[0].message)
