"""Laws of the columns of a mixed table: how they are written, and in which order they compute."""

import pytest
import torch

import pyro_expfam as pef

F = pef.families
LAWS = {
    "age": F.Gaussian(2.0),
    "smoker": F.Bernoulli(),
    "colour": F.Categorical(4),
    "visits": F.NegativeBinomial(3.0),
    "drinks": F.Bernoulli(),
    "agrees": F.Ordinal(3, [0.0, 1.0]),
    "shape": F.Categorical(3),
}
FUNCTIONS = ["loss", "score", "curvature", "information", "third_derivative", "fourth_derivative"]


def one_by_one(function, eta):
    """A function of each column's law and its linear predictors, side by side."""
    found, begin = [], 0
    for place, law in enumerate(LAWS.values()):
        end = begin + law.predictors_per_column
        found.append(function(law, place, eta[..., begin:end]))
        begin = end
    return torch.cat(found, -1)


def sampled(num_rows=50):
    torch.manual_seed(0)
    family = F.Columns(LAWS)
    eta = torch.randn(num_rows, family.num_predictors(len(LAWS)), dtype=torch.float64)
    return family, eta, family.decode(family.sample(eta))


def test_columns_of_one_law_are_computed_together():
    kinds = {kind.name: kind.width for kind in F.Columns(LAWS).parts}
    assert kinds == {
        "gaussian": 1,
        "bernoulli": 2,
        "categorical_4": 1,
        "negative_binomial": 1,
        "ordinal_3": 1,
        "categorical_3": 1,
    }


def test_encoding_keeps_the_order_of_the_columns():
    family, _, y = sampled()
    expected = torch.cat([law.encode(y[:, [k]]) for k, law in enumerate(LAWS.values())], -1)
    assert torch.equal(family.encode(y), expected)
    assert torch.equal(family.decode(expected), y)
    assert bool(family.support.check(y).all())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_entries_are_those_of_each_column(name):
    family, eta, y = sampled()
    expected = one_by_one(lambda law, k, at: getattr(law, name)(at, law.encode(y[:, [k]])), eta)
    torch.testing.assert_close(getattr(family, name)(eta, family.encode(y)), expected)


def test_the_distribution_has_the_log_densities_of_each_column():
    family, eta, y = sampled()
    law = pef.distributions.distribution(family, eta)
    expected = one_by_one(
        lambda own, k, at: pef.distributions.distribution(own, at).log_prob(y[:, [k]]), eta
    )
    torch.testing.assert_close(law.log_prob(y), expected)
    assert law.expand((3, 50, 7)).sample((2,)).shape == (2, 3, 50, 7)
    assert law.mean.shape == law.variance.shape == y.shape
    bits = F.Columns({"a": F.Categorical(2), "b": F.Bernoulli()})
    entropies = F.Categorical(2).entropy(eta[:, :2]), F.Bernoulli().entropy(eta[:, 2:3])
    torch.testing.assert_close(bits.entropy(eta[:, :3]), torch.cat(entropies, -1))


def test_slices_and_lists_of_places_say_the_same_as_names():
    by_place = F.Columns([([2, 0], F.Poisson()), (slice(1, 2), F.Bernoulli())])
    by_name = F.Columns({"a": F.Poisson(), "b": F.Bernoulli(), "c": F.Poisson()})
    eta = torch.randn(5, 3)
    assert torch.equal(by_place.expected_y(eta), by_name.expected_y(eta))
    assert by_place == F.Columns([(slice(0, 3, 2), F.Poisson()), ([1], F.Bernoulli())])
    assert by_place != by_name
    assert repr(by_place) == "Columns([([0, 2], Poisson()), (slice(1, 2), Bernoulli())])"


def test_numbers_by_column_stay_with_their_columns():
    size = torch.tensor([1.0, 2.0])
    family = F.Columns([([2, 0], F.NegativeBinomial(size)), ([1], F.Bernoulli())])
    variance = family.variance_of_y(torch.zeros(3))
    assert variance.tolist() == [1.5, 0.25, 2.0]


def test_what_is_left_out_is_learnt_per_column():
    family = F.Columns(
        {"a": F.Gaussian(), "b": F.NegativeBinomial(), "c": F.Gaussian(), "d": F.Gamma("shared")}
    )
    starts = {name: tuple(x.shape) for name, x in family.to_learn(4).items()}
    assert starts == {"gaussian_scale": (2,), "negative_binomial_size": (1,), "gamma_shape": ()}
    known = family.replaced({"gaussian_scale": torch.tensor([1.0, 3.0])})
    assert known.parts[0].family.scale.tolist() == [1.0, 3.0]
    with pytest.raises(ValueError, match="size must be known where nothing is learnt"):
        known.check_known()
    assert family.constraint_of("gamma_shape") is torch.distributions.constraints.positive


POISSON = F.Poisson()
BAD = [
    ({}, ValueError, "got no column"),
    ([], ValueError, "got no column"),
    (3, TypeError, "columns must be a mapping of names to families, or pairs .*, got 3"),
    ([POISSON], TypeError, r"pairs of places .*, got Poisson\(\)"),
    ({"a": 1}, TypeError, "must have a family .*, got 1 for column 'a'"),
    ({1: POISSON, "1": POISSON}, ValueError, "different names, got 1 and '1'"),
    ({"a": F.Columns({"b": POISSON})}, TypeError, "the family of one column, got Columns"),
    ([(POISSON, 2)], TypeError, r"the places come first; .* take Columns\.side_by_side"),
    ([(slice(0, 2), POISSON), ([1], F.Bernoulli())], ValueError, "one family each, .* column 1"),
    ([([0, 0], POISSON)], ValueError, "one family each, .* column 0"),
    ([([0, 3], POISSON)], ValueError, "from 0 to 3, got none for columns 1, 2"),
    ([(slice(1, None), POISSON)], ValueError, "a start of at least 0 and a stop above it"),
    ([(slice(2, 2), POISSON)], ValueError, "a stop above it"),
    ([([-1], POISSON)], ValueError, r"numbers of at least 0, got \[-1\]"),
    ([([], POISSON)], ValueError, r"numbers of at least 0, got \[\]"),
    ([("ab", POISSON)], TypeError, "got the places 'ab'"),
    ([([0.5], POISSON)], TypeError, r"got the places \[0.5\]"),
]


@pytest.mark.parametrize(("columns", "error", "message"), BAD, ids=range(len(BAD)))
def test_bad_columns_are_refused_in_words(columns, error, message):
    with pytest.raises(error, match=message):
        F.Columns(columns)
