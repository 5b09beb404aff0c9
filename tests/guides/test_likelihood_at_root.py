"""Steps of SVI whose likelihood comes with the root: the numbers of plain operations."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

import pyro_expfam as pef
from pyro_expfam.deq.likelihood_at_root import solve_with_likelihood
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Bernoulli, Binomial, Family, Poisson
from pyro_expfam.models.law_at_root import LawAtRoot

FAMILIES = [Bernoulli(), Poisson(), Binomial(3)]
N, D, L = 37, 70, 3
BY_OPERATIONS = pef.deq.FisherScoring(compiled=False)


def problem_of(family: Family, seed: int = 0, **others: Any) -> LatentProblem:
    torch.manual_seed(seed)
    W = (0.5 * torch.randn(D, L, dtype=torch.float64)).requires_grad_()
    b = (0.3 * torch.randn(D, dtype=torch.float64)).requires_grad_()
    precision = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y = family.sample(torch.randn(N, D, dtype=torch.float64))
    return LatentProblem(family, y, W, b, precision, **others)


def fields_of(problem: LatentProblem) -> list[Tensor]:
    return [x for x in problem.fields.values() if x.requires_grad]


def reference(problem: LatentProblem) -> tuple[Tensor, Tensor]:
    """The root and the log likelihoods by PyTorch operations."""
    start = torch.zeros(N, L, dtype=torch.float64)
    root = pef.deq.implicit.solve(problem, BY_OPERATIONS, start).value
    return root, -problem.losses(problem.predictor(root)).sum(-1)


def by_kernel(problem: LatentProblem) -> tuple[Tensor, Tensor]:
    start = torch.zeros(N, L, dtype=torch.float64)
    found = solve_with_likelihood(problem, pef.deq.FisherScoring(), start)
    assert found.log_likelihood is not None
    base = problem.family.log_base_measure(problem.y).sum(-1)
    return found.solution.value, found.log_likelihood - base


def refuse(*arguments: Any) -> None:
    raise AssertionError(f"the gradient takes more than the kernel's own sums: {arguments}")


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("field", ["none", "offset", "loc"])
def test_gradients_of_any_function_of_root_and_likelihood(family: Family, field: str) -> None:
    others = {}
    if field == "offset":
        others["offset"] = torch.linspace(-1, 1, N, dtype=torch.float64)[:, None].requires_grad_()
    if field == "loc":
        others["loc"] = torch.linspace(-1, 1, N * L, dtype=torch.float64).view(N, L)
        others["loc"].requires_grad_()
    problem = problem_of(family, **others)
    to_root = torch.randn(N, L, dtype=torch.float64)
    to_likelihood = torch.randn(N, dtype=torch.float64)
    found = []
    for root, likelihood in (by_kernel(problem), reference(problem)):
        value = (root * to_root).sum() + (likelihood * to_likelihood).sum()
        found.append((value, torch.autograd.grad(value, fields_of(problem))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factor", [1.0, -2.5])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_gradients_of_a_log_joint_density_solve_no_system(
    family: Family, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(family)
    root, likelihood = by_kernel(problem)
    value = factor * (likelihood - 0.5 * problem.precision * root.square().sum(-1)).sum()
    held, of_held = reference(problem)
    wanted = factor * (of_held - 0.5 * problem.precision * held.square().sum(-1)).sum()
    wanted_gradients = torch.autograd.grad(wanted, fields_of(problem))
    monkeypatch.setattr("pyro_expfam.deq.likelihood_at_root._through_root", refuse)
    gradients = torch.autograd.grad(value, fields_of(problem))
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, wanted_gradients, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("rows", ["alike", "apart"])
def test_gradients_through_the_prior_at_the_root(family: Family, rows: str) -> None:
    problem = problem_of(family)
    problem = replace(problem, precision=problem.precision.detach())
    weights = [torch.randn(N if rows == "apart" else 1, dtype=torch.float64) for _ in range(2)]
    start = torch.zeros(N, L, dtype=torch.float64)
    at_root = solve_with_likelihood(problem, pef.deq.FisherScoring(), start)
    root, likelihood = reference(problem)
    likelihood = likelihood + family.log_base_measure(problem.y).sum(-1)
    scale = problem.precision.rsqrt()
    prior = torch.distributions.Normal(0.0, scale).log_prob(root).sum(-1)
    wanted = (weights[0] * likelihood + weights[1] * prior).sum()
    assert at_root.log_likelihood is not None
    assert at_root.log_prior is not None
    found = (weights[0] * at_root.log_likelihood + weights[1] * at_root.log_prior).sum()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(x, fields_of(problem)) for x in (found, wanted))
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_a_log_joint_density_of_known_parts_solves_no_system(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(Poisson())
    problem = replace(problem, precision=problem.precision.detach())
    start = torch.zeros(N, L, dtype=torch.float64)
    found = solve_with_likelihood(problem, pef.deq.FisherScoring(), start)
    assert found.log_likelihood is not None
    assert found.log_prior is not None
    held, likelihood = reference(problem)
    wanted = factor * (likelihood - 0.5 * problem.precision * held.square().sum(-1)).sum()
    wanted_gradients = torch.autograd.grad(wanted, fields_of(problem))
    monkeypatch.setattr("pyro_expfam.deq.likelihood_at_root._through_root", refuse)
    monkeypatch.setattr("pyro_expfam.deq.likelihood_at_root._at_held_latents", refuse)
    value = factor * (found.log_likelihood + found.log_prior).sum()
    gradients = torch.autograd.grad(value, fields_of(problem))
    torch.testing.assert_close(gradients, wanted_gradients, rtol=1e-8, atol=1e-8)


def test_a_precision_that_is_learnt_leaves_the_prior_to_the_model() -> None:
    start = torch.zeros(N, L, dtype=torch.float64)
    found = solve_with_likelihood(problem_of(Poisson()), pef.deq.FisherScoring(), start)
    assert found.log_likelihood is not None
    assert found.log_prior is None


def test_second_derivatives() -> None:
    problem = problem_of(Bernoulli())
    problem = replace(problem, precision=problem.precision.detach())
    start = torch.zeros(N, L, dtype=torch.float64)
    at_root = solve_with_likelihood(problem, pef.deq.FisherScoring(), start)
    root, likelihood = reference(problem)
    prior = torch.distributions.Normal(0.0, problem.precision.rsqrt()).log_prob(root).sum(-1)
    wanted = (likelihood, prior, root)
    found = []
    for of_rows in ((at_root.log_likelihood, at_root.log_prior, at_root.solution.value), wanted):
        assert all(x is not None for x in of_rows)
        value = of_rows[0].sum() + of_rows[1].cos().sum() + of_rows[2].sin().sum()
        gradients = torch.autograd.grad(value, fields_of(problem), create_graph=True)
        square = sum(x.square().sum() for x in gradients)
        assert isinstance(square, Tensor)
        found.append(torch.autograd.grad(square, fields_of(problem)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-7)


def test_rows_that_do_not_converge_have_the_gradients_of_plain_operations() -> None:
    problem = problem_of(Poisson())
    start = torch.full((N, L), 0.1, dtype=torch.float64)
    to_likelihood = torch.randn(N, dtype=torch.float64)
    found = []
    for compiled in (True, False):
        solver = pef.deq.FisherScoring(max_iter=1, compiled=compiled)
        with pytest.warns(pef.ConvergenceWarning):
            found_at = solve_with_likelihood(problem, solver, start)
        likelihood, root = found_at.log_likelihood, found_at.solution.value
        if likelihood is None:
            likelihood = problem.log_probs(problem.predictor(root)).sum(-1)
        value = (likelihood * to_likelihood).sum()
        found.append((value, torch.autograd.grad(value, fields_of(problem))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------- in Pyro


def block_of(family: Family, seed: int, solver: Any) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    model = pef.ExpFamPCA(family, D, L, latent_precision=0.7).double()
    guide = pef.DEQMAPGuide(model, solver=solver).double()
    return model, guide


def loss_and_gradients(
    family: Family, solver: Any, handler: Any, call: dict[str, Any]
) -> tuple[Any, list[Tensor]]:
    pyro.clear_param_store()
    model, guide = block_of(family, 1, solver)
    guide(**call)
    guide.double()
    with torch.no_grad():
        torch.manual_seed(2)
        for parameter in guide.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    loss = Trace_ELBO().loss_and_grads(handler(model), guide, **call)
    gradients: list[Any] = [parameter.grad for parameter in guide.parameters()]
    return loss, gradients


def calls(family: Family) -> dict[str, dict[str, Any]]:
    torch.manual_seed(3)
    y = family.sample(torch.randn(N, D, dtype=torch.float64))
    return {
        "alone": {"y": y},
        "batch": {"y": y, "num_rows": 3 * N, "rows": torch.arange(N)},
        "offset": {"y": y, "offset": torch.randn(N, 1, dtype=torch.float64)},
        "mask": {"y": y, "mask": torch.rand(N, D) < 0.8},
        "means": {"y": y, "latent_loc": torch.randn(N, L, dtype=torch.float64)},
    }


class MaskedRows(Messenger):
    """Leaves every third row out of the likelihood."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "y":
            msg["mask"] = torch.arange(N) % 3 > 0


