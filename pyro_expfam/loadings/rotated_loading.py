"""A rotated loading with its uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_expfam.guides import BlockGuide, LaplaceGuide
from pyro_expfam.loadings.column_names import predictor_names, trained_block
from pyro_expfam.loadings.rotations_to_axes import promax, varimax
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.table_labels import label_index

ROTATIONS: dict[str, Callable[..., Tensor]] = {"varimax": varimax, "promax": promax}


@dataclass(frozen=True, eq=False)
class RotatedLoading:
    r"""The result of :func:`rotate`; printed, it is a table.

    Attributes:
        names: the names of the columns of the table.
        loading: the rotated loading :math:`W T`, ``(d, l)``, by falling sum of squares.
        matrix: the matrix ``T``, ``(l, l)``.
        draws: draws of the rotated loading, ``(num_draws, d, l)``, or None without a posterior.
        level: the probability of the intervals.
    """

    names: list[Any]
    loading: Tensor
    matrix: Tensor
    draws: Tensor | None
    level: float

    @property
    def lower(self) -> Tensor:
        """The lower ends of the intervals, ``(d, l)``."""
        return self._quantile((1 - self.level) / 2)

    @property
    def upper(self) -> Tensor:
        """The upper ends of the intervals, ``(d, l)``."""
        return self._quantile((1 + self.level) / 2)

    def _quantile(self, probability: float) -> Tensor:
        if self.draws is None:
            raise ValueError(
                "intervals need a posterior of the loading: make the guide with globals='laplace'"
            )
        return self.draws.quantile(probability, 0)

    @property
    def latent_covariance(self) -> Tensor:
        """The prior covariance of the rotated latents, ``(l, l)``; the identity for varimax."""
        inverse = torch.linalg.inv(self.matrix)
        return inverse @ inverse.mT

    def latents(self, z: Tensor) -> Tensor:
        """Latents ``(..., l)`` in the rotated basis; a row effect, which stands last, stays."""
        size = len(self.matrix)
        turned = z[..., :size] @ torch.linalg.inv(self.matrix).mT.to(z)
        return torch.cat([turned, z[..., size:]], -1)

    @property
    def table(self) -> Any:
        """The loading as a data frame, with the ends of the intervals if there are draws."""
        import pandas as pd

        columns = {f"latent {k}": self.loading[:, k].numpy() for k in range(len(self.matrix))}
        if self.draws is not None:
            ends = {"lower": self.lower, "upper": self.upper}
            for k in range(len(self.matrix)):
                columns |= {f"{end} {k}": values[:, k].numpy() for end, values in ends.items()}
        return pd.DataFrame(columns, index=label_index(self.names))

    def __str__(self) -> str:
        return str(self.table.to_string(float_format="{:.3g}".format))


@torch.no_grad()
def rotate(
    guide: BlockGuide, method: str = "varimax", num_draws: int = 400, level: float = 0.9
) -> RotatedLoading:
    r"""The loading of a fit, rotated so that columns load on few latents each.

    A table says nothing about rotations of the latents. A rotation by a rule makes loadings that
    can be read. With a posterior of the coefficients every draw is rotated by the same rule, and
    its latents are brought into the order and signs of the estimate. So the intervals hold the
    uncertainty of the rotation too. Loadings of categories and of compositions are differences from
    the mean over their levels, since only differences mean anything.

    Args:
        guide: a fitted guide of a single block whose latents have one precision. With
            ``globals="laplace"`` there are intervals.
        method: ``"varimax"``, which keeps latents independent, or ``"promax"``, which does not.
        num_draws: draws of the loading.
        level: the probability of the intervals.

    Raises:
        TypeError: if ``guide`` is no guide of this package.
        ValueError: if its model is no such block, or an argument is out of range.

    Source: Kaiser (1958); Hendrickson and White (1964).

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W = torch.tensor([[2.0, 2.0, 2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]])
        >>> y = torch.bernoulli(torch.sigmoid(torch.randn(300, 2) @ W))
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), num_features=6, latent_dim=2)
        >>> guide = pef.LaplaceGuide(model)
        >>> _ = guide.fit(y)
        >>> rotated = pef.rotate(guide).loading.abs()
        >>> (rotated.amin(1) < 0.4 * rotated.amax(1)).tolist()
        [True, True, True, True, True, True]
    """
    block = trained_block(guide)
    if method not in ROTATIONS:
        raise ValueError(f"method must be one of {', '.join(ROTATIONS)}, got {method!r}")
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if not block.has_one_precision:
        raise ValueError("guide must be of a block whose latents have one precision")
    W = _centred(guide.loading.double(), block)
    turn = ROTATIONS[method]
    T = _by_size(W, turn(W))
    draws = None
    if isinstance(guide, LaplaceGuide) and guide._coefficient_guide is not None:
        posterior = guide.coefficients
        noise = torch.randn(num_draws, posterior.noise_dim, dtype=torch.float64)
        drawn = _centred(posterior.draw(noise)[..., : block.latent_dim], block)
        draws = torch.stack([_like(x @ turn(x), W @ T) for x in drawn])
    return RotatedLoading(predictor_names(guide), W @ T, T, draws, level)


def _centred(W: Tensor, block: ExpFamPCA) -> Tensor:
    """Loadings ``(..., d, l)`` without what all predictors of an observation share.

    Adding a number to all levels of a category, or to all parts of a composition, changes no
    probability. Draws of it are draws of the prior.
    """
    family = block._known_family
    if not family.is_coupled:
        return W
    owner = family.observation_of_predictor(block.num_features)
    counts = owner.bincount()
    zero = W.new_zeros(*W.shape[:-2], len(counts), W.shape[-1])
    means = zero.index_add(-2, owner, W) / counts[:, None]
    is_shared = (counts > 1)[owner][:, None]
    return torch.where(is_shared, W - means[..., owner, :], W)


def _by_size(W: Tensor, T: Tensor) -> Tensor:
    """Columns in the order of falling sums of squares, with a positive largest loading."""
    T = T[:, torch.argsort((W @ T).square().sum(0), descending=True)]
    rotated = W @ T
    largest = rotated.gather(0, rotated.abs().argmax(0)[None])[0]
    return T * torch.where(largest < 0, -1.0, 1.0)


def _like(drawn: Tensor, estimate: Tensor) -> Tensor:
    """A rotated draw with its latents in the order and the signs of the estimate."""
    products = estimate.mT @ drawn
    _, order = linear_sum_assignment(-products.abs().numpy())
    signs = torch.sign(products[torch.arange(len(products)), order])
    return drawn[:, order] * signs
