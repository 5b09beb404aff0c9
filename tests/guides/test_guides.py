"""The guides as a user calls them: estimates, new rows, diagnostics and bad input."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from pyro.optim import Adam

import pyro_expfam as pef

FAMILY = pef.families.Bernoulli()


def bits(num_rows=30, num_features=8):
    eta = 3.0 * torch.randn(num_rows, 2) @ torch.randn(2, num_features)
    return torch.bernoulli(torch.sigmoid(eta))


def trained_guide(y, make=pef.DEQMAPGuide, elbo=Trace_ELBO, steps=60, **settings):
    model = pef.ExpFamPCA(FAMILY, y.shape[1], 2, **settings)
    guide = make(model)
    svi = SVI(model, guide, Adam({"lr": 0.05}), elbo())
    losses = [svi.step(y) for _ in range(steps)]
    return model, guide, losses


@pytest.mark.parametrize(
    ("make", "elbo"),
    [
        (pef.DEQMAPGuide, Trace_ELBO),
        (pef.LaplaceGuide, Trace_ELBO),
        (pef.LaplaceGuide, TraceMeanField_ELBO),
    ],
)
def test_training_improves_the_loss(make, elbo):
    _, _, losses = trained_guide(bits(), make, elbo)
    assert sum(losses[-10:]) < 0.96 * sum(losses[:10])


def test_latents_are_the_root_for_the_estimated_loading():
    y = bits()
    _, guide, _ = trained_guide(y, intercept_scale=1.0)
    expected = pef.solve_latents(FAMILY, y, guide.loading, guide.intercept).value
    torch.testing.assert_close(guide.latents(y), expected)
    torch.testing.assert_close(guide.median(y)["z"], expected)
    torch.testing.assert_close(guide(y)["z"], expected)


def test_new_rows_need_no_training():
    model, guide, _ = trained_guide(bits())
    new, mask, offset = bits(7), torch.rand(7, 8) < 0.7, torch.randn(7, 1)
    laplace = pef.LaplaceGuide(model, params=guide)
    posterior = laplace.posterior(new, offset=offset, mask=mask)
    torch.testing.assert_close(posterior.mean, guide.latents(new, offset=offset, mask=mask))
    torch.testing.assert_close(laplace.loading, guide.loading)
    assert posterior.batch_shape == (7,)
    W = guide.loading
    eta = posterior.mean @ W.T + guide.intercept + offset
    variance = FAMILY.variance(eta) * mask
    information = torch.eye(2) + torch.einsum("nd,dk,dm->nkm", variance, W, W)
    torch.testing.assert_close(posterior.precision_matrix, information)
    draws = torch.stack([laplace(new, offset=offset, mask=mask)["z"] for _ in range(400)])
    error = 6 * (posterior.variance / 400).sqrt()
    assert ((draws.mean(0) - posterior.mean).abs() < error).all()


def test_an_entry_of_weight_two_counts_as_two():
    y, weights = bits(), torch.randint(0, 3, (1, 8)).float()
    model, guide, _ = trained_guide(y)
    posterior = pef.LaplaceGuide(model, params=guide).posterior(y, weights=weights)
    torch.testing.assert_close(posterior.mean, guide.latents(y, weights=weights))
    times = weights[0].long()
    repeated = [x.repeat_interleave(times, -1) for x in (y, guide.loading.T, guide.intercept)]
    repeated[1] = repeated[1].T
    expected = pef.solve_latents(FAMILY, *repeated).value
    torch.testing.assert_close(posterior.mean, expected)
    torch.testing.assert_close(guide(y, weights=weights)["z"], expected)


def test_a_laplace_guide_shares_the_parameters_of_another_guide():
    y = bits()
    model, guide, _ = trained_guide(y)
    laplace = pef.LaplaceGuide(model, params=guide)
    before = laplace.loading.clone()
    svi = SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(y)
    assert not torch.equal(laplace.loading, before)
    torch.testing.assert_close(laplace.loading, guide.loading)
    assert not list(laplace.parameters())


def test_sample_stats_report_every_row():
    y = bits()
    _, guide, _ = trained_guide(y)
    stats = guide.sample_stats(y)
    assert set(stats) == {"converged", "num_iter", "residual"}
    assert stats["converged"].shape == (30,)
    assert stats["converged"].all()


def test_training_never_hides_rows_that_did_not_converge():
    model = pef.ExpFamPCA(pef.families.Poisson(), 8, 2, latent_precision=0.01)
    solver = pef.deq.FisherScoring(max_iter=1)
    guide = pef.DEQMAPGuide(model, solver=solver)
    with pytest.warns(pef.ConvergenceWarning, match="30 of 30 rows"):
        guide(torch.poisson(torch.full((30, 8), 5.0)))


class Two(PyroModule):
    def __init__(self):
        super().__init__()
        self.bits = pef.ExpFamPCA(FAMILY, 8, 2)
        self.more = pef.ExpFamPCA(FAMILY, 8, 1)

    def forward(self, y):
        return self.bits(y), self.more(y)


def test_several_blocks_are_told_apart_by_name():
    guide = pef.DEQMAPGuide(Two())
    y = bits()
    values = guide(y)
    sites = ("loading", "intercept", "z")
    assert set(values) == {f"{block}.{site}" for block in ("bits", "more") for site in sites}
    assert guide.block("bits").loading.shape == (8, 2)
    assert guide.block("more").latents(y).shape == (30, 1)
    assert guide.block("more").solution(y).converged.all()
    assert set(guide.sample_stats(y)) == {
        f"{block}.{name}"
        for block in ("bits", "more")
        for name in ("converged", "num_iter", "residual")
    }
    with pytest.raises(ValueError, match=r"name must be one of the blocks \['bits', 'more'\]"):
        guide.block("genes")
    with pytest.raises(ValueError, match="got None"):
        _ = guide.loading


def no_block(y):
    with pyro.plate("rows", len(y)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_a_model_without_a_block_is_refused(make):
    with pytest.raises(ValueError, match=r"model must have a block.*latent sites \['z'\]"):
        make(no_block)(bits())


def test_a_guide_that_has_seen_nothing_says_so():
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(FAMILY, 8, 2))
    with pytest.raises(RuntimeError, match="the guide has not seen data yet"):
        _ = guide.loading


def test_a_guide_without_observations_says_so():
    _, guide, _ = trained_guide(bits(), steps=1)
    with pytest.raises(ValueError, match="y must be given for the guide to find the latents 'z'"):
        guide(num_rows=5)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (bits()[:, :5], r"y must have shape \(..., rows, 8\)"),
        (3 * bits() + 1, "y must be in the support of Bernoulli"),
    ],
)
def test_bad_rows_are_refused_before_anything_changes(y, message):
    model, guide, _ = trained_guide(bits(), steps=2)
    before = guide.loading.clone()
    svi = SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO())
    for call in (guide, guide.latents, svi.step):
        with pytest.raises(ValueError, match=message):
            call(y)
    assert torch.equal(guide.loading, before)


def test_no_rows_have_no_latents_and_are_no_step():
    model, guide, _ = trained_guide(bits(), steps=2)
    assert guide.latents(bits()[:0]).shape == (0, 2)
    svi = SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO())
    for call in (guide, svi.step):
        with pytest.raises(ValueError, match="y must have at least one row"):
            call(bits()[:0])


def test_parameters_of_another_model_are_refused():
    _, guide, _ = trained_guide(bits(), steps=1)
    with pytest.raises(ValueError, match="params must be a guide of the same model"):
        pef.LaplaceGuide(pef.ExpFamPCA(FAMILY, 8, 2), params=guide)


def test_parameters_of_something_else_are_refused():
    model, _, _ = trained_guide(bits(), steps=1)
    with pytest.raises(TypeError, match=r"params must be a guide.*got ExpFamPCA"):
        pef.LaplaceGuide(model, params=model)


COUNTS = {
    "one row": torch.tensor([[3.0, 0.0, 1.0, 7.0]]),
    "constant columns": torch.tensor([[2.0, 0.0, 1.0, 5.0], [2.0, 0.0, 4.0, 0.0]]).repeat(5, 1),
    "zero rows": torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.0, 3.0]]).repeat(5, 1),
    "large counts": torch.tensor([[1e6, 0.0, 3.0, 1e5], [1.0, 1e6, 20.0, 0.0]]).repeat(5, 1),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("latent_dim", [1, 6])
def test_degenerate_tables_train(name, latent_dim):
    y = COUNTS[name]
    model = pef.ExpFamPCA(pef.families.Poisson(), 4, latent_dim)
    guide = pef.DEQMAPGuide(model)
    svi = SVI(model, guide, Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(y) for _ in range(40)]
    assert losses[-1] < losses[0]
    posterior = pef.LaplaceGuide(model, params=guide).posterior(y)
    assert posterior.mean.isfinite().all()
    assert (posterior.variance > 0).all()
    assert guide.sample_stats(y)["converged"].all()


def test_a_family_in_place_of_a_model_is_refused_with_the_model_to_make():
    with pytest.raises(TypeError, match=r"model must .* pyro_expfam.ExpFamPCA\(.*Poisson\(\), num"):
        pef.LaplaceGuide(pef.families.Poisson())


def test_coefficients_without_a_posterior_say_which_guide_has_one():
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 4, 2))
    with pytest.raises(RuntimeError, match="make the guide with globals='laplace'"):
        _ = guide.coefficients


def test_a_guide_knows_whether_it_has_been_trained():
    model = pef.ExpFamPCA(pef.families.Poisson(), 4, 2)
    guide = pef.DEQMAPGuide(model)
    posterior = pef.LaplaceGuide(model, params=guide)
    y = torch.poisson(torch.ones(9, 4))
    posterior(y)
    assert not guide.is_trained
    assert not posterior.is_trained
    with pytest.warns(UserWarning, match="the guide has not been trained"):
        pef.to_arviz(model, posterior, y, num_samples=2)
    guide.fit(y)
    assert guide.is_trained
    assert posterior.is_trained
