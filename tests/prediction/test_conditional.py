"""Columns given other columns."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_expfam as pef

F = pef.families


def oaks(num_rows=300):
    torch.manual_seed(5)
    W = torch.tensor([[1.0], [0.8], [-0.7], [0.5]]).double()
    y = torch.poisson(torch.exp(1 + torch.randn(num_rows, 1).double() @ W.mT))
    return pd.DataFrame(y.numpy(), columns=["oak", "elm", "ash", "yew"])


def fitted(frame, **settings):
    torch.manual_seed(1)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Poisson(), 4, 1).double(), **settings)
    guide.fit(frame, progress=False)
    return guide


def test_new_rows_are_covered_and_may_lack_the_column():
    frame = oaks(600)
    guide, new = fitted(frame[:300], globals="laplace"), frame[300:]
    found = pef.predict(guide, new.drop(columns="elm"), ["elm"], num_draws=400)
    truth = torch.as_tensor(new["elm"].to_numpy())
    below = (found.draws[..., 0] < truth).double().mean(0)
    below += torch.rand(300) * (found.draws[..., 0] == truth).double().mean(0)
    assert 0.85 < float(((below > 0.05) & (below < 0.95)).double().mean()) < 0.95
    assert found.to_frame()["mean"].shape == (300, 1)
    assert list(found.to_frame().index) == list(new.index)
    correlation = np.corrcoef(found.mean[:, 0], truth)[0, 1]
    assert correlation > 0.6


def test_what_stands_in_a_predicted_column_is_never_read():
    frame = oaks()
    guide = fitted(frame)
    other = frame.assign(elm=-np.inf)
    answers = []
    for table in (frame, other, frame[["yew", "oak", "ash"]]):
        torch.manual_seed(0)
        answers.append(pef.predict(guide, table, ["elm"]).draws)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_columns_of_one_label_are_told_apart_by_position():
    frame = oaks()
    twice = frame.set_axis(["oak", "oak", "ash", "yew"], axis=1)
    guides = [fitted(x) for x in (frame, twice)]
    answers = []
    for guide, table in zip(guides, (frame, twice), strict=True):
        torch.manual_seed(0)
        answers.append(pef.predict(guide, table, [1]).draws)
    assert torch.equal(*answers)
    with pytest.raises(ValueError, match=r"one column each, got 'oak' of the columns \[0, 1\]"):
        pef.predict(guides[1], twice, ["oak"])
    with pytest.raises(ValueError, match="given must be the labels of one column each"):
        pef.predict(guides[1], twice, ["ash"], given=["oak"])


def test_given_leaves_the_others_out():
    frame = oaks()
    guide = fitted(frame)
    torch.manual_seed(0)
    one = pef.predict(guide, frame, ["elm"], given=["oak"])
    torch.manual_seed(0)
    same = pef.predict(guide, frame.assign(ash=np.nan, yew=np.nan), [1], given=[0])
    assert torch.equal(one.draws, same.draws)
    everything = pef.predict(guide, frame, ["elm"])
    assert one.standard_error.mean() > everything.standard_error.mean()


def test_a_mask_counts_too():
    frame = oaks()
    guide = fitted(frame)
    mask = frame.notna()
    mask.iloc[:, 2:] = False
    torch.manual_seed(0)
    masked = pef.predict(guide, frame, ["elm"], mask=mask)
    torch.manual_seed(0)
    assert torch.equal(masked.draws, pef.predict(guide, frame, ["elm"], given=["oak"]).draws)


def test_categories_have_probabilities_and_names_in_any_order():
    random = np.random.default_rng(0)
    z = random.normal(size=200)
    frame = pd.DataFrame(
        {
            "colour": pd.Categorical(np.where(z > 0.4, "red", np.where(z < -0.4, "blue", "green"))),
            "height": z + 0.3 * random.normal(size=200),
            "weight": z + 0.3 * random.normal(size=200),
        }
    )
    family = F.Columns(
        {"colour": F.Categorical(3), "height": F.Gaussian(0.4), "weight": F.Gaussian(0.4)}
    )
    torch.manual_seed(0)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, latent_dim=1).double())
    guide.fit(frame, progress=False)
    found = pef.predict(guide, frame[["weight", "height"]], ["colour"])
    probabilities = found.probabilities["colour"]
    torch.testing.assert_close(probabilities.sum(1), torch.ones(200).double())
    right = probabilities.argmax(1).numpy() == frame["colour"].cat.codes.to_numpy()
    assert right.mean() > 0.7
    assert found.mean.isnan().all()
    numbers = pef.predict(guide, frame[["weight", "colour"]], ["height"])
    assert numbers.probabilities == {}
    assert np.corrcoef(numbers.mean[:, 0], frame["height"])[0, 1] > 0.8


def test_bad_columns():
    frame = oaks(60)
    guide = fitted(frame)
    for columns, message in (
        (["fir"], "must be columns of the guide, got 'fir'"),
        ("elm", r"must be several columns, such as \['elm'\]"),
        ([], "at least one"),
        (["elm", 1], "different columns"),
    ):
        with pytest.raises(ValueError, match=message):
            pef.predict(guide, frame, columns)
    with pytest.raises(ValueError, match=r"given must differ from columns, got \['elm'\]"):
        pef.predict(guide, frame, ["elm"], given=["elm", "oak"])
    with pytest.raises(ValueError, match=r"given must be columns of y, got \['ash'\]"):
        pef.predict(guide, frame.drop(columns="ash"), ["elm"], given=["ash"])
    with pytest.raises(ValueError, match=r"got \['fir'\] too"):
        pef.predict(guide, frame.drop(columns="ash").assign(fir=1), ["elm"])
