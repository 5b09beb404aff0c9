"""Fisher scoring of a table sets what SVI trains, under the loss that SVI has."""

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroSample
from pyro.optim import Adam
from quick_cases import in_turn
from torch.utils.data import DataLoader, TensorDataset

import pyro_expfam as pef

FAMILY = pef.families.Poisson()


def counts(num_rows=80, num_features=7):
    rate = torch.exp(torch.randn(num_rows, 2) @ torch.randn(2, num_features))
    return torch.poisson(rate).double()


def block(**settings):
    return pef.ExpFamPCA(FAMILY, 7, 2, **settings).double()


GIVEN = ["nothing", "mask", "offset", "weights", "mask and weights"]
BOTH_GUIDES = [pef.DEQMAPGuide, pef.LaplaceGuide]


def given_arguments(given):
    return {
        "nothing": {},
        "mask": {"mask": torch.rand(80, 7) < 0.8},
        "offset": {"offset": torch.randn(80, 1).double()},
        "weights": {"weights": 2 * torch.rand(80, 7).double()},
        "mask and weights": {
            "mask": torch.rand(80, 7) < 0.8,
            "weights": torch.randint(0, 3, (1, 7)).double(),
        },
    }[given]


@pytest.mark.parametrize(
    ("make", "settings", "given"),
    in_turn(BOTH_GUIDES, [{}, {"intercept_scale": None}, {"intercept_scale": 0.5}], GIVEN),
)
def test_its_objective_is_the_loss_of_trace_elbo(make, settings, given):
    y, arguments = counts(), given_arguments(given)
    model = block(**settings)
    guide = make(model)
    fit = guide.fit(y, tol=1e-12, loss=None, **arguments)
    assert fit.converged
    latents = pef.DEQMAPGuide(model)
    latents(y, **arguments)
    with torch.no_grad():
        if settings == {"intercept_scale": None}:
            latents.global_guide.loading.copy_(guide.loading)
        else:
            latents.load_state_dict(guide.state_dict())
    loss = Trace_ELBO().differentiable_loss(model, latents, y, **arguments)
    assert fit.objective == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(fit.latents, guide.latents(y, **arguments), rtol=0.0, atol=1e-8)
    loss.backward()
    for parameter in (*latents.parameters(), *model.parameters()):
        assert parameter.grad.abs().max() < 1e-3


@pytest.mark.parametrize(
    ("order", "settings", "given", "make"),
    in_turn(
        [1, 2],
        [{}, {"intercept_scale": None}, {"intercept_scale": 0.5, "latent_precision": 2.0}],
        GIVEN,
        BOTH_GUIDES,
    ),
)
def test_its_objective_is_the_loss_of_the_evidence(make, order, settings, given):
    y, arguments = counts(), given_arguments(given)
    model, loss = block(**settings), pef.LaplaceEvidence(order=order)
    guide = make(model)
    fit = guide.fit(y, tol=1e-12, loss=loss, **arguments)
    assert fit.converged
    objectives = [sweep.objective for sweep in fit.sweeps]
    assert objectives == sorted(objectives, reverse=True)
    torch.testing.assert_close(fit.latents, guide.latents(y, **arguments), rtol=0.0, atol=1e-8)
    value = loss.differentiable_loss(model, guide, y, **arguments)
    assert fit.objective == pytest.approx(value.item(), rel=1e-12)
    value.backward()
    for parameter in guide.parameters():
        assert parameter.grad.abs().max() < 2e-3


@pytest.mark.parametrize(
    ("make", "loss"), [(pef.DEQMAPGuide, None), (pef.LaplaceGuide, pef.LaplaceEvidence(order=1))]
)
def test_each_guide_is_fitted_by_its_own_objective(make, loss):
    y = counts()
    fits = []
    for settings in ({}, {"loss": loss}):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        fits.append(make(block()).fit(y, **settings))
    assert fits[0].objective == fits[1].objective
    torch.testing.assert_close(fits[0].latents, fits[1].latents)


