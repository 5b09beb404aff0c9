"""Levels at and beside every threshold of a report."""

import re
from dataclasses import replace

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.checks import Comparison, Gap, Outliers
from pyro_expfam.checks.approximation_findings import approximation_findings
from pyro_expfam.checks.fit_findings import fit_findings
from pyro_expfam.checks.training_findings import training_findings

NUM_ROWS, NUM_FEATURES = 100, 8


@pytest.fixture(scope="module")
def good():
    """What a check finds of a good fit to counts."""
    torch.manual_seed(0)
    loading = torch.randn(2, NUM_FEATURES) / 2
    y = torch.poisson(torch.exp(torch.randn(NUM_ROWS, 2) @ loading))
    model = pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, 2)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, loss=pef.LaplaceEvidence())
    return pef.check(model, guide, y).blocks[""]


def levels(findings, subject):
    return [found.level for found in findings if found.subject == subject]


def text(findings, subject):
    return " ".join(found.text for found in findings if found.subject == subject)


def of_fit(check, **changes):
    return fit_findings(replace(check, fit_to_data=check.fit_to_data._replace(**changes)))


def of_training(check, **changes):
    return training_findings(replace(check, estimates=check.estimates._replace(**changes)))


def of_rows(check, without_latents=None, **changes):
    without = check.without_latents if without_latents is None else without_latents
    rows = check.rows._replace(**changes)
    return approximation_findings(replace(check, rows=rows, without_latents=without))


# ---------------------------------------------------------------------- fit to the table

FIT_THRESHOLDS = [
    ("coverage", "coverage", 0.871, "note"),
    ("coverage", "coverage", 0.869, "PROBLEM"),
    ("coverage", "coverage", 0.929, "note"),
    ("coverage", "coverage", 0.931, "PROBLEM"),
    ("dispersion", "dispersion", 1.19, "note"),
    ("dispersion", "dispersion", 1.21, "PROBLEM"),
    ("dispersion", "dispersion", 0.84, "note"),
    ("dispersion", "dispersion", 0.83, "PROBLEM"),
    ("zeros", "zeros", 0.219, "note"),
    ("zeros", "zeros", 0.221, "PROBLEM"),
    ("zeros", "zeros", 0.181, "note"),
    ("zeros", "zeros", 0.179, "PROBLEM"),
    ("tail", "tails", 6.9, "note"),
    ("tail", "tails", 7.1, "PROBLEM"),
    ("tail", "tails", 1.0, "ok"),
    ("shared", "structure", 2.59, "note"),
    ("shared", "structure", 2.61, "PROBLEM"),
    ("shared", "structure", 1.0, "ok"),
]
EXPECTED = {"coverage": 0.9, "dispersion": 1.0, "zeros": 0.2, "tail": 5.0, "shared": 2.0}


@pytest.mark.parametrize(("name", "subject", "observed", "level"), FIT_THRESHOLDS)
def test_differences_from_replicates_have_their_levels(good, name, subject, observed, level):
    expected = EXPECTED[name]
    sign = 1 if observed > expected else -1
    for score, wanted in ((3.99, "ok"), (4.01, level)):
        comparison = Comparison(observed, expected, sign * score)
        found = of_fit(good, **{name: comparison})
        assert levels(found, subject) == [wanted]
        assert levels(found, "intervals") == (["note"] if wanted == "PROBLEM" else [])


@pytest.mark.parametrize(("ratio", "named"), [(1.49, False), (1.51, True), (0.51, False)])
def test_columns_that_stand_out_are_problems_by_name(good, ratio, named):
    check = replace(good, names=good.names._replace(columns=list("abcdefgh")))
    found = of_fit(check, columns=Outliers([3], [ratio]))
    assert levels(found, "outliers") == ["PROBLEM"] * named
    if named:
        assert f"1 of 8 columns stands out by dispersion: d (x{ratio:.2g})" in text(
            found, "outliers"
        )


@pytest.mark.parametrize(("count", "level"), [(5, "note"), (6, "PROBLEM")])
def test_rows_that_stand_out_are_exceptions_up_to_a_twentieth(good, count, level):
    found = of_fit(good, rows=Outliers(list(range(count)), [2.0] * count))
    assert levels(found, "outliers") == [level]
    assert f"{count} of 100 rows stand out by deviance: 0 (x2), 1 (x2)" in text(found, "outliers")