HANDLERS: dict[str, Any] = {
    "plain": lambda model: model,
    "scale": lambda model: poutine.scale(model, 0.25),
    "mask": lambda model: MaskedRows()(model),
    "other intercept": lambda model: poutine.condition(
        model, {"intercept": torch.zeros(D, dtype=torch.float64)}
    ),
}


@pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide")
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("call", calls(Bernoulli()))
def test_steps_are_those_of_plain_operations(call: str, handler: str) -> None:
    arguments = calls(Poisson())[call]
    found, wanted = (
        loss_and_gradients(Poisson(), solver, HANDLERS[handler], arguments)
        for solver in (pef.deq.FisherScoring(), BY_OPERATIONS)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def test_the_law_of_a_table_is_that_of_its_linear_predictors() -> None:
    pyro.clear_param_store()
    model, guide = block_of(Poisson(), 4, None)
    y = calls(Poisson())["alone"]["y"]
    guide(y)
    guide.double()
    trace = poutine.trace(guide).get_trace(y)
    replayed: Any = poutine.trace(poutine.replay(model, trace)).get_trace(y)
    law = replayed.nodes["y"]["fn"]
    assert isinstance(law, LawAtRoot)
    value = {name: site["value"] for name, site in replayed.iter_stochastic_nodes()}
    eta = value["z"] @ value["loading"].mT + value["intercept"]
    plain = torch.distributions.Poisson(eta.exp(), validate_args=False)
    torch.testing.assert_close(law.log_prob(y), plain.log_prob(y).sum(-1))
    torch.testing.assert_close(law.log_prob(y + 1), plain.log_prob(y + 1).sum(-1))
    torch.testing.assert_close(law.mean, plain.mean)
    assert law.sample().shape == (N, D)
    assert law.expand((2, N)).batch_shape == (2, N)


def test_other_latents_than_the_guide_found_have_their_own_likelihood() -> None:
    pyro.clear_param_store()
    model, guide = block_of(Bernoulli(), 5, None)
    y = calls(Bernoulli())["alone"]["y"]
    guide(y)
    guide.double()
    trace = poutine.trace(guide).get_trace(y)
    trace.nodes["z"]["value"] = trace.nodes["z"]["value"] + 1
    replayed: Any = poutine.trace(poutine.replay(model, trace)).get_trace(y)
    value = {name: site["value"] for name, site in replayed.iter_stochastic_nodes()}
    eta = value["z"] @ value["loading"].mT + value["intercept"]
    plain = torch.distributions.Bernoulli(logits=eta)
    found = replayed.nodes["y"]["fn"].log_prob(y)
    torch.testing.assert_close(found, plain.log_prob(y).sum(-1))


def test_the_law_of_latents_is_that_of_their_prior() -> None:
    pyro.clear_param_store()
    model, guide = block_of(Poisson(), 4, None)
    y = calls(Poisson())["alone"]["y"]
    guide(y)
    guide.double()
    trace = poutine.trace(guide).get_trace(y)
    replayed: Any = poutine.trace(poutine.replay(model, trace)).get_trace(y)
    law, z = replayed.nodes["z"]["fn"], replayed.nodes["z"]["value"]
    assert isinstance(law, LawAtRoot)
    plain = torch.distributions.Normal(0.0, torch.tensor(0.7).double().rsqrt())
    torch.testing.assert_close(law.log_prob(z), plain.log_prob(z).sum(-1))
    torch.testing.assert_close(law.log_prob(z + 1), plain.log_prob(z + 1).sum(-1))
    assert law.sample().shape == law.rsample().shape == (N, L)
    assert bool((law.mean == 0).all())
    torch.testing.assert_close(law.variance, torch.full((N, L), 1 / 0.7).double())
    assert law.expand((2, N)).batch_shape == (2, N)
    assert bool(law.support.check(z).all())


def changes_of(model: Any, y: Tensor) -> dict[str, Any]:
    """What a program may change between two steps, by what it is."""
    other = Poisson().sample(torch.randn(N, D, dtype=torch.float64))
    return {
        "table in place": lambda call: y.copy_(other),
        "table": lambda call: call.update(y=other),
        "fewer rows": lambda call: call.update(y=other[:20]),
        "offset": lambda call: call.update(offset=torch.ones(D, dtype=torch.float64)),
        "mask": lambda call: call.update(mask=torch.rand(N, D) < 0.5),
        "size of the whole": lambda call: call.update(num_rows=2 * N),
        "scale of the loading": lambda call: setattr(model, "loading_scale", 0.3),
        "scale in place": lambda call: model.intercept_scale.mul_(0.1),
        "precision": lambda call: setattr(model, "latent_precision", 3.0),
        "precision in place": lambda call: model.latent_precision.mul_(5.0),
    }


@pytest.mark.parametrize("change", changes_of(None, torch.empty(0)))
def test_nothing_is_kept_from_the_step_before(change: str) -> None:
    """After a change a step is that of a fresh program, and of plain operations."""
    found = []
    for solver, steps_before in ((None, 2), (None, 0), (BY_OPERATIONS, 0)):
        pyro.clear_param_store()
        model, guide = block_of(Poisson(), 7, solver)
        call = {"y": calls(Poisson())["alone"]["y"]}
        guide(**call)
        guide.double()
        loss = Trace_ELBO()
        for _ in range(steps_before):
            loss.loss_and_grads(model, guide, **call)
        for parameter in guide.parameters():
            parameter.grad = None
        torch.manual_seed(8)
        changes_of(model, call["y"])[change](call)
        value = loss.loss_and_grads(model, guide, **call)
        found.append((value, [parameter.grad for parameter in guide.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0], found[2], rtol=1e-8, atol=1e-8)


def test_training_goes_where_plain_operations_go() -> None:
    y = calls(Bernoulli())["alone"]["y"]
    losses = []
    for solver in (pef.deq.FisherScoring(), BY_OPERATIONS):
        pyro.clear_param_store()
        model, guide = block_of(Bernoulli(), 6, solver)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        losses.append([svi.step(y) for _ in range(20)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_large_counts_have_the_loss_and_gradient_of_double_precision(unit: float) -> None:
    torch.manual_seed(0)
    y = unit * torch.poisson(torch.exp(torch.randn(50, 2) @ torch.randn(2, 6) + 4))
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, 2))
    guide.fit(y, progress=False)
    with torch.no_grad():
        guide.intercept.add_(0.01)  # away from the optimum
    # The same parameters: the gradient of counts of a hundred million tells the last digit.
    exact = copy.deepcopy(guide).double()
    exact.model.double()
    losses = [Trace_ELBO().loss_and_grads(x.model, x, y.to(x.loading)) for x in (guide, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for single, double in zip(guide.parameters(), exact.parameters(), strict=True):
        # Means of a hundred million have roundings of several units, in 50 rows.
        size = double.grad.abs().max()
        torch.testing.assert_close(single.grad.double(), double.grad, rtol=0, atol=3e-3 * size)
