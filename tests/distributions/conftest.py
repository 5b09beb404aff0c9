"""Draws of these tests begin from one seed."""

from __future__ import annotations

import pyro
import pytest


@pytest.fixture(autouse=True)
def _seed() -> None:
    pyro.set_rng_seed(20240607)
