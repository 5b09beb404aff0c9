"""Families and numbers of latents beside each other."""

import itertools
import math

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq.processes import ProcessesError
from pyro_expfam.diagnostics.container import Group, Variable, container
from pyro_expfam.selection import leaving_out
from pyro_expfam.selection.candidate import ending_one_candidate
from pyro_expfam.selection.leaving_out import psis

F = pef.families


def overdispersed(rows=60, columns=5, scale=0.8):
    torch.manual_seed(0)
    mean = torch.exp(1 + scale * torch.randn(rows, 1) @ torch.randn(1, columns))
    return torch.poisson(mean * torch.distributions.Gamma(1.0, 1.0).sample(mean.shape))


def wide_loading(size):
    return pef.ExpFamPCA(F.Geometric(), 5, size, loading_scale=2.0)


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Fewer draws of loading and intercept, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaving_out, "NUM_DRAWS", 150)
        yield


@pytest.fixture(scope="module")
def counts(few_draws):
    families = {
        "Poisson": F.Poisson(),
        "negative binomial": F.NegativeBinomial("shared"),
        "ones and up": F.ZeroTruncatedPoisson(),
        "wide loading": wide_loading,
    }
    y = pd.DataFrame(overdispersed().numpy().astype(int), columns=list("abcde"))
    return y, pef.compare(families, y, [1, 2], num_folds=2)


def test_the_family_that_made_the_table_is_found(counts):
    y, found = counts
    table = found.table
    assert list(table.index[:2]) == [("Poisson", 1), ("Poisson", 2)]
    assert found.best.family in ("negative binomial", "wide loading")
    assert found.best.latent_dim == 1
    assert table.difference["Poisson"].min() > 3 * table.difference_se["Poisson"].max()
    assert table.coverage[("Poisson", 1)] < 0.85
    assert 0.85 < table.coverage[found.best] < 0.97
    assert table.zeros_observed[found.best] == pytest.approx((y == 0).to_numpy().mean())
    assert abs(table.zeros[found.best] - table.zeros_observed[found.best]) < 0.04
    assert table.zeros[("Poisson", 1)] < table.zeros_observed[found.best] - 0.1


def test_parameters_are_counted_and_aic_follows(counts):
    table = counts[1].table
    assert table.parameters[("Poisson", 1)] == 10
    assert table.parameters[("negative binomial", 1)] == 11
    assert table.parameters[("negative binomial", 2)] == 5 * 2 - 1 + 5 + 1
    scored = table[table.failed == ""]
    np.testing.assert_allclose(scored.aic, 2 * (scored.parameters - scored.evidence))


def test_a_model_that_does_not_fit_the_table_is_in_it_with_the_reason(counts):
    _, found = counts
    row = found.table.loc[("ones and up", 1)]
    assert "support of ZeroTruncatedPoisson" in row.failed
    assert math.isnan(row.held_out)
    assert any(
        x.startswith("ones and up has no fit with 1, 2 latents: y must") for x in found.caveats
    )
    assert ("ones and up", 1) not in found.guides


def test_leaving_out_rows_agrees_with_holding_them_out(counts):
    table = counts[1].table
    for model in [("negative binomial", 1), ("wide loading", 1)]:
        row = table.loc[model]
        assert row.evidence > row.loo
        assert row.loo == pytest.approx(row.held_out, abs=row.held_out_se)
        assert row.unreliable <= 0.02 * len(counts[0])


def test_guides_are_fitted_to_the_whole_table(counts):
    y, found = counts
    guide = found.guides["negative binomial", 1]
    evidence = guide.log_evidence(y, nodes=25).detach().sum()
    row = found.table.loc[("negative binomial", 1)]
    assert row.evidence == pytest.approx(float(evidence), abs=1e-3)