def test_the_posteriors_of_latents_around_the_joint_estimate():
    y, model = counts(), block()
    joint = pef.DEQMAPGuide(model)
    joint.fit(y)
    loading = joint.loading.clone()
    guide = pef.LaplaceGuide(model, params=joint)
    torch.testing.assert_close(guide.posterior(y).mean, joint.latents(y))
    assert torch.equal(guide.loading, loading)
    # A fit trains what both share, from there.
    evidence = guide.fit(y)
    assert not torch.allclose(joint.loading, loading, rtol=1e-3)
    assert torch.equal(joint.loading, guide.loading)
    pyro.clear_param_store()
    alone = pef.LaplaceGuide(block()).fit(y)
    assert evidence.objective == pytest.approx(alone.objective, rel=1e-7)


def test_batches_of_an_offset_are_no_table():
    with pytest.raises(ValueError, match=r"y must have shape \(rows, 7\), got \(3, 80, 7\)"):
        pef.DEQMAPGuide(block()).fit(counts(), offset=torch.zeros(3, 1, 1).double())


def test_point_parameters_are_fitted_by_the_evidence():
    y, model = counts(), block(loading_scale=None, intercept_scale=None)
    guide, loss = pef.DEQMAPGuide(model), pef.LaplaceEvidence()
    fit = guide.fit(y, tol=1e-12, loss=loss)
    assert fit.converged
    value = loss.differentiable_loss(model, guide, y)
    assert fit.objective == pytest.approx(value.item(), rel=1e-12)
    value.backward()
    assert max(x.grad.abs().max() for x in model.parameters()) < 2e-3


def test_single_precision_has_the_evidence_of_double():
    y, loss = counts(), pef.LaplaceEvidence(order=2)
    double = pef.DEQMAPGuide(block()).fit(y, loss=loss)
    pyro.clear_param_store()
    guide = pef.DEQMAPGuide(block().float())
    single = guide.fit(y, loss=loss)
    assert single.converged
    assert guide.loading.dtype == single.latents.dtype == torch.float32
    assert single.objective == pytest.approx(double.objective, rel=1e-6)
    assert single.objective == pytest.approx(loss.loss(guide.model, guide, y), rel=1e-6)


@pytest.mark.parametrize("loss", [None, pef.LaplaceEvidence()])
def test_limits_end_a_fit_under_every_loss(loss):
    seen, y = [], counts()
    message = "the fit has not converged, because max_sweeps, 2, have been taken. The guide has"
    with pytest.warns(pef.ConvergenceWarning, match=message):
        fit = pef.DEQMAPGuide(block()).fit(y, loss=loss, max_sweeps=2, callback=seen.append)
    assert (fit.converged, fit.chosen) == (False, False)
    assert fit.reason == "max_sweeps, 2, have been taken"
    # On the way to the start a sweep has no objective.
    assert tuple(x for x in seen if x.number or x.objective < torch.inf) == fit.sweeps


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("limits", [{"max_time": 1e-9}, {"callback": lambda sweep: True}])
@pytest.mark.parametrize("loss", [None, pef.LaplaceEvidence()])
def test_an_end_that_was_chosen_is_no_warning(loss, limits):
    fit = pef.DEQMAPGuide(block()).fit(counts(), loss=loss, **limits)
    assert (fit.converged, fit.chosen, len(fit.sweeps)) == (False, True, 1)


@pytest.mark.parametrize("make", BOTH_GUIDES)
def test_ctrl_c_leaves_the_guide_with_its_best_coefficients(make):
    def press(sweep):
        if len(seen) == 3:
            raise KeyboardInterrupt
        if sweep.objective < torch.inf:
            seen.append(sweep)

    seen, y, model = [], counts(), block()
    guide = make(model)
    with pytest.warns(UserWarning, match=r"ended early, because it was interrupted by Ctrl-C") as w:
        fit = guide.fit(y, callback=press)
    assert not any(isinstance(warning.message, pef.ConvergenceWarning) for warning in w)
    assert (fit.converged, fit.chosen) == (False, True)
    assert fit.objective < seen[0].objective
    # Another fit goes on from there.
    fit_again = guide.fit(y)
    assert fit_again.converged
    # Its latents are solved for, and may be better than those of the interrupted fit.
    assert fit_again.sweeps[0].objective <= fit.objective * (1 + 1e-6)


def test_ctrl_c_leaves_the_posterior_of_the_coefficients_to_be_made():
    def press(sweep):
        if sweep.objective < torch.inf:
            raise KeyboardInterrupt

    y, model = counts(), block()
    guide = pef.LaplaceGuide(model, globals="laplace")
    with pytest.warns(UserWarning, match="interrupted by Ctrl-C"):
        guide.fit(y, callback=press)
    with pytest.raises(RuntimeError, match="no posterior of loading and intercept"):
        guide.coefficients  # noqa: B018
    guide.update_globals(y)
    assert guide.coefficients.mode.isfinite().all()


