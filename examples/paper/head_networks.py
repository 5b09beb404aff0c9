"""Networks that predict a number from latents, trained side by side on the same batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from compiled_heads import MeanSquaredErrors
from torch import Tensor, nn

HIDDEN = 100
BATCH_SIZE = 500
TEST_BATCH_SIZE = 10_000


class Heads(nn.Module):
    """Copies of one head with parameters of their own: Linear(l, 100), ReLU, Linear(100, 1).

    All of them start from the same parameters, which are those that PyTorch gives to such layers.
    Adam works on each number by itself, so that each head becomes what it would become alone.
    """

    def __init__(self, num_heads: int, num_inputs: int) -> None:
        super().__init__()
        first, second = nn.Linear(num_inputs, HIDDEN), nn.Linear(HIDDEN, 1)
        self.hidden_weight = nn.Parameter(first.weight.detach().mT.repeat(num_heads, 1, 1))
        self.hidden_bias = nn.Parameter(first.bias.detach().repeat(num_heads, 1))
        self.weight = nn.Parameter(second.weight.detach().repeat(num_heads, 1))
        self.bias = nn.Parameter(second.bias.detach().repeat(num_heads))

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Mean squared errors ``(heads,)`` on inputs ``(heads, N, l)`` with target ``(N,)``."""
        return MeanSquaredErrors.apply(
            x, target, self.hidden_weight, self.hidden_bias, self.weight, self.bias
        )


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
        self.on_rows = nn.Sequential(
            nn.Linear(num_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
        )

    def forward(self, embeddings: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Mean squared errors of all networks, from embeddings ``(fixed, N, l)`` and rows."""
        latents = [encoder(y).unsqueeze(0) for encoder in self.encoders.values()]
        of_heads = self.heads(torch.cat([embeddings, *latents]), target)
        on_rows = (self.on_rows(y).squeeze(-1) - target).square().mean()
        return torch.cat([of_heads, on_rows.unsqueeze(0)])


def train(
    network: SideBySide, embeddings: Tensor, y: Tensor, target: Tensor, num_epochs: int
) -> None:
    """Minimises the squared errors of every prediction by Adam with default settings.

    The networks share no parameter, so that the sum of their errors trains each of them alone.

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
        for batch in batches(embeddings[:, order], y[order], target[order], BATCH_SIZE):
            optimiser.zero_grad()
            network(*batch).sum().backward()
            optimiser.step()


@torch.no_grad()
def errors(network: SideBySide, embeddings: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Mean squared errors of the predictions, ``(networks,)``."""
    parts = batches(embeddings, y, target, TEST_BATCH_SIZE)
    return torch.stack([len(part[1]) * network(*part) for part in parts]).sum(0) / len(y)


def batches(
    embeddings: Tensor, y: Tensor, target: Tensor, size: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Embeddings, rows and target in parts of consecutive rows."""
    parts = embeddings.split(size, dim=1), y.split(size), target.split(size)
    return list(zip(*parts, strict=True))
