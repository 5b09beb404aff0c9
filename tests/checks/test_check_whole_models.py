"""The report on models of several tables, labels and priors of latents."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from quick_cases import slow_unless
from torch.distributions import constraints
from whole_models import (
    MODELS,
    NUM_ROWS,
    Base,
    Chain,
    Data,
    Everything,
    HeavyTails,
    Offset,
    OwnNormal,
    PartOfTheRows,
    TwoLatents,
    WeightsPerVisit,
)

import pyro_expfam as pef
from pyro_expfam.checks.estimates import evidence_scores, totals_of

F = pef.families


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


def made(make, guide_of=pef.LaplaceGuide, **settings):
    pyro.set_rng_seed(1)
    model = make()
    guide, args = guide_of(model, **settings), Data().args
    guide(*args)
    return model, guide, args


def text(report, subject, block):
    return " ".join(found.text for found in report.findings[block] if found.subject == subject)


class FlatOffset(Base):
    """The offset of a table depends on other latents, and no coefficient has a prior."""

    def __init__(self):
        flat = {"loading_scale": None, "intercept_scale": None}
        super().__init__(flat, flat)

    def forward(self, counts, bits, label=None, covariates=None):
        return self.protein(bits, offset=self.rna(counts) @ torch.ones(2, 5))


class Bent(Base):
    """A table takes a function of the latents of another one."""

    def forward(self, counts, bits, label=None, covariates=None):
        return self.protein(bits, z=torch.tanh(self.rna(counts)))


class SharedOffset(Base):
    """A table shares its latents, and its offset depends on them too."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        return self.protein(bits, z=z, offset=z[..., :1].square())


@pytest.mark.parametrize(
    "make", [*MODELS, FlatOffset, Bent, SharedOffset], ids=lambda kind: kind.__name__
)
def test_scores_are_gradients_of_the_losses_that_train_the_guide(make):
    model, guide, args = made(make, pef.DEQMAPGuide)
    parameters = guide._trainable()
    found = {}
    for group in guide.group_roots(*args):
        joint = {
            x.sites.name: totals_of(x.likelihood.double(), x.z.double()).score for x in group.tables
        }
        for order, scores in enumerate((joint, *evidence_scores(group))):
            # Quadrature has none where sites other than tables depend on the latents.
            found.update({(order, name): score for name, score in (scores or {}).items()})
    assert {name for _, name in found} >= {"rna"}
    losses = [
        Trace_ELBO(),
        pef.LaplaceEvidence(),
        pef.LaplaceEvidence(order=2),
        pef.LaplaceEvidence(nodes=9),
    ]
    for order in sorted({order for order, _ in found}):
        loss = losses[order]
        value = loss.differentiable_loss(model, guide, *args)
        for name in {name for place, name in found if place == order}:
            block = getattr(model, name)
            leaves = [
                next(x for key, x in parameters.items() if f"{name}.{attribute}" in key)
                for attribute in ("loading", "intercept")
            ]
            to_W, to_b = torch.autograd.grad(value, leaves, retain_graph=True)
            W, b = (x.detach() for x in leaves)
            coefficients = torch.cat([W, b[:, None]], 1)
            expected = torch.cat([to_W, to_b[:, None]], 1)
            score = found[order, name] - block.coefficient_precision() * coefficients
            torch.testing.assert_close(score, -expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    # One for each of: tables, heads, sites of a row, latents of several tables, priors.
    slow_unless(
        lambda make: (
            make in (PartOfTheRows, Everything, TwoLatents, Chain, WeightsPerVisit, OwnNormal)
        ),
        MODELS,
    ),
    ids=lambda kind: kind.__name__,
)
def test_every_model_is_checked_table_by_table(make):
    model, guide, args = made(make)
    report = pef.check(model, guide, *args, num_draws=50)
    assert list(report.blocks) == list(guide._sites)
    for name, block in report.blocks.items():
        assert bool(block.rows.converged.all())
        assert block.fit_to_data is not None
        assert block.estimates.nearest is not None
        assert f"{name}: " in str(report)
        # Units of a prior that is not normal are not known.
        is_known = make is not HeavyTails
        assert bool(block.estimates.information.isfinite().all()) is is_known
        assert math.isfinite(block.estimates.spread) is (make not in (HeavyTails, Chain))
    first, *others = report.blocks
    assert "at the root of the score" in text(report, "solving", first)
    together = all(report.blocks[x].rows is report.blocks[first].rows for x in others)
    assert all(not text(report, "evidence", x) for x in others) is together


