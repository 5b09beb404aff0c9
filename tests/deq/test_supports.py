"""Supports in words, and what is wrong with tables that are not in them."""

from __future__ import annotations

import torch

from pyro_expfam.deq.supports import describe, hint
from pyro_expfam.families import Gamma, NegativeBinomial


def test_zeros_of_a_gamma_table_are_explained():
    support = Gamma(1.0).support
    assert describe(support) == "positive numbers"
    assert "mask the zeros" in hint(support, torch.tensor([[0.0, 1.5]]))
    assert hint(support, torch.tensor([[-1.0, 1.5]])) == ""


def test_a_negative_binomial_takes_counts():
    assert describe(NegativeBinomial(1.0).support) == "counts 0, 1, 2, …"
