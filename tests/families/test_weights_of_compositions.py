"""Weights that differ within a composition are refused at every door."""

import pyro
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam import families

NUM_ROWS, NUM_PARTS = 6, 4
FAMILY = families.Multinomial()


@pytest.fixture(autouse=True)
def clean():
    pyro.clear_param_store()
    torch.manual_seed(0)


def observed():
    return torch.distributions.Multinomial(10, torch.ones(NUM_PARTS)).sample((NUM_ROWS,))


def weights():
    return torch.rand(NUM_ROWS, NUM_PARTS) + 0.5


def block():
    return pef.ExpFamPCA(FAMILY, NUM_PARTS, 2)


def fitted(kind):
    guide = kind(block())
    guide.fit(observed(), max_sweeps=50)
    return guide


def svi_step():
    model = block()
    svi = pyro.infer.SVI(
        model, pef.DEQMAPGuide(model), pyro.optim.Adam({}), pyro.infer.Trace_ELBO()
    )
    svi.step(observed(), weights=weights())


def coefficients():
    return torch.randn(NUM_PARTS, 2), torch.zeros(NUM_PARTS)


def beside_counts():
    family = families.Columns(
        [(slice(0, NUM_PARTS), FAMILY), (slice(NUM_PARTS, NUM_PARTS + 1), families.Poisson())]
    )
    y = torch.cat([observed(), torch.ones(NUM_ROWS, 1)], 1)
    W, b = torch.randn(NUM_PARTS + 1, 2), torch.zeros(NUM_PARTS + 1)
    pef.solve_latents(family, y, W, b, weights=torch.rand(NUM_ROWS, NUM_PARTS + 1))


def mapped():
    y, (W, b) = observed(), coefficients()

    def value(w):
        return pef.solve_latents(FAMILY, y, W, b, weights=w).value

    torch.func.vmap(value)(torch.stack([weights(), weights()]))


DOORS = {
    "solve_latents": lambda: pef.solve_latents(
        FAMILY, observed(), *coefficients(), weights=weights()
    ),
    "log_evidence": lambda: pef.log_evidence(
        FAMILY, observed(), *coefficients(), weights=weights()
    ),
    "layer": lambda: pef.deq.DEQLayer(FAMILY, NUM_PARTS, 2)(observed(), weights=weights()),
    "vmap": mapped,
    "mixed columns": beside_counts,
    "block": lambda: block()(observed(), weights=weights()),
    "log_prob": lambda: (
        pyro.poutine.trace(block()).get_trace(observed(), weights=weights()).log_prob_sum()
    ),
    "SVI": svi_step,
    "fit": lambda: pef.DEQMAPGuide(block()).fit(observed(), weights=weights()),
    "fit of batches": lambda: pef.DEQMAPGuide(block()).fit([(observed(), None, None, weights())]),
    "fit of a sparse table": lambda: pef.DEQMAPGuide(block()).fit(
        observed().to_sparse_csr(), weights=weights()
    ),
    "latents": lambda: fitted(pef.DEQMAPGuide).latents(observed(), weights=weights()),
    "encoder": lambda: pef.DEQEncoder(fitted(pef.DEQMAPGuide))(observed(), weights=weights()),
    "evidence": lambda: fitted(pef.LaplaceGuide).log_evidence(observed(), weights=weights()),
    "estimator": lambda: pef.ExponentialFamilyPCA(2, family=FAMILY).fit(
        observed(), weights=weights()
    ),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_weights_that_differ_within_a_row_are_refused(door):
    with pytest.raises(ValueError, match="weights must be the same for all entries of a row"):
        door()
