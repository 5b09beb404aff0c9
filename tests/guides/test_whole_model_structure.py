"""Particles, parts of tables, minibatches and plates under guides of whole models."""

from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.optim import Adam
from whole_model_guides import ZERO, latents_of, log_joint, made
from whole_models import (
    NUM_ROWS,
    Base,
    Data,
    Everything,
    Network,
    Supervised,
    TwoViews,
)

import pyro_expfam as pef

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize(
    ("make", "elbo"),
    [
        (Everything, Trace_ELBO),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in product(
                [TwoViews, Supervised, Everything], [Trace_ELBO, TraceMeanField_ELBO]
            )
            if case != (Everything, Trace_ELBO)
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Failed to verify mean field restriction")
def test_particles_at_once_train_as_particles_one_by_one(make, elbo):
    model, guide, args = made(make, pef.LaplaceGuide, global_guide=AutoNormal)
    losses = []
    for vectorised in (True, False):
        pyro.set_rng_seed(0)
        loss = elbo(num_particles=40, vectorize_particles=vectorised, max_plate_nesting=1)
        losses.append(loss.loss(model, guide, *args))
    assert losses[0] == pytest.approx(losses[1], rel=0.08)


class GroupMeans(PyroModule):
    """Means of groups are drawn outside the rows, and are prior means or offsets of rows."""

    def __init__(self, as_offset=False):
        super().__init__()
        self.as_offset = as_offset
        self.block = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)
        size = 6 if as_offset else 2
        self.means = PyroSample(dist.Normal(0.0, 1.0).expand([3, size]).to_event(2))

    def forward(self, counts, group):
        of_rows = self.means[..., group, :]
        if self.as_offset:
            return self.block(counts, offset=of_rows)
        return self.block(counts, latent_loc=of_rows)


@pytest.mark.parametrize("as_offset", [False, True])
def test_means_of_groups_differ_by_particle(as_offset):
    pyro.set_rng_seed(0)
    guide = pef.LaplaceGuide(GroupMeans(as_offset), global_guide=AutoNormal)
    args = Data().counts, torch.arange(NUM_ROWS) % 3
    guide(*args)
    model = guide.model
    with pyro.plate("particles", 4, dim=-2):
        trace = poutine.trace(guide).get_trace(*args)
    together = poutine.trace(poutine.replay(model, trace=trace))
    with pyro.plate("particles", 4, dim=-2):
        trace_of_model = together.get_trace(*args)
    trace_of_model.compute_log_prob()
    z = trace.nodes["block.z"]["fn"]
    assert z.batch_shape == (4, NUM_ROWS)
    for k in range(4):
        names = ("block.loading", "block.intercept", "means", "block.z")
        values = {name: trace.nodes[name]["value"][k] for name in names}
        values = {n: x.squeeze(0) if n != "block.z" else x for n, x in values.items()}
        single = poutine.trace(poutine.condition(model, values)).get_trace(*args)
        single.compute_log_prob()
        for name in ("block.z", "block.y"):
            expected = single.nodes[name]["log_prob"]
            assert torch.allclose(trace_of_model.nodes[name]["log_prob"][k], expected)
    drawn = Predictive(model, guide=guide, num_samples=5, parallel=True)(*args)
    assert drawn["block.z"].shape == (5, NUM_ROWS, 2)


def test_a_view_is_drawn_for_the_rows_that_are_asked_for():
    class Views(Base):
        def forward(self, counts, bits, rows):
            return self.protein(bits, z=self.rna(counts), latent_rows=rows)

    pyro.set_rng_seed(0)
    model = Views()
    guide = pef.LaplaceGuide(model)
    counts, bits, _, _ = Data().args
    rows = torch.tensor([5, 0, 3])
    guide(counts, bits[rows], rows)
    drawn = Predictive(model, guide=guide, num_samples=4)(counts, None, rows)
    assert drawn["protein.y"].shape == (4, 3, bits.shape[-1])


def test_a_label_that_is_missing_is_not_there():
    _, guide, args = made(Supervised)
    counts, bits, _, _ = args
    given = guide(*args)["rna.z"]
    without = guide(counts, bits)["rna.z"]
    assert torch.allclose(without, guide.block("rna").latents(counts))
    assert not torch.allclose(without, given)


def test_an_encoder_sees_the_tables_alone():
    _, guide, args = made(Supervised, condition_on="table")
    assert torch.allclose(guide(*args)["rna.z"], guide.block("rna").latents(args[0]))


def test_an_encoder_of_two_views_sees_both():
    _, guide, args = made(Everything, condition_on="table")
    torch.manual_seed(0)
    both = guide(*args)["rna.z"]
    assert not torch.allclose(both, guide.block("rna").latents(args[0]))


def test_a_mask_of_all_views_of_a_row_leaves_the_prior():
    class Masked(TwoViews):
        def forward(self, counts, bits, label=None, covariates=None):
            mask = torch.ones(NUM_ROWS, 1, dtype=torch.bool)
            mask[3] = False
            z = self.rna(counts, mask=mask)
            return self.protein(bits, z=z, mask=mask)

    _, guide, args = made(Masked)
    assert torch.equal(guide(*args)["rna.z"][3], torch.zeros(2))


def test_minibatches_see_the_latents_of_their_rows():
    class Batches(Base):
        def forward(self, counts, bits, label, rows):
            z = self.rna(counts, num_rows=NUM_ROWS, rows=rows)
            self.protein(bits, z=z, num_rows=NUM_ROWS, rows=rows)
            logit = self.logit(z)
            with pyro.plate("cells", NUM_ROWS, subsample=rows):
                pyro.sample("label", dist.Bernoulli(logits=logit), obs=label)
            return z

    pyro.set_rng_seed(1)
    model = Batches()
    guide = pef.DEQMAPGuide(model)
    counts, bits, label, _ = Data().args
    every, some = torch.arange(NUM_ROWS), torch.tensor([2, 7, 8])
    whole = guide(counts, bits, label, every)["rna.z"]
    part = guide(counts[some], bits[some], label[some], some)["rna.z"]
    assert torch.allclose(part, whole[some], atol=1e-7)


def test_a_plate_of_blocks_is_a_hierarchy_of_tables():
    class Hierarchy(PyroModule):
        def __init__(self):
            super().__init__()
            self.tables = PyroModule[torch.nn.ModuleList](
                [pef.ExpFamPCA(pef.families.Poisson(), 6, 2) for _ in range(3)]
            )

        def forward(self, tables):
            level = pyro.sample("level", dist.Normal(0.0, 1.0))
            return [
                block(y, offset=level[..., None, None])
                for block, y in zip(self.tables, tables, strict=True)
            ]

    pyro.set_rng_seed(0)
    model = Hierarchy()
    guide = pef.DEQMAPGuide(model)
    args = ([Data(seed=k).counts for k in range(3)],)
    values = {name: x.detach() for name, x in guide(*args).items()}
    latents = {name: x.requires_grad_() for name, x in latents_of(values).items()}
    assert len(latents) == 3
    found = torch.autograd.grad(log_joint(model, args, values | latents), list(latents.values()))
    assert max(float(x.abs().max()) for x in found) < ZERO


@pytest.mark.parametrize(
    "guide_of", [pef.LaplaceGuide, pytest.param(pef.DEQMAPGuide, marks=pytest.mark.slow)]
)
def test_a_network_with_dropout_trains_and_is_exact_without_it(guide_of):
    class Dropout(Network):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(
                torch.nn.Linear(2, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
            )

    pyro.set_rng_seed(1)
    model, args = Dropout(), Data().args
    guide = guide_of(model)
    svi = SVI(model, guide, Adam({"lr": 0.03}), pef.LaplaceEvidence())
    losses = [svi.step(*args) for _ in range(40)]
    assert sum(losses[-10:]) < sum(losses[:10])
    model.eval()
    values = {name: x.detach() for name, x in guide(*args).items()}
    values["rna.z"] = guide.median(*args)["rna.z"].requires_grad_()
    (gradient,) = torch.autograd.grad(log_joint(model, args, values), values["rna.z"])
    assert float(gradient.abs().max()) < ZERO
