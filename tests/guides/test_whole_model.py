"""Guides at the mode, and around the mode, of everything that a model observes of its latents."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.optim import Adam
from quick_cases import in_turn, slow_unless
from whole_models import (
    MODELS,
    NUM_ROWS,
    Base,
    Chain,
    Data,
    Everything,
    Network,
    PartOfTheRows,
    PrecisionMatrix,
    ScalePerLatent,
    Supervised,
    TwoLatents,
    TwoViews,
    Visits,
)

import pyro_expfam as pef


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


GUIDES = [pef.DEQMAPGuide, pef.LaplaceGuide]
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda kind: kind.__name__)
# What all models have in common is tested for each of them; other properties for every other one.
SOME, OTHERS = MODELS[::2], MODELS[1::2]


def quickly(some):
    return pytest.mark.parametrize(
        "make", slow_unless(lambda make: make in some, MODELS), ids=lambda kind: kind.__name__
    )


ZERO = 1e-8


def latents_of(values):
    return {name: x.detach() for name, x in values.items() if name.endswith(".z")}


def log_joint(model, args, values):
    """The log joint density of a model at values of all its latents."""
    trace = poutine.trace(poutine.condition(model, values)).get_trace(*args)
    return trace.log_prob_sum()


def made(make, guide_of=pef.DEQMAPGuide, **settings):
    pyro.set_rng_seed(1)
    model = make()
    return model, guide_of(model, **settings), Data().args


@every_model
def test_latents_are_a_stationary_point_of_the_log_joint(make):
    model, guide, args = made(make)
    values = {name: x.detach() for name, x in guide(*args).items()}
    latents = {name: x.requires_grad_() for name, x in latents_of(values).items()}
    found = torch.autograd.grad(log_joint(model, args, values | latents), list(latents.values()))
    assert max(float(x.abs().max()) for x in found) < ZERO


@quickly(SOME)
def test_latents_are_the_mode_that_a_general_optimiser_finds(make):
    model, guide, args = made(make)
    values = {name: x.detach() for name, x in guide(*args).items()}
    latents = latents_of(values)
    free = {name: torch.zeros(x.shape, requires_grad=True) for name, x in latents.items()}
    optimiser = torch.optim.LBFGS(
        list(free.values()), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = -log_joint(model, args, values | free)
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        assert log_joint(model, args, values) >= log_joint(model, args, values | free) - 1e-6


@quickly(SOME)
def test_the_covariance_is_the_inverse_of_the_hessian_of_a_row(make):
    model, guide, args = made(make, pef.LaplaceGuide)
    values = {name: x.detach() for name, x in guide(*args).items()}
    roots = guide.roots(*args)
    names = [root.sites.latents for root in roots]
    widths = [root.latents.shape[-1] for root in roots]
    at = torch.cat([root.latents for root in roots], -1)

    def minus_log_joint(z):
        parts = dict(zip(names, z.split(widths, -1), strict=True))
        return -log_joint(model, args, values | parts)

    hessian = torch.autograd.functional.hessian(minus_log_joint, at)
    size = at.shape[-1]
    expected = torch.stack([hessian[row, :, row, :] for row in range(NUM_ROWS)])
    # No row depends on another.
    rest = hessian.permute(0, 2, 1, 3).clone()
    rest[range(NUM_ROWS), range(NUM_ROWS)] = 0.0
    assert float(rest.abs().max()) < ZERO
    shared = len({id(root.problem) for root in roots}) < len(roots)
    if len(roots) == 1 or shared:
        information = roots[0].problem.information(roots[0].solution.value)
        assert information.shape == (NUM_ROWS, size, size)
        assert torch.allclose(information, expected)


@every_model
def test_posteriors_are_marginals_of_the_normal_by_the_hessian_of_a_row(make):
    model, guide, args = made(make, pef.LaplaceGuide)
    values = {name: x.detach() for name, x in guide(*args).items()}
    found = guide.posteriors(*args)
    names, modes = list(found), [normal.mean for normal in found.values()]
    widths = [mode.shape[-1] for mode in modes]
    assert names == list(latents_of(values))

    def minus_log_joint(z):
        parts = dict(zip(names, z.split(widths, -1), strict=True))
        return -log_joint(model, args, values | parts)

    hessian = torch.autograd.functional.hessian(minus_log_joint, torch.cat(modes, -1))
    rows = range(NUM_ROWS)
    covariance = torch.linalg.inv(hessian[rows, :, rows, :])
    begin = 0
    for normal, width in zip(found.values(), widths, strict=True):
        expected = covariance[:, begin : begin + width, begin : begin + width]
        assert torch.allclose(normal.covariance_matrix, expected)
        begin += width


def test_draws_of_latents_that_belong_together_have_their_joint_covariance():
    _, guide, args = made(TwoLatents, pef.LaplaceGuide)
    guide(*args)
    (first, second) = guide.roots(*args)
    drawn = []
    for _ in range(90):
        values = guide(*args)
        drawn.append(torch.cat([values["rna.z"], values["protein.z"]], -1).detach())
    # In standard deviations of its row, a draw of any row is a standard normal.
    mode = first.solution.value
    factor = torch.linalg.cholesky(first.problem.information(mode))
    standard = ((torch.stack(drawn) - mode).unsqueeze(-2) @ factor).reshape(-1, 4)
    assert torch.allclose(standard.T.cov(), torch.eye(4), atol=0.12)
    assert second.place == slice(2, 4)


@pytest.mark.parametrize(
    ("make", "loss"),
    in_turn(MODELS, [Trace_ELBO(), pef.LaplaceEvidence(), pef.LaplaceEvidence(order=2)]),
)
def test_gradients_of_a_loss_are_total_derivatives(make, loss):
    model, guide, args = made(make)
    guide(*args)

    def value():
        return loss.differentiable_loss(model, guide, *args)

    parameters = [x for x in guide._trainable().values() if x.requires_grad]
    found = torch.autograd.grad(value(), parameters, allow_unused=True)
    torch.manual_seed(3)
    directions = [torch.randn_like(x) for x in parameters]
    slope = sum(
        float((g * v).sum()) for g, v in zip(found, directions, strict=True) if g is not None
    )
    step = 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for x, v in zip(parameters, directions, strict=True):
                x.add_(v, alpha=sign * step)
            values.append(float(value()))
            for x, v in zip(parameters, directions, strict=True):
                x.sub_(v, alpha=sign * step)
    numeric = (values[0] - values[1]) / (2 * step)
    assert abs(slope - numeric) < 1e-4 * (1 + abs(numeric))


@quickly(SOME)
def test_the_evidence_is_that_of_importance_sampling(make):
    model, guide, args = made(make, pef.LaplaceGuide)
    guide(*args)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = [pef.LaplaceEvidence(order=k).loss(model, guide, *args) for k in (1, 2)]
        problems = {id(root.problem): root for root in guide.roots(*args)}.values()
        correction = sum(
            float((found.log_evidence - first).sum())
            for root in problems
            for found, first in [
                (
                    pef.evidence.sample_evidence(root.problem, root.solution.value, 4000),
                    pef.evidence.laplace_evidence(root.problem, root.solution.value),
                )
            ]
        )
    # The correction of the first order is what the second adds, up to the next order.
    second = losses[0] - losses[1]
    assert abs(second - correction) < 0.6 * abs(correction) + 0.02


@pytest.mark.parametrize(
    ("make", "elbo"),
    in_turn([TwoViews, Supervised, Everything], [Trace_ELBO, TraceMeanField_ELBO]),
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


def test_a_table_of_other_rows_wants_latent_rows():
    class Part(Base):
        def forward(self, counts, bits, label=None, covariates=None):
            return self.protein(bits[:5], z=self.rna(counts)[:5])

    _, guide, args = made(Part)
    with pytest.raises(ValueError, match=r"table 'protein.y'.*pass all latents as z, and latent_r"):
        guide(*args)


class Coupled(Base):
    """A site in no plate depends on the latents of all rows."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        pyro.sample("total", dist.Normal(z.sum(), 1.0), obs=torch.tensor(0.0))


