"""Fits and training of whole models."""

import time
import warnings
from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.nn import PyroModule
from pyro.optim import Adam
from quick_cases import in_turn, slow_unless
from whole_model_guides import GUIDES, OTHERS, SOME, ZERO, made
from whole_models import (
    MODELS,
    NUM_ROWS,
    Base,
    Data,
    Everything,
    PartOfTheRows,
    ScalePerLatent,
    Supervised,
    TwoViews,
    Visits,
)

import pyro_expfam as pef
from pyro_expfam.guides import model_fit

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize(
    ("make", "guide_of"),
    [
        *in_turn(SOME, GUIDES),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in product(OTHERS, GUIDES)),
    ],
)
def test_float32_guides_train(make, guide_of):
    torch.set_default_dtype(torch.float32)
    pyro.set_rng_seed(0)
    model = make()
    guide = guide_of(model)
    args = Data(torch.float32).args
    svi = SVI(model, guide, Adam({"lr": 0.03}), Trace_ELBO())
    losses = [svi.step(*args) for _ in range(12)]
    assert sum(losses[-4:]) < sum(losses[:4])


# The joint density with a learnt scale of the latents has no bound.
@pytest.mark.parametrize(
    "make",
    slow_unless(
        lambda make: make in (PartOfTheRows, Supervised, Visits),
        [x for x in MODELS if x is not ScalePerLatent],
    ),
)
def test_a_fit_ends_where_no_gradient_is_left(make):
    model, guide, args = made(make)
    fit = guide.fit(*args, progress=False, max_sweeps=2000, tol=1e-10)
    assert fit.converged
    objectives = [sweep.objective for sweep in fit.sweeps]
    assert objectives == sorted(objectives, reverse=True)
    loss = Trace_ELBO().differentiable_loss(model, guide, *args)
    parameters = [x for x in guide._trainable().values() if x.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    largest = max(float(g.abs().max()) for g in found if g is not None)
    assert largest < 2e-2
    assert fit.objective == pytest.approx(float(loss), rel=1e-6)


class ByName(PyroModule):
    """The prior mean of the latents is a parameter that the model only names."""

    def __init__(self):
        super().__init__()
        self.rna = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)

    def forward(self, counts):
        return self.rna(counts, latent_loc=pyro.param("mean", torch.zeros(2)).expand(1, 2))


def as_function():
    """A model that is no module."""
    block = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)

    def model(counts):
        return block(counts, latent_loc=pyro.param("mean", torch.zeros(2)).expand(1, 2))

    return model


@pytest.mark.parametrize("make", [ByName, as_function], ids=["module", "function"])
def test_a_fit_trains_parameters_that_a_model_names(make):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model = make()
    guide = pef.DEQMAPGuide(model)
    counts = Data().counts
    fit = guide.fit(counts, progress=False, tol=1e-10)
    assert fit.converged
    mean = pyro.param("mean")
    assert float(mean.detach().abs().min()) > 0
    loss = Trace_ELBO().differentiable_loss(model, guide, counts)
    (gradient,) = torch.autograd.grad(loss, mean)
    assert float(gradient.abs().max()) < 1e-2


def test_a_laplace_guide_can_be_fitted_to_the_joint_density():
    _, guide, args = made(Supervised, pef.LaplaceGuide)
    fit = guide.fit(*args, progress=False, loss=None)
    _, other, _ = made(Supervised)
    assert fit.converged
    assert fit.objective == pytest.approx(other.fit(*args, progress=False).objective, rel=1e-4)


def test_a_fit_of_a_model_whose_density_is_scaled_is_the_fit_of_the_model():
    pyro.set_rng_seed(1)
    model = Supervised()
    scaled = poutine.scale(model, scale=0.1)
    args = Data().args
    fits = []
    for one in (model, scaled):
        pyro.set_rng_seed(1)
        fits.append(pef.DEQMAPGuide(one).fit(*args, progress=False))
    assert fits[1].objective == pytest.approx(0.1 * fits[0].objective, rel=1e-3)


