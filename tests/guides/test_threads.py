"""Reading a guide from many threads at once."""

from concurrent.futures import ThreadPoolExecutor

import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoGaussian, AutoNormal

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
