"""Families that are others with a parameter of one."""

import pytest
import scipy.stats
import torch

from pyro_expfam.families import Exponential, Gamma, Geometric, NegativeBinomial

ETA = torch.linspace(-6, 6, 13, dtype=torch.float64)


def test_geometric_counts_are_those_of_scipy():
    y = torch.arange(0.0, 30.0, dtype=torch.float64)[:, None]
    # Failures before the first success, where SciPy counts the success too.
    expected = scipy.stats.geom(torch.sigmoid(-ETA).numpy(), loc=-1).logpmf(y.numpy())
    torch.testing.assert_close(Geometric().log_prob(y, ETA), torch.as_tensor(expected))


def test_exponential_durations_are_those_of_scipy():
    y = torch.logspace(-3, 3, 7, dtype=torch.float64)[:, None]
    expected = scipy.stats.expon(scale=ETA.exp().numpy()).logpdf(y.numpy())
    torch.testing.assert_close(Exponential().log_prob(y, ETA), torch.as_tensor(expected))
    torch.testing.assert_close(Exponential().entropy(ETA), 1 + ETA)


@pytest.mark.parametrize(
    ("special", "general"), [(Geometric(), NegativeBinomial(1.0)), (Exponential(), Gamma(1.0))]
)
def test_they_have_no_parameter_of_their_own(special, general):
    assert special != general
    assert special == type(special)()
    assert special.parameter_names == ()
    assert repr(special) == f"{type(special).__name__}()"
    with pytest.raises(TypeError):
        type(special)(2.0)
