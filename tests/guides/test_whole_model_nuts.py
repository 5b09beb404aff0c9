"""Posteriors of whole models against Hamiltonian Monte Carlo, and their calibration."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.nn import PyroModule
from scipy.stats import chi2, kstest

import pyro_expfam as pef

LATENTS = 2
F = pef.families
POINT = {"loading_scale": None, "intercept_scale": None}


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.enable_validation(False)
    yield
    pyro.enable_validation(True)
    torch.set_default_dtype(before)


class Known(PyroModule):
    """Two tables, whose loadings and intercepts are known."""

    def __init__(self, first: int = 6, second: int = 30) -> None:
        super().__init__()
        self.counts = pef.ExpFamPCA(F.Poisson(), first, LATENTS, **POINT)
        self.bits = pef.ExpFamPCA(F.Bernoulli(), second, LATENTS, **POINT)
        self.weight = 1.5 * torch.randn(LATENTS)
        self.means = torch.randn(3, LATENTS)
        for block, scale in ((self.counts, 0.4), (self.bits, 0.8)):
            with torch.no_grad():
                block.loading.copy_(scale * torch.randn_like(block.loading))
                block.intercept.copy_(0.3 * torch.randn_like(block.intercept))


class TwoViews(Known):
    """The tables share their latents."""

    def forward(self, counts, bits, label, group, num_rows=None):
        return self.bits(bits, z=self.counts(counts, num_rows=num_rows), num_rows=num_rows)


class Head(Known):
    """A label depends on the latents."""

    def forward(self, counts, bits, label, group, num_rows=None):
        z = self.counts(counts, num_rows=num_rows)
        with pyro.plate("labels", z.shape[-2]):
            pyro.sample("label", dist.Bernoulli(logits=2 * z @ self.weight), obs=label)
        return z


class Groups(Known):
    """Groups of rows have means of their own."""

    def forward(self, counts, bits, label, group, num_rows=None):
        return self.counts(counts, latent_loc=self.means[group], num_rows=num_rows)


MODELS = [TwoViews, Head, Groups]
NUM_DRAWS, NUM_WARMUP, NUM_COPIES, NUM_ROWS = 300, 200, 40, 4


def simulated(model, num_rows):
    """Latents and observations of some rows, drawn from the model."""
    group = torch.arange(num_rows) % 3
    trace = poutine.trace(model).get_trace(None, None, None, group, num_rows=num_rows)
    values = {name: trace.nodes[name]["value"] for name in trace.nodes if name in SITES}
    args = (values["counts.y"], values.get("bits.y"), values.get("label"), group)
    return values["counts.z"], args


SITES = ("counts.z", "counts.y", "bits.y", "label")


@pytest.mark.slow
@pytest.mark.parametrize("make", MODELS, ids=lambda kind: kind.__name__)
def test_means_and_deviations_agree_with_nuts(make):
    pyro.set_rng_seed(4)
    # The posterior of few columns and a label is far from normal.
    model = make(6 if make is TwoViews else 40)
    _, args = simulated(model, NUM_ROWS)
    copies = [None if x is None else x.repeat(NUM_COPIES, *[1] * (x.dim() - 1)) for x in args]
    mcmc = MCMC(NUTS(model), num_samples=NUM_DRAWS, warmup_steps=NUM_WARMUP, disable_progbar=True)
    mcmc.run(*copies)
    draws = mcmc.get_samples()["counts.z"].unflatten(1, (NUM_COPIES, NUM_ROWS)).flatten(0, 1)
    mean, deviation = draws.mean(0), draws.std(0)

    guide = pef.LaplaceGuide(model)
    guide(*args)
    (root,) = guide.roots(*args)
    covariance = torch.linalg.inv(root.problem.information(root.solution.value))
    sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    shifted = pef.evidence.second_order_mean(root.problem, root.solution.value)
    corrected = pef.evidence.second_order_covariance(root.problem, root.solution.value)
    second = corrected.diagonal(dim1=-2, dim2=-1).sqrt()
    far = ((root.solution.value - mean).abs() / deviation).max()
    print(make.__name__, f"mean {far:.3f} sd", f"sd {((sd / deviation - 1).abs().max()):.3f}")
    print(
        f"second order: mean {((shifted - mean).abs() / deviation).max():.3f} sd",
        f"sd {((second / deviation - 1).abs().max()):.3f}",
    )
    assert float(far) <= 0.2
    assert float((sd / deviation - 1).abs().max()) <= 0.1


@pytest.mark.parametrize("make", MODELS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "num_rows", [400, pytest.param(4000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_posteriors_are_calibrated(make, num_rows):
    pyro.set_rng_seed(5)
    model = make()
    z, args = simulated(model, num_rows)
    guide = pef.LaplaceGuide(model)
    guide(*args)
    (root,) = guide.roots(*args)
    with torch.no_grad():
        mean = pef.evidence.second_order_mean(root.problem, root.solution.value)
        covariance = pef.evidence.second_order_covariance(root.problem, root.solution.value)
    away = (z - mean).unsqueeze(-1)
    square = (away.mT @ torch.linalg.solve(covariance, away)).flatten()
    levels = chi2(LATENTS).cdf(square.detach().numpy())
    coverage = float((levels <= 0.9).mean())
    print(make.__name__, num_rows, f"coverage of 90% regions {coverage:.3f}")
    assert kstest(levels, "uniform").pvalue > 0.001
    slack = 4 * (0.09 / num_rows) ** 0.5 + 0.01
    assert abs(coverage - 0.9) < slack


def test_a_second_table_tells_of_latents_that_the_first_hardly_knows():
    pyro.set_rng_seed(6)
    model = TwoViews(4, 40)
    z, args = simulated(model, 1000)
    guide = pef.DEQMAPGuide(model)
    both = guide(*args)["counts.z"]
    alone = guide.block("counts").latents(args[0])

    def explained(found):
        return 1 - float((z - found).square().sum() / (z - z.mean(0)).square().sum())

    print(f"R squared of 4 columns {explained(alone):.2f}, of 44 columns {explained(both):.2f}")
    assert explained(both) > explained(alone) + 0.2
    # The posterior mean explains most of all; the mode of a nearly normal posterior as much.
    (root,) = guide.roots(*args)
    mean = pef.evidence.second_order_mean(root.problem, root.solution.value)
    assert explained(both) > explained(mean) - 0.02