class Hidden(Base):
    """A site in the plate of rows depends on the latents of all rows."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        with pyro.plate("cells", len(counts)):
            pyro.sample("label", dist.Normal((z - z.mean(0)).sum(-1), 1.0), obs=label)


class OtherRows(Base):
    """A site is in a plate of another number of rows."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        with pyro.plate("pairs", len(counts) - 1):
            pyro.sample("label", dist.Normal((z[1:] - z[:-1]).sum(-1), 1.0), obs=label[1:])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (Coupled, r"'total'.*in a plate of dimension -1 of 14 rows, got it in no plate"),
        (Hidden, r"'label'.*of their own row"),
        (OtherRows, r"'label'.*the plate 'pairs' of 13 rows"),
    ],
)
def test_sites_that_couple_rows_are_refused(make, named):
    model, guide, args = made(make)
    with pytest.raises(ValueError, match=named):
        guide(*args)
    encoder = pef.DEQMAPGuide(model, condition_on="table")
    assert encoder(*args)["rna.z"].shape == (NUM_ROWS, 2)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m, c, b: m.protein(b[:5], z=m.rna(c)), "row for each of the 5 rows of y, got 14"),
        (
            lambda m, c, b: m.protein(b, z=m.rna(c)[:, :1]),
            r"z must be the latents \(\.\.\., rows, 2\)",
        ),
        (
            lambda m, c, b: m.protein(b[:2], z=m.rna(c), latent_rows=[0, 0]),
            "at most once, got row 0 for 2 rows",
        ),
        (
            lambda m, c, b: m.protein(b[:2], z=m.rna(c), latent_rows=[0, 99]),
            "between 0 and 13, got 0 to 99",
        ),
        (
            lambda m, c, b: m.protein(b[:2], z=m.rna(c), latent_rows=[0.5, 1.0]),
            "2 integers, one for each row",
        ),
        (
            lambda m, c, b: m.protein(b, z=m.rna(c), latent_loc=torch.ones(2)),
            "latent_loc must be left out where z is given",
        ),
        (lambda m, c, b: m.rna(c, latent_loc=torch.ones(3, 2)), r"broadcast to \(14, 2\)"),
        (lambda m, c, b: m.rna(c, latent_loc=torch.tensor(torch.nan)), "must be finite"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, named):
    data = Data()
    with pytest.raises(ValueError, match=named):
        call(Base(), data.counts, data.bits)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"latent_precision": torch.tensor([[1.0, 2.0], [2.0, 1.0]])}, "positive definite"),
        ({"latent_precision": 2.0, "latent_scale": 1.0}, "must be left out where latent_scale"),
        ({"latent_scale": torch.ones(3)}, r"latent_scale must have shape \(\) or \(2,\)"),
        ({"latent_scale": -1.0}, "latent_scale must be a positive"),
        ({"latent_precision": torch.ones(3)}, "latent_precision must have shape"),
    ],
)
def test_priors_that_do_not_fit_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        pef.ExpFamPCA(pef.families.Bernoulli(), 6, 2, **settings)


