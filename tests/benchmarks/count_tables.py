"""Tables of counts with row sizes: one simulated, and one of single cells."""

from contextlib import redirect_stdout
from io import StringIO
from typing import NamedTuple

import torch
from pyPLNmodels import load_scrna
from torch import Tensor

SIMULATED_ROWS, SIMULATED_FEATURES, SIMULATED_LATENTS = 4_000, 2_000, 10
MEAN_COUNT = 0.9
LOADING_DEVIATION, INTERCEPT_DEVIATION, SIZE_DEVIATION = 0.4, 1.0, 0.5


class CountTable(NamedTuple):
    """Counts ``(N, d)`` and the offset ``(N, 1)`` that the sizes of the rows make."""

    name: str
    y: Tensor
    offset: Tensor


def simulated_table() -> CountTable:
    """Poisson counts whose rates are log-normal: most are zero, a few are thousands."""
    generator = torch.Generator().manual_seed(20230611)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    loading = LOADING_DEVIATION * normal(SIMULATED_FEATURES, SIMULATED_LATENTS)
    latents = normal(SIMULATED_ROWS, SIMULATED_LATENTS)
    eta = latents @ loading.T + INTERCEPT_DEVIATION * normal(SIMULATED_FEATURES)
    rate = torch.exp(eta + SIZE_DEVIATION * normal(SIMULATED_ROWS, 1))
    y = torch.poisson(rate * (MEAN_COUNT / rate.mean()), generator=generator)
    return with_sizes("simulated", y)


def cell_table() -> CountTable:
    """The counts of genes in single cells that pyPLNmodels comes with: 2,000 x 3,000."""
    with redirect_stdout(StringIO()):
        counts = load_scrna(n_samples=2_000, dim=3_000)["endog"]
    return with_sizes("single cells", torch.from_numpy(counts.to_numpy()).float())


def with_sizes(name: str, y: Tensor) -> CountTable:
    """The table without empty rows and features, with the logarithms of relative row sums."""
    y = y[:, y.sum(0) > 0]
    y = y[y.sum(1) > 0]
    return CountTable(name, y, relative_size(y, float(y.sum(1).mean())))


def relative_size(y: Tensor, mean_sum: float) -> Tensor:
    """The logarithm of every row's sum over a mean sum, ``(N, 1)``."""
    return (y.sum(1, keepdim=True) / mean_sum).log()


def poisson_log_likelihood(y: Tensor, eta: Tensor) -> float:
    """The sum of the Poisson log probabilities at natural parameters ``eta``, in float64."""
    y, eta = y.double(), eta.double()
    return float((torch.special.xlogy(y, eta.exp()) - eta.exp() - torch.lgamma(y + 1)).sum())