def test_where_all_is_dispersed_the_worst_are_only_named(good):
    found = of_fit(
        good,
        dispersion=Comparison(2.0, 1.0, 20.0),
        columns=Outliers([2, 1], [9.0, 4.0]),
        rows=Outliers([7], [3.0]),
    )
    assert levels(found, "outliers") == ["note"]
    assert "the worst are columns 2 (x9), 1 (x4) and rows 7 (x3)" in text(found, "outliers")


@pytest.mark.parametrize(
    ("family", "ratio", "cure"),
    [
        (pef.families.Poisson(), 2.0, "offset per row"),
        (pef.families.Poisson(), 0.5, "take Binomial(total)"),
        (pef.families.Binomial(5), 2.0, "not independent"),
        (pef.families.Binomial(5), 0.5, "averages, rounded or capped"),
        (pef.families.Gaussian(1.0), 4.0, "2.00 times as large as it is"),
        (pef.families.Gaussian(2.0), 0.25, "0.50 times as large as it is"),
        (pef.families.ContinuousBernoulli(), 2.0, "transformed entries"),
    ],
    ids=str,
)
def test_every_family_has_its_cure_of_dispersion(good, family, ratio, cure):
    score = 9.0 if ratio > 1 else -9.0
    found = of_fit(replace(good, family=family), dispersion=Comparison(ratio, 1.0, score))
    said = text(found, "dispersion")
    assert cure in said
    assert f"entries vary {ratio:.2f} times as much" in said
    # The scale of a Gaussian family can be learnt: nothing is left for the sandwich to allow for.
    assert ("Sandwich intervals" in said) is not isinstance(family, pef.families.Gaussian)


def test_the_sandwich_is_advised_where_a_guide_can_have_one(good):
    def advice(check):
        found = of_fit(check, dispersion=Comparison(2.0, 1.0, 9.0))
        return "Sandwich" in text(found, "dispersion"), "sandwich" in text(found, "intervals")

    def with_estimates(**changes):
        return replace(good, estimates=good.estimates._replace(**changes))

    flat = {"has_flat_loading": True, "has_flat_intercept": True}
    own_prior = dict.fromkeys(("joint", "evidence", "second_order", "quadrature"))
    for check, is_advised in (
        (good, True),
        (with_estimates(has_flat_intercept=True), True),
        (replace(good, is_whole_model=False), False),
        (with_estimates(**flat), False),
        (with_estimates(**own_prior), False),
    ):
        assert advice(check) == (is_advised, is_advised)


def test_more_latents_come_first_where_columns_still_share(good):
    more = Comparison(2.0, 1.0, 9.0)
    for shared, comes_first in (
        (Comparison(4.0, 2.0, 9.0), True),
        (Comparison(2.0, 2.0, 0), False),
    ):
        said = text(of_fit(good, dispersion=more, shared=shared), "dispersion")
        assert ("family does. More latents" in said) is comes_first


CURES = {
    "ZeroInflatedPoisson()": {"zeros": Comparison(0.4, 0.2, 9.0)},
    "ZeroTruncatedPoisson()": {"zeros": Comparison(0.1, 0.2, -9.0)},
}


@pytest.mark.parametrize("family", CURES)
def test_a_family_that_fits_better_is_named(good, family):
    said = " ".join(found.text for found in of_fit(good, **CURES[family]))
    assert family in said


F = pef.families
HEAVIER = {
    F.Poisson(): "heavier tails: NegativeBinomial().",
    F.ZeroInflatedPoisson(0.1): "heavier tails: ZeroInflatedNegativeBinomial().",
    F.NegativeBinomial(2.0): "heavier tails: PoissonLogNormal().",
    F.Geometric(): "heavier tails: PoissonLogNormal().",
    F.Multinomial(): "heavier tails: NegativeBinomial() with the log totals of the rows",
    F.Weibull(1.0): "heavier tails: LogNormal().",
    F.Gaussian(1.0): "weights below 1.",
    F.Ordinal(4): "weights below 1.",
}


@pytest.mark.parametrize("family", HEAVIER, ids=repr)
def test_heavier_tails_are_of_a_family_for_the_same_entries(good, family):
    said = text(of_fit(replace(good, family=family), tail=Comparison(9.0, 5.0, 9.0)), "tails")
    assert HEAVIER[family] in said


def test_parameters_have_the_names_that_readers_know(good):
    more = Comparison(2.0, 1.0, 9.0)
    ordinal = replace(good, family=F.Ordinal(4), learns_family=True)
    assert "the cut points were learnt from other rows" in text(
        of_fit(ordinal, dispersion=more), "dispersion"
    )
    known = replace(good, family=F.ZeroInflatedNegativeBinomial(2.0, 0.1))
    said = text(of_fit(known, dispersion=more), "dispersion")
    assert "Learn the size and zero probability per column: leave them out" in said