def test_a_report_says_what_the_latents_are_found_from():
    model, guide, args = made(Everything)
    report = pef.check(model, guide, *args, num_draws=50)
    solving = text(report, "solving", "rna")
    assert "given the tables 'rna' and 'protein' and the site 'label'" in solving
    assert "a stationary point. Sites beside tables and normal priors" in solving
    assert "by importance sampling" in text(report, "evidence", "rna")
    assert "with the 2 latents of rna" in str(report)
    assert "Is the fit finished?" in str(report).partition("protein: ")[2]
    # The prior means fix the basis.
    assert "rotation" not in text(report, "latents", "rna")


def test_tables_alone_have_one_root_and_an_evidence_by_quadrature():
    model, guide, args = made(PartOfTheRows)
    report = pef.check(model, guide, *args, num_draws=50)
    assert text(report, "solving", "rna").endswith("given the tables 'rna' and 'protein'.")
    assert "by quadrature" in text(report, "evidence", "rna")
    assert "Bernoulli table of 4 rows and 5 features" in str(report)
    assert "known up to a rotation:" in text(report, "latents", "rna")


def test_an_encoder_says_what_it_leaves_out():
    model, guide, args = made(Everything, condition_on="table")
    report = pef.check(model, guide, *args, num_draws=50)
    assert text(report, "solving", "rna").endswith("given the tables 'rna' and 'protein'.")
    for name in ("rna", "protein"):
        assert "other sites depend on them too ('label')" in text(report, "training", name)
        assert report.blocks[name].estimates.nearest is None


@pytest.mark.parametrize("make", [PartOfTheRows, pytest.param(Offset, marks=pytest.mark.slow)])
def test_a_fit_is_at_an_optimum_of_what_it_was_fitted_to(make):
    for guide_of, objective in (
        (pef.DEQMAPGuide, "joint density"),
        (pef.LaplaceGuide, "evidence"),
    ):
        model, guide, args = made(make, guide_of)
        guide.fit(*args, progress=False)
        report = pef.check(model, guide, *args, num_draws=50)
        for name in report.blocks:
            assert f"at an optimum of the {objective}:" in text(report, "training", name)


def test_latents_that_are_a_function_of_others_are_no_ground_for_replicates():
    model, guide, args = made(Bent)
    report = pef.check(model, guide, *args, num_draws=50)
    assert report.blocks["protein"].fit_to_data is None
    assert "a function of the latents of other blocks" in text(report, "entries", "protein")
    assert text(report, "training", "protein")


def test_information_and_spread_are_in_units_of_the_prior():
    class Scaled(PyroModule):
        """The same law with latents in other units."""

        def __init__(self, scale, loc):
            super().__init__()
            self.loc = loc
            self.block = pef.ExpFamPCA(
                F.Poisson(), 6, 2, latent_scale=scale, loading_scale=None, intercept_scale=None
            )

        def forward(self, counts):
            return self.block(counts, latent_loc=self.loc)

    torch.manual_seed(0)
    y, W, b = torch.poisson(torch.ones(20, 6)), torch.randn(6, 2), torch.randn(6)
    found = []
    for scale, loc in ((torch.ones(2), torch.zeros(2)), (torch.tensor([0.1, 5.0]), torch.ones(2))):
        model = Scaled(scale, loc)
        with torch.no_grad():
            model.block.loading.copy_(W / scale)
            model.block.intercept.copy_(b - W / scale @ loc)
        guide = pef.DEQMAPGuide(model)
        found.append(pef.check(model, guide, y, num_draws=50).blocks["block"].estimates)
    for name in ("information", "reach", "spread"):
        torch.testing.assert_close(*(torch.as_tensor(getattr(x, name)) for x in found))


class TwoCounts(PyroModule):
    """Two tables of counts share their latents."""

    def __init__(self):
        super().__init__()
        self.first = pef.ExpFamPCA(F.Poisson(), 12, 2)
        self.second = pef.ExpFamPCA(F.Poisson(), 10, 2)

    def forward(self, x, y):
        return self.second(y, z=self.first(x))


