"""The arrays that the kernels read of a table of bits or counts under a link."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cpu.compilation import compiled_once
from pyro_expfam.deq.cpu.cpu_table import GROUP, coefficients, size_by_feature
from pyro_expfam.deq.cpu.outcomes import LINKS
from pyro_expfam.deq.problem import LatentProblem


class LinkedDesign(NamedTuple):
    """Arrays that all rows of a table share, in float64 whatever the dtype of the problem.

    Without a certificate, decreases of the objective decide about steps. In float32 they would be
    lost to rounding far from the root. Features are padded to a multiple of ``GROUP`` and latents
    to an even number, with zeros.

    Attributes:
        loading: transposed.
        exponent_loading: the same, by the name that it has in other designs.
        exponent_intercept: the intercept.
        unit: 1.
        products: products of pairs of the loading's rows, ``(l (l + 1) / 2, features)``.
        size: the total of a count, ``(features,)``.
        law: stands for the link.
        precision: precision of the latents.
    """

    loading: Any
    exponent_loading: Any
    exponent_intercept: Any
    unit: Any
    products: Any
    size: Any
    law: Any
    precision: Any


def linked_design(problem: LatentProblem) -> LinkedDesign:
    """The design of a problem of bits or counts under a link."""
    activation = activation_of(problem.family)
    assert activation is not None
    W, b = (x.astype(np.float64) for x in coefficients(problem))
    loading, intercept, products, size = _pad(W, b, size_by_feature(activation, b))
    law = LINKS[activation.name](activation.counts)
    precision = float(problem.precision)
    return LinkedDesign(loading, loading, intercept, 1.0, products, size, law, precision)


@compiled_once
def _pad(W, b, size):
    num_features, latent_dim = W.shape
    padded = -(-num_features // GROUP) * GROUP
    loading = np.zeros((latent_dim + latent_dim % 2, padded))
    products = np.zeros((latent_dim * (latent_dim + 1) // 2, padded))
    intercept, padded_size = np.zeros(padded), np.zeros(padded)
    for i in range(num_features):
        intercept[i], padded_size[i] = b[i], size[i]
        for k in range(latent_dim):
            loading[k, i] = W[i, k]
            for j in range(k + 1):
                products[k * (k + 1) // 2 + j, i] = W[i, k] * W[i, j]
    return loading, intercept, products, padded_size
