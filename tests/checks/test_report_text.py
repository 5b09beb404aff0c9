"""The text of a report: its layout, its grammar, and the names that its advice gives."""

import functools
import re
from dataclasses import replace

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.checks import Comparison, Finding, Gap, Report
from pyro_expfam.checks.findings import findings
from pyro_expfam.checks.fit_to_data import _compare
from pyro_expfam.checks.training_findings import training_findings

NUM_ROWS, NUM_FEATURES = 60, 5


@pytest.fixture(scope="module")
def good():
    """What a check finds of a good fit to counts."""
    torch.manual_seed(0)
    y = torch.poisson(torch.exp(torch.randn(NUM_ROWS, 1) @ torch.randn(1, NUM_FEATURES) / 2))
    model = pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, 1)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, loss=pef.LaplaceEvidence())
    return pef.check(model, guide, y, num_draws=50).blocks[""]


def with_estimates(check, **changes):
    return replace(check, estimates=check.estimates._replace(**changes))


def with_unsolved(check, places):
    converged = torch.ones(NUM_ROWS, dtype=torch.bool)
    converged[places] = False
    residual = torch.where(converged, 0.0, 0.25).double()
    return replace(check, rows=check.rows._replace(converged=converged, residual=residual))


def with_blank(check, places):
    num_entries = torch.full((NUM_ROWS,), NUM_FEATURES)
    num_entries[places] = 0
    return replace(check, rows=check.rows._replace(num_entries=num_entries))


def said(check):
    return " ".join(found.text for found in training_findings(check))


@pytest.mark.parametrize(
    ("places", "subject"),
    [([7], "1 of 60 rows (7) is"), ([7, 9], "2 of 60 rows (7, 9) are")],
)
def test_one_row_is_and_two_rows_are(good, places, subject):
    unsolved = said(with_unsolved(good, places))
    assert f"{subject} not at the root of the score; the farthest is 0.25 posterior sd" in unsolved
    assert f"This rests on {subject.replace(' is', ' that is').replace(' are', ' that are')}" in (
        unsolved
    )
    assert f"{subject} without any entry" in said(with_blank(good, places))


@pytest.mark.parametrize(
    ("places", "subject"), [([2], "1 feature (2) is"), ([2, 4], "2 features (2, 4) are")]
)
def test_one_column_is_and_two_columns_are(good, places, subject):
    assert f"{subject} without any entry" in said(with_estimates(good, empty_features=places))
    edge = {"extreme_features": places, "has_flat_intercept": True}
    assert f"{subject} at one edge of what is possible" in said(with_estimates(good, **edge))
    held = {"extreme_features": places, "has_flat_intercept": False}
    assert "at one edge" not in said(with_estimates(good, **held))


@pytest.mark.parametrize(("count", "words"), [(1, "1 of 3 has run"), (2, "2 of 3 have run")])
def test_latents_that_run_away_are_counted(good, count, words):
    information, reach = torch.tensor([5.0, 4.0, 3.0]), torch.ones(3)
    information[-count:], reach[-count:] = 0.01, 99.0
    changed = with_estimates(good, information=information, reach=reach)
    assert f"{words} away with the loading" in said(changed)
    unused = with_estimates(good, information=information, reach=torch.ones(3))
    verb = "is" if count == 1 else "are"
    assert f"{count} of 3 {verb} not used" in said(unused)


SCENARIOS = {
    "at rest": {},
    "far": {"joint": Gap(9.0, 9.0, 36), "evidence": Gap(9.0, 9.0, 36), "second_order": None},
    "new rows": {"joint": Gap(9.0, 1.0, 36), "evidence": None, "second_order": None},
    "own prior": {"joint": None, "evidence": None, "second_order": None},
    "flat": {"joint": Gap(0.0, 0.0, 36), "has_flat_loading": True},
    "run away": {"information": torch.tensor([0.01]), "reach": torch.tensor([99.0])},
    "edge": {"extreme_features": [2], "empty_features": [3], "has_flat_intercept": True},
    "wide": {"spread": 9.0},
    "narrow": {"spread": 0.1},
    "misled by the joint density": {"joint": Gap(0.0, 0.0, 36)},
    "at the second order": {"second_order": Gap(0.0, 0.0, 36)},
}
ROWS = {
    "good": {},
    "misled": {"integral": -1e6},
    "off": {"first_order": -1e6, "second_order": -1e6},
    "shifted": {"mean_shift": 0.3},
    "far": {"mean_shift": 0.7},
    "heavy": {"khat": 9.0},
}


def attribute(path):
    return functools.reduce(getattr, path.removeprefix("pyro_expfam.").split("."), pef)


