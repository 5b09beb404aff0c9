"""What a block writes on its sites, and who can read it."""

import copy

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample

import pyro_expfam as pef
from pyro_expfam.models.annotations import (
    RECORD,
    answer,
    coefficient_site,
    latent_site,
    observed_site,
    structure_of,
)

READERS = (latent_site, observed_site, coefficient_site, answer)

FOR_DIAGNOSTICS = {
    "argument_dims",
    "event_dims",
    "plate_dims",
    "rows_of",
    "marginal",
    "parameters",
}


class TwoTables(PyroModule):
    def __init__(self):
        super().__init__()
        self.few = pef.ExpFamPCA(pef.families.Poisson(), 4, 1)
        self.many = pef.ExpFamPCA(
            pef.families.Bernoulli(),
            5,
            2,
            loading_scale=PyroSample(dist.LogNormal(0.0, 1.0)),
            intercept_scale=None,
        )
        self.slope = PyroSample(dist.Normal(0.0, 1.0).expand([2]).to_event(1))

    def forward(self, counts, bits):
        self.few(counts)
        return self.many(bits) @ self.slope


@pytest.fixture(name="tables")
def two_tables():
    return torch.poisson(torch.ones(7, 4)), torch.bernoulli(torch.full((7, 5), 0.5))


def sites_of(trace):
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def test_every_site_of_a_block_has_one_record_that_says_whose_it_is(tables):
    model = TwoTables()
    trace = poutine.trace(model).get_trace(*tables)
    kinds = {}
    for name, site in sites_of(trace).items():
        found = [record for read in READERS if (record := read(site)) is not None]
        if not name.startswith(("few.", "many.")) or name.endswith(".rows"):
            assert not found
            assert RECORD not in site["infer"]
            continue
        (record,) = found
        assert record.block is (model.few if name.startswith("few.") else model.many)
        assert set(site["infer"]) - {RECORD} <= FOR_DIAGNOSTICS
        kinds.setdefault(type(record).__name__, set()).add(name)
    assert kinds == {
        "LatentSite": {"few.z", "many.z"},
        "ObservedSite": {"few.y", "many.y"},
        "CoefficientSite": {"few.loading", "few.intercept", "many.loading", "many.loading_scale"},
    }


def test_latents_carry_their_problem_and_coefficients_their_attribute(tables):
    model = TwoTables()
    trace = poutine.trace(model).get_trace(*tables)
    latents = latent_site(trace.nodes["many.z"])
    assert torch.equal(latents.problem.y, tables[1])
    assert latents.arguments[0] is tables[1]
    assert latents.rows.num_rows == 7
    scale = coefficient_site(trace.nodes["many.loading_scale"])
    assert (scale.attribute, scale.starts_at_zero) == ("loading_scale", False)
    assert coefficient_site(trace.nodes["few.intercept"]).starts_at_zero


def test_the_intercept_under_a_prior_of_the_user_starts_at_its_median():
    model = pef.ExpFamPCA(pef.families.Poisson(), 4, 1)
    model.intercept = PyroSample(dist.Normal(3.0, 1.0).expand([4]).to_event(1))
    trace = poutine.trace(model).get_trace(torch.ones(3, 4))
    assert not coefficient_site(trace.nodes["intercept"]).starts_at_zero


def test_a_guide_answers_with_the_problem_and_the_posterior_of_its_site(tables):
    model = TwoTables()
    guide = pef.LaplaceGuide(model)
    trace = poutine.trace(guide).get_trace(*tables)
    for name in ("few.z", "many.z"):
        site = trace.nodes[name]
        found = answer(site)
        assert found.posterior is site["fn"]
        torch.testing.assert_close(
            found.posterior.precision_matrix, found.problem.information(found.posterior.mean)
        )
        assert latent_site(site) is None


def test_the_structure_of_a_site_keeps_no_table(tables):
    trace = poutine.trace(TwoTables()).get_trace(*tables)
    for site in sites_of(trace).values():
        kept = structure_of(site["infer"])
        assert not {"marginal", "parameters", "rows_of"} & kept.keys()
        assert kept.get("event_dims") == site["infer"].get("event_dims")
        before, after = ({RECORD: None, **x}[RECORD] for x in (site["infer"], kept))
        assert type(before) is type(after)
        assert getattr(before, "block", None) is getattr(after, "block", None)
    latents = latent_site({"infer": structure_of(trace.nodes["few.z"]["infer"])})
    assert (latents.problem, latents.arguments, latents.rows) == (None, (), None)
    # What a guide keeps of its first run can be copied.
    assert isinstance(copy.deepcopy(latents).block, pef.ExpFamPCA)
