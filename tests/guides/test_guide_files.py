"""A guide in a file, and the guide that comes back from it."""

import json
import math
import os

import numpy as np
import pandas as pd
import pytest
import torch
from all_families import Geometric
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from quick_cases import slow_unless
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch.distributions import constraints

import pyro_expfam as pef
from pyro_expfam import families, links
from pyro_expfam.guides import tensor_file
from pyro_expfam.guides.plain_data import NotPlainError, from_plain, to_plain

POISSON = families.Poisson()


def counts(num_rows=30, num_columns=5):
    return torch.poisson(torch.exp(torch.randn(num_rows, 2) @ torch.randn(2, num_columns) / 2))


def fitted(make=pef.LaplaceGuide, **settings):
    guide = make(pef.ExpFamPCA(POISSON, 5, 2, **settings))
    guide.fit(counts())
    return guide


GUIDES = {
    "map": lambda: fitted(pef.DEQMAPGuide),
    "laplace": fitted,
    "double": lambda: _double(),
    "no priors": lambda: fitted(pef.DEQMAPGuide, intercept_scale=None),
    "precision matrix": lambda: fitted(latent_precision=torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
    "scale per latent": lambda: fitted(latent_scale=torch.tensor([1.0, 2.0])),
    "other solver": lambda: fitted(
        lambda model: pef.LaplaceGuide(model, solver=pef.deq.FisherScoring(tol=1e-5))
    ),
    "shared parameters": lambda: pef.LaplaceGuide(
        (guide := fitted(pef.DEQMAPGuide)).model, params=guide
    ),
}


def _double():
    guide = pef.LaplaceGuide(pef.ExpFamPCA(POISSON, 5, 2).double())
    guide.fit(counts().double())
    return guide


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_comes_back_the_same(name, tmp_path):
    torch.manual_seed(1)
    guide = GUIDES[name]()
    guide.save(tmp_path / "guide.safetensors")
    loaded = pef.load(tmp_path / "guide.safetensors")
    y = counts(7).to(guide.loading.dtype)
    assert type(loaded) is type(guide)
    assert loaded.solver == guide.solver
    assert torch.equal(loaded.loading, guide.loading)
    assert torch.equal(loaded.latents(y), guide.latents(y))
    assert torch.equal(loaded.log_evidence(y), guide.log_evidence(y))
    assert loaded.is_trained
    assert loaded.fit(counts().to(y)).converged


def test_a_learnt_scale_is_learnt_on(tmp_path):
    scale = PyroParam(torch.tensor(2.0), constraint=constraints.positive)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(POISSON, 5, 2, loading_scale=scale))
    guide(counts())
    guide.save(tmp_path / "guide")
    model = pef.load(tmp_path / "guide").model
    assert model.loading_scale.requires_grad
    assert torch.equal(model.loading_scale, guide.model.loading_scale)


@pytest.mark.parametrize("sandwich", [False, True])
def test_the_posterior_of_the_coefficients_comes_back(sandwich, tmp_path):
    torch.manual_seed(2)
    y = counts(60)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(POISSON, 5, 2), globals="laplace")
    guide.fit(y)
    if sandwich:
        guide = guide.with_sandwich()
    guide.save(tmp_path / "guide")
    loaded = pef.load(tmp_path / "guide")
    assert torch.equal(loaded.coefficients.variance(), guide.coefficients.variance())
    torch.manual_seed(3)
    drawn = guide(y)
    torch.manual_seed(3)
    again = loaded(y)
    assert all(torch.equal(drawn[name], again[name]) for name in ("loading", "intercept", "z"))


def test_another_guide_of_the_rest_comes_back(tmp_path):
    model = pef.ExpFamPCA(POISSON, 5, 2)
    guide = pef.DEQMAPGuide(model, global_guide=AutoNormal)
    y = counts()
    guide(y)
    guide.save(tmp_path / "guide")
    loaded = pef.load(tmp_path / "guide")
    assert isinstance(loaded.global_guide, AutoNormal)
    assert torch.equal(loaded.loading, guide.loading)


def test_columns_are_remembered(tmp_path):
    frame = pd.DataFrame(counts().numpy(), columns=list("abcde"))
    guide = pef.LaplaceGuide(pef.ExpFamPCA(POISSON, 5, 2))
    guide.fit(frame)
    guide.save(tmp_path / "guide")
    loaded = pef.load(tmp_path / "guide")
    assert torch.equal(loaded.latents(frame), guide.latents(frame))
    with pytest.raises(ValueError, match="in the order that the guide was trained on"):
        loaded.latents(frame[list("bacde")])