def test_the_text_has_the_table_the_choice_and_the_caveats(counts):
    text = repr(counts[1])
    assert "zeros in the table" in text
    assert "\nbest: " in text
    assert "- supports differ: " in text
    assert "learnt parameters of a family for known" not in text


def test_the_picture_has_a_line_per_family_and_a_ring(counts):
    ax = counts[1].plot()
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["Poisson", "negative binomial", "wide loading"]
    rings = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    assert len(rings) == 1
    assert ax.yaxis_inverted()
    plt.close(ax.figure)


def row(family, dim, parameters, difference, error):
    numbers = dict.fromkeys(pef.selection.ComparedModel._fields, math.nan)
    numbers |= {"family": family, "latent_dim": dim, "parameters": parameters}
    numbers |= {"difference": difference, "difference_se": error}
    return pef.selection.ComparedModel(**numbers)


def test_the_smallest_model_within_one_standard_error_is_best():
    rows = (row("a", 1, 10, 4.0, 3.0), row("a", 2, 20, 2.0, 3.0), row("b", 3, 40, 0.0, 0.0))
    failed = row("c", 1, 1, math.nan, math.nan)
    assert pef.ModelComparison((*rows, failed)).best == ("a", 2)
    assert pef.ModelComparison((*rows, row("d", 2, 20, 1.0, 2.0))).best == ("d", 2)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_rows_that_are_left_out_are_those_of_arviz():
    generator = np.random.default_rng(0)
    draws = generator.normal(-3.0, 0.4 * np.arange(1, 7), (1000, 6))
    found = psis(torch.from_numpy(draws.T.copy()))
    data = container(
        {
            "posterior": Group({"x": Variable(("chain", "draw"), np.zeros((1, 1000)))}, {}),
            "log_likelihood": Group({"y": Variable(("chain", "draw", "row"), draws[None])}, {}),
        }
    )
    wanted = az.loo(data, pointwise=True, reff=1.0)
    # ArviZ 1.x has another name for it.
    by_row = wanted.elpd_i if hasattr(wanted, "elpd_i") else wanted["loo_i"]
    np.testing.assert_allclose(found.by_row, by_row, atol=0.02)
    np.testing.assert_allclose(found.khat[2:], wanted.pareto_k[2:], atol=0.05)


def test_masks_offsets_and_weights_take_part():
    y = overdispersed(40, 4)
    mask = torch.rand(y.shape) < 0.8
    offset, weights = torch.randn(40, 1), torch.tensor([1.0, 1.0, 1.0, 2.0])
    families = {"geometric": F.Geometric()}
    given = {"offset": offset, "weights": weights, "num_folds": 2}
    poisoned = torch.where(mask, y, torch.nan)
    found = pef.compare(families, poisoned, [1], mask=mask, **given).rows[0]
    masked = pef.compare(families, y, [1], mask=mask, **given).rows[0]
    assert found.held_out == pytest.approx(masked.held_out)
    assert found.zeros_observed == masked.zeros_observed
    shifted = pef.compare(families, y, [1], mask=mask, num_folds=2).rows[0]
    assert shifted.held_out != pytest.approx(found.held_out, abs=0.5)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (F.Poisson(), F.Gaussian(1.0)),
        (F.Bernoulli(), F.ContinuousBernoulli()),
        (F.Tweedie(1.5, 1.0), F.Gaussian(1.0)),
        (F.Columns([(slice(0, 2), F.Poisson()), (slice(2, 4), F.Gaussian(1.0))]), F.Poisson()),
    ],
    ids=repr,
)
def test_probabilities_and_densities_do_not_compare(first, second):
    y = torch.zeros(20, 4)
    y[0] = 1.0
    with pytest.raises(ValueError, match=r"one kind, got .* from 'first' and .* from 'second'"):
        pef.compare({"first": first, "second": second}, y, [1])


