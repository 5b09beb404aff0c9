"""Constant columns of laws whose shape, precision or dispersion is learnt."""

import pandas as pd
import pyro
import pytest
import torch

import pyro_expfam as pef

F = pef.families


def with_constant_column(value):
    torch.manual_seed(0)
    y = torch.rand(30, 3) * 0.8 + 0.1
    y[:, 1] = value
    return y


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (F.Weibull(), "shape"),
        (F.Gamma(), "shape"),
        (F.Tweedie(), "dispersion"),
        (F.LogNormal(), "scale"),
    ],
)
def test_a_column_without_variation_does_not_say_how_much_it_varies(family, name):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, 3, 1))
    words = rf"a {name} of its own, got constant columns \[1\]: drop them, or learn one {name} for"
    with pytest.raises(ValueError, match=words):
        guide.fit(with_constant_column(0.4))


@pytest.mark.parametrize("family", [F.Weibull("shared"), F.Gamma("shared")])
def test_one_parameter_for_the_table_needs_one_column_that_varies(family):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, 3, 1))
    assert guide.fit(with_constant_column(0.4)).converged
    with pytest.raises(ValueError, match="got a constant table"):
        guide.fit(torch.full((30, 3), 0.4))


def test_names_of_mixed_columns_are_shown_and_counts_may_be_constant():
    columns = F.Columns({"time": F.Weibull(), "count": F.NegativeBinomial(), "size": F.Gamma()})
    guide = pef.LaplaceGuide(pef.ExpFamPCA(columns, None, 1))
    y = with_constant_column(2.0)
    y[:, 0] = 0.7
    with pytest.raises(ValueError, match=r"a shape of its own, got constant columns \['time'\]"):
        guide.fit(y)


def test_a_column_of_zeros_has_a_probability_under_tweedie_laws():
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Tweedie(), 3, 1))
    assert guide.fit(with_constant_column(0.0)).objective < float("inf")


def test_a_fit_by_the_gradient_refuses_what_a_fit_by_columns_refuses():
    # The loss of proportions is not convex: their fit is a fit of a model.
    y = with_constant_column(0.4)
    words = r"a precision of its own, got constant columns \[1\]: drop them, or learn one precision"
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Beta(), 3, 1))
    with pytest.raises(ValueError, match=words):
        guide.fit(y)
    one = pef.LaplaceGuide(pef.ExpFamPCA(F.Beta("shared"), 3, 1))
    with pytest.raises(ValueError, match="y must vary for its precision to be learnt"):
        one.fit(torch.full((30, 3), 0.4))


class TwoTables(pyro.nn.PyroModule):
    """Amounts and proportions of the same rows."""

    def __init__(self):
        super().__init__()
        self.amounts = pef.ExpFamPCA(F.Gaussian("per column"), 3, 1)
        self.shares = pef.ExpFamPCA(F.Beta(), 3, 1)

    def forward(self, amounts, shares, mask=None):
        self.amounts(amounts)
        self.shares(shares, mask=mask)


def test_every_table_of_a_model_is_checked_and_its_block_named():
    y = with_constant_column(0.4)
    varied = torch.rand(30, 3) * 0.8 + 0.1
    guide = pef.LaplaceGuide(TwoTables())
    with pytest.raises(ValueError, match=r"amounts: y must vary.* a scale of its own.*\[1\]"):
        guide.fit(y, varied, loss=pef.LaplaceEvidence())
    with pytest.raises(ValueError, match=r"shares: y must vary.* a precision of its own"):
        guide.fit(varied, y, loss=pef.LaplaceEvidence())


def test_a_fit_by_the_gradient_warns_of_a_column_without_an_entry():
    y = pd.DataFrame(with_constant_column(0.4).numpy(), columns=["oak", "elm", "ash"])
    mask = torch.ones(30, 3, dtype=torch.bool)
    mask[:, 1] = False
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Beta(), 3, 1))
    with pytest.warns(UserWarning, match="leave no entry of column 'elm': loading and intercept"):
        guide.fit(y, mask=mask, callback=lambda _: True)
