"""The ordinal family: its identities, and answers in data frames."""

import pandas as pd
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.families import Bernoulli, Ordinal

ETA = torch.linspace(-30, 30, 25, dtype=torch.float64)


def test_two_levels_are_bits():
    family = Ordinal(2, [0.7])
    for y in (torch.zeros_like(ETA), torch.ones_like(ETA)):
        for name in ("score", "curvature", "third_derivative", "fourth_derivative"):
            expected = getattr(Bernoulli(), name)(ETA - 0.7, y)
            torch.testing.assert_close(getattr(family, name)(ETA, y), expected)
        torch.testing.assert_close(family.log_prob(y, ETA), Bernoulli().log_prob(y, ETA - 0.7))


def test_probabilities_are_those_of_a_logistic_variable_between_the_cut_points():
    cuts = torch.tensor([-2.0, -1.9, 3.0], dtype=torch.float64)
    family = Ordinal(4, cuts)
    below = torch.sigmoid(cuts - ETA[:, None])
    below = torch.nn.functional.pad(torch.nn.functional.pad(below, (1, 0)), (0, 1), value=1.0)
    torch.testing.assert_close(family.probabilities(ETA), below.diff(dim=-1), rtol=1e-9, atol=1e-14)


def test_gradients_reach_cut_points():
    cuts = torch.tensor([[-1.0, 0.5], [0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    y, eta = torch.tensor([[0.0, 1.0], [2.0, 2.0]]).double(), torch.randn(2, 2).double()
    assert torch.autograd.gradcheck(lambda c: Ordinal(3, c).log_prob(y, eta), cuts)


def test_ordered_categories_of_pandas_are_answers():
    kind = pd.CategoricalDtype(["no", "maybe", "yes"], ordered=True)
    names = torch.randint(0, 3, (30, 4))
    frame = pd.DataFrame({k: pd.Categorical.from_codes(names[:, k], dtype=kind) for k in range(4)})
    family = Ordinal(3, [-1.0, 1.0])
    W, b = torch.randn(4, 1), torch.zeros(4)
    found = pef.solve_latents(family, frame, W, b)
    assert torch.equal(found.value, pef.solve_latents(family, names, W, b).value)


@pytest.mark.parametrize(
    ("levels", "cuts", "error", "message"),
    [
        (1, None, ValueError, "levels is 1"),
        (2.5, None, TypeError, "whole number"),
        (3, [1.0], ValueError, "2 numbers for 3 levels, got shape"),
        (3, [1.0, 1.0], ValueError, "must be finite and increase"),
        (3, [[0.0, 1.0], [1.0, -1.0]], ValueError, "must be finite and increase"),
        (3, "free", TypeError, "must be 2 numbers, got 'free'"),
    ],
)
def test_bad_cut_points_are_refused(levels, cuts, error, message):
    with pytest.raises(error, match=message):
        Ordinal(levels, cuts)


def test_categories_of_pandas_without_an_order_are_refused():
    frame = pd.DataFrame({"mood": pd.Categorical(["low", "high", "low"])})
    family = Ordinal(2, [0.0])
    with pytest.raises(ValueError, match=r"ordered categories .* in column 'mood', high, low"):
        pef.solve_latents(family, frame, torch.ones(1, 1), torch.zeros(1))
    with pytest.raises(ValueError, match="whole numbers 0 to 1; got 2"):
        pef.solve_latents(family, torch.tensor([[2.0]]), torch.ones(1, 1), torch.zeros(1))


def test_a_fit_names_answers_that_no_row_has():
    torch.manual_seed(0)
    y = torch.randint(0, 3, (40, 4)).float()
    y[:, 2] = torch.where(y[:, 2] == 1, 2.0, y[:, 2])
    guide = pef.LaplaceGuide(pef.ExpFamPCA(Ordinal(3), 4, 1))
    with pytest.warns(UserWarning, match="no row has the answer 1 in column 2: its cut points"):
        guide.fit(y, progress=False)


@pytest.mark.parametrize("is_whole", [True, False], ids=["block", "larger model"])
def test_answers_of_a_frame_that_no_row_has_are_named(is_whole):
    torch.manual_seed(0)
    moods = pd.CategoricalDtype(["low", "fair", "high"], ordered=True)
    codes = torch.randint(0, 3, (40, 2))
    frame = pd.DataFrame({"now": codes[:, 0].numpy(), "then": 2 * (codes[:, 1].numpy() // 2)})
    frame = frame.apply(lambda x: pd.Series(pd.Categorical.from_codes(x, dtype=moods)))
    block = pef.ExpFamPCA(Ordinal(3), 2, 1)
    guide = pef.LaplaceGuide(block if is_whole else lambda y: block(y))
    with pytest.warns(UserWarning, match="no row has the answer 'fair' in column 'then': its cut"):
        guide.fit(frame, progress=False)


@pytest.mark.parametrize("cuts", [[-2.0, 0.0, 1.0], [[-2.0, 0.0, 1.0], [-1.0, 0.5, 3.0]]])
def test_answers_have_the_predictors_of_other_means_near_them(cuts):
    """Answers are looked up in a table, and other means are solved for one by one."""
    family = Ordinal(4, cut_points=torch.tensor(cuts, dtype=torch.float64))
    y = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    found = family.predictor(y)
    torch.testing.assert_close(family.expected_y(found), y, rtol=1e-9, atol=1e-9)
    near = y + 1e-9
    torch.testing.assert_close(found, family.predictor(near), rtol=0, atol=1e-7)


def test_the_first_and_last_answers_have_losses_and_derivatives_of_one_cut_point():
    cuts = torch.tensor([-1.0, 2.0], dtype=torch.float64, requires_grad=True)
    eta = torch.tensor([-800.0, -3.0, 0.5, 900.0], dtype=torch.float64, requires_grad=True)
    family = Ordinal(3, cut_points=cuts)
    for answer, expected in ((0, torch.nn.functional.softplus(eta + 1)), (2, None)):
        if expected is None:
            expected = torch.nn.functional.softplus(2 - eta)
        loss = family.loss(eta, torch.full_like(eta, answer))
        torch.testing.assert_close(loss, expected)
        gradients = torch.autograd.grad(loss.sum(), (eta, cuts), create_graph=True)
        (of_eta,) = torch.autograd.grad(expected.sum(), eta, create_graph=True)
        torch.testing.assert_close(gradients[0], of_eta)
        assert gradients[1].isfinite().all()
        (second,) = torch.autograd.grad(gradients[0].sum(), eta)
        (expected_second,) = torch.autograd.grad(of_eta.sum(), eta)
        torch.testing.assert_close(second, expected_second)
