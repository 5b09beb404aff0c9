"""Networks that predict a number from latents, trained side by side on the same batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

HIDDEN = 100
BATCH_SIZE = 500
TEST_BATCH_SIZE = 10_000


def head(num_inputs: int) -> nn.Sequential:
    """The paper's head: Linear(inputs, 100), ReLU, Linear(100, 1), as PyTorch initialises it."""
    return nn.Sequential(nn.Linear(num_inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))


class Heads(nn.Module):
    """Copies of one head with parameters of their own, evaluated by one product of matrices.

    All of them start from the same parameters. Adam works on each number by itself, so that each
    head becomes what it would become alone.
    """

    def __init__(self, num_heads: int, num_inputs: int) -> None:
        super().__init__()
        first, second = nn.Linear(num_inputs, HIDDEN), nn.Linear(HIDDEN, 1)
        copies = (num_heads, 1, 1)
        self.hidden_weight = nn.Parameter(first.weight.detach().repeat(copies))
        self.hidden_bias = nn.Parameter(first.bias.detach().unsqueeze(-1).repeat(copies))
        self.weight = nn.Parameter(second.weight.detach().repeat(copies))
        self.bias = nn.Parameter(second.bias.detach().unsqueeze(-1).repeat(copies))

    def forward(self, x: Tensor) -> Tensor:
        """Predictions ``(heads, N)`` from inputs ``(heads, N, l)``."""
        # Rows last: the products are twice as fast.
        hidden = torch.baddbmm(self.hidden_bias, self.hidden_weight, x.mT).relu_()
        return torch.baddbmm(self.bias, self.weight, hidden).squeeze(-2)


class SideBySide(nn.Module):
    """One head per fixed embedding, one per encoder that is trained with it, and one on the rows.

    Args:
        num_fixed: the number of fixed embeddings.
        encoders: layers by name, observations ``(N, d)`` in, latents ``(N, l)`` out. The network
            trains copies of them.
        num_features: columns ``d`` of the observations.
        num_latents: latents ``l`` of a row.
    """

    def __init__(
        self, num_fixed: int, encoders: Mapping[str, nn.Module], num_features: int, num_latents: int
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(copy.deepcopy(dict(encoders)))
        self.heads = Heads(num_fixed + len(encoders), num_latents)
        self.on_rows = head(num_features)

    def forward(self, embeddings: Tensor, y: Tensor) -> Tensor:
        """Predictions ``(networks, N)`` from embeddings ``(fixed, N, l)`` and rows ``(N, d)``."""
        latents = [encoder(y).unsqueeze(0) for encoder in self.encoders.values()]
        of_heads = self.heads(torch.cat([embeddings, *latents]))
        return torch.cat([of_heads, self.on_rows(y).mT])


def train(
    network: SideBySide, embeddings: Tensor, y: Tensor, target: Tensor, num_epochs: int
) -> None:
    """Minimises the squared errors of every prediction by Adam with default settings.

    The networks share no parameter, so that the sum of their losses trains each of them alone.

    Args:
        network: the networks.
        embeddings: the fixed embeddings, ``(fixed, N, l)``.
        y: observations, ``(N, d)``.
        target: what is to be predicted, ``(N,)``.
        num_epochs: passes over the rows, in a new order each time.
    """
    # Fused: one call for all parameters, the same numbers.
    optimiser = torch.optim.Adam(network.parameters(), fused=True)
    for _ in range(num_epochs):
        order = torch.randperm(len(y))
        batches = zip(
            embeddings[:, order].split(BATCH_SIZE, dim=1),
            y[order].split(BATCH_SIZE),
            target[order].split(BATCH_SIZE),
            strict=True,
        )
        for fixed, rows, wanted in batches:
            optimiser.zero_grad()
            loss = (network(fixed, rows) - wanted).square().mean(-1).sum()
            loss.backward()
            optimiser.step()


@torch.no_grad()
def errors(network: SideBySide, embeddings: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Mean squared errors of the predictions, ``(networks,)``."""
    parts = zip(
        embeddings.split(TEST_BATCH_SIZE, dim=1),
        y.split(TEST_BATCH_SIZE),
        target.split(TEST_BATCH_SIZE),
        strict=True,
    )
    squares = [(network(*part[:2]) - part[2]).square().sum(-1) for part in parts]
    return torch.stack(squares).sum(0) / len(y)
