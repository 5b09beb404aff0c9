"""Which objective a fit is said to have maximised."""

from types import SimpleNamespace

import pytest

from pyro_expfam.checks.estimates import Estimates

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("distances", "name"),
    [
        ((0.01, 0.5, 0.6, INFINITE), "joint density"),
        ((0.5, 0.004, 0.003, INFINITE), "evidence"),
        ((0.5, 0.004, 0.001, INFINITE), "evidence to second order"),
        ((0.5, 0.1, 0.001, 0.0008), "evidence to second order"),
        ((0.5, 0.1, 0.02, 0.001), "evidence by quadrature"),
    ],
)
def test_a_finer_evidence_is_named_only_where_it_is_clearly_nearer(distances, name):
    known = SimpleNamespace(distances=distances, gaps=distances)
    _, found = Estimates.nearest.fget(known)
    assert found == name
