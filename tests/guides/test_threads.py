"""Reading and fitting guides from many threads at once."""

from concurrent.futures import ThreadPoolExecutor

import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoGaussian, AutoNormal
from pyro.nn import PyroModule
from pyro.poutine.runtime import _PYRO_STACK

import pyro_expfam as pef

NUM_THREADS = 8

GUIDES = {
    "point": pef.LaplaceGuide,
    "normal": lambda model: pef.LaplaceGuide(model, global_guide=AutoNormal),
    "of Pyro alone": lambda model: pef.LaplaceGuide(model, global_guide=AutoGaussian),
    "globals": lambda model: pef.LaplaceGuide(model, globals="laplace"),
    "shared": lambda model: pef.LaplaceGuide(model, params=pef.DEQMAPGuide(model)),
}


@pytest.mark.parametrize(
    ("kind", "local", "num_calls"),
    [("point", False, 20), ("point", True, 5)]
    + [(kind, False, 5) for kind in GUIDES if kind != "point"],
)
def test_many_threads_read_the_same_values_as_one(kind, local, num_calls):
    with pyro.settings.context(module_local_params=local):
        y = torch.poisson(torch.exp(torch.randn(20, 2) @ torch.randn(2, 5) / 2))
        model = pef.ExpFamPCA(pef.families.Poisson(), 5, 2, intercept_scale=2.0)
        guide = GUIDES[kind](model)
        guide(y)

        def read(part):
            rows = y[part : part + 10]
            return guide.latents(rows), guide.posterior(rows).mean, guide.log_evidence(rows)

        expected = [read(part) for part in range(8)]

        def reads(part):
            return [read(part) for _ in range(num_calls)]

        with ThreadPoolExecutor(NUM_THREADS) as threads:
            found = list(threads.map(reads, range(8)))
        for part, results in enumerate(found):
            for result in results:
                torch.testing.assert_close(result, expected[part])


def test_medians_of_a_call_wait_for_each_other():
    y = torch.poisson(torch.exp(torch.randn(20, 2) @ torch.randn(2, 5) / 2))
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 5, 2))
    guide.fit(y)
    expected = guide.median(y)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: guide.median(y), range(40)):
            torch.testing.assert_close(found, expected)


def test_the_posterior_of_the_globals_is_read_beside_latents():
    y = torch.poisson(torch.exp(torch.randn(20, 2) @ torch.randn(2, 5) / 2))
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 5, 2), globals="laplace")
    guide.fit(y)
    latents, variance = guide.latents(y), guide.coefficients.variance()

    def read(place):
        if place % 2:
            return guide.coefficients.variance(), variance
        return guide.latents(y), latents

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for found, expected in threads.map(read, range(200)):
            torch.testing.assert_close(found, expected)


class TwoTables(PyroModule):
    """Two tables with common latents."""

    def __init__(self):
        super().__init__()
        self.counts = pef.ExpFamPCA(pef.families.Poisson(), 3, 1)
        self.others = pef.ExpFamPCA(pef.families.Geometric(), 2, 1)

    def forward(self, y):
        return self.others(y[:, 3:], z=self.counts(y[:, :3]))


def fitted(make, y):
    """The objective that a new guide ends at."""
    return make().fit(y, num_starts=1, progress=False).objective


FITS = [
    lambda: pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 5, 2)),
    lambda: pef.LaplaceGuide(pef.ExpFamPCA(pef.families.NegativeBinomial(), 5, 1)),
    lambda: pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Geometric(), 5, 1), globals="laplace"),
]


def test_many_threads_fit_guides_as_one_does():
    y = torch.poisson(torch.exp(torch.randn(40, 2) @ torch.randn(2, 5) / 2))
    makes = 4 * FITS
    expected = [fitted(make, y) for make in FITS]
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        found = list(threads.map(lambda make: fitted(make, y), makes))
    assert found == pytest.approx(4 * expected, rel=1e-6)
    assert not _PYRO_STACK


def test_many_threads_fit_larger_models():
    y = torch.poisson(torch.exp(torch.randn(20, 1) @ torch.randn(1, 5) / 2))

    def fit(_):
        return pef.LaplaceGuide(TwoTables()).fit(y, progress=False).objective

    expected = fit(None)
    with ThreadPoolExecutor(4) as threads:
        for objective in threads.map(fit, range(4)):
            assert objective == pytest.approx(expected, rel=1e-4)


def test_many_threads_draw_from_guides():
    y = torch.poisson(torch.exp(torch.randn(20, 2) @ torch.randn(2, 5) / 2))
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 5, 2))
    guide.fit(y)

    def draw(place):
        if place % 2:
            return guide(y)["z"].shape
        idata = pef.to_arviz(guide.model, guide, y, num_samples=5, groups=["posterior"])
        return idata["posterior"]["z"].shape[2:]

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        assert set(threads.map(draw, range(32))) == {(20, 2)}
    assert not _PYRO_STACK