@pytest.mark.parametrize("row_scenario", ROWS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_advice_names_things_that_exist(good, scenario, row_scenario):
    check = with_estimates(good, **SCENARIOS[scenario])
    filled = {
        name: torch.full((NUM_ROWS,), value).double() for name, value in ROWS[row_scenario].items()
    }
    more = Comparison(4.0, 2.0, 9.0)
    misfit = check.fit_to_data._replace(dispersion=more, shared=more, zeros=more, tail=more)
    for fit_to_data in (check.fit_to_data, misfit):
        changed = replace(check, rows=check.rows._replace(**filled), fit_to_data=fit_to_data)
        for found in findings(changed):
            assert found.level in ("ok", "note", "PROBLEM")
            for path in re.findall(r"pyro_expfam(?:\.\w+)+", found.text):
                assert attribute(path) is not None
            for name in re.findall(r"(?:LaplaceEvidence|LaplaceGuide)\b", found.text):
                assert hasattr(pef, name)
            assert "  " not in found.text
            assert re.fullmatch(r"\S.*[.?]", found.text)
            # A sentence begins after the end of another.
            assert not re.search(r"(?<!\be\.g)\. [a-z](?!mean|yro)", found.text)


def report(check, *levels_by_block):
    names = [f"block {number}" for number in range(len(levels_by_block))]
    found = {
        name: [Finding(level, subject, "words. " * 40) for level, subject in levels]
        for name, levels in zip(names, levels_by_block, strict=True)
    }
    return Report({name: replace(check, name=name) for name in names}, found)


def test_blocks_and_the_verdict_are_set_apart_by_one_empty_line(good):
    printed = str(report(good, [("ok", "solving"), ("note", "means")], [("ok", "coverage")]))
    lines = printed.splitlines()
    title = "Poisson table of 60 rows and 5 features, with 1 latent"
    empty = [number for number, line in enumerate(lines) if not line]
    assert lines[0] == f"block 0: {title}"
    assert [lines[number + 1] for number in empty] == [
        "Is the fit finished?",
        "If the model is right, are its posterior and evidence right?",
        f"block 1: {title}",
        "Could the fitted model have made this table?",
        "No problem was found, with 1 note to keep in mind.",
    ]
    assert lines[3].startswith("  ok       solving    words. words.")
    assert lines[4].startswith(" " * 22 + "words.")
    assert max(map(len, lines)) <= 92


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ([], "No problem was found, with 0 notes to keep in mind."),
        (
            [("note", "means"), ("ok", "zeros"), ("note", "zeros")],
            "No problem was found, with 2 notes to keep in mind.",
        ),
        ([("PROBLEM", "zeros")], "1 problem: zeros; and 0 notes."),
        (
            [("PROBLEM", "zeros"), ("PROBLEM", "means"), ("PROBLEM", "zeros"), ("note", "loading")],
            "3 problems: zeros, means; and 1 note.",
        ),
    ],
)
def test_the_verdict_counts_problems_and_notes_of_all_blocks(good, levels, verdict):
    for parts in ([levels], [levels[:1], levels[1:]], [levels[:2], [], levels[2:]]):
        made = report(good, *parts)
        assert str(made).splitlines()[-1] == verdict
        assert made.ok is verdict.startswith("No problem")
        assert len(made.problems) == sum(level == "PROBLEM" for level, _ in levels)


def test_a_gain_of_exactly_what_chance_gives_is_no_loss(good):
    # One nat a row; independent columns gain half a nat each by chance, and twice that is allowed.
    one = torch.ones(NUM_ROWS).double()
    for without, problems in ((NUM_FEATURES, 0), (NUM_FEATURES + 1e-6, 1)):
        rows = good.rows._replace(
            first_order=-one, second_order=-one, integral=-one, integral_error=0 * one
        )
        check = replace(good, rows=rows, without_latents=-NUM_ROWS + without)
        loss = [found for found in findings(check) if "explain less" in found.text]
        assert len(loss) == problems


def test_a_score_is_in_standard_deviations_of_the_difference_from_the_mean():
    expected = torch.randn(30).double()
    observed = torch.tensor(4.0).double()
    found = _compare(observed, expected)
    deviation = (expected.var() * (1 + 1 / 30)).sqrt()
    assert found.score == pytest.approx(float((4.0 - expected.mean()) / deviation))
    same = torch.full((30,), 0.25).double()
    assert _compare(same[0], same) == Comparison(0.25, 0.25, 0.0)
    assert _compare(observed, same).score == float("inf")
    assert _compare(observed * torch.nan, expected) is None
