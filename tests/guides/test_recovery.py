"""The evidence finds the scale of the loading that made a table, which joint MAP cannot."""

import math

import pyro
import pytest
import torch

import pyro_expfam as pef

NUM_FEATURES, LATENT_DIM = 20, 2
FEW, MANY = 200, 3_200
KINDS = {
    "counts": (pef.families.Poisson(), 0.5),
    "bits": (pef.families.Bernoulli(), 0.0),
    "rare bits": (pef.families.Bernoulli(), -2.0),
}


class Tables:
    """Rows to fit and new ones, from a random loading."""

    def __init__(self, kind):
        self.family, shift = KINDS[kind]
        self.W = torch.randn(NUM_FEATURES, LATENT_DIM) / math.sqrt(LATENT_DIM)
        self.b = shift + 0.3 * torch.randn(NUM_FEATURES)
        self.y, self.new = self.draw(MANY), self.draw(4_000)

    def draw(self, num_rows):
        return self.family.sample(torch.randn(num_rows, LATENT_DIM) @ self.W.T + self.b)

    def recover(self, num_rows, loss):
        """Error of the loading, mean square of the latents, nats lost on a new row."""
        pyro.clear_param_store()
        guide = pef.LaplaceGuide(pef.ExpFamPCA(self.family, NUM_FEATURES, LATENT_DIM))
        y = self.y[:num_rows]
        assert guide.fit(y, loss=loss).converged
        found, true = guide.loading @ guide.loading.T, self.W @ self.W.T
        with torch.no_grad():
            posterior = guide.posterior(y)
        square = posterior.mean.square() + posterior.variance
        lost = self.evidence(self.W, self.b) - self.evidence(guide.loading, guide.intercept)
        return float((found - true).norm() / true.norm()), float(square.mean()), float(lost)

    def evidence(self, W, b):
        return pef.log_evidence(self.family, self.new, W, b, order=2).mean()


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("counts", 1),
        ("rare bits", 2),
        pytest.param("counts", 2, marks=pytest.mark.slow),
        pytest.param("bits", 1, marks=pytest.mark.slow),
        pytest.param("bits", 2, marks=pytest.mark.slow),
    ],
)
def test_with_more_rows_the_evidence_comes_to_the_loading(kind, order):
    tables, loss = Tables(kind), pef.LaplaceEvidence(order=order)
    error, _, lost = tables.recover(FEW, loss)
    error_of_many, square, lost_of_many = tables.recover(MANY, loss)
    assert error_of_many < 0.7 * error
    assert error_of_many < 0.4
    assert 0.85 < square < 1.15
    assert lost_of_many < lost / 4
    assert lost_of_many < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_with_more_rows_joint_map_goes_away_from_it(kind):
    tables = Tables(kind)
    error, square, lost = tables.recover(FEW, None)
    error_of_many, square_of_many, lost_of_many = tables.recover(MANY, None)
    assert error_of_many > 2 * error > 2
    assert square_of_many < square < 0.6
    assert lost_of_many > 0.9 * lost > 0.3


def test_on_rare_events_the_second_order_comes_closer():
    tables = Tables("rare bits")
    first, _, lost_by_first = tables.recover(MANY, pef.LaplaceEvidence())
    second, _, lost_by_second = tables.recover(MANY, pef.LaplaceEvidence(order=2))
    assert second < first
    assert lost_by_second < lost_by_first


def test_on_few_bits_the_second_order_has_no_bound():
    """A table of bits has a probability below one: this is why to train on the first order."""
    y, W = torch.randn(200, 5).sign().clamp(min=0), 1_000 * torch.randn(5, 2)
    first, second = (
        float(pef.log_evidence(pef.families.Bernoulli(), y, W, torch.zeros(5), order=order).sum())
        for order in (1, 2)
    )
    assert first < 0 < second