@pytest.mark.parametrize("family", [pef.families.Gamma(2.0), pef.families.Weibull(1.0)], ids=repr)
@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_a_parameter_that_could_be_learnt_is_named(good, family, ratio):
    more = Comparison(ratio, 1.0, 9.0 if ratio > 1 else -9.0)
    known = of_fit(replace(good, family=family), dispersion=more)
    assert "Learn the shape per column" in text(known, "dispersion")
    learnt = of_fit(replace(good, family=family, learns_family=True), dispersion=more)
    assert "shape was learnt from other rows" in text(learnt, "dispersion")


def test_families_that_advice_tells_to_take_exist(good):
    said = " ".join(
        found.text
        for family in (pef.families.Poisson(), pef.families.ContinuousBernoulli())
        for ratio, score in ((2.0, 9.0), (0.5, -9.0))
        for found in of_fit(
            replace(good, family=family),
            dispersion=Comparison(ratio, 1.0, score),
            zeros=Comparison(0.4, 0.2, 9.0),
        )
    )
    assert set(re.findall(r"([A-Z]\w+)\(", said)) == {
        "Gaussian",
        "Binomial",
        "NegativeBinomial",
        "Tweedie",
        "ZeroInflatedPoisson",
        "ZeroInflatedNegativeBinomial",
    }
    assert '"per column"' in said
    pef.families.Gaussian("per column")


# ------------------------------------------------------------------------------ training


@pytest.mark.parametrize(
    ("gain", "distance", "level", "words"),
    [
        (0.9e-3, 9.0, "ok", "are at an optimum"),
        (9.0, 0.099, "ok", "are at an optimum"),
        (1.1e-3, 0.101, "note", "are near an optimum"),
        (0.0099, 9.0, "note", "are near an optimum"),
        # The square of 1.51 is 1.25 times the quantile of chi-squared over 36 that one in a
        # thousand exceeds, 1.9 (by tables: 67.98 / 36 = 1.888).
        (9.0, 1.53, "note", "are near an optimum"),
        (9.0, 1.54, "PROBLEM", "are far from any optimum"),
        (0.0101, 1.54, "PROBLEM", "are far from any optimum"),
    ],
)
def test_distances_from_an_optimum_have_their_levels(good, gain, distance, level, words):
    far = Gap(99.0, 99.0, 36)
    for name, objective in (
        ("joint", "joint density"),
        ("evidence", "evidence"),
        ("second_order", "evidence to second order"),
        ("quadrature", "evidence by quadrature"),
    ):
        gaps = {"joint": far, "evidence": far, "second_order": far, "quadrature": far}
        found = of_training(good, **{**gaps, name: Gap(gain, distance, 36)})
        assert levels(found, "training") == [level]
        assert words in text(found, "training")
        if level != "PROBLEM":
            assert f"optimum of the {objective}" in text(found, "training")


@pytest.mark.parametrize(
    ("information", "reach", "words", "level"),
    [
        (0.051, 31.0, None, None),
        (0.049, 29.0, "is not used", "note"),
        (0.049, 31.0, "has run away with the loading", "PROBLEM"),
    ],
)
def test_latents_are_unused_or_run_away_by_information_and_reach(
    good, information, reach, words, level
):
    found = of_training(
        good,
        information=torch.tensor([5.0, information]),
        reach=torch.tensor([1.0, reach]),
        spread=1.0,
    )
    assert levels(found, "latents")[:-1] == ([] if level is None else [level])
    assert (words or "known up to a rotation") in text(found, "latents")


def test_all_latents_unused_is_a_problem(good):
    found = of_training(good, information=torch.tensor([0.04, 0.01]), reach=torch.ones(2))
    assert levels(found, "latents")[0] == "PROBLEM"
    assert "2 of 2 are not used" in text(found, "latents")


@pytest.mark.parametrize(
    ("spread", "words"), [(0.49, "too large"), (0.51, None), (1.99, None), (2.01, "too small")]
)
def test_latents_have_an_ordinary_spread_from_half_to_twice_the_prior(good, spread, words):
    found = text(of_training(good, spread=spread), "latents")
    assert ("mean square" in found) is (words is not None)
    assert words is None or f"the loading is {words} for this prior" in found


# ------------------------------------------------------------------------- approximation


