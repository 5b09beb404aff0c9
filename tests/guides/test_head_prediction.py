"""A head on the latents of few weak columns predicts labels of new rows."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from sklearn.linear_model import LogisticRegression

import pyro_expfam as pef

NUM_TRAINED, NUM_NEW, HEAD, PRIOR_SCALE = 300, 4000, 2.5, 3.0
TRAINED, NEW = slice(0, NUM_TRAINED), slice(NUM_TRAINED, None)

ENOUGH = 0.003
"""Mean log scores that differ by less than this many nats per label count as equal."""


class Head(PyroModule):
    """Bits of a table, and a bit that depends on the latents."""

    def __init__(self, num_columns, latent_dim):
        super().__init__()
        self.table = pef.ExpFamPCA(pef.families.Bernoulli(), num_columns, latent_dim)
        self.weight = PyroSample(dist.Normal(0.0, PRIOR_SCALE).expand([latent_dim]).to_event(1))
        self.bias = PyroSample(dist.Normal(0.0, PRIOR_SCALE))

    def forward(self, y, label=None):
        z = self.table(y)
        logit = (z * self.weight).sum(-1) + self.bias
        with pyro.plate("labels", len(y)):
            pyro.sample("label", dist.Bernoulli(logits=logit), obs=label)
        return z


def simulated(seed, num_columns, latent_dim, strength):
    torch.manual_seed(seed)
    loading = strength * torch.randn(num_columns, latent_dim)
    z = torch.randn(NUM_TRAINED + NUM_NEW, latent_dim)
    return torch.bernoulli(torch.sigmoid(z @ loading.T)), torch.bernoulli(
        torch.sigmoid(HEAD * z[:, 0])
    )


def by_guide(y, label, latent_dim, condition_on):
    """Logits of the labels of new rows, from the modes of their latents given the table."""
    pyro.set_rng_seed(0)
    model = Head(y.shape[1], latent_dim)
    guide = pef.LaplaceGuide(model, condition_on=condition_on)
    assert guide.fit(y[TRAINED], label[TRAINED], progress=False).converged
    found = guide.median(y[NEW])
    return found["table.z"] @ found["weight"] + found["bias"]


def by_regression(x, label):
    """Logits of the labels of new rows by logistic regression, with the prior of the head."""
    regression = LogisticRegression(C=PRIOR_SCALE**2).fit(x[TRAINED], label[TRAINED])
    return torch.tensor(regression.decision_function(x[NEW]))


def frozen_latents(y, latent_dim):
    """Latents of a table that has never seen a label."""
    pyro.set_rng_seed(0)
    guide = pef.LaplaceGuide(
        pef.ExpFamPCA(pef.families.Bernoulli(), y.shape[1], latent_dim=latent_dim)
    )
    guide.fit(y[TRAINED], progress=False)
    with torch.no_grad():
        return guide.latents(y)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_columns", "latent_dim", "strength"), [(4, 1, 0.6), (4, 1, 1.0), (6, 2, 0.7)]
)
def test_a_head_on_weak_columns_predicts_as_well_as_any(num_columns, latent_dim, strength):
    scores = {}
    for seed in range(12):
        y, label = simulated(seed, num_columns, latent_dim, strength)
        logits = {
            "model": by_guide(y, label, latent_dim, "model"),
            "encoder": by_guide(y, label, latent_dim, "table"),
            "frozen": by_regression(frozen_latents(y, latent_dim), label),
            "regression": by_regression(y, label),
        }
        for name, logit in logits.items():
            score = dist.Bernoulli(logits=logit.double()).log_prob(label[NEW].double()).mean()
            right = ((logit > 0) == (label[NEW] > 0)).double().mean()
            scores.setdefault(name, []).append([float(score), float(right)])
    table = {name: torch.tensor(values) for name, values in scores.items()}
    for name in ("encoder", "frozen", "regression"):
        gain, more_right = (table["model"] - table[name]).mean(0)
        assert gain > -ENOUGH, name
        assert more_right > -ENOUGH, name
    # Labels teach the loading something.
    assert (table["model"] - table["frozen"]).mean(0)[0] > ENOUGH