def test_an_unknown_condition_is_refused():
    with pytest.raises(ValueError, match="condition_on must be 'model' or 'table', got 'all'"):
        pef.DEQMAPGuide(TwoViews(), condition_on="all")


@quickly(OTHERS)
def test_float32_latents_are_those_of_float64(make):
    _, guide, args = made(make)
    exact = latents_of(guide(*args))
    torch.set_default_dtype(torch.float32)
    guide.float()
    guide.model.float()
    single = [x.float() for x in args]
    for name, x in latents_of(guide(*single)).items():
        assert x.dtype == torch.float32
        assert torch.allclose(x.double(), exact[name], atol=1e-3)


@quickly(SOME)
@pytest.mark.parametrize("guide_of", slow_unless(lambda kind: kind is pef.LaplaceGuide, GUIDES))
def test_float32_guides_train(make, guide_of):
    torch.set_default_dtype(torch.float32)
    pyro.set_rng_seed(0)
    model = make()
    guide = guide_of(model)
    args = Data(torch.float32).args
    svi = SVI(model, guide, Adam({"lr": 0.03}), Trace_ELBO())
    losses = [svi.step(*args) for _ in range(12)]
    assert sum(losses[-4:]) < sum(losses[:4])


# The joint density with a learnt scale of the latents has no bound.
@pytest.mark.parametrize(
    "make",
    slow_unless(
        lambda make: make in (PartOfTheRows, Supervised, Chain, Visits, PrecisionMatrix),
        [x for x in MODELS if x is not ScalePerLatent],
    ),
)
def test_a_fit_ends_where_no_gradient_is_left(make):
    model, guide, args = made(make)
    fit = guide.fit(*args, progress=False, max_sweeps=2000, tol=1e-10)
    assert fit.converged
    objectives = [sweep.objective for sweep in fit.sweeps]
    assert objectives == sorted(objectives, reverse=True)
    loss = Trace_ELBO().differentiable_loss(model, guide, *args)
    parameters = [x for x in guide._trainable().values() if x.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    largest = max(float(g.abs().max()) for g in found if g is not None)
    assert largest < 2e-2
    assert fit.objective == pytest.approx(float(loss), rel=1e-6)


class ByName(PyroModule):
    """The prior mean of the latents is a parameter that the model only names."""

    def __init__(self):
        super().__init__()
        self.rna = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)

    def forward(self, counts):
        return self.rna(counts, latent_loc=pyro.param("mean", torch.zeros(2)).expand(1, 2))