@pytest.mark.parametrize(("high", "level"), [(0, "ok"), (5, "note"), (6, "PROBLEM")])
def test_rows_with_a_heavy_tail_are_exceptions_up_to_a_twentieth(good, high, level):
    khat = torch.full((NUM_ROWS,), 0.6, dtype=torch.float64)
    threshold = torch.full_like(khat, 0.6)
    khat[:high] = 0.61
    found = of_rows(good, khat=khat, khat_threshold=threshold)
    assert levels(found, "posterior") == [level]
    assert ("up to 0.61" if high else "at most 0.60") in text(found, "posterior")


def evidence_levels(check, first, second, integral=0.0, error=0.0, without=-1e6):
    """Levels where the log evidence of every row is off by so much, in nats."""
    one = torch.ones(NUM_ROWS, dtype=torch.float64)
    found = of_rows(
        check,
        without_latents=without,
        first_order=first * one,
        second_order=second * one,
        integral=integral * one,
        integral_error=error * one,
    )
    return levels(found, "evidence"), text(found, "evidence")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("first", "second", "level", "words"),
    [
        (0.9e-5, 0.9e-5, "ok", "Laplace is exact"),
        (1.1e-5, 0.0, "ok", "Laplace is too"),
        (0.019, 9.0, "ok", "the second order too"),
        (0.021, 0.019, "note", "Take the second order"),
        (0.021, 0.021, "note", "Neither order is enough"),
        (9.0, 0.199, "note", "Neither order is enough"),
        (9.0, 0.201, "PROBLEM", "Neither order is enough"),
    ],
)
def test_errors_of_the_evidence_have_their_levels(good, first, second, level, words, sign):
    found, said = evidence_levels(good, sign * first, sign * second)
    assert found == [level]
    assert words in said


def test_three_errors_of_the_quadrature_are_no_error_of_the_evidence(good):
    # Rows that are alike have the same error: the mean of 100 rows has the error of one.
    assert evidence_levels(good, 0.0499, 0.0, error=0.01)[0] == ["ok"]
    assert evidence_levels(good, 0.0501, 0.0, error=0.01)[0] == ["note"]


def test_latents_have_to_explain_more_than_none(good):
    # 100 rows of one nat; eight columns have an intercept of their own.
    for without, expected in ((-92.1, ["ok"]), (-91.9, ["ok", "PROBLEM"])):
        assert evidence_levels(good, -1.0, -1.0, -1.0, without=without)[0] == expected
    _, said = evidence_levels(good, -1.0, -1.0, -1.0, without=-80.0)
    assert "the latents explain less than independent columns do: -100.0 nats by quadrature" in said
    assert ", against -80.0" in said


def test_joint_map_that_explains_less_than_none_is_told_of_the_evidence(good):
    estimates = good.estimates._replace(joint=Gap(0.0, 0.0, 24))
    check = replace(good, estimates=estimates)
    found, said = evidence_levels(check, -1.0, -1.0, -1.0, without=-80.0)
    assert found == ["ok", "note"]
    assert "train with pyro_expfam.LaplaceEvidence" in said


@pytest.mark.parametrize(
    ("error", "gain", "problem"),
    [(5.1, 20.0, True), (5.1, 20.5, False), (4.9, 10.0, False), (40.0, 150.0, True)],
)
def test_an_error_of_the_evidence_is_held_against_what_latents_gain(good, error, gain, problem):
    found, said = evidence_levels(good, error / 100, 0.0, without=-gain)
    assert (found[-1] == "PROBLEM") is problem
    assert ("cannot tell a good loading from a bad one" in said) is problem


@pytest.mark.parametrize(
    ("shift", "level"),
    [(0.0, "ok"), (0.099, "ok"), (0.101, "note"), (0.499, "note"), (0.501, "PROBLEM")],
)
def test_shifts_of_the_mean_have_their_levels(good, shift, level):
    found = of_rows(good, mean_shift=torch.full((NUM_ROWS,), shift, dtype=torch.float64))
    assert levels(found, "means") == [level]


@pytest.mark.parametrize(
    ("places", "level"), [([], "ok"), ([3], "note"), ([3, 17], "note"), ([3, 7, 17], "PROBLEM")]
)
def test_columns_with_a_skew_posterior_are_exceptions_up_to_a_twentieth(good, places, level):
    columns = torch.zeros(40, dtype=torch.bool)
    columns[places] = True
    names = good.names._replace(columns=[f"c{place}" for place in range(40)])
    check = replace(good, unreliable_columns=columns, num_features=40, names=names)
    found = approximation_findings(check)
    assert levels(found, "loading") == [level]
    if places:
        listed = ", ".join(f"c{place}" for place in places)
        assert f"in {len(places)} of 40 features ({listed}): do not rely" in text(found, "loading")
    assert not levels(approximation_findings(good), "loading")