class Classes(Base):
    """A label has a mean by a class that is unknown, and the class depends on the latents."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        logit = self.logit(z)
        with pyro.plate("cells", len(counts)):
            kind = pyro.sample(
                "kind", dist.Bernoulli(logits=logit), infer={"enumerate": "parallel"}
            )
            pyro.sample("label", dist.Normal(2.0 * kind - 1.0, 0.5), obs=label)
        return z


class Mixture(Base):
    """The prior mean of the latents depends on a class that is unknown."""

    def forward(self, counts, bits, label=None, covariates=None):
        with pyro.plate("cells", len(counts)):
            kind = pyro.sample(
                "kind", dist.Categorical(torch.ones(3) / 3), infer={"enumerate": "parallel"}
            )
        return self.rna(counts, latent_loc=self.slope[kind])


@pytest.mark.parametrize("make", [Classes, Mixture], ids=lambda kind: kind.__name__)
def test_classes_are_summed_over(make):
    model, guide, args = made(make)
    values = {name: x.detach() for name, x in guide(*args).items()}
    values["rna.z"].requires_grad_()
    size = 2 if make is Classes else 3
    every = []
    for kind in range(size):
        known = values | {"kind": torch.full((NUM_ROWS,), kind, dtype=torch.get_default_dtype())}
        known["kind"] = known["kind"] if make is Classes else known["kind"].long()
        trace = poutine.trace(poutine.condition(model, known)).get_trace(*args)
        trace.compute_log_prob()
        sites = [trace.nodes[name] for name in trace.nodes if "log_prob" in trace.nodes[name]]
        every.append(sum(x["log_prob"] for x in sites if x["log_prob"].shape == (NUM_ROWS,)))
    density = torch.stack(every).logsumexp(0).sum()
    (gradient,) = torch.autograd.grad(density, values["rna.z"])
    assert float(gradient.abs().max()) < ZERO


@pytest.mark.parametrize(
    "make",
    [Classes, pytest.param(Mixture, marks=pytest.mark.slow)],
    ids=lambda kind: kind.__name__,
)
def test_a_fit_sums_over_classes(make):
    model, guide, args = made(make)
    fit = guide.fit(*args, progress=False)
    assert fit.converged
    losses = [TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, *args) for _ in range(2)]
    assert losses == pytest.approx([fit.objective] * 2, rel=1e-6)


@pytest.mark.parametrize("make", slow_unless(lambda make: make is Classes, [Classes, Mixture]))
def test_the_evidence_refuses_classes_to_sum_over(make):
    model, guide, args = made(make, pef.LaplaceGuide)
    with pytest.raises(NotImplementedError, match=r"'kind'.*TraceEnum_ELBO"):
        pef.LaplaceEvidence().loss(model, guide, *args)
    with pytest.raises(NotImplementedError, match="loss=None"):
        guide.fit(*args)
    assert guide.fit(*args, loss=None, progress=False).converged


@pytest.mark.parametrize("make", [Supervised, pytest.param(Everything, marks=pytest.mark.slow)])
def test_a_fit_of_the_evidence_is_better_than_steps_of_svi(make):
    model, guide, args = made(make, pef.LaplaceGuide)
    fit = guide.fit(*args, progress=False, max_sweeps=3000)
    model, other, args = made(make, pef.LaplaceGuide)
    svi = SVI(model, other, Adam({"lr": 0.03}), pef.LaplaceEvidence())
    for _ in range(30):
        loss = svi.step(*args)
    # Both may end at another optimum.
    assert fit.objective < loss + 1.0


@pytest.mark.slow
def test_a_fit_in_single_precision_ends_where_rounding_hides_further_gains():
    class Views(PyroModule):
        def __init__(self):
            super().__init__()
            self.counts = pef.ExpFamPCA(pef.families.Poisson(), 20, 3)
            self.bits = pef.ExpFamPCA(pef.families.Bernoulli(), 30, 3)

        def forward(self, counts, bits):
            return self.bits(bits, z=self.counts(counts))

    torch.manual_seed(0)
    z = torch.randn(300, 3)
    counts = torch.poisson(torch.exp(0.5 * z @ torch.randn(3, 20) + 1.0))
    bits = torch.bernoulli(torch.sigmoid(z @ torch.randn(3, 30)))
    results = {}
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        pyro.set_rng_seed(0)
        results[dtype] = pef.DEQMAPGuide(Views()).fit(counts, bits, progress=False)
    double, single = results[torch.float64], results[torch.float32]
    assert single.converged
    assert single.sweeps[-1].number < 1.5 * double.sweeps[-1].number
    assert single.objective == pytest.approx(double.objective, rel=1e-5)


def test_a_fit_starts_from_what_each_table_says_alone():
    _, guide, args = made(TwoViews)
    first = guide.fit(*args, progress=False).sweeps[0].objective
    pyro.set_rng_seed(1)
    random = pef.DEQMAPGuide(TwoViews())
    random(*args)
    assert first < float(Trace_ELBO().loss(random.model, random, *args))
    # A guide that has been trained goes on from where it is.
    again = guide.fit(*args, progress=False)
    assert again.sweeps[0].objective <= first


class Ended(Exception):
    """A callback has ended a fit."""


def ends(_):
    raise Ended


def ends_in_the_third_sweep(sweep):
    if sweep.number > 2:
        raise Ended


def of_params(model):
    return pef.LaplaceGuide(model, params=pef.DEQMAPGuide(model))


@pytest.mark.parametrize("make", [TwoViews, Supervised])
@pytest.mark.parametrize("guide_of", [*GUIDES, of_params])
@pytest.mark.parametrize("callback", [ends, ends_in_the_third_sweep])
def test_a_first_fit_that_fails_leaves_a_guide_that_has_seen_nothing(make, guide_of, callback):
    pyro.set_rng_seed(0)
    model, args = make(), Data().args
    guide = guide_of(model)
    with pytest.raises(Ended):
        guide.fit(*args, callback=callback)
    with pytest.raises(RuntimeError, match="the guide has not seen data yet"):
        guide.block("rna")
    assert not guide.is_trained
    with pytest.raises(RuntimeError, match="the guide has not seen data yet"):
        guide.save("nowhere")
    # The way of another fit does not depend on the one that has failed.
    again = guide.fit(*args, max_sweeps=20)
    pyro.set_rng_seed(0)
    new = guide_of(make()).fit(*args, max_sweeps=20)
    assert again.objective == pytest.approx(new.objective, rel=1e-6)


def test_a_first_fit_that_fails_leaves_a_block_with_latent_loc_unseen():
    y = Data().counts
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), y.shape[1], 2))
    for _ in range(2):
        with pytest.raises(Ended):
            guide.fit(y, latent_loc=torch.zeros(len(y), 2), callback=ends)
        with pytest.raises(RuntimeError, match="the guide has not seen data yet"):
            guide.latents(y)


def test_a_fit_from_a_loaded_state_that_fails_keeps_the_state():
    args = Data().args
    fitted = pef.DEQMAPGuide(TwoViews())
    fitted.fit(*args)
    state = {"model": fitted.model.state_dict(), "guide": fitted.state_dict()}
    model = TwoViews()
    model.load_state_dict(state["model"])
    guide = pef.DEQMAPGuide(model)
    guide.load_state_dict(state["guide"])
    with pytest.raises(Ended):
        guide.fit(*args, callback=ends)
    assert guide.is_trained
    guide(*args)
    torch.testing.assert_close(guide.block("rna").loading, fitted.block("rna").loading)


def test_a_further_fit_that_fails_leaves_what_has_been_learnt():
    guide, args = pef.DEQMAPGuide(TwoViews()), Data().args
    guide.fit(*args)
    loading = guide.block("rna").loading
    with pytest.raises(Ended):
        guide.fit(*args, callback=ends)
    torch.testing.assert_close(guide.block("rna").loading, loading)


def test_the_objective_is_the_loss_where_rows_have_several_roots():
    torch.manual_seed(3)
    rates = torch.exp(torch.randn(20, 1) @ torch.randn(1, 3) + 1)
    y = torch.poisson(rates) * (torch.rand(20, 3) < 0.6)
    model = pef.ExpFamPCA(pef.families.ZeroInflatedPoisson(), 3, 1)
    guide = pef.LaplaceGuide(model)
    # Trials that failed have led rows to other roots, where the objective is another one.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = guide.fit(y, max_sweeps=40)
    loss = pef.LaplaceEvidence().loss(model, guide, y)
    assert fit.objective == pytest.approx(loss, abs=1e-9)
    torch.testing.assert_close(fit.latents, guide.latents(y).detach())


def test_the_search_for_a_start_counts_to_the_time_of_a_fit(monkeypatch):
    monkeypatch.setattr(model_fit, "start_blocks", lambda *args: time.sleep(0.2))
    block = pef.ExpFamPCA(pef.families.Poisson(), 3, 1, latent_scale=2.0)
    fit = pef.DEQMAPGuide(block).fit(torch.ones(8, 3), max_time=0.1)
    assert fit.sweeps[0].seconds >= 0.2
    assert (fit.chosen, len(fit.sweeps)) == (True, 1)
