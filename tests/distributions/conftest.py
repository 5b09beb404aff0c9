"""Draws of these tests begin from one seed."""

from __future__ import annotations

import pytest


@pytest.fixture
def first_seed() -> int:
    return 20240607
