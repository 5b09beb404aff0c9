"""Every warning names the line of the user, wherever it comes from."""

import re
import warnings
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroParam
from pyro.optim import Adam
from torch.distributions.constraints import positive

import pyro_expfam as pef

POISSON = pef.families.Poisson()
GAUSSIAN = pef.families.Gaussian(1.0)


def counts(num_rows=30, num_features=6):
    z, W = torch.randn(num_rows, 2), torch.randn(2, num_features)
    return torch.poisson(torch.exp(z @ W / 2))


def block(family=POISSON, latent_dim=1, **settings):
    return pef.ExpFamPCA(family, 6, latent_dim, **settings)


def unfinished_fit():
    pef.DEQMAPGuide(block()).fit(counts(), max_sweeps=1)


def unfinished_evidence_fit():
    pef.LaplaceGuide(block()).fit(counts(), loss=pef.LaplaceEvidence(), max_sweeps=1)


def fit_beside_a_learnable_scale():
    scale = PyroParam(torch.ones(()), constraint=positive)
    pef.DEQMAPGuide(block(loading_scale=scale)).fit(counts())


def collapsed_noise():
    y = torch.randn(30, 1) @ torch.randn(1, 6)
    model = block(pef.families.Gaussian(), loading_scale=None, intercept_scale=None)
    pef.DEQMAPGuide(model).fit(y, loss=pef.LaplaceEvidence())


def too_few_latents_tried():
    y = torch.poisson(torch.exp(torch.randn(60, 3) @ torch.randn(3, 6)))
    pef.compare_latent_dims(POISSON, y, [1, 2], num_folds=2)


def unsolved_latents():
    solver = pef.deq.FisherScoring(max_iter=1)
    pef.solve_latents(POISSON, counts(), torch.randn(6, 2), torch.zeros(6), solver=solver)


def unsolved_latents_of_a_layer():
    pef.DEQLayer(POISSON, 6, 2, max_iter=1)(20 * counts())


def unsolved_latents_in_a_step():
    model = block()
    guide = pef.DEQMAPGuide(model, solver=pef.deq.FisherScoring(max_iter=1))
    SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO()).step(20 * counts())


def another_table():
    trained = pef.DEQMAPGuide(block(GAUSSIAN))
    trained.fit(torch.randn(30, 6))
    pef.LaplaceGuide(trained.model, globals="laplace", params=trained)(torch.randn(20, 6))


def skew_posterior():
    y = counts()
    y[:, 0] = 0.0
    pef.LaplaceGuide(block(), globals="laplace").fit(y)


@pytest.mark.parametrize(
    ("warns", "message"),
    [
        (unfinished_fit, "the fit has not converged"),
        (unfinished_evidence_fit, "the fit has not converged"),
        (fit_beside_a_learnable_scale, "fit trains loading, intercept, and leaves"),
        (collapsed_noise, "the scale of the noise has run to"),
        (too_few_latents_tried, "dims should go further"),
        (unsolved_latents, "rows did not converge"),
        (unsolved_latents_of_a_layer, "rows did not converge"),
        (unsolved_latents_in_a_step, "rows did not converge"),
        (another_table, "y is not the table"),
        (skew_posterior, "too skew for a normal"),
    ],
)
def test_a_warning_names_the_line_of_its_user(warns, message):
    pyro.clear_param_store()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warns()
    found = [warning for warning in caught if re.search(message, str(warning.message))]
    assert found
    code = warns.__code__
    for warning in found:
        assert Path(warning.filename) == Path(__file__)
        last = max(line for _, _, line in code.co_lines() if line is not None)
        assert code.co_firstlineno < warning.lineno <= last


def test_no_module_warns_by_itself():
    package = Path(pef.__file__).parent
    own = [p for p in package.rglob("*.py") if "warnings.warn(" in p.read_text(encoding="utf-8")]
    assert own == [package / "user_warning.py"]
