"""On a CUDA device the layer gives what it gives on the CPU."""

import pytest
import torch
from random_tables import FAMILIES, random_table

import pyro_expfam as pef

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("latent_dim", [1, 3, 8])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_roots_and_gradients_agree_with_the_cpu(family, latent_dim, dtype):
    table = random_table(family, num_rows=300, latent_dim=latent_dim, dtype=dtype)
    mask = torch.rand(300, 12) < 0.8
    results = []
    for device in ("cpu", "cuda"):
        W = table.W.to(device).requires_grad_()
        b = table.b.to(device).requires_grad_()
        solution = pef.solve_latents(family, table.y.to(device), W, b, mask=mask.to(device))
        assert solution.converged.all()
        gradients = torch.autograd.grad(solution.value.square().sum(), (W, b))
        results.append([x.cpu() for x in (solution.value, *gradients)])
    tolerance = {torch.float32: 1e-3, torch.float64: 1e-8}[dtype]
    for on_cpu, on_cuda in zip(*results, strict=True):
        torch.testing.assert_close(on_cuda, on_cpu, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("solver", ["anderson", "fixed_point"])
def test_other_solvers_run_on_a_device(solver):
    table = random_table(pef.families.Bernoulli(), weight_scale=0.1)
    y, W, b = (x.cuda() for x in (table.y, table.W, table.b))
    solution = pef.solve_latents(table.family, y, W, b, solver=solver)
    assert solution.converged.all()
    assert solution.value.device.type == "cuda"


def test_tensors_on_two_devices_are_refused():
    table = random_table(pef.families.Bernoulli())
    with pytest.raises(ValueError, match="y must be on device cuda:0, got cpu"):
        pef.solve_latents(table.family, table.y, table.W.cuda(), table.b.cuda())


def test_guides_train_on_a_device():
    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import Adam

    y = torch.poisson(torch.ones(100, 6)).cuda()
    model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2, intercept_scale=1.0).cuda()
    guide = pef.DEQMAPGuide(model)
    svi = SVI(model, guide, Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(y) for _ in range(30)]
    assert losses[-1] < losses[0]
    posterior = pef.LaplaceGuide(model, params=guide).posterior(y)
    assert posterior.sample().device.type == "cuda"
