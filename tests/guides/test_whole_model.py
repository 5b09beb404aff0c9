"""Guides at the mode, and around the mode, of everything that a model observes of its latents."""

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from quick_cases import in_turn
from whole_model_guides import OTHERS, SOME, ZERO, every_model, latents_of, log_joint, made, quickly
from whole_models import (
    MODELS,
    NUM_ROWS,
    Everything,
    TwoLatents,
)

import pyro_expfam as pef

pytestmark = pytest.mark.usefixtures("double_precision")


@every_model
def test_latents_are_a_stationary_point_of_the_log_joint(make):
    model, guide, args = made(make)
    values = {name: x.detach() for name, x in guide(*args).items()}
    latents = {name: x.requires_grad_() for name, x in latents_of(values).items()}
    found = torch.autograd.grad(log_joint(model, args, values | latents), list(latents.values()))
    assert max(float(x.abs().max()) for x in found) < ZERO


@quickly(SOME)
def test_latents_are_the_mode_that_a_general_optimiser_finds(make):
    model, guide, args = made(make)
    values = {name: x.detach() for name, x in guide(*args).items()}
    latents = latents_of(values)
    free = {name: torch.zeros(x.shape, requires_grad=True) for name, x in latents.items()}
    optimiser = torch.optim.LBFGS(
        list(free.values()), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = -log_joint(model, args, values | free)
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        assert log_joint(model, args, values) >= log_joint(model, args, values | free) - 1e-6


@quickly(SOME)
def test_the_covariance_is_the_inverse_of_the_hessian_of_a_row(make):
    model, guide, args = made(make, pef.LaplaceGuide)
    values = {name: x.detach() for name, x in guide(*args).items()}
    roots = guide.roots(*args)
    names = [root.sites.latents for root in roots]
    widths = [root.latents.shape[-1] for root in roots]
    at = torch.cat([root.latents for root in roots], -1)

    def minus_log_joint(z):
        parts = dict(zip(names, z.split(widths, -1), strict=True))
        return -log_joint(model, args, values | parts)

    hessian = torch.autograd.functional.hessian(minus_log_joint, at)
    size = at.shape[-1]
    expected = torch.stack([hessian[row, :, row, :] for row in range(NUM_ROWS)])
    # No row depends on another.
    rest = hessian.permute(0, 2, 1, 3).clone()
    rest[range(NUM_ROWS), range(NUM_ROWS)] = 0.0
    assert float(rest.abs().max()) < ZERO
    shared = len({id(root.problem) for root in roots}) < len(roots)
    if len(roots) == 1 or shared:
        information = roots[0].problem.information(roots[0].solution.value)
        assert information.shape == (NUM_ROWS, size, size)
        assert torch.allclose(information, expected)


@every_model
def test_posteriors_are_marginals_of_the_normal_by_the_hessian_of_a_row(make):
    model, guide, args = made(make, pef.LaplaceGuide)
    values = {name: x.detach() for name, x in guide(*args).items()}
    found = guide.posteriors(*args)
    names, modes = list(found), [normal.mean for normal in found.values()]
    widths = [mode.shape[-1] for mode in modes]
    assert names == list(latents_of(values))

    def minus_log_joint(z):
        parts = dict(zip(names, z.split(widths, -1), strict=True))
        return -log_joint(model, args, values | parts)

    hessian = torch.autograd.functional.hessian(minus_log_joint, torch.cat(modes, -1))
    rows = range(NUM_ROWS)
    covariance = torch.linalg.inv(hessian[rows, :, rows, :])
    begin = 0
    for normal, width in zip(found.values(), widths, strict=True):
        expected = covariance[:, begin : begin + width, begin : begin + width]
        assert torch.allclose(normal.covariance_matrix, expected)
        begin += width


def test_draws_of_latents_that_belong_together_have_their_joint_covariance():
    _, guide, args = made(TwoLatents, pef.LaplaceGuide)
    guide(*args)
    (first, second) = guide.roots(*args)
    drawn = []
    for _ in range(90):
        values = guide(*args)
        drawn.append(torch.cat([values["rna.z"], values["protein.z"]], -1).detach())
    # In standard deviations of its row, a draw of any row is a standard normal.
    mode = first.solution.value
    factor = torch.linalg.cholesky(first.problem.information(mode))
    standard = ((torch.stack(drawn) - mode).unsqueeze(-2) @ factor).reshape(-1, 4)
    assert torch.allclose(standard.T.cov(), torch.eye(4), atol=0.12)
    assert second.place == slice(2, 4)


@pytest.mark.parametrize(
    ("make", "loss"),
    in_turn(MODELS, [Trace_ELBO(), pef.LaplaceEvidence(), pef.LaplaceEvidence(order=2)]),
)
def test_gradients_of_a_loss_are_total_derivatives(make, loss):
    model, guide, args = made(make)
    guide(*args)

    def value():
        return loss.differentiable_loss(model, guide, *args)

    parameters = [x for x in guide._trainable().values() if x.requires_grad]
    found = torch.autograd.grad(value(), parameters, allow_unused=True)
    torch.manual_seed(3)
    directions = [torch.randn_like(x) for x in parameters]
    slope = sum(
        float((g * v).sum()) for g, v in zip(found, directions, strict=True) if g is not None
    )
    step = 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for x, v in zip(parameters, directions, strict=True):
                x.add_(v, alpha=sign * step)
            values.append(float(value()))
            for x, v in zip(parameters, directions, strict=True):
                x.sub_(v, alpha=sign * step)
    numeric = (values[0] - values[1]) / (2 * step)
    assert abs(slope - numeric) < 1e-4 * (1 + abs(numeric))


@quickly(SOME)
def test_the_evidence_is_that_of_importance_sampling(make):
    model, guide, args = made(make, pef.LaplaceGuide)
    guide(*args)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = [pef.LaplaceEvidence(order=k).loss(model, guide, *args) for k in (1, 2)]
        problems = {id(root.problem): root for root in guide.roots(*args)}.values()
        correction = sum(
            float((found.log_evidence - first).sum())
            for root in problems
            for found, first in [
                (
                    pef.evidence.sample_evidence(root.problem, root.solution.value, 4000),
                    pef.evidence.laplace_evidence(root.problem, root.solution.value),
                )
            ]
        )
    # The correction of the first order is what the second adds, up to the next order.
    second = losses[0] - losses[1]
    assert abs(second - correction) < 0.6 * abs(correction) + 0.02


@quickly(OTHERS)
def test_float32_latents_are_those_of_float64(make):
    _, guide, args = made(make)
    exact = latents_of(guide(*args))
    torch.set_default_dtype(torch.float32)
    guide.float()
    guide.model.float()
    single = [x.float() for x in args]
    for name, x in latents_of(guide(*single)).items():
        assert x.dtype == torch.float32
        assert torch.allclose(x.double(), exact[name], atol=1e-3)


@pytest.mark.parametrize("name", ["rna", "protein"])
def test_blocks_that_share_latents_are_read_by_name(name):
    model, guide, args = made(Everything, pef.LaplaceGuide)
    guide(*args)
    block = guide.block(name)
    columns = getattr(model, name).num_features
    assert block.loading.shape == (columns, 2)
    table = args[0] if name == "rna" else args[1]
    family = getattr(model, name).family
    alone = pef.solve_latents(family, table, block.loading, block.intercept).value
    assert torch.allclose(block.latents(table), alone)


@quickly(OTHERS)
def test_a_saved_state_has_everything(make):
    model, guide, args = made(make)
    svi = SVI(model, guide, Adam({"lr": 0.03}), Trace_ELBO())
    svi.step(*args)
    pyro.set_rng_seed(7)
    fresh = make()
    fresh.load_state_dict(model.state_dict())
    other = pef.DEQMAPGuide(fresh)
    other.load_state_dict(guide.state_dict())
    first, second = (latents_of(g.median(*args)) for g in (guide, other))
    assert all(torch.allclose(first[name], second[name]) for name in first)
