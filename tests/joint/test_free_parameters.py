"""Fits of a table that move parameters of the family with loading and intercept."""

import pytest
import torch
from pyro.infer import SVI
from pyro.nn import PyroParam
from pyro.optim import ClippedAdam
from quick_cases import in_turn

import pyro_expfam as pef
from pyro_expfam.deq.layer import make_solver
from pyro_expfam.guides.table_objective import block_objective
from pyro_expfam.joint.base_measures import BaseMeasures

F = pef.families
EVIDENCE = pef.LaplaceEvidence()

LAWS = [
    (F.NegativeBinomial(), F.NegativeBinomial(3.0), None),
    (F.NegativeBinomial("shared"), F.NegativeBinomial(3.0), EVIDENCE),
    (F.NegativeBinomial(), F.NegativeBinomial(3.0), pef.LaplaceEvidence(order=2)),
    (F.Weibull(), F.Weibull(2.0), EVIDENCE),
    (F.Ordinal(4), F.Ordinal(4, [0.0, 1.5, 2.0]), None),
    (F.ZeroInflatedPoisson("shared"), F.ZeroInflatedPoisson(0.3), None),
    (F.LogNormal(), F.LogNormal(0.5), EVIDENCE),
]


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


MIXED = F.Columns(
    {
        "length": F.Gaussian(),
        "colour": F.Categorical(3),
        "visits": F.NegativeBinomial("shared"),
        "rating": F.Ordinal(4),
        "calls": F.NegativeBinomial("shared"),
        "width": F.Gaussian(),
    }
)


def mixed_table(num_rows=120):
    """Columns of very different units that share two latents."""
    torch.manual_seed(0)
    eta = torch.randn(num_rows, 2) @ torch.randn(2, 8)
    counts = F.NegativeBinomial(2.0).sample(0.5 * eta[:, [4, 6]] + 1.0)
    columns = [
        800.0 + 300.0 * F.Gaussian(1.0).sample(eta[:, :1]),
        F.Categorical(3).sample(eta[:, 1:4]).argmax(1, keepdim=True),
        counts[:, :1],
        F.Ordinal(4, [-1.0, 0.0, 1.5]).sample(eta[:, 5:6]),
        counts[:, 1:],
        -0.05 + 0.01 * F.Gaussian(1.0).sample(eta[:, 7:]),
    ]
    return torch.cat(columns, 1)


def table(true, num_rows=40, num_features=4):
    torch.manual_seed(0)
    eta = torch.randn(num_rows, 1) @ (0.7 * torch.randn(1, num_features)) + 0.5
    return true.sample(eta)


@pytest.mark.parametrize(("family", "true", "loss"), LAWS, ids=repr)
def test_the_gradient_is_the_slope_of_the_objective(family, true, loss):
    y = table(true)
    weights = torch.rand(len(y), 1) + 0.5
    problem = block_objective(pef.ExpFamPCA(family, 4, 1), loss, y, None, None, weights)
    num_parameters = len(problem.parameters)
    own = 0.3 * torch.randn(4, num_parameters)
    if problem.parameters[0].is_shared:
        own = own[:1].expand(4, -1)
    place = torch.cat([0.5 * torch.randn(4, 2), own], 1)
    solver = make_solver()

    def objective(at):
        return problem.columns(at, torch.zeros(len(y), 1), solver).objective

    found = problem.columns(place, torch.zeros(len(y), 1), solver)
    for direction in torch.randn(3, *place.shape):
        step = 1e-4 * direction
        slope = (objective(place + step) - objective(place - step)) / 2e-4
        assert slope == pytest.approx(float((found.gradient * direction).sum()), rel=1e-5)


@pytest.mark.parametrize("parameter_scale", [None, 1.0])
def test_the_gradient_of_a_mixed_table_is_the_slope_of_its_objective(parameter_scale):
    y = mixed_table(40)
    model = pef.ExpFamPCA(MIXED, latent_dim=2, parameter_scale=parameter_scale)
    model.family_gaussian_scale = torch.tensor([300.0, 0.01])
    problem = block_objective(model, EVIDENCE, y, None, torch.rand(40, 6) < 0.8, None)
    theta = 0.5 * torch.randn(8, 3)
    theta[[0, 7], 2] += torch.tensor([2.7, -5.0])
    place = problem.coefficients_of(theta, model.family.parameters).detach()
    back, free = problem.parts(place)
    torch.testing.assert_close(back, theta)
    values = problem.values(free)
    assert values["gaussian_scale"].tolist() == pytest.approx([300.0, 0.01])
    solver = make_solver()

    def objective(at):
        return problem.columns(at, torch.zeros(len(y), 2), solver).objective

    columns = [(slice(None), slice(0, 3)), ([0, 7], 3), ([4, 6], 4), (5, 5), (5, 6)]
    assert [x.name for x in problem.parameters][:2] == [
        "gaussian_scale",
        "negative_binomial_size",
    ]
    found = problem.columns(place, torch.zeros(len(y), 2), solver)
    for at in columns:
        step = torch.zeros_like(place)
        step[at] = 1e-4
        slope = (objective(place + step) - objective(place - step)) / 2e-4
        wanted = float((found.gradient * step).sum() / 1e-4)
        assert slope == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_a_mixed_table_is_fitted_in_a_few_sweeps_and_from_batches():
    y = mixed_table()
    ends = []
    for data in (y, [y[:50], y[50:]]):
        torch.manual_seed(0)
        model = pef.ExpFamPCA(MIXED, latent_dim=2).double()
        guide = pef.LaplaceGuide(model)
        fit = guide.fit(data, tol=1e-12, progress=False)
        assert fit.converged
        assert fit.sweeps[-1].number < 60
        ends.append((fit.objective, *(x.detach() for x in model.family.parameters.values())))
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-3, atol=0)
    # No parameter has a slope left.
    loss = EVIDENCE.differentiable_loss(model, guide, y)
    assert loss.item() == pytest.approx(ends[1][0], rel=1e-9)
    for value in torch.autograd.grad(loss, list(model.parameters()), allow_unused=True):
        assert value is None or float(value.abs().max()) < 0.02


