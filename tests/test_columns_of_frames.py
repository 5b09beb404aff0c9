"""Mixed tables through blocks and guides: names, data frames, learnt parameters and summaries."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq.mixed_frames import as_numbers

F = pef.families
LAWS = {
    "income": F.Gaussian(900.0),
    "smoker": F.Bernoulli(),
    "colour": F.Categorical(3),
    "visits": F.Poisson(),
    "agrees": F.Ordinal(3, [0.0, 1.5]),
}
COLOURS = ["red", "green", "blue"]


def frame_of(num_rows=120):
    torch.manual_seed(0)
    family = F.Columns(LAWS)
    eta = torch.randn(num_rows, 2) @ (0.8 * torch.randn(2, family.num_predictors(5)))
    eta[:, 0] += 6.0
    frame = pd.DataFrame(family.decode(family.sample(eta)).numpy(), columns=list(LAWS))
    codes = frame["colour"].astype(int)
    frame["colour"] = pd.Categorical.from_codes(codes, COLOURS)
    frame.index = [f"r{k}" for k in range(num_rows)]
    return frame


@pytest.fixture(scope="module")
def frame():
    return frame_of()


@pytest.fixture(scope="module")
def guide(frame):
    torch.manual_seed(0)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Columns(LAWS), latent_dim=2))
    assert guide.fit(frame, progress=False).converged
    return guide


def test_sizes_follow_from_the_columns():
    model = pef.ExpFamPCA(F.Columns(LAWS), latent_dim=2)
    assert (model.num_features, model.num_predictors) == (5, 7)
    with pytest.raises(ValueError, match="be the 5 columns of the family, got 4"):
        pef.ExpFamPCA(F.Columns(LAWS), 4, 2)


def test_columns_of_a_frame_are_matched_by_name(frame, guide):
    other = frame[list(frame)[::-1]]
    mask = pd.DataFrame(np.random.default_rng(0).random(frame.shape) > 0.3, index=frame.index)
    mask.columns = list(frame)
    torch.testing.assert_close(guide.latents(other), guide.latents(frame))
    torch.testing.assert_close(
        guide.latents(other, mask=mask[list(other)]), guide.latents(frame, mask=mask)
    )
    torch.testing.assert_close(guide.log_evidence(other), guide.log_evidence(frame))


def test_a_permuted_table_has_the_same_evidence(frame, guide):
    order = [3, 0, 4, 2, 1]
    names = [list(LAWS)[k] for k in order]
    family = F.Columns({name: LAWS[name] for name in names})
    begins = np.cumsum([0] + [law.predictors_per_column for law in LAWS.values()])
    places = [j for k in order for j in range(begins[k], begins[k + 1])]
    found = pef.log_evidence(family, frame, guide.loading[places], guide.intercept[places])
    torch.testing.assert_close(found, guide.log_evidence(frame).detach(), rtol=1e-5, atol=1e-4)


def test_the_joint_fit_of_a_stream_is_the_fit_of_its_table(frame):
    fits = []
    numbers = torch.tensor(as_numbers(F.Columns(LAWS), frame).to_numpy(dtype=np.float32))
    for y in (numbers, list(numbers.split(50))):
        torch.manual_seed(0)
        guide = pef.DEQMAPGuide(pef.ExpFamPCA(F.Columns(LAWS), latent_dim=1))
        fits.append(guide.fit(y, progress=False).objective)
    assert fits[0] == pytest.approx(fits[1], rel=1e-5)


@pytest.mark.filterwarnings("ignore:the fit has not converged")
def test_a_start_is_in_units_of_each_column(frame):
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(F.Columns(LAWS), latent_dim=2))
    guide.fit(frame, progress=False, max_sweeps=1)
    predicted = 900.0 * float(guide.intercept[0])
    assert predicted == pytest.approx(float(frame["income"].mean()), rel=0.1)


@pytest.mark.filterwarnings("ignore:the fit has not converged")
def test_learnt_parameters_have_names_by_kind_and_labels_by_column():
    torch.manual_seed(0)
    family = F.Columns({"a": F.Gaussian(), "b": F.Bernoulli(), "c": F.Gaussian()})
    y = torch.randn(80, 3) * torch.tensor([5.0, 1.0, 3000.0]) + torch.tensor([1.0, 0.0, 9000.0])
    y[:, 1] = (y[:, 1] > 0).float()
    model = pef.ExpFamPCA(family, latent_dim=1)
    guide = pef.LaplaceGuide(model)
    guide.fit(y, progress=False, max_sweeps=20)
    scale = model.family_gaussian_scale.detach()
    # One latent may explain most of a column. The rest of its spread is noise.
    loading = guide.loading[[0, 2], 0].detach()
    spread = scale * (1 + loading.square()).sqrt()
    torch.testing.assert_close(spread, y.std(0)[[0, 2]], rtol=0.3, atol=0.0)
    posterior = pef.to_arviz(model, guide, y, num_samples=5, groups=["posterior"])["posterior"]
    found = posterior["family_gaussian_scale"]
    assert found.dims[-1] == "gaussian_column"
    assert found.coords["gaussian_column"].values.tolist() == ["a", "c"]
    with pytest.raises(ValueError, match=r"LaplaceEvidence\(\) for a family_gaussian_scale"):
        pef.DEQMAPGuide(pef.ExpFamPCA(family, latent_dim=1)).fit(y)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_names_and_kinds_are_in_containers_and_pictures(frame, guide):
    import matplotlib

    matplotlib.use("Agg")
    idata = pef.to_arviz(guide.model, guide, frame[list(frame)[::-1]], num_samples=20)
    predictors = ["income", "smoker", "colour=red", "colour=green", "colour=blue", "visits"]
    assert idata["posterior"]["predictor"].values.tolist() == [*predictors, "agrees"]
    likelihood = idata["log_likelihood"]["y"]
    assert likelihood["feature"].values.tolist() == list(LAWS)
    by_kind = likelihood.groupby("kind").sum()
    assert set(by_kind["kind"].values) == {
        "gaussian", "bernoulli", "categorical_3", "poisson", "ordinal_3"
    }  # fmt: skip
    assert "y" not in idata["constant_data"] if "constant_data" in idata else True
    axes = pef.plots.plot_reconstruction(idata)
    assert [ax.get_ylabel().partition(":")[0] for ax in axes][:2] == ["gaussian", "bernoulli"]
    assert pef.plots.plot_reconstruction(idata, features=["visits"]).get_ylabel() == "observed"
    with pytest.raises(ValueError, match="features must be among"):
        pef.plots.plot_reconstruction(idata, features=["nothing"])
    with pytest.raises(ValueError, match="ax must be left out for columns of several kinds"):
        pef.plots.plot_reconstruction(idata, ax=axes[0])


def test_check_speaks_of_each_kind(frame, guide):
    report = str(pef.check(guide.model, guide, frame, num_draws=100))
    assert "poisson: entries vary" in report
    assert "gaussian: entries vary" in report
    assert "bernoulli:" not in report
    assert report.count("of the entries are zero") == 1


def without(name):
    return lambda frame: frame.drop(columns=name)


def with_column(**columns):
    return lambda frame: frame.assign(**columns)


WORDS = ["low", "mid", "high"]
BAD = [
    (without("visits"), ValueError, "with the columns of the family, .* got one without 'visits'"),
    (with_column(more=1.0), ValueError, "got one with the further 'more'"),
    (
        lambda frame: frame[[*frame, "visits"]],
        ValueError,
        "got one with the repeated 'visits'",
    ),
    (with_column(income="a lot"), TypeError, "'income' of y must hold .*Gaussian.*'a lot'"),
    (
        with_column(smoker=0.5),
        TypeError,
        r"'smoker' .* 0 or 1 or two categories of pandas, for Bernoulli.* float64 with 0.5",
    ),
    (
        with_column(agrees=pd.Categorical(WORDS * 40)),
        TypeError,
        "'agrees' .* ordered categories of pandas.*got categories without an order, 'high'",
    ),
    (
        with_column(visits=pd.Categorical(WORDS * 40)),
        TypeError,
        r"'visits' .* take Categorical\(3\)",
    ),
    (
        with_column(colour=pd.Categorical(list("abcd") * 30)),
        ValueError,
        "'colour' of y must have at most 3 categories",
    ),
    (with_column(smoker=2), ValueError, r"support of Bernoulli\(\), 0 or 1.*column 'smoker'"),
    (
        with_column(income=pd.Timestamp("2020-01-01")),
        TypeError,
        "'income' of y must hold .*got dtype datetime64",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=range(len(BAD)))
def test_frames_that_do_not_fit_are_refused_by_name(frame, change, error, message):
    with pytest.raises(error, match=message):
        pef.ExpFamPCA(F.Columns(LAWS), latent_dim=1)(change(frame))
