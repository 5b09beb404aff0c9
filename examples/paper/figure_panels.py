"""The maps of figure 3: one random table per family, embedded in the plane by each method."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from embeddings import deq, scaled_pca
from map_scores import global_position_score, procrustes
from paper_tables import random_table
from torch import Tensor

import pyro_expfam as pef

SEED = 0


class Panel(NamedTuple):
    """One map, brought onto the truth, with its scores.

    Attributes:
        points: the map, ``(N, 2)``.
        error: the Procrustes error of :func:`map_scores.procrustes`.
        position: the score of :func:`map_scores.global_position_score`.
        seconds: seconds of one processor core to learn the map and to embed its rows.
    """

    points: Tensor
    error: float
    position: float
    seconds: float


def pca(family: pef.families.Family, y: Tensor) -> Tensor:
    """PCA of scaled columns."""
    return scaled_pca(y)(y)


def tsne(family: pef.families.Family, y: Tensor) -> Tensor:
    """t-SNE with the default settings of scikit-learn."""
    from sklearn.manifold import TSNE

    return torch.as_tensor(TSNE().fit_transform(y.numpy()))


def umap(family: pef.families.Family, y: Tensor) -> Tensor:
    """UMAP with its default settings."""
    from umap import UMAP  # takes ten seconds to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.as_tensor(UMAP().fit_transform(y.numpy()))


def layer(family: pef.families.Family, y: Tensor) -> Tensor:
    """The equilibrium layer after a fit, in the orthogonal basis ``R z`` of ``W = Q R``."""
    with torch.no_grad():
        return deq(family)(y)(y)


METHODS: dict[str, Callable[[pef.families.Family, Tensor], Tensor]] = {
    "PCA": pca,
    "t-SNE": tsne,
    "UMAP": umap,
    "DEQ": layer,
}


def panel(method: str, name: str, num_rows: int, seed: int = SEED) -> Panel:
    """The map of one method for a table of one family."""
    table = random_table(name, num_rows, seed)
    np.random.seed(seed)  # noqa: NPY002 what t-SNE and UMAP draw from
    start = time.process_time()
    points = METHODS[method](table.family, table.y)
    seconds = time.process_time() - start
    torch.set_num_threads(1)  # UMAP sets it too
    aligned = procrustes(points, table.z)
    position = global_position_score(points, table.z)
    return Panel(aligned.points, aligned.error, position, seconds)


def stored_panel(folder: Path, method: str, name: str, num_rows: int) -> Panel:
    """A map from its file in a folder; it is made and stored where there is none."""
    path = folder / f"{name}_{method}_{num_rows}.npz".lower().replace(" ", "_")
    if not path.exists():
        made = panel(method, name, num_rows)
        # An interruption leaves no file under the name that is looked for.
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(
            partial,
            points=made.points.numpy(),
            error=made.error,
            position=made.position,
            seconds=made.seconds,
        )
        partial.replace(path)
    with np.load(path) as file:
        found = (float(file[field]) for field in ("error", "position", "seconds"))
        return Panel(torch.from_numpy(file["points"]), *found)
