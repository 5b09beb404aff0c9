"""Steps of Adam on the evidence of a table, of which one batch is there."""

from __future__ import annotations

from typing import Any

import torch

from pyro_expfam.guides import LaplaceGuide
from pyro_expfam.losses import LaplaceEvidence

STEPS = 10
"""Steps per batch."""


def train_on_batch(
    guide: LaplaceGuide, entries: tuple[Any, ...], num_rows: int, rate: float
) -> None:
    """Trains the parameters of a guide on a batch of rows.

    Args:
        guide: the guide of a single block, which has been trained.
        entries: observations, offset, mask, weights and covariates of the batch.
        num_rows: rows of the table that the batch stands for.
        rate: the step size.
    """
    model: Any = guide.model
    parameters = [*guide.parameters(), *model.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=rate)
    loss = LaplaceEvidence()
    with torch.enable_grad():
        for _ in range(STEPS):
            optimiser.zero_grad()
            loss.differentiable_loss(model, guide, *entries, num_rows=num_rows).backward()
            optimiser.step()
