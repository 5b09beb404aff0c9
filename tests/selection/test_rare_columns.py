"""Rare columns: which they are, and when they decide about the number of latents."""

import warnings

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq.layer import make_problem
from pyro_expfam.selection.rare_columns import rare_columns, warn_of_rare_columns, without_columns

families = pef.families


def problem_of(family, y, **entries):
    size = y.shape[1] * family.predictors_per_column
    return make_problem(
        family, y, 0.3 * torch.ones(size, 1).double(), torch.zeros(size).double(), 1.0, **entries
    )


def column(num_rows, value, other, num_other):
    y = torch.full((num_rows,), value).double()
    y[torch.randperm(num_rows)[:num_other]] = other
    return y


@pytest.mark.parametrize(
    ("family", "edge", "other"),
    [
        (families.Poisson(), 0.0, 7.0),
        (families.Bernoulli(), 0.0, 1.0),
        (families.Bernoulli(), 1.0, 0.0),
        (families.Binomial(9), 0.0, 4.0),
        (families.Binomial(9), 9.0, 4.0),
        (families.Binomial(9), 9.0, 0.0),
        (families.Categorical(2), 1.0, 0.0),
        (families.Categorical(3), 1.0, 2.0),
    ],
    ids=str,
)
def test_a_column_is_rare_with_fewer_than_three_entries_off_its_edge(family, edge, other):
    y = torch.stack([column(20, edge, other, k) for k in range(5)], 1)
    assert rare_columns(problem_of(family, y)).tolist() == [True, True, True, False, False]


def test_what_is_missing_does_not_inform():
    y = torch.ones(20, 3).double()
    mask = torch.zeros(20, 3, dtype=torch.bool)
    for number in range(3):
        mask[:, number] = column(20, 0.0, 1.0, number + 1).bool()
    counts = problem_of(families.Poisson(), y, mask=mask)
    assert rare_columns(counts).tolist() == [True, True, False]
    gaussian = problem_of(families.Gaussian(1.0), torch.zeros(20, 3).double(), mask=mask)
    assert rare_columns(gaussian).tolist() == [True, True, False]


def test_levels_that_are_not_the_most_frequent_inform_together():
    y = torch.zeros(20, 2).double()
    y[:3, 0] = torch.tensor([1.0, 2.0, 3.0])
    y[:2, 1] = torch.tensor([1.0, 2.0])
    assert rare_columns(problem_of(families.Categorical(4), y)).tolist() == [False, True]


def test_a_table_of_categories_without_columns_has_the_evidence_of_the_others():
    y = torch.randint(3, (12, 4)).double()
    columns = torch.tensor([True, False, False, True])
    without = without_columns(problem_of(families.Categorical(3), y), columns)
    z = pef.deq.layer.solve(without, pef.deq.FisherScoring()).value
    found = pef.evidence.laplace_evidence(without, z)
    alone = problem_of(families.Categorical(3), y[:, 1:3])
    z = pef.deq.layer.solve(alone, pef.deq.FisherScoring()).value
    torch.testing.assert_close(found, pef.evidence.laplace_evidence(alone, z))


@pytest.mark.parametrize("masked", [False, True])
def test_a_table_without_columns_has_the_evidence_of_the_others(masked):
    y = torch.poisson(torch.ones(12, 4)).double()
    mask = torch.rand(12, 4) < 0.7 if masked else None
    problem = problem_of(families.Poisson(), y, mask=mask)
    left_out = torch.tensor([False, True, False, True])
    z = torch.randn(12, 1).double()
    kept = problem_of(
        families.Poisson(), y[:, ~left_out], mask=mask[:, ~left_out] if masked else None
    )
    torch.testing.assert_close(without_columns(problem, left_out).objective(z), kept.objective(z))


def warning_about(difference, share):
    """The warning where so much of a difference in favour of 4 latents is in rare columns."""
    held_out = [torch.tensor([-50.0, -difference]).double(), torch.tensor([-50.0, 0.0]).double()]
    common = [torch.tensor([-20.0, share - difference]).double(), torch.tensor([-20.0, 0.0])]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        rare = torch.tensor([False, True, True, False])
        warn_of_rare_columns([2, 4], held_out, common, rare)
    return [str(warning.message) for warning in seen]


@pytest.mark.parametrize(
    ("difference", "share", "warns"),
    [
        (10.0, 5.01, True),
        (10.0, 5.0, False),
        (10.0, -5.01, True),
        (10.0, -4.99, False),
        (3.0, 2.01, True),
        (3.0, 2.0, False),
        (0.1, 2.01, True),
    ],
)
def test_rare_columns_decide_with_half_of_a_difference_and_two_nats(difference, share, warns):
    assert bool(warning_about(difference, share)) == warns


@pytest.mark.parametrize(("share", "best"), [(6.0, 4), (12.0, 2)])
def test_the_warning_names_columns_numbers_and_the_best_number_without_them(share, best):
    (message,) = warning_about(10.0, share)
    assert f"between 4 latents and 2 ({share:.3g}) (nats of it): 2 columns have fewer" in message
    assert "outside a fold, 1, 2." in message
    assert f"Without these columns {best} would be best" in message


def test_a_long_list_of_columns_is_cut():
    far, near = torch.tensor([-9.0]), torch.zeros(1)
    with pytest.warns(UserWarning, match=r"fold, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\.") as seen:
        warn_of_rare_columns([1, 2], [far, near], [near, near], torch.ones(12, dtype=torch.bool))
    assert ": 12 columns have fewer" in str(seen[0].message)
    with pytest.warns(UserWarning, match=r"fold, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\. "):
        warn_of_rare_columns([1, 2], [far, near], [near, near], torch.ones(10, dtype=torch.bool))
