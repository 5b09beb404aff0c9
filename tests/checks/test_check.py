"""The report on a fit: what it says of good ones, and of everything that can go wrong."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.optim import Adam
from quick_cases import in_turn, slow_unless
from scipy import stats

import pyro_expfam as pef
from pyro_expfam.checks.estimates import _ordinary_mean_square
from pyro_expfam.checks.rows import _sampled


def counts(num_rows, num_features=20, latent_dim=2):
    loading = torch.randn(latent_dim, num_features) / latent_dim**0.5
    return torch.poisson(torch.exp(torch.randn(num_rows, latent_dim) @ loading))


def poisson_block(num_features=20, latent_dim=2, **settings):
    return pef.ExpFamPCA(pef.families.Poisson(), num_features, latent_dim, **settings)


def fitted(y, **settings):
    model = poisson_block(y.shape[1], **settings)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y)
    return model, guide


def levels(report, subject, block=""):
    return [found.level for found in report.findings[block] if found.subject == subject]


def text(report, subject, block=""):
    return " ".join(found.text for found in report.findings[block] if found.subject == subject)


def test_a_good_fit_has_no_problem():
    y = counts(150)
    report = pef.check(*fitted(y), y)
    assert report.ok
    assert report.problems == []
    assert levels(report, "solving") == ["ok"]
    assert "at an optimum of the joint density" in text(report, "training")
    assert repr(report) == str(report)
    assert "150 rows and 20 features, with 2 latents" in str(report)
    assert "No problem was found" in str(report)
    assert max(map(len, str(report).splitlines())) <= 92


def test_the_report_leads_with_the_fit_to_the_table():
    y = counts(100, 10)
    lines = str(pef.check(*fitted(y), y)).splitlines()
    assert lines[2] == "Could the fitted model have made this table?"
    questions = [line for line in lines if line.endswith("?")]
    assert len(questions) == 3
    assert lines.index(questions[1]) > lines.index(questions[0])


@pytest.mark.slow
def test_overdispersed_counts_are_no_good_fit_however_good_the_approximation():
    rate = torch.exp(torch.randn(150, 2) @ torch.randn(2, 20) / 2 + 1)
    y = torch.poisson(rate * torch.distributions.Gamma(1.0, 1.0).sample(rate.shape))
    report = pef.check(*fitted(y), y)
    for subject in ("coverage", "dispersion", "zeros"):
        assert levels(report, subject) == ["PROBLEM"]
    assert levels(report, "posterior") == ["ok"]
    found = report.blocks[""].fit_to_data
    assert found.coverage.observed < 0.85 < found.coverage.expected
    assert found.is_refitted
    assert "guide.coefficients.sandwich" in text(report, "intervals")
    assert "No problem was found" not in str(report)


def test_few_columns_whose_evidence_misleads_the_fit_are_a_problem():
    # The Law School Admission Test, section 6, of Bock and Lieberman (1970): how many of 1,000
    # persons gave each pattern of answers.
    counts_of_patterns = torch.tensor(
        [
            *(3, 6, 2, 11, 1, 1, 3, 4, 1, 8, 0, 16, 0, 3, 2, 15),
            *(10, 29, 14, 81, 3, 28, 15, 80, 16, 56, 21, 173, 11, 61, 28, 298),
        ]
    )
    patterns = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 5)
    y = patterns.repeat_interleave(counts_of_patterns, 0)
    model = pef.ExpFamPCA(pef.families.Bernoulli(), 5, 1)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, loss=pef.LaplaceEvidence())
    report = pef.check(model, guide, y, num_draws=50)
    assert "PROBLEM" in levels(report, "evidence")
    said = text(report, "evidence")
    assert "the latents explain less than independent columns do: -2526." in said
    assert ", against -2493." in said
    assert "a smaller loading_scale" in said


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_rows_of_few_latents_are_integrated_by_quadrature(latent_dim):
    y = torch.bernoulli(torch.sigmoid(torch.randn(50, latent_dim) @ torch.randn(latent_dim, 8)))
    model = pef.ExpFamPCA(pef.families.Bernoulli(), 8, latent_dim)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, loss=pef.LaplaceEvidence())
    report = pef.check(model, guide, y)
    rows = report.blocks[""].rows
    expected = pef.evidence.quadrature_evidence(
        model.family, y, guide.loading.double(), guide.intercept.double(), num_nodes=30
    )
    torch.testing.assert_close(rows.integral, expected, rtol=0, atol=1e-4)
    assert float(rows.integral_error.max()) < 1e-3
    assert "by quadrature" in text(report, "evidence")


def test_rows_of_many_latents_are_integrated_by_sampling():
    y = counts(50, 12, 3)
    model = poisson_block(12, 3)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y)
    report = pef.check(model, guide, y, num_draws=100)
    rows = report.blocks[""].rows
    assert torch.equal(rows.integral, rows.importance)
    assert torch.equal(rows.integral_error, rows.standard_error)
    assert "by importance sampling" in text(report, "evidence")


@pytest.mark.parametrize(("high", "again"), [(25, True), (26, False)])
def test_a_quarter_of_the_rows_at_most_is_sampled_again(monkeypatch, high, again):
    drawn = []

    def sample(problem, z, num_draws):
        drawn.append((len(z), num_draws))
        khat = torch.zeros(len(z))
        if len(drawn) == 1:
            khat[:high] = 0.7
        return pef.evidence.ImportanceEvidence(*torch.zeros(2, len(z)), khat, khat)

    monkeypatch.setattr("pyro_expfam.checks.rows.sample_evidence", sample)
    z = torch.zeros(100, 1)
    problem = pef.deq.layer.make_problem(
        pef.families.Poisson(), torch.ones(100, 2), torch.ones(2, 1), torch.zeros(2)
    )
    found, threshold = _sampled(problem, z, 1000)
    assert drawn == [(100, 1000), (high, 10_000)][: 1 + again]
    assert float(found.khat.max()) == (0.0 if again else pytest.approx(0.7))
    assert float(threshold.max()) == pytest.approx(0.7 if again else 2 / 3)
    assert float(threshold.min()) == pytest.approx(2 / 3)


def test_the_evidence_in_a_report_agrees_with_log_evidence():
    y = counts(60)
    model, guide = fitted(y)
    rows = pef.check(model, guide, y).blocks[""].rows
    W, b = guide.loading.double(), guide.intercept.double()
    for order, found in ((1, rows.first_order), (2, rows.second_order)):
        torch.testing.assert_close(
            found, pef.log_evidence(model.family, y, W, b, order=order), rtol=1e-5, atol=1e-5
        )
    assert float(((rows.importance - rows.second_order) / rows.standard_error).abs().max()) < 6
    mean = pef.evidence.posterior_mean(model.family, y, W, b)
    precision = pef.LaplaceGuide(model, params=guide).posterior(y).precision_matrix.double()
    shift = mean - guide.latents(y)
    expected = torch.einsum("si,sij,sj->s", shift, precision, shift).sqrt()
    torch.testing.assert_close(rows.mean_shift, expected, rtol=1e-3, atol=1e-4)


def test_training_on_the_evidence_is_told_from_joint_map():
    y = counts(150)
    model, guide = fitted(y)
    joint = pef.check(model, guide, y).blocks[""].estimates
    guide.fit(y, loss=pef.LaplaceEvidence())
    report = pef.check(model, guide, y)
    evidence = report.blocks[""].estimates
    assert "at an optimum of the evidence: " in text(report, "training")
    assert joint.joint.distance < 0.1 < joint.evidence.distance
    assert evidence.evidence.distance < 0.1 < evidence.joint.distance
    # At an optimum of the evidence, latents are as their prior says; the loading's takes a bit.
    assert evidence.spread == pytest.approx(1, abs=0.2)
    assert joint.spread < 0.7


@pytest.mark.slow
def test_training_on_the_second_order_is_told_from_the_first():
    y = torch.bernoulli(torch.sigmoid(2 * torch.randn(1_000, 1) @ torch.randn(1, 10) - 1))
    model = pef.ExpFamPCA(pef.families.Bernoulli(), 10, 1)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, loss=pef.LaplaceEvidence(order=2))
    report = pef.check(model, guide, y)
    found = report.blocks[""].estimates
    assert "at an optimum of the evidence to second order: " in text(report, "training")
    assert found.second_order.distance < 0.1 * found.evidence.distance
    guide.fit(y, loss=pef.LaplaceEvidence())
    report = pef.check(model, guide, y)
    assert "at an optimum of the evidence: " in text(report, "training")


def test_an_untrained_guide_is_a_problem():
    y = counts(100)
    model = poisson_block()
    report = pef.check(model, pef.DEQMAPGuide(model), y)
    assert not report.ok
    assert "The guide is not trained" in text(report, "training")
    assert report.blocks[""].estimates.joint.distance > 2
    assert "Train the guide on them first" in text(report, "entries")


@pytest.mark.parametrize(
    ("family", "steps"), in_turn([pef.families.Poisson(), pef.families.Gaussian(1.0)], [20, 0])
)
def test_a_guide_that_has_hardly_been_trained_is_a_problem(family, steps):
    y = family.sample(torch.randn(150, 2) @ torch.randn(2, 10) / 2)
    model = pef.ExpFamPCA(family, 10, 2)
    guide = pef.DEQMAPGuide(model)
    svi = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(steps):
        svi.step(y)
    assert levels(pef.check(model, guide, y, num_draws=50), "training") == ["PROBLEM"]


@pytest.mark.parametrize("size", [2, 30, 1_000])
def test_the_limit_of_the_distance_is_a_quantile_of_chi_squared(size):
    expected = stats.chi2.ppf(0.999, size) / size
    assert _ordinary_mean_square(size) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("seed", slow_unless(lambda seed: seed == 0, range(5)))
@pytest.mark.parametrize("num_features", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_new_rows_are_no_problem(num_features, seed):
    torch.manual_seed(seed)
    y = counts(500, num_features)
    model, guide = fitted(y[:400])
    assert levels(pef.check(model, guide, y[400:], num_draws=50), "training") == ["note"]


def test_new_rows_of_the_same_law_are_about_one_standard_deviation_away():
    y = counts(1100)
    model, guide = fitted(y[:1000])
    report = pef.check(model, guide, y[1000:])
    assert 0.5 < report.blocks[""].estimates.joint.distance < 2
    assert levels(report, "training") == ["note"]
    assert "these rows did not train the guide" in text(report, "training")


def test_rows_that_are_not_solved_are_named_and_left_out():
    y = counts(100)
    y[5] = 100.0
    model = poisson_block()
    guide = pef.DEQMAPGuide(model, solver=pef.deq.FisherScoring(max_iter=3))
    report = pef.check(model, guide, y)
    converged = report.blocks[""].rows.converged
    assert 0 < int((~converged).sum()) < 100
    assert not converged[5]
    assert levels(report, "solving") == ["PROBLEM"]
    assert f"{int((~converged).sum())} of 100 rows" in text(report, "solving")
    first = report.blocks[""].rows.first_order
    assert f"{float(first[converged].sum()):.0f}"[:4] in text(report, "evidence")


def test_a_step_that_rests_on_rows_without_a_root_says_so():
    y = counts(100)
    model, _ = fitted(y)
    hasty = pef.DEQMAPGuide(model, solver=pef.deq.FisherScoring(max_iter=3))
    report = pef.check(model, hasty, y)
    assert not bool(report.blocks[""].rows.converged.all())
    assert "This rests on" in text(report, "training")
    assert "not solved" in text(report, "training")
    assert "train longer" not in text(report, "training")
    assert levels(report, "training") != ["ok"]


@pytest.mark.parametrize("latent_dim", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loading_that_has_run_away_is_named(latent_dim):
    y = torch.bernoulli(torch.sigmoid(torch.randn(200, latent_dim) @ torch.randn(latent_dim, 5)))
    model = pef.ExpFamPCA(
        pef.families.Bernoulli(), 5, latent_dim, loading_scale=None, intercept_scale=None
    )
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, loss=pef.LaplaceEvidence())
    with torch.no_grad():
        model.loading.mul_(1e8)
        model.intercept.add_(1e8 * torch.randn(5))
    report = pef.check(model, guide, y, num_draws=50)
    assert levels(report, "training")[0] == "PROBLEM"
    assert "the loading has run away" in text(report, "training")
    assert "at an optimum" not in text(report, "training")
    assert "run away with the loading" in text(report, "latents")
    assert "not used" not in text(report, "latents")


def test_training_of_a_posterior_of_the_loading_is_judged_at_its_mode():
    y = counts(80, 8)
    model = poisson_block(8, intercept_scale=2.0)
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y)
    guide.update_globals(y)
    report = pef.check(model, guide, y, num_draws=50)
    # Its medians are the mean, which skewness takes away from the mode.
    assert float((guide.coefficients.mean - guide.coefficients.mode).norm()) > 0.01
    assert levels(report, "training") == ["ok"]
    assert "at an optimum of the evidence: " in text(report, "training")
    assert report.blocks[""].estimates.evidence.distance < 1e-3


def test_a_scale_by_latent_is_a_prior_of_the_block():
    y = counts(100)
    model = poisson_block(loading_scale=torch.tensor([0.5, 1.5]))
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, loss=pef.LaplaceEvidence())
    report = pef.check(model, guide, y, num_draws=50)
    assert levels(report, "training") == ["ok"]
    assert "at an optimum of the evidence: " in text(report, "training")


def test_columns_of_zeros_run_away_without_a_prior():
    y = counts(100)
    y[:, [4, 7]] = 0.0
    report = pef.check(*fitted(y, intercept_scale=None), y)
    assert report.blocks[""].estimates.extreme_features == [4, 7]
    assert "2 features (4, 7) are at one edge" in text(report, "columns")
    pyro.clear_param_store()
    held = pef.check(*fitted(y, intercept_scale=3.0), y)
    assert levels(held, "columns") == []


@pytest.mark.parametrize(
    ("family", "edge"),
    [
        (pef.families.Bernoulli(), 1.0),
        (pef.families.Ising(), -1.0),
        (pef.families.Binomial(3), 3.0),
        (pef.families.ContinuousBernoulli(), 0.0),
        (pef.families.Gaussian(1.0), None),
    ],
    ids=str,
)
def test_edges_of_every_family(family, edge):
    y = family.sample(torch.randn(40, 5))
    if edge is not None:
        y[:, 2] = edge
        y[7, 2] = 0.5 if isinstance(family, pef.families.ContinuousBernoulli) else y[7, 1]
    mask = torch.ones(40, 5, dtype=torch.bool)
    mask[7] = False
    mask[:, 4] = False
    model = pef.ExpFamPCA(family, 5, 1)
    found = pef.check(model, pef.DEQMAPGuide(model), y, mask=mask)
    assert found.blocks[""].estimates.extreme_features == ([] if edge is None else [2])
    assert found.blocks[""].estimates.empty_features == [4]
    assert "1 feature (4) is without any entry" in text(found, "columns")
    assert "1 of 40 rows (7) is without any entry" in text(found, "solving")


def test_entries_are_counted_where_a_mask_is_of_rows():
    y = counts(20)
    model = poisson_block()
    mask = torch.ones(20, 1, dtype=torch.bool)
    mask[3] = False
    rows = pef.check(model, pef.DEQMAPGuide(model), y, mask=mask).blocks[""].rows
    torch.testing.assert_close(rows.num_entries, torch.where(mask[:, 0], 20, 0))


def test_latents_that_are_not_used_are_counted():
    y = counts(300, latent_dim=1)
    model, guide = fitted(y)
    with torch.no_grad():
        unit = torch.linalg.svd(guide.loading, full_matrices=False)
        guide.global_guide.loading.copy_(unit.U * torch.tensor([float(unit.S[0]), 1e-3]) @ unit.Vh)
    report = pef.check(model, guide, y)
    information = report.blocks[""].estimates.information
    assert float(information[0]) > 1
    assert float(information[1]) < 1e-4
    assert "1 of 2 is not used" in text(report, "latents")


def test_a_flat_loading_under_joint_map_is_a_problem():
    y = counts(100)
    model = poisson_block(loading_scale=None)
    guide = pef.DEQMAPGuide(model)
    svi = SVI(model, guide, Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(150):
        svi.step(y)
    assert "the loading has a flat prior" in text(pef.check(model, guide, y), "training")


def test_gaussian_tables_are_exact():
    y = torch.randn(100, 2) @ torch.randn(2, 12) + torch.randn(100, 12)
    model = pef.ExpFamPCA(pef.families.Gaussian(1.0), 12, 2)
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    report = pef.check(model, guide, y)
    assert "is the posterior of every row's latents" in text(report, "posterior")
    assert "Laplace is exact" in text(report, "evidence")
    assert text(report, "means") == "posterior means are at the root."


def test_few_features_and_rare_events_are_too_little_for_a_normal():
    family = pef.families.Bernoulli()
    model = pef.ExpFamPCA(family, 6, 4, loading_scale=None)
    with torch.no_grad():
        model.loading.copy_(10 * torch.randn(6, 4))
        model.intercept.fill_(-3.0)
    y = family.sample(torch.randn(60, 4) @ model.loading.detach().T - 3.0)
    report = pef.check(model, pef.LaplaceGuide(model), y)
    assert levels(report, "posterior") == ["PROBLEM"]
    assert levels(report, "means") == ["PROBLEM"]
    assert "NUTS" in text(report, "posterior")


class Two(PyroModule):
    """Two tables, with an argument of one of them by name."""

    def __init__(self):
        super().__init__()
        self.genes = poisson_block(6)
        self.sites = pef.ExpFamPCA(pef.families.Bernoulli(), 4, 1)
        self.sites.loading = PyroSample(dist.Laplace(torch.zeros(4, 1), 1.0).to_event(2))

    def forward(self, counts, bits, depth=None, mask=None):
        z = self.genes(counts, offset=depth, mask=mask)
        self.sites(bits)
        slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("score", z @ slope)


@pytest.mark.parametrize("as_list", [False, True])
def test_blocks_are_reported_by_name(as_list):
    y, bits = counts(30, 6), torch.bernoulli(torch.full((30, 4), 0.5))
    depth, mask = torch.randn(30, 1), torch.rand(30, 6) < 0.8
    model = Two()
    guide = pef.LaplaceGuide(model)
    if as_list:
        guide = AutoGuideList(model)
        guide.append(AutoNormal(pyro.poutine.block(model, expose=["slope"])))
        guide.append(pef.LaplaceGuide(pyro.poutine.block(model, hide=["slope"])))
        guide(y, bits, depth=depth, mask=mask)
    report = pef.check(model, guide, y, bits, depth=depth, mask=mask)
    assert list(report.blocks) == ["genes", "sites"]
    genes = report.blocks["genes"]
    torch.testing.assert_close(genes.rows.num_entries, mask.sum(-1))
    assert not genes.is_whole_model
    part = guide[1] if as_list else guide
    expected = pef.log_evidence(
        pef.families.Poisson(),
        y,
        part.block("genes").loading.double(),
        part.block("genes").intercept.double(),
        offset=depth,
        mask=mask,
    )
    torch.testing.assert_close(genes.rows.first_order, expected, rtol=1e-5, atol=1e-5)
    assert report.blocks["sites"].estimates.joint is None
    assert "prior of loading or intercept is your own" in text(report, "training", "sites")
    assert "known up to their sign" in text(report, "latents", "sites")
    assert "genes: Poisson table of 30 rows" in str(report)


def test_gradients_of_the_gap_are_those_of_the_objective():
    y = counts(40).double()
    model = poisson_block(intercept_scale=None).double()
    guide = pef.DEQMAPGuide(model).double()
    guide(y)
    guide = guide.double()
    found = pef.check(model, guide, y).blocks[""].estimates
    W, b = guide.loading.clone().requires_grad_(), guide.intercept.clone().requires_grad_()
    evidence, second_order = (
        pef.log_evidence(model.family, y, W, b, order=order).sum() - 0.5 * W.square().sum()
        for order in (1, 2)
    )
    z = guide.latents(y)
    joint = model.family.log_prob(y, z @ W.T + b).sum() - 0.5 * W.square().sum()
    rate = torch.exp(z @ W.detach().T + b.detach())
    design = torch.cat([z, torch.ones_like(z[:, :1])], 1)
    curvature = torch.einsum("si,sa,sb->iab", rate, design, design)
    curvature += torch.diag(torch.tensor([1.0, 1.0, 0.0])).double()
    for objective, gap in (
        (joint, found.joint),
        (evidence, found.evidence),
        (second_order, found.second_order),
    ):
        to_W, to_b = torch.autograd.grad(objective, (W, b))
        score = torch.cat([to_W, to_b[:, None]], 1)
        square = (score * torch.linalg.solve(curvature, score)).sum()
        assert gap.gain == pytest.approx(float(square) / 80, rel=1e-6)
        assert gap.distance == pytest.approx(float((square / score.numel()).sqrt()), rel=1e-6)


def test_bad_arguments_are_named():
    y = counts(10)
    model = poisson_block()
    with pytest.raises(TypeError, match="guide must be a guide of this package"):
        pef.check(model, AutoNormal(model), y)
    with pytest.raises(ValueError, match="guide must be of the same model"):
        pef.check(poisson_block(), pef.DEQMAPGuide(model), y)
    with pytest.raises(ValueError, match="num_draws must be a whole number of at least 50"):
        pef.check(model, pef.DEQMAPGuide(model), y, num_draws=10)


def test_a_guide_that_has_diverged_is_refused():
    model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)
    guide = pef.DEQMAPGuide(model)
    y = torch.poisson(torch.ones(30, 6))
    guide(y)
    with torch.no_grad():
        guide.global_guide.loading.fill_(torch.nan)
    for work in (lambda: pef.check(model, guide, y), lambda: guide.fit(y)):
        with pytest.raises(ValueError, match=r"guide must have a finite loading .* diverged"):
            work()


def test_a_learnt_scale_is_reported_without_a_warning_of_torch():
    y = torch.randn(40, 1) @ torch.randn(1, 5) + torch.randn(40, 5)
    model = pef.ExpFamPCA(pef.families.Gaussian(), 5, 1)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y)
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "the Gaussian family of scale" in " ".join(
                str(pef.check(model, guide, y)).split()
            )
    finally:
        torch.set_warn_always(always)


def unequal_noise(num_rows=150, num_features=8):
    noise = torch.linspace(0.2, 3.0, num_features)
    shared = 2 * torch.randn(num_rows, 2) @ torch.randn(2, num_features)
    return shared + noise * torch.randn(num_rows, num_features)


def test_a_learnt_scale_is_not_to_be_learnt_again():
    y = unequal_noise()
    model = pef.ExpFamPCA(pef.families.Gaussian(), y.shape[1], 2)
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    report = pef.check(model, guide, y)
    assert report.blocks[""].fit_to_data.dispersion.observed == pytest.approx(1.0, abs=0.1)
    assert "PROBLEM" not in levels(report, "dispersion")
    assert "Learn the scale" not in str(report)
    assert levels(report, "outliers")[0] == "PROBLEM"
    assert 'Gaussian("per column")' in text(report, "outliers")


def test_scales_by_column_are_not_averaged():
    y = unequal_noise()
    model = pef.ExpFamPCA(pef.families.Gaussian("per column"), y.shape[1], 2)
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    report = pef.check(model, guide, y)
    assert "of these scales" in text(report, "dispersion")
    assert "of scale" not in text(report, "dispersion")


@pytest.mark.parametrize("has_offset", [False, True])
def test_an_offset_is_advised_where_there_is_none(has_offset):
    rate = torch.exp(torch.randn(120, 2) @ torch.randn(2, 12) / 2 + 1)
    y = torch.poisson(rate * torch.distributions.Gamma(1.0, 1.0).sample(rate.shape))
    model, guide = poisson_block(12), None
    offset = (y.sum(1, keepdim=True) + 1).log() if has_offset else None
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, offset=offset)
    report = pef.check(model, guide, y, offset=offset)
    assert ("Give an offset per row" in text(report, "dispersion")) != has_offset


def test_a_loading_of_the_wrong_size_has_a_cure():
    y = torch.poisson(torch.exp(2 * torch.randn(200, 1) @ torch.randn(1, 8)))
    model = poisson_block(8, 1, loading_scale=0.1)
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    found = text(pef.check(model, guide, y), "latents")
    assert "times the prior variance" in found
    for cure in ("loading_scale=None", "learn_loading_scale", "compare_latent_dims"):
        assert cure in found


def test_a_table_without_an_entry_is_an_error():
    y = counts(30, 6)
    model, guide = fitted(y)
    with pytest.raises(ValueError, match="mask must leave at least one entry present, got none"):
        pef.check(model, guide, y, mask=torch.zeros(30, 6, dtype=torch.bool))


@pytest.mark.parametrize("latent_dim", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_error_of_the_evidence_is_honest_under_steep_loadings(latent_dim):
    y = torch.bernoulli(torch.full((100, 5), 0.6))
    model = pef.ExpFamPCA(pef.families.Bernoulli(), 5, latent_dim, loading_scale=30.0)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y)
    rows = pef.check(model, guide, y).blocks[""].rows
    W, b = guide.loading.double(), guide.intercept.double()
    exact = pef.evidence.quadrature_evidence(pef.families.Bernoulli(), y, W, b)
    missing = float((rows.integral - exact).sum().abs())
    assert missing <= float(rows.integral_error.sum()) < 1.0