def as_function():
    """A model that is no module."""
    block = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)

    def model(counts):
        return block(counts, latent_loc=pyro.param("mean", torch.zeros(2)).expand(1, 2))

    return model


@pytest.mark.parametrize("make", [ByName, as_function], ids=["module", "function"])
def test_a_fit_trains_parameters_that_a_model_names(make):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model = make()
    guide = pef.DEQMAPGuide(model)
    counts = Data().counts
    fit = guide.fit(counts, progress=False, tol=1e-10)
    assert fit.converged
    mean = pyro.param("mean")
    assert float(mean.detach().abs().min()) > 0
    loss = Trace_ELBO().differentiable_loss(model, guide, counts)
    (gradient,) = torch.autograd.grad(loss, mean)
    assert float(gradient.abs().max()) < 1e-2


def test_a_laplace_guide_can_be_fitted_to_the_joint_density():
    _, guide, args = made(Supervised, pef.LaplaceGuide)
    fit = guide.fit(*args, progress=False, loss=None)
    _, other, _ = made(Supervised)
    assert fit.converged
    assert fit.objective == pytest.approx(other.fit(*args, progress=False).objective, rel=1e-4)


def test_a_fit_of_a_model_whose_density_is_scaled_is_the_fit_of_the_model():
    pyro.set_rng_seed(1)
    model = Supervised()
    scaled = poutine.scale(model, scale=0.1)
    args = Data().args
    fits = []
    for one in (model, scaled):
        pyro.set_rng_seed(1)
        fits.append(pef.DEQMAPGuide(one).fit(*args, progress=False))
    assert fits[1].objective == pytest.approx(0.1 * fits[0].objective, rel=1e-3)


