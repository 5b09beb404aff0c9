"""Sites that only predict from the latents, such as labels that are not given."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule

import pyro_expfam as pef


class WithLabels(PyroModule):
    def __init__(self, law):
        super().__init__()
        self.table = pef.ExpFamPCA(pef.families.Poisson(), 6, latent_dim=2)
        self.head = torch.nn.Linear(2, 1)
        self.law = law

    def forward(self, y, labels=None):
        z = self.table(y)
        with pyro.plate("rows", len(y)):
            return pyro.sample("label", self.law(self.head(z).squeeze(-1)), obs=labels)


def bits(logits):
    return dist.Bernoulli(logits=logits)


def reals(loc):
    return dist.Normal(loc, 1.0)


GUIDES = (pef.DEQMAPGuide, pef.LaplaceGuide)


@pytest.fixture
def y():
    return torch.poisson(torch.ones(20, 6))


@pytest.mark.parametrize("law", [bits, reals])
@pytest.mark.parametrize("guide_of", GUIDES)
def test_the_first_call_may_leave_labels_out(guide_of, law, y):
    guide = guide_of(WithLabels(law))
    assert set(guide(y)) == {"table.loading", "table.intercept", "table.z"}
    # The number of rows may change, and labels may be given.
    guide(y[:7])
    with_labels, without = guide.median(y, torch.ones(20)), guide.median(y)
    assert set(with_labels) == set(without)
    assert not torch.allclose(with_labels["table.z"], without["table.z"])


@pytest.mark.parametrize("guide_of", GUIDES)
def test_a_saved_guide_predicts_before_it_sees_labels(guide_of, y):
    model = WithLabels(bits)
    trained = guide_of(model)
    svi = SVI(model, trained, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(y, torch.ones(20))
    model, state = copy.deepcopy(model), trained.state_dict()
    fresh = guide_of(model)
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh.median(y)["table.z"], trained.median(y)["table.z"])


def test_training_without_labels_of_a_discrete_law_says_what_to_do(y):
    model = WithLabels(bits)
    svi = SVI(model, pef.DEQMAPGuide(model), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    with pytest.raises(ValueError, match="'label' must be observed in training, or be enumerated"):
        svi.step(y)


def test_a_latent_that_is_observed_through_others_is_no_prediction(y):
    """The guide needs a value of a site that an observation depends on."""

    class Noisy(WithLabels):
        def forward(self, y, labels=None):
            z = self.table(y)
            with pyro.plate("rows", len(y)):
                true = pyro.sample("true", reals(self.head(z).squeeze(-1)))
                return pyro.sample("label", dist.Normal(true, 0.1), obs=labels)

    guide = pef.DEQMAPGuide(Noisy(reals))
    assert "true" in guide(y, torch.ones(20))
    guide = pef.DEQMAPGuide(Noisy(reals))
    assert set(guide(y)) == {"table.loading", "table.intercept", "table.z"}