def test_huge_counts_that_end_unconverged_are_a_warning():
    model = pef.ExpFamPCA(FAMILY, 7, 2)
    with pytest.warns(pef.ConvergenceWarning, match="the fit has not converged"):
        fit = pef.DEQMAPGuide(model).fit(counts() * 1e9, max_sweeps=2)
    assert not fit.converged


def test_a_fit_without_a_finite_objective_warns(monkeypatch):
    def overflowing(method):
        return lambda *args: method(*args)._replace(objective=float("nan"))

    for name in ("derivatives", "columns"):
        method = getattr(pef.joint.JointProblem, name)
        monkeypatch.setattr(pef.joint.JointProblem, name, overflowing(method))
    with pytest.warns(pef.ConvergenceWarning, match="ended at the objective nan, because"):
        fit = pef.DEQMAPGuide(block()).fit(counts())
    assert not fit.converged


@pytest.mark.parametrize(
    ("make", "settings", "loss"),
    in_turn(
        BOTH_GUIDES,
        [{}, {"loading_scale": None}, {"intercept_scale": 3.0}],
        [None, pef.LaplaceEvidence()],
    ),
)
def test_a_guide_that_has_only_been_called_starts_from_the_spectrum(make, settings, loss):
    # A flat loading has no best scale, and its joint estimate no end.
    limits = {"max_time": 1e-9}
    y, offset = counts(), 7 + 0.3 * torch.randn(80, 1).double()
    expected = make(block(**settings)).fit(y, offset, loss=loss, **limits)
    pyro.clear_param_store()
    guide = make(block(**settings))
    guide(y, offset)
    guide.median(y, offset)
    fit = guide.fit(y, offset, loss=loss, **limits)
    assert fit.objective == pytest.approx(expected.objective, rel=1e-12)
    # The next fit begins at the parameters learnt so far, also after a call of the guide.
    guide(y, offset)
    again = guide.fit(y, offset, loss=loss, **limits)
    assert again.objective <= fit.objective


@pytest.mark.parametrize(("make", "called"), in_turn(BOTH_GUIDES, [False, True]))
def test_a_guide_whose_state_was_loaded_goes_on_from_there(make, called):
    y, guide = counts(), make(block())
    guide.fit(y, loss=None)
    state = guide.state_dict()
    fit = guide.fit(y, loss=None, max_time=1e-9)
    other = make(block())
    if called:
        other(y)
    other.load_state_dict(state)
    other(y)
    again = other.fit(y, loss=None, max_time=1e-9)
    assert again.objective == pytest.approx(fit.objective, rel=1e-12)


@pytest.mark.parametrize("make", BOTH_GUIDES)
def test_a_guide_that_is_called_after_a_fit_goes_on_from_it(make):
    y = counts()
    guide = make(block())
    first = guide.fit(y)
    guide(y)
    starts = []
    guide.fit(y, callback=lambda sweep: starts.append(sweep.objective))
    # Latents of a first sweep are solved less exactly.
    assert starts[0] == pytest.approx(first.objective, rel=1e-4)


def test_a_fit_from_a_stuck_guide_starts_again():
    y, offset = counts(), 7 + 0.3 * torch.randn(80, 1).double()
    expected = pef.DEQMAPGuide(block()).fit(y, offset)
    pyro.clear_param_store()
    guide = pef.DEQMAPGuide(block())
    SVI(guide.model, guide, Adam({"lr": 1e-4}), Trace_ELBO()).step(y, offset)
    fit = guide.fit(y, offset)
    assert fit.converged
    assert fit.objective == pytest.approx(expected.objective, rel=1e-5)