def test_the_training_table_is_remembered(tmp_path):
    y = counts(40)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(POISSON, 5, 2))
    guide.fit(y)
    guide.save(tmp_path / "guide")
    loaded = pef.load(tmp_path / "guide")
    assert loaded._trained_on.num_rows == 40
    assert torch.equal(loaded._trained_on.sums, guide._trained_on.sums)


def test_a_mixed_table_comes_back_with_its_learnt_parameters(tmp_path):
    torch.manual_seed(0)
    laws = {"a": families.NegativeBinomial(), "b": families.Gaussian(), "c": families.Gaussian()}
    y = torch.cat([counts(40)[:, :1], 100 * torch.randn(40, 2)], 1)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(families.Columns(laws), latent_dim=1))
    guide.fit(y, progress=False)
    guide.save(tmp_path / "guide")
    loaded = pef.load(tmp_path / "guide")
    torch.testing.assert_close(
        loaded.model.family_gaussian_scale, guide.model.family_gaussian_scale
    )
    torch.testing.assert_close(loaded.latents(y), guide.latents(y))
    assert loaded.model.family.column_names == ("a", "b", "c")


VALUES = [
    families.Poisson(),
    families.Gaussian(torch.tensor([0.5, 2.0])),
    families.Gaussian(),
    families.Binomial(torch.tensor([[3.0], [4.0]])),
    families.NegativeBinomial("shared"),
    families.Gamma(2.0, link=links.Log()),
    families.Bernoulli(link=links.Probit()),
    families.Gaussian(1.0, link=links.Power(2.0)),
    families.Categorical(4),
    families.Ordinal(3, torch.tensor([-1.0, 1.5])),
    families.Ordinal(3),
    families.Tweedie(1.4, 2.0),
    families.Columns({"n": families.Poisson(), "c": families.Categorical(3)}),
    families.Columns([([0, 2], families.Bernoulli()), ([1], families.Poisson())]),
    families.Columns.side_by_side([(families.Poisson(), 2), (families.Gaussian(2.0), 1)]),
    families.ZeroInflatedNegativeBinomial(2.0, 0.3),
    pef.linear.ConvTranspose2d(2, 1, 4, stride=2, padding=1, latent_shape=(2, 4, 4)),
    pef.deq.Anderson(),
    pef.deq.FixedPoint(),
    pef.deq.NewtonCG(),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_is_made_again_from_json(value):
    tensors = {}
    plain = json.loads(json.dumps(to_plain(value, tensors, "value")))
    made = from_plain(plain, tensors)
    assert type(made) is type(value)
    assert made == value or repr(made) == repr(value)


@pytest.mark.parametrize("value", [Geometric(), links.Mean(torch.exp), math.sqrt, object()])
def test_what_is_the_users_own_has_no_description(value):
    with pytest.raises(NotPlainError, match=r"model\.family"):
        to_plain([value], {}, "model.family")


class TwoTables(PyroModule):
    def __init__(self):
        super().__init__()
        self.a = pef.ExpFamPCA(POISSON, 5, 2)
        self.b = pef.ExpFamPCA(families.Bernoulli(), 3, 2)

    def forward(self, y, bits):
        return self.b(bits, z=self.a(y))


def test_the_state_of_any_model_is_restored_into_a_guide_made_in_python(tmp_path):
    y, bits = counts(), torch.bernoulli(torch.full((30, 3), 0.5))
    guide = pef.LaplaceGuide(TwoTables())
    guide.fit(y, bits)
    guide.save(tmp_path / "guide")
    with pytest.raises(ValueError, match=r"TwoTables.*call guide\.restore"):
        pef.load(tmp_path / "guide")
    other = pef.LaplaceGuide(TwoTables())
    other.restore(tmp_path / "guide")
    expected, found = guide.posteriors(y, bits)["a.z"], other.posteriors(y, bits)["a.z"]
    assert torch.equal(found.mean, expected.mean)


@pytest.mark.parametrize(
    ("saved_family", "family", "message"),
    [
        (
            families.Poisson(),
            families.NegativeBinomial(2.0),
            r"with the family Poisson\(\) where it has NegativeBinomial\(size=2",
        ),
        (families.Gaussian(1.0), families.Gaussian(2.0), "scale=1.* where it has .*scale=2"),
        (families.Bernoulli(), families.Bernoulli(link=links.Probit()), "Probit"),
        (
            families.Columns([(slice(0, 2), families.Poisson()), ([2], families.Bernoulli())]),
            families.Columns([(slice(0, 1), families.Poisson()), ([1, 2], families.Bernoulli())]),
            "where it has",
        ),
    ],
    ids=["law", "parameter", "link", "columns"],
)
def test_the_state_under_another_family_is_not_restored(saved_family, family, message, tmp_path):
    y = torch.bernoulli(torch.full((30, 3), 0.5))
    guide = pef.LaplaceGuide(pef.ExpFamPCA(saved_family, 3, 1))
    guide.fit(y)
    guide.save(tmp_path / "guide")
    other = pef.LaplaceGuide(pef.ExpFamPCA(family, 3, 1))
    with pytest.raises(ValueError, match=f"of a guide of another model, .*{message}"):
        other.restore(tmp_path / "guide")
    assert not other.is_trained
    same = pef.LaplaceGuide(pef.ExpFamPCA(saved_family, 3, 1))
    same.restore(tmp_path / "guide")
    assert torch.equal(same.latents(y), guide.latents(y))


def test_totals_by_row_are_those_of_the_rows_at_hand(tmp_path):
    def guide_of(totals):
        return pef.DEQMAPGuide(pef.ExpFamPCA(families.Binomial(totals), 3, 1))

    y = torch.bernoulli(torch.full((30, 3), 0.5))
    guide, other = guide_of(torch.full((30, 1), 2.0)), guide_of(torch.full((10, 1), 3.0))
    guide.fit(y)
    guide.save(tmp_path / "guide")
    other.restore(tmp_path / "guide")
    other(y[:10])  # The first call shows the structure of a family by row.
    assert torch.equal(other.loading, guide.loading)


def test_a_family_of_ones_own_is_restored(tmp_path):
    def make():
        return pef.DEQMAPGuide(pef.ExpFamPCA(families.Linked(Geometric(), NEGATIVE), 5, 1))

    guide = make()
    guide.fit(counts())
    guide.save(tmp_path / "guide")
    with pytest.raises(ValueError, match=r"call guide\.restore"):
        pef.load(tmp_path / "guide")
    other = make()
    other.restore(tmp_path / "guide")
    assert torch.equal(other.loading, guide.loading)


NEGATIVE = links.NaturalParameter(lambda eta: -torch.nn.functional.softplus(-eta))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "guide.safetensors"
    fitted().save(path)
    return path


def parameters(guide):
    return {name: value.clone() for name, value in guide.state_dict().items()}


def refused(path, match):
    """Neither ``load`` nor ``restore`` takes a file, and the guide stays as it was."""
    with pytest.raises(ValueError, match=match):
        pef.load(path)
    guide = fitted()
    before = parameters(guide)
    with pytest.raises(ValueError, match=match):
        guide.restore(path)
    assert all(torch.equal(before[name], value) for name, value in parameters(guide).items())


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.99])
def test_a_file_cut_short_is_refused(saved, part):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(part * len(data))])
    refused(saved, "cut short")


