"""What stands in a masked place, or its offset or weight, is never read, through any door."""

import numpy as np
import pandas as pd
import pytest
import torch
from quick_cases import in_turn
from scipy import sparse

import pyro_expfam as pef

F = pef.families
NUM_ROWS, NUM_COLUMNS = 30, 4
FAMILIES = {
    "bits": F.Bernoulli(),
    "counts": F.Poisson(),
    "counts with dispersion": F.NegativeBinomial(2.0),
    "real numbers": F.Gaussian(1.0),
    "positive numbers": F.Gamma(3.0),
    "ordered answers": F.Ordinal(3, [-1.0, 1.0]),
}
GARBAGE = [torch.nan, -torch.inf]


def table(family, garbage):
    """A table with garbage in every masked place, and in its offset and weight."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    z = torch.randn(NUM_ROWS, 1, generator=generator, dtype=torch.float64)
    y = family.sample(z @ torch.tensor([[0.8, -0.7, 0.6, 0.5]]).double()).double()
    mask = torch.rand(y.shape, generator=generator) < 0.8
    offset = 0.1 * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    weights = 0.5 + torch.rand(y.shape, generator=generator, dtype=torch.float64)
    return {
        "y": y.where(mask, garbage),
        "offset": offset.where(mask, garbage),
        "mask": mask,
        "weights": weights.where(mask, garbage),
    }


def fitted(family, given):
    torch.manual_seed(2)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, NUM_COLUMNS, 1).double(), globals="laplace")
    return guide, guide.fit(**given, progress=False)


def answers(family, given):
    """What each door says of a table."""
    guide, fit = fitted(family, given)
    torch.manual_seed(3)
    # The offset of an entry is part of its prediction, and read by impute alone.
    offset = given["offset"].where(given["mask"], 0.0)
    imputed = pef.impute(guide, **given | {"offset": offset}, num_draws=20)
    torch.manual_seed(4)
    with torch.no_grad():
        return (
            torch.tensor(fit.objective).double(),
            guide.loading,
            guide.coefficients.variance(),
            guide.latents(**given),
            guide.posterior(**given).variance,
            guide.log_evidence(**given),
            guide.log_evidence(**given, order=2),
            imputed.mean,
            imputed.draws,
        )


@pytest.mark.parametrize(("name", "garbage"), in_turn(list(FAMILIES), GARBAGE))
def test_what_is_masked_is_never_read_in_a_dense_table(name, garbage):
    family = FAMILIES[name]
    expected = answers(family, table(family, 1.0))
    found = answers(family, table(family, garbage))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_what_is_masked_is_never_read_for_a_report():
    def report(garbage):
        given = table(F.Poisson(), garbage)
        guide, _ = fitted(F.Poisson(), given)
        return str(pef.check(guide.model, guide, **given))

    assert report(torch.nan) == report(1.0)


@pytest.mark.parametrize(
    ("name", "garbage"), in_turn(["bits", "counts", "counts with dispersion"], GARBAGE)
)
def test_what_is_masked_is_never_read_in_a_sparse_table(name, garbage):
    family = FAMILIES[name]

    def answers_of(garbage):
        given = table(family, garbage)
        # What is masked is stored.
        given["y"] = sparse.csr_array(given["y"].numpy())
        guide, fit = fitted(family, given)
        with torch.no_grad():
            return fit.objective, guide.latents(**given), guide.log_evidence(**given)

    expected, found = answers_of(1.0), answers_of(garbage)
    assert found[0] == expected[0]
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(one, other)
    assert np.isfinite(found[0])


@pytest.mark.parametrize("form", [pd.DataFrame, lambda y: sparse.csr_array(y.numpy())])
def test_a_column_without_an_entry_is_warned_of_and_a_row_has_the_prior(form):
    given = table(F.Poisson(), 0.0)
    given["mask"][:, 2], given["mask"][5] = False, False
    given["y"] = form(given["y"])
    if isinstance(given["y"], pd.DataFrame):
        given["y"].columns = ["oak", "elm", "ash", "yew"]
        name = "'ash'"
    else:
        name = "2"
    with pytest.warns(UserWarning, match=rf"leave no entry of column {name}: loading and"):
        guide, _ = fitted(F.Poisson(), given)
    with torch.no_grad():
        row = guide.posterior(**given)
    torch.testing.assert_close(row.mean[5], torch.zeros(1).double())
    torch.testing.assert_close(row.covariance_matrix[5], torch.ones(1, 1).double())