@pytest.mark.parametrize("order", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_batches_have_the_evidence_of_the_table(order):
    y, offset = counts(), torch.randn(80, 1).double()
    model, loss = block(), pef.LaplaceEvidence(order=order)
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(DataLoader(TensorDataset(y, offset), batch_size=30), tol=1e-12, loss=loss)
    assert fit.converged
    assert fit.objective == pytest.approx(loss.loss(model, guide, y, offset), rel=1e-12)
    pyro.clear_param_store()
    whole = pef.DEQMAPGuide(block()).fit(y, offset, tol=1e-12, loss=loss)
    assert fit.objective == pytest.approx(whole.objective, rel=1e-9)


def test_a_loader_serves_as_a_table():
    y, offset = counts(), torch.randn(80, 1).double()
    model = block()
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(DataLoader(TensorDataset(y, offset), batch_size=13), tol=1e-12)
    assert fit.converged
    loss = Trace_ELBO().loss(model, guide, y, offset)
    assert fit.objective == pytest.approx(loss, rel=1e-12)
    message = "offset, mask, weights and covariates must be None where y is a load"
    with pytest.raises(ValueError, match=message):
        guide.fit(DataLoader(y), offset=offset)


def test_totals_by_row():
    total = torch.randint(1, 20, (60, 1))
    family = pef.families.Binomial(total)
    y = torch.binomial(total.double().expand(60, 7), torch.rand(60, 7).double())
    model = pef.ExpFamPCA(family, 7, 2).double()
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(y, tol=1e-12)
    assert fit.objective == pytest.approx(Trace_ELBO().loss(model, guide, y), rel=1e-12)
    loss = pef.LaplaceEvidence()
    fit = guide.fit(y, tol=1e-12, loss=loss)
    assert fit.objective == pytest.approx(loss.loss(model, guide, y), rel=1e-12)


@pytest.mark.parametrize("loss", [None, pef.LaplaceEvidence(), pef.LaplaceEvidence(order=2)])
def test_training_goes_on_by_either_way(loss):
    y = counts()
    model = block()
    guide = pef.DEQMAPGuide(model)
    svi = SVI(model, guide, Adam({"lr": 0.01}), loss or Trace_ELBO())
    before = [svi.step(y) for _ in range(20)][-1]
    fit = guide.fit(y, loss=loss)
    assert fit.sweeps[0].objective <= before
    after = svi.step(y)
    assert after == pytest.approx(fit.objective, rel=1e-9)
    assert len(guide.fit(y, loss=loss).sweeps) < len(fit.sweeps)


@pytest.mark.parametrize("loss", [None, pef.LaplaceEvidence()])
def test_a_guide_that_shares_parameters_trains_them(loss):
    y = counts()
    model = block()
    guide = pef.DEQMAPGuide(model)
    laplace = pef.LaplaceGuide(model, params=guide)
    assert laplace.fit(y, loss=loss).converged
    assert torch.equal(laplace.loading, guide.loading)
    assert not list(laplace.parameters())


def test_progress_shows_sweep_and_objective_but_no_estimate_of_time(capsys):
    fit = pef.DEQMAPGuide(block()).fit(counts(), progress=True)
    first, *_, last = re.split(r"[\r\n]+", capsys.readouterr().err.strip())
    assert first.startswith("fit: finding a start")
    assert not re.search(r"\d", first)
    assert last.startswith(f"fit: sweep {fit.sweeps[-1].number}, objective {fit.objective:,.2f}")


@pytest.mark.parametrize(("is_terminal", "progress"), [(True, None), (False, None), (True, False)])
def test_progress_is_shown_where_somebody_watches(is_terminal, progress, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    pef.DEQMAPGuide(block()).fit(counts(), progress=progress)
    assert bool(capsys.readouterr().err) == (is_terminal and progress is None)


def laplace_prior(model):
    model.loading = PyroSample(dist.Laplace(0.0, 1.0).expand([7, 2]).to_event(2))
    return model


def random_precision(model):
    model.latent_precision = PyroSample(dist.Gamma(2.0, 2.0))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pef.DEQMAPGuide(laplace_prior(block())), "loading must have the block's Gaussian"),
        (lambda: pef.DEQMAPGuide(random_precision(block())), "fit wants a known latent_precision"),
        (
            lambda: pef.DEQMAPGuide(block(), global_guide=AutoNormal),
            "fit finds point estimates.*got AutoNormal",
        ),
    ],
)
@pytest.mark.parametrize("loss", [None, pef.LaplaceEvidence()])
def test_tables_and_models_that_cannot_be_fitted_are_refused(make, message, loss):
    with pytest.raises(ValueError, match=message):
        make().fit(counts(), loss=loss)