def rewritten(path, change):
    """Writes a file again, sealed as if the package had written what ``change`` makes of it."""
    tensors, plain = tensor_file.read_tensors(path)
    change(tensors, plain)
    tensor_file.write_tensors(path, tensors, plain)


def survey(num_rows=40):
    """A table of every kind of column with a hole, and covariates by a formula."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "visits": random.poisson(random.gamma(1.0, 4.0, num_rows)),
            "size": random.normal(size=num_rows),
            "colour": pd.Categorical(random.choice(list("uvw"), num_rows)),
            "rating": pd.Categorical(random.choice(list("abcd"), num_rows), ordered=True),
        }
    )
    frame.loc[3, "size"] = np.nan
    known = pd.DataFrame({"batch": random.choice(list("xyz"), num_rows)})
    return frame, pef.Design("~ batch", known)(known)


@pytest.fixture(scope="module")
def survey_file(tmp_path_factory):
    """A guide with covariates, learnt parameters and a posterior of both, and its file."""
    torch.manual_seed(0)
    frame, covariates = survey()
    model = pef.ExpFamPCA(
        families.Columns.from_frame(frame), latent_dim=1, num_covariates=2, missing="nan"
    )
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(frame, covariates=covariates, progress=False)
    path = tmp_path_factory.mktemp("survey") / "guide.safetensors"
    guide.save(path)
    return guide, path


def _without(name):
    return lambda tensors, plain: tensors.pop(name)


def _longer(name):
    return lambda tensors, plain: tensors.update({name: torch.cat([tensors[name]] * 2)})


def _whole(name):
    return lambda tensors, plain: tensors.update({name: torch.ones(tensors[name].shape).int()})


CHANGES = {
    "a coefficient of another shape": _longer("state.global_guide.coefficients_unconstrained"),
    "whole coefficients": _whole("state.global_guide.coefficients_unconstrained"),
    "a posterior of another shape": _longer("posterior.mean"),
    "a posterior of whole numbers": _whole("posterior.factor"),
    "no part of the posterior": _without("posterior.rotations"),
    "no part of the learnt parameters": _without("parameters.slope"),
    "learnt parameters of another shape": _longer("parameters.mode"),
    "no columns": lambda tensors, plain: plain.pop("columns"),
    "other columns": lambda tensors, plain: plain.update(columns="abc"),
    "rows in words": lambda tensors, plain: plain.update(num_rows="many"),
}
OF_LOAD = {
    "no guide": lambda tensors, plain: plain.update(guide="none"),
    "no class": lambda tensors, plain: plain["guide"].pop("class"),
    "another dtype": lambda tensors, plain: plain["guide"].update(dtype="float1"),
    "no family": lambda tensors, plain: plain["guide"]["model"].pop("family"),
    "no tensor of the model": _without("model.loading_scale"),
}


@pytest.mark.parametrize("name", [*CHANGES, *OF_LOAD])
def test_a_file_that_does_not_fit_its_own_guide_is_refused_and_changes_nothing(
    name, survey_file, tmp_path
):
    guide, path = survey_file
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes())
    rewritten(other, (CHANGES | OF_LOAD)[name])
    with pytest.raises(ValueError, match=r"this version of the package|of another model"):
        pef.load(other)
    if name in OF_LOAD:
        return
    before, columns = parameters(guide), guide._columns.to_plain()
    variances = guide.coefficients.variance()
    with pytest.raises(ValueError, match=r"this version of the package|of another model"):
        guide.restore(other)
    assert all(torch.equal(before[name], value) for name, value in parameters(guide).items())
    assert guide._columns.to_plain() == columns
    assert torch.equal(guide.coefficients.variance(), variances)


def test_a_survey_with_covariates_comes_back(survey_file):
    guide, path = survey_file
    frame, covariates = survey()
    loaded = pef.load(path)
    assert torch.equal(
        loaded.latents(frame, covariates=covariates), guide.latents(frame, covariates=covariates)
    )
    assert torch.equal(loaded.coefficients.variance(), guide.coefficients.variance())
    with pytest.raises(ValueError, match="covariates must have"):
        loaded.latents(frame, covariates=covariates[["batch[T.z]", "batch[T.y]"]])


def test_a_file_with_another_header_is_refused(saved):
    data = saved.read_bytes()
    saved.write_bytes(data.replace(b'"kind":', b'"kine":', 1))
    refused(saved, "its header is another one")


@pytest.mark.parametrize("place", slow_unless(lambda place: place % 4 == 3, range(1, 12)))
def test_a_file_with_a_changed_byte_is_refused(saved, place):
    data = bytearray(saved.read_bytes())
    data[place * len(data) // 12] ^= 1
    saved.write_bytes(data)
    refused(saved, "changed|cut short|has format|not written it")


def test_a_file_of_another_program_is_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "is no file that guide.save has written")


def test_a_file_of_another_format_is_refused(saved):
    tensors = load_tensors(saved.read_bytes())
    save_file(tensors, saved, {"program": "pyro-expfam", "format": "7"})
    refused(saved, "has format 7, but this version of the package reads format 1")


def test_a_pickle_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "guide.pt")
    refused(tmp_path / "guide.pt", "no file that guide.save has written")


def test_the_state_of_another_model_is_refused(saved):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(POISSON, 5, 3))
    guide.fit(counts())
    before = parameters(guide)
    with pytest.raises(ValueError, match=r"another model.*shape \(5, 2\) where it has \(5, 3\)"):
        guide.restore(saved)
    assert all(torch.equal(before[name], value) for name, value in parameters(guide).items())


def test_a_guide_with_the_parameters_of_another_is_not_restored(saved):
    guide = GUIDES["shared parameters"]()
    with pytest.raises(ValueError, match="restore that one"):
        guide.restore(saved)


def test_an_unseen_guide_has_nothing_to_save(tmp_path):
    with pytest.raises(RuntimeError, match="has not seen data yet"):
        pef.LaplaceGuide(pef.ExpFamPCA(POISSON, 5, 2)).save(tmp_path / "guide")


def test_a_failed_write_leaves_the_earlier_file(saved, monkeypatch):
    before = saved.read_bytes()

    def fails(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        fitted().save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
