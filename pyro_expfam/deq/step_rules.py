"""When Fisher scoring steps and stops."""

from __future__ import annotations

from typing import NamedTuple


class StepRules(NamedTuple):
    """Settings of Fisher scoring, as :mod:`pyro_expfam.deq.fisher_scoring` has them."""

    tolerance: float
    safe_change: float
    last_step: float
    eager_change: float
    smallest_pivot: float
    max_iter: int