@pytest.mark.parametrize(("loss", "name"), [(Trace_ELBO(), "Trace_ELBO"), ("evidence", "str")])
def test_another_loss_is_refused(loss, name):
    message = f"loss must be a pyro_expfam.LaplaceEvidence, or None for the joint .*, got {name}:"
    with pytest.raises(TypeError, match=message):
        pef.DEQMAPGuide(block()).fit(counts(), loss=loss)


def test_bad_rows_are_refused_before_anything_changes():
    guide = pef.DEQMAPGuide(block())
    guide.fit(counts())
    before = guide.loading.clone()
    with pytest.raises(ValueError, match="y must be in the support of Poisson"):
        guide.fit(counts() + 0.5)
    assert torch.equal(guide.loading, before)


def bits(num_rows, num_features):
    eta = torch.randn(num_rows, 2) @ torch.randn(2, num_features)
    return torch.bernoulli(torch.sigmoid(eta))


@pytest.mark.filterwarnings("ignore:the fit has not converged")
def test_rows_that_would_be_more_than_certain_are_a_warning():
    y = bits(200, 5)
    model = pef.ExpFamPCA(pef.families.Bernoulli(), 5, 2, loading_scale=None)
    guide = pef.DEQMAPGuide(model)
    guide(y)
    with torch.no_grad():
        # Where the expansion no longer holds.
        model.loading.mul_(100)
    with pytest.warns(pef.ConvergenceWarning, match="of 200 rows is above 0, up to"):
        fit = guide.fit(y, loss=pef.LaplaceEvidence(order=2), max_sweeps=20)
    assert fit.objective < 0


@pytest.mark.filterwarnings("error")
def test_densities_and_ordinary_fits_to_second_order_are_no_warning():
    for family, y in (
        (pef.families.Bernoulli(), bits(200, 20)),
        # Densities above one are no fault.
        (pef.families.Gaussian(0.01), 0.01 * torch.randn(100, 6)),
    ):
        pyro.clear_param_store()
        guide = pef.DEQMAPGuide(pef.ExpFamPCA(family, y.shape[1], 2))
        guide.fit(y, loss=pef.LaplaceEvidence(order=2))


class Ending:
    """Batches that end with an error in a later pass."""

    def __init__(self, y):
        self.y, self.passes = y, 0

    def __iter__(self):
        self.passes += 1
        yield self.y[:40]
        if self.passes > 4:
            raise OSError("the disk is gone")
        yield self.y[40:]


def ended_by_callback(guide, y):
    def callback(_):
        raise KeyboardInterrupt

    guide.fit(y, callback=callback, num_starts=3)


@pytest.mark.parametrize("kind", ["joint", "evidence", "globals", "shared"])
@pytest.mark.parametrize(
    ("fit", "error"),
    [(ended_by_callback, KeyboardInterrupt), (lambda guide, y: guide.fit(Ending(y)), OSError)],
)
def test_a_first_fit_that_fails_leaves_a_guide_that_has_seen_nothing(kind, fit, error):
    y = torch.poisson(torch.exp(torch.randn(80, 2) @ torch.randn(2, 5) / 2))
    model = pef.ExpFamPCA(pef.families.Poisson(), 5, 2)
    guide = {
        "joint": lambda: pef.DEQMAPGuide(model),
        "evidence": lambda: pef.LaplaceGuide(model),
        "globals": lambda: pef.LaplaceGuide(model, globals="laplace"),
        "shared": lambda: pef.LaplaceGuide(model, params=pef.DEQMAPGuide(model)),
    }[kind]()
    with pytest.raises(error):
        fit(guide, y)
    for read in (lambda: guide.latents(y), lambda: guide.loading):
        with pytest.raises(RuntimeError, match="the guide has not seen data yet"):
            read()
    assert not guide.is_trained
    torch.manual_seed(1)
    again = guide.fit(y, num_starts=2)
    torch.manual_seed(1)
    new = type(guide)(pef.ExpFamPCA(pef.families.Poisson(), 5, 2)).fit(y, num_starts=2)
    assert again.objective == pytest.approx(new.objective, rel=1e-6)


def test_a_further_fit_that_fails_leaves_what_has_been_learnt():
    y = torch.poisson(torch.exp(torch.randn(80, 2) @ torch.randn(2, 5) / 2))
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 5, 2))
    guide.fit(y)
    latents = guide.latents(y)
    with pytest.raises(OSError, match="disk"):
        guide.fit(Ending(y + 1))
    torch.testing.assert_close(guide.latents(y), latents)
