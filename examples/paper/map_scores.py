"""How close a map of points is to the true positions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor

from pyro_expfam.diagnostics.procrustes import procrustes_rotation

NUM_PAIRS = 20_000


class Aligned(NamedTuple):
    """A map brought onto the truth.

    Attributes:
        points: the map's points, ``(N, 2)``, turned, mirrored, scaled and shifted.
        error: the sum of squared distances to the truth over the truth's own sum of squares about
            its mean: 0 for a perfect map, 1 for a single point.
    """

    points: Tensor
    error: float


def procrustes(points: Tensor, truth: Tensor) -> Aligned:
    """The rotation, reflection, scale and shift that bring a map closest to the truth."""
    found, wanted = points.double(), truth.double()
    found = found - found.mean(0)
    centre = wanted.mean(0)
    wanted = wanted - centre
    turned = found @ procrustes_rotation(found, wanted)
    scaled = turned * ((turned * wanted).sum() / turned.square().sum())
    error = float((scaled - wanted).square().sum() / wanted.square().sum())
    return Aligned((scaled + centre).to(truth.dtype), error)


def global_position_score(points: Tensor, truth: Tensor, seed: int = 0) -> float:
    """Spearman's correlation of distances between pairs of points with the true distances.

    It is 1 if near pairs are near and far pairs are far, whatever the scale. The pairs are random,
    and the same for the same number of points.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(len(truth), (2, NUM_PAIRS), generator=generator)
    distances = [(x[pairs[0]] - x[pairs[1]]).norm(dim=1).numpy() for x in (points, truth)]
    return float(spearmanr(*distances).statistic)
