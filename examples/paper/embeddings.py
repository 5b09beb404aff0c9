"""Embeddings of rows in the plane, learnt from one table and applied to others."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from paper_guide import fitted_guide
from paper_tables import LATENT_DIM
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import pyro_expfam as pef

UMAP_ROWS = 5_000
"""Rows that UMAP is fitted to; it places the others among them.

Below 4,097 rows UMAP finds neighbours of new rows by a loop in Python, which takes longer.
"""

Map = Callable[[Tensor], Tensor]


class Embedding(NamedTuple):
    """A map from rows to latents, and the latents ``(N, 2)`` that it gives.

    Attributes:
        into_plane: the map, observations ``(N, d)`` in, latents out.
        train: latents of the rows that the map was learnt from.
        test: latents of further rows.
        seconds: seconds to learn the map, and to embed all of these rows.
    """

    into_plane: Map
    train: Tensor
    test: Tensor
    seconds: float


def embed(learn: Callable[[Tensor], Map], train: Tensor, test: Tensor) -> Embedding:
    """Learns a map from the rows of ``train``, and applies it to both tables."""
    start = time.perf_counter()
    into_plane = learn(train)
    with torch.no_grad():
        latents = into_plane(train), into_plane(test)
    return Embedding(into_plane, *latents, time.perf_counter() - start)


def scaled_pca(y: Tensor) -> Map:
    """PCA of columns scaled to variance one, as in the paper."""
    return _of_estimator(make_pipeline(StandardScaler(), PCA(LATENT_DIM)).fit(y.numpy()))


def plain_pca(y: Tensor) -> Map:
    """PCA of the columns as they are."""
    return _of_estimator(PCA(LATENT_DIM).fit(y.numpy()))


def log1p_pca(y: Tensor) -> Map:
    """PCA of log(1 + y), a common practice for counts."""
    of_logarithms = plain_pca(y.log1p())
    return lambda rows: of_logarithms(rows.log1p())


def umap(y: Tensor) -> Map:
    """UMAP with default settings, fitted to the first :data:`UMAP_ROWS` rows."""
    from umap import UMAP  # takes ten seconds to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _of_estimator(UMAP().fit(y[:UMAP_ROWS].numpy()))


def deq(family: pef.families.Family) -> Callable[[Tensor], pef.DEQEncoder]:
    """The equilibrium layer of ``family``, in the orthogonal basis of the paper's pictures."""
    return lambda y: pef.DEQEncoder(fitted_guide(family, y), basis="orthogonal")


def _of_estimator(fitted: object) -> Map:
    def transform(rows: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            latents = fitted.transform(rows.numpy())  # type: ignore[attr-defined]
        return torch.as_tensor(np.asarray(latents, dtype=np.float32))

    return transform