def test_numbers_alone_are_a_table_of_factor_analysis():
    torch.manual_seed(0)
    y = torch.randn(80, 2) @ torch.randn(2, 5) + torch.randn(80, 5) * torch.rand(5) + 3.0
    y = y * torch.tensor([1e-3, 1.0, 10.0, 500.0, 1.0])
    mixed = pef.ExpFamPCA(F.Columns({k: F.Gaussian() for k in "abcde"}), latent_dim=1)
    alone = pef.ExpFamPCA(F.Gaussian("per column"), 5, 1)
    fits = [pef.LaplaceGuide(x).fit(y, tol=1e-11, progress=False) for x in (mixed, alone)]
    assert fits[0].objective == pytest.approx(fits[1].objective, rel=1e-8)
    torch.testing.assert_close(mixed.family_gaussian_scale, alone.family_scale, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(("loss", "kind"), in_turn([None, EVIDENCE], ["by column", "shared"]))
def test_a_loader_ends_where_the_table_in_memory_does(loss, kind):
    y = table(F.NegativeBinomial(2.0), 90, 5)
    family = F.NegativeBinomial(None if kind == "by column" else "shared")
    ends, fits = [], []
    for data in (y, [y[:40], y[40:70], y[70:]]):
        torch.manual_seed(0)
        model = pef.ExpFamPCA(family, 5, 1)
        fits.append(pef.DEQMAPGuide(model).fit(data, loss=loss))
        ends.append(model.family_size.detach())
    assert fits[0].converged
    assert fits[1].objective == pytest.approx(fits[0].objective, rel=1e-10)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-3, atol=0.0)


@pytest.mark.slow
def test_svi_and_fit_end_at_the_same_place():
    y = table(F.NegativeBinomial(2.0), 150, 4)
    torch.manual_seed(0)
    model = pef.ExpFamPCA(F.NegativeBinomial("shared"), 4, 1)
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(y, loss=EVIDENCE, tol=1e-10)
    assert EVIDENCE.loss(model, guide, y) == pytest.approx(fit.objective, rel=1e-9)
    by_svi = pef.ExpFamPCA(F.NegativeBinomial("shared"), 4, 1)
    other = pef.DEQMAPGuide(by_svi)
    svi = SVI(by_svi, other, ClippedAdam({"lr": 0.1, "lrd": 0.98}), EVIDENCE)
    losses = [svi.step(y) for _ in range(200)]
    assert losses[-1] == pytest.approx(fit.objective, rel=1e-6)
    assert float(by_svi.family_size.detach()) == pytest.approx(
        float(model.family_size.detach()), rel=0.01
    )


@pytest.mark.parametrize("shift", [0.0, 100.0], ids=["few", "many"])
def test_counts_are_gathered_without_loss(shift):
    y = table(F.NegativeBinomial(2.0), 60, 3)
    y[::7] += shift
    mask, weights = torch.rand(60, 3) < 0.8, torch.rand(60, 3)
    size = torch.tensor([0.5, 3.0, 40.0])
    known = F.NegativeBinomial(1.0)
    observed = pef.joint.TableInMemory(known, 3, torch.zeros(()), y, None, mask, weights)
    family = F.NegativeBinomial(size)
    wanted = (family.log_base_measure(y) * weights * mask).sum()
    assert BaseMeasures(observed).total(family) == pytest.approx(float(wanted), rel=1e-12)


def test_a_parameter_by_row_is_not_learnt_from_batches():
    size = {
        "size": PyroParam(torch.ones(10, 1), constraint=torch.distributions.constraints.positive)
    }
    model = pef.ExpFamPCA(F.NegativeBinomial(1.0), 3, 1, family_parameters=size)
    with pytest.raises(ValueError, match="family_size is not learnt from batches"):
        pef.DEQMAPGuide(model).fit([torch.ones(5, 3), torch.full((5, 3), 2.0)])
