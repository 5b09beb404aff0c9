"""The Gaussian priors of a block's loading and intercept, and their scales."""

from __future__ import annotations

from typing import Any, TypeVar

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor

from pyro_expfam.deq.inference_mode import out_of_inference_mode
from pyro_expfam.families import Family
from pyro_expfam.models.centred_normal import CentredNormal, CentredNormals, KnownLaw

Hyperparameter = float | Tensor | PyroParam | PyroSample
"""A known number, numbers that SVI trains, or numbers with a prior."""

INITIAL_LOADING_SCALE = 0.1
"""Loadings start small, so that natural parameters, and so Poisson means, are of ordinary size."""

_Scale = TypeVar("_Scale")


def known_scale(
    coefficient: str, family: Family, num_features: int, scale: _Scale | str
) -> _Scale | float | Tensor:
    """The scale of a prior, with the family's own for ``"weak"``.

    The laws of a mixed table have a scale each. It is then a tensor with an entry per linear
    predictor, ``(d,)``.

    Args:
        coefficient: ``"loading"`` or ``"intercept"``.
        family: the law of the observations.
        num_features: columns of the table.
        scale: the scale, or ``"weak"``.

    Raises:
        ValueError: if it is another string.
    """
    if not isinstance(scale, str):
        return scale
    name = f"{coefficient}_scale"
    if scale != "weak":
        raise ValueError(
            f"{name} must be a positive number, 'weak' for the family's own, or None for a flat "
            f"prior, got {scale!r}"
        )
    found = torch.empty(family.num_predictors(num_features))
    for kind in family.kinds(num_features):
        found[kind.predictors] = getattr(kind.family, f"weak_{name}")
    return float(found[0]) if bool((found == found[0]).all()) else found


def known_coefficient_scale(
    family: Family, num_features: int, scale: _Scale | str
) -> _Scale | float | Tensor:
    """The scale of the prior of coefficients of covariates, with a number for ``"weak"``.

    It is a quarter of the weak scale of the intercept. The laws of a mixed table have a scale each,
    which is then a tensor with an entry per linear predictor, ``(d, 1)``.

    Args:
        family: the law of the observations.
        num_features: columns of the table.
        scale: the scale, or ``"weak"``.

    Raises:
        ValueError: if it is another string.
    """
    if not isinstance(scale, str):
        return scale
    if scale != "weak":
        raise ValueError(
            "coefficient_scale must be a positive number, one per covariate, 'weak' for a quarter "
            f"of the intercept's weak scale, or None for a flat prior, got {scale!r}"
        )
    found = known_scale("intercept", family, num_features, "weak")
    return found[:, None] / 4 if isinstance(found, Tensor) else float(found) / 4


class GaussianPrior:
    """A centred Gaussian prior whose scale is an attribute of the block, and changes with it.

    Args:
        scale: the name of the attribute.
        shape: of what has the prior.
        scale_dim: the number of dimensions of the scale itself: 1 for a scale by latent.
    """

    def __init__(self, scale: str, shape: torch.Size, scale_dim: int) -> None:
        self.scale, self.shape, self.scale_dim = scale, shape, scale_dim
        self._known = KnownLaw()

    def __call__(self, block: PyroModule) -> dist.TorchDistribution:
        """The prior under the scale that the block has now."""
        # A known scale is a buffer, of which a module tells sooner than of an attribute.
        scale = block._buffers.get(self.scale)
        if scale is None:
            return self._of_scale(getattr(block, self.scale))
        law: dist.TorchDistribution = self._known.of(scale, self._of_scale)
        return law

    def _of_scale(self, scale: Tensor) -> dist.TorchDistribution:
        """The prior under a scale."""
        shape = self.shape
        if scale.dim():
            # Draws of a scale have dimensions of plates on the left. The entries of a loading have
            # more dimensions than its scale: the missing ones come between.
            for _ in range(len(self.shape) - self.scale_dim):
                scale = scale.unsqueeze(scale.dim() - self.scale_dim)
            shape = torch.broadcast_shapes(scale.shape, shape)
        return CentredNormals(CentredNormal(scale).expand(shape), len(self.shape))


def positive(name: str, value: Any) -> Tensor:
    """Known numbers as a tensor.

    Raises:
        TypeError: if these are no numbers.
        ValueError: if one is not positive and finite.
    """
    tensor = _numbers(name, value)
    if not bool(((tensor > 0) & torch.isfinite(tensor)).all()):
        raise ValueError(f"{name} must be a positive finite number, got {value}")
    return tensor


def checked_precision_matrix(value: Any) -> Tensor:
    """A known precision matrix of the latents as a tensor.

    Raises:
        TypeError: if it holds no numbers.
        ValueError: if it is not symmetric and positive definite.
    """
    matrix = _numbers("latent_precision", value)
    symmetric = torch.allclose(matrix, matrix.mT) and bool(matrix.isfinite().all())
    if not symmetric or bool(torch.linalg.cholesky_ex(matrix)[1]):
        raise ValueError(
            f"latent_precision must be symmetric and positive definite, got {matrix.tolist()}"
        )
    return matrix


def _numbers(name: str, value: Any) -> Tensor:
    try:
        numbers = torch.as_tensor(out_of_inference_mode(value), dtype=torch.get_default_dtype())
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a positive finite number, got {value!r}") from None
    return numbers.detach()
