"""The expected information of compiled laws, near and far, against the family's."""

import pytest
import torch

pytest.importorskip("numba")

import pyro_expfam as pef
from pyro_expfam.deq import LatentProblem
from pyro_expfam.deq.activation import evidence_activation_of
from pyro_expfam.deq.cpu.law_informations import INFORMATIONS
from pyro_expfam.deq.cpu.law_terms import law_terms

F, L = pef.families, pef.links
LAWS = [
    F.ZeroInflatedPoisson(0.3),
    F.ZeroInflatedNegativeBinomial(2.0, 0.3),
    F.ZeroInflatedNegativeBinomial(1e6, 0.9),
    F.Beta(5.0),
    F.Beta(1e4),
    F.NegativeBinomial(2.0, link=L.Softplus()),
    F.Gamma(2.0, link=L.Softplus()),
    F.Tweedie(1.5, 1.2, link=L.Softplus()),
    F.Gaussian(0.5, link=L.Softplus()),
    F.Gaussian(0.5, link=L.Log()),
]
FAR = torch.tensor([-300.0, -100.0, -40.0, 39.0, 41.0, 100.0, 300.0], dtype=torch.float64)


def informations(family, eta):
    """The informations of a row in which an entry of 0.4 or 1 stands at each linear predictor."""
    number = len(eta)
    y = torch.full((1, number), 0.4 if isinstance(family, F.Beta) else 1.0).double()
    one = torch.ones(()).double()
    problem = LatentProblem(family, y, torch.zeros(number, 1).double(), eta, one)
    matrices = torch.stack([eta, eta, eta])[:, None].clone()
    return law_terms(problem, matrices)[2][0], family.information(eta, y[0])


@pytest.mark.parametrize("family", LAWS, ids=repr)
def test_informations_are_those_of_the_family(family):
    eta = torch.cat([FAR, torch.linspace(-20, 20, 161).double(), torch.randn(50).double()])
    found, expected = informations(family, eta)
    assert bool((found >= 0).all())
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-200)


def test_all_laws_that_are_not_convex_are_here():
    names = {evidence_activation_of(family).name for family in LAWS}
    assert names == set(INFORMATIONS)
