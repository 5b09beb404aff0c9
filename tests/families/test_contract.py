"""Every family passes the contract."""

from __future__ import annotations

import pytest
from all_families import ALL_FAMILIES, one_of_each_kind
from family_contract import CHECKS
from quick_cases import slow_unless

QUICK = one_of_each_kind(ALL_FAMILIES)


@pytest.mark.parametrize(
    "family", slow_unless(lambda family: family in QUICK, ALL_FAMILIES), ids=repr
)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_family_keeps_the_contract(family, check):
    check(family)