@pytest.mark.parametrize(
    "guide_of", [pef.DEQMAPGuide, pytest.param(pef.LaplaceGuide, marks=pytest.mark.slow)]
)
def test_a_misfit_is_found_in_its_table_alone(guide_of):
    torch.set_default_dtype(torch.float32)
    z = torch.randn(150, 2)
    rates = [torch.exp(0.7 * z @ torch.randn(2, d) + 0.5) for d in (12, 10)]
    x, y = torch.poisson(rates[0]), torch.poisson(rates[1])
    wide = torch.poisson(rates[1] * torch.distributions.Gamma(1.0, 1.0).sample(y.shape))
    for second, level in ((y, "ok"), (wide, "PROBLEM")):
        model = TwoCounts()
        guide = guide_of(model)
        guide.fit(x, second, progress=False)
        report = pef.check(model, guide, x, second, num_draws=50)
        levels = {
            name: [found.level for found in findings if found.subject == "dispersion"]
            for name, findings in report.findings.items()
        }
        assert levels == {"first": ["ok"], "second": [level]}


def test_names_of_frames_are_the_names_of_their_table():
    pd = pytest.importorskip("pandas")
    data = Data()
    counts = pd.DataFrame(data.counts.numpy(), [f"cell {k}" for k in range(NUM_ROWS)])
    bits = pd.DataFrame(data.bits[:4].numpy(), columns=list("abcde"))

    class Frames(Base):
        def forward(self, counts, bits):
            return self.protein(bits, z=self.rna(counts), latent_rows=[5, 0, 3, 9])

    model = Frames()
    guide = pef.LaplaceGuide(model)
    blocks = pef.check(model, guide, counts, bits, num_draws=50).blocks
    assert blocks["protein"].names.column(2) == "c"
    assert blocks["protein"].names.row(5) == "cell 5"
    assert blocks["rna"].names.row(13) == "cell 13"


class NoSample(F.ExponentialFamily):
    """Counts that cannot be drawn."""

    support = constraints.nonnegative_integer

    def log_partition(self, eta):
        return eta.exp()


def test_a_family_without_draws_is_checked_but_for_replicates():
    y = torch.poisson(torch.ones(30, 6))
    model = pef.ExpFamPCA(NoSample(), 6, 2)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, progress=False)
    report = pef.check(model, guide, y, num_draws=50)
    assert "has no function sample" in text(report, "entries", "")
    assert report.blocks[""].fit_to_data is None
    assert "at an optimum" in text(report, "training", "")


class NoThird(NoSample):
    """Counts without the derivatives that the second order takes."""

    def sample(self, eta, sample_shape=()):
        return torch.poisson(eta.exp().expand(*sample_shape, *eta.shape))

    def third_cumulant(self, eta):
        raise NotImplementedError("no third cumulant")

    def fourth_cumulant(self, eta):
        raise NotImplementedError("no fourth cumulant")


def test_a_family_without_a_second_order_is_checked_by_the_first():
    y = torch.poisson(torch.exp(torch.randn(40, 1) @ torch.randn(1, 6)))
    model = pef.ExpFamPCA(NoThird(), 6, 1)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, progress=False)
    report = pef.check(model, guide, y, num_draws=50)
    estimates = report.blocks[""].estimates
    assert estimates.evidence is None
    assert estimates.second_order is None
    assert "at an optimum of the joint density" in text(report, "training", "")
    assert "nats by Laplace" in text(report, "evidence", "")
    assert "second order" not in text(report, "evidence", "")
    with pytest.warns(UserWarning, match="latents integrated out are left out: no"):
        idata = pef.to_arviz(model, pef.LaplaceGuide(model, params=guide), y, num_samples=3)
    assert "y_marginal" not in idata["log_likelihood"].coords
    assert "khat" in idata["sample_stats"]
    assert "mean_shift" not in idata["sample_stats"]


def test_columns_of_several_laws_are_checked():
    y = torch.poisson(torch.ones(40, 6))
    family = F.Columns([(slice(0, 4), F.Poisson()), (slice(4, 6), F.Bernoulli())])
    model = pef.ExpFamPCA(family, 6, 2)
    guide = pef.DEQMAPGuide(model)
    guide.fit(torch.cat([y[:, :4], y[:, 4:].clamp(max=1)], 1), progress=False)
    table = torch.cat([y[:, :4], y[:, 4:].clamp(max=1)], 1)
    found = pef.check(model, guide, table, num_draws=50).blocks[""].fit_to_data
    assert found.zeros is None
    assert found.coverage is not None


def test_a_site_that_couples_rows_has_no_report():
    class Coupled(Base):
        def forward(self, counts, bits, label=None, covariates=None):
            pyro.sample("total", dist.Normal(self.rna(counts).sum(), 1.0), obs=torch.tensor(0.0))

    model = Coupled()
    with pytest.raises(ValueError, match=r"'total'.*couples rows"):
        pef.check(model, pef.DEQMAPGuide(model), *Data().args)
