"""Parameters of families come as arrays of any kind, and are shown in short."""

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_expfam import families as F

MAKERS = [F.NegativeBinomial, F.Gamma, F.Gaussian, F.Binomial]


@pytest.mark.parametrize(
    "given",
    [
        [1, 2, 3],
        (1.0, 2.0, 3.0),
        np.array([1, 2, 3]),
        np.array([3.0, 2.0, 1.0])[::-1],
        pd.Series([1.0, 2.0, 3.0], index=["a", "b", "c"]),
        pd.Series([1, 2, 3], dtype="Int64"),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("make", MAKERS)
def test_arrays_series_and_lists_are_taken_like_tensors(make, given):
    eta, y = torch.tensor([[0.5, -1.0, 0.3]]), torch.tensor([[1.0, 1.0, 2.0]])
    expected = make(torch.tensor([1.0, 2.0, 3.0])).log_prob(y, eta)
    assert torch.equal(make(given).log_prob(y, eta), expected)


@pytest.mark.parametrize("make", MAKERS)
def test_a_family_does_not_change_with_the_array_it_was_made_of(make):
    given = np.array([1.0, 2.0])
    family = make(given)
    given[0] = 7.0
    (value,) = family.parameters.values()
    assert value.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("make", [F.NegativeBinomial, F.Gamma, F.Gaussian])
@pytest.mark.parametrize("given", [["a", 1.0], [[1.0], [1.0, 2.0]], np.array([True])], ids=str)
def test_an_array_of_anything_else_is_refused(make, given):
    with pytest.raises(TypeError, match="must hold real numbers, got"):
        make(given)


def test_the_first_entry_that_is_not_positive_is_named():
    with pytest.raises(ValueError, match=r"positive and finite, got 0 at position \(1,\)"):
        F.NegativeBinomial([1.0, 0.0, -1.0])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (torch.arange(1.0, 26.0), "Tensor(25,)"),
        (torch.tensor([0.5, 2.0], requires_grad=True), "[0.5, 2]"),
        (torch.tensor(0.25, dtype=torch.float64), "0.25"),
        (torch.ones(4, 1), "Tensor(4, 1)"),
        (2.0, "2.0"),
    ],
)
def test_tensors_are_shown_in_short(value, shown):
    assert repr(F.NegativeBinomial(value)) == f"NegativeBinomial(size={shown})"
    assert repr(F.Gaussian(value)) == f"Gaussian(scale={shown})"