class Classes(Base):
    """A label has a mean by a class that is unknown, and the class depends on the latents."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        logit = self.logit(z)
        with pyro.plate("cells", len(counts)):
            kind = pyro.sample(
                "kind", dist.Bernoulli(logits=logit), infer={"enumerate": "parallel"}
            )
            pyro.sample("label", dist.Normal(2.0 * kind - 1.0, 0.5), obs=label)
        return z


class Mixture(Base):
    """The prior mean of the latents depends on a class that is unknown."""

    def forward(self, counts, bits, label=None, covariates=None):
        with pyro.plate("cells", len(counts)):
            kind = pyro.sample(
                "kind", dist.Categorical(torch.ones(3) / 3), infer={"enumerate": "parallel"}
            )
        return self.rna(counts, latent_loc=self.slope[kind])


@pytest.mark.parametrize("make", [Classes, Mixture], ids=lambda kind: kind.__name__)
def test_classes_are_summed_over(make):
    model, guide, args = made(make)
    values = {name: x.detach() for name, x in guide(*args).items()}
    values["rna.z"].requires_grad_()
    size = 2 if make is Classes else 3
    every = []
    for kind in range(size):
        known = values | {"kind": torch.full((NUM_ROWS,), kind, dtype=torch.get_default_dtype())}
        known["kind"] = known["kind"] if make is Classes else known["kind"].long()
        trace = poutine.trace(poutine.condition(model, known)).get_trace(*args)
        trace.compute_log_prob()
        sites = [trace.nodes[name] for name in trace.nodes if "log_prob" in trace.nodes[name]]
        every.append(sum(x["log_prob"] for x in sites if x["log_prob"].shape == (NUM_ROWS,)))
    density = torch.stack(every).logsumexp(0).sum()
    (gradient,) = torch.autograd.grad(density, values["rna.z"])
    assert float(gradient.abs().max()) < ZERO


@pytest.mark.parametrize("make", [Classes, Mixture], ids=lambda kind: kind.__name__)
def test_a_fit_sums_over_classes(make):
    model, guide, args = made(make)
    fit = guide.fit(*args, progress=False)
    assert fit.converged
    losses = [TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, *args) for _ in range(2)]
    assert losses == pytest.approx([fit.objective] * 2, rel=1e-6)


@pytest.mark.parametrize("make", slow_unless(lambda make: make is Classes, [Classes, Mixture]))
def test_the_evidence_refuses_classes_to_sum_over(make):
    model, guide, args = made(make, pef.LaplaceGuide)
    with pytest.raises(NotImplementedError, match=r"'kind'.*TraceEnum_ELBO"):
        pef.LaplaceEvidence().loss(model, guide, *args)
    with pytest.raises(NotImplementedError, match="loss=None"):
        guide.fit(*args)
    assert guide.fit(*args, loss=None, progress=False).converged


@pytest.mark.parametrize("make", [Supervised, pytest.param(Everything, marks=pytest.mark.slow)])
def test_a_fit_of_the_evidence_is_better_than_steps_of_svi(make):
    model, guide, args = made(make, pef.LaplaceGuide)
    fit = guide.fit(*args, progress=False, max_sweeps=1500)
    model, other, args = made(make, pef.LaplaceGuide)
    svi = SVI(model, other, Adam({"lr": 0.03}), pef.LaplaceEvidence())
    for _ in range(30):
        loss = svi.step(*args)
    # Both may end at another optimum.
    assert fit.objective < loss + 1.0


def test_a_fit_in_single_precision_ends_where_rounding_hides_further_gains():
    class Views(PyroModule):
        def __init__(self):
            super().__init__()
            self.counts = pef.ExpFamPCA(pef.families.Poisson(), 20, 3)
            self.bits = pef.ExpFamPCA(pef.families.Bernoulli(), 30, 3)

        def forward(self, counts, bits):
            return self.bits(bits, z=self.counts(counts))

    torch.manual_seed(0)
    z = torch.randn(300, 3)
    counts = torch.poisson(torch.exp(0.5 * z @ torch.randn(3, 20) + 1.0))
    bits = torch.bernoulli(torch.sigmoid(z @ torch.randn(3, 30)))
    results = {}
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        pyro.set_rng_seed(0)
        results[dtype] = pef.DEQMAPGuide(Views()).fit(counts, bits, progress=False)
    double, single = results[torch.float64], results[torch.float32]
    assert single.converged
    assert single.sweeps[-1].number < 1.5 * double.sweeps[-1].number
    assert single.objective == pytest.approx(double.objective, rel=1e-5)


@pytest.mark.parametrize("name", ["rna", "protein"])
def test_blocks_that_share_latents_are_read_by_name(name):
    model, guide, args = made(Everything, pef.LaplaceGuide)
    guide(*args)
    block = guide.block(name)
    columns = getattr(model, name).num_features
    assert block.loading.shape == (columns, 2)
    table = args[0] if name == "rna" else args[1]
    family = getattr(model, name).family
    alone = pef.solve_latents(family, table, block.loading, block.intercept).value
    assert torch.allclose(block.latents(table), alone)


@quickly(OTHERS)
def test_a_saved_state_has_everything(make):
    model, guide, args = made(make)
    svi = SVI(model, guide, Adam({"lr": 0.03}), Trace_ELBO())
    svi.step(*args)
    pyro.set_rng_seed(7)
    fresh = make()
    fresh.load_state_dict(model.state_dict())
    other = pef.DEQMAPGuide(fresh)
    other.load_state_dict(guide.state_dict())
    first, second = (latents_of(g.median(*args)) for g in (guide, other))
    assert all(torch.allclose(first[name], second[name]) for name in first)


def test_a_fit_starts_from_what_each_table_says_alone():
    _, guide, args = made(TwoViews)
    first = guide.fit(*args, progress=False).sweeps[0].objective
    pyro.set_rng_seed(1)
    random = pef.DEQMAPGuide(TwoViews())
    random(*args)
    assert first < float(Trace_ELBO().loss(random.model, random, *args))
    # A guide that has been trained goes on from where it is.
    again = guide.fit(*args, progress=False)
    assert again.sweeps[0].objective <= first
