"""Every family passes the contract."""

from __future__ import annotations

import pytest
from all_families import ALL_FAMILIES
from family_contract import CHECKS


@pytest.mark.parametrize("family", ALL_FAMILIES, ids=repr)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_family_keeps_the_contract(family, check):
    check(family)