@pytest.mark.slow
def test_densities_of_the_same_numbers_compare():
    torch.manual_seed(0)
    y = torch.exp(0.5 * torch.randn(50, 1) @ torch.randn(1, 4) + 0.3 * torch.randn(50, 4))
    families = {"gamma": F.Gamma("shared"), "log-normal": F.LogNormal("shared")}
    found = pef.compare(families, y, [1], num_folds=2)
    assert found.table.zeros.isna().all()
    assert not [x for x in found.caveats if "whole numbers" in x]
    whole = pef.compare({"gamma": F.Gamma(3.0)}, y.ceil(), [1], num_folds=2)
    assert any("whole numbers alone, and gamma gives densities" in x for x in whole.caveats)


@pytest.mark.parametrize(
    ("families", "dims", "message"),
    [
        ({}, [1], "families must name at least one family"),
        (
            {"a": F.Poisson(), "b": F.Poisson()},
            [1],
            r"must be different, got Poisson\(\) under the names 'a' and 'b'",
        ),
        ({"a": F.Poisson()}, [], "latent_dims must name at least one"),
        ({"a": F.Poisson()}, [0], "latent_dims must be a whole number"),
        ({"a": F.Poisson()}, [5], "latent_dims must be at most 4 for 4 columns of 'a', got 5"),
        (
            {"a": lambda size: pef.ExpFamPCA(F.Poisson(), 3, size)},
            [1],
            "blocks of 4 columns and 1 latents, got 3 and 1 for 'a'",
        ),
        ({"a": F.Bernoulli()}, [1], "y must be in the support of Bernoulli"),
    ],
)
def test_bad_values_are_named(families, dims, message):
    with pytest.raises(ValueError, match=message):
        pef.compare(families, torch.full((20, 4), 2.0), dims)


@pytest.mark.parametrize(
    ("families", "dims", "message"),
    [
        (F.Poisson(), [1], "families must be a dictionary"),
        ({"a": F.Poisson}, [1], "got the class Poisson, which lacks its parentheses, for 'a'"),
        ({"a": 3}, [1], "families must hold families, .* got int for 'a'"),
        ({"a": lambda size: size}, [1], "got int for 'a'"),
        ({"a": F.Poisson()}, 2, "latent_dims must be several numbers"),
    ],
)
def test_bad_types_are_named(families, dims, message):
    with pytest.raises(TypeError, match=message):
        pef.compare(families, torch.ones(20, 4), dims)


def test_as_many_folds_as_rows_at_most():
    with pytest.raises(ValueError, match="num_folds must be between 2 and 20"):
        pef.compare({"a": F.Poisson()}, torch.ones(20, 4), [1], num_folds=21)


def test_processes_out_of_step_end_the_comparison():
    """A candidate alone ends where all processes know of its error."""
    told = ProcessesError("process 1 of 2 has stopped", are_in_step=True)
    for error in (ValueError("no maximum"), told):
        assert ending_one_candidate(error) is error
    with pytest.raises(ProcessesError, match="come to differ"):
        ending_one_candidate(ProcessesError("they have come to differ"))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.filterwarnings("ignore:the fit has ended early")
def test_ctrl_c_in_a_fit_ends_the_comparison(number, monkeypatch):
    fit, count = pef.LaplaceGuide.fit, itertools.count(1)

    def interrupted(guide, *args, **settings):
        def press(sweep):
            raise KeyboardInterrupt

        pressed = {"callback": press} if next(count) == number else {}
        return fit(guide, *args, **settings, **pressed)

    monkeypatch.setattr(pef.LaplaceGuide, "fit", interrupted)
    y = torch.poisson(torch.ones(30, 3))
    with pytest.raises(KeyboardInterrupt):
        pef.compare({"Poisson": F.Poisson()}, y, [1], num_folds=2)
    assert next(count) == number + 1
    count = itertools.count(number)
    with pytest.raises(KeyboardInterrupt):
        pef.compare_latent_dims(F.NegativeBinomial("shared"), y, [1], num_folds=2)
