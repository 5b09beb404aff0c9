"""One trial of the downstream task: a random table, its embeddings, and the heads on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from embeddings import UMAP_ROWS, Map, deq, embed, log1p_pca, plain_pca, scaled_pca, umap
from head_networks import SideBySide, errors, train
from paper_tables import LATENT_DIM, NUM_FEATURES, random_table
from torch import Tensor, nn

TRAINING_SHARE = 0.8
NUM_EPOCHS = 200


def run_trial(
    name: str, trial: int, num_rows: int, num_epochs: int = NUM_EPOCHS, with_umap: bool = True
) -> dict[str, Any]:
    """Test errors and seconds of every method on one random table.

    Args:
        name: the family.
        trial: the number of the trial, which seeds all that is random.
        num_rows: rows of the table.
        num_epochs: passes over the training rows for the heads.
        with_umap: whether UMAP takes part; it takes most of the time of a small trial.

    Returns:
        ``settings`` of the trial; mean squared ``errors`` of the test rows by method, beside
        ``train_errors``; ``seconds`` to learn an embedding and apply it to all rows, by method; and
        ``head_seconds`` to train all heads.
    """
    torch.set_num_threads(1)
    family, y, z, _ = random_table(name, num_rows, trial)
    target = z.sum(1)
    train_rows, test_rows = split(num_rows)
    learners: dict[str, Callable[[Tensor], Map]] = {
        "PCA, scaled": scaled_pca,
        "PCA": plain_pca,
        **({"PCA of log(1 + y)": log1p_pca} if name == "Poisson" else {}),
        **({"UMAP": umap} if with_umap else {}),
        "DEQ, frozen": deq(family),
    }
    embeddings = {
        method: embed(learn, y[train_rows], y[test_rows]) for method, learn in learners.items()
    }
    encoder = embeddings["DEQ, frozen"].into_plane
    assert isinstance(encoder, nn.Module)
    latents = {method: (found.train, found.test) for method, found in embeddings.items()}
    latents["true latents"] = z[train_rows], z[test_rows]
    of_train, of_test = (torch.stack(part) for part in zip(*latents.values(), strict=True))
    torch.manual_seed(trial)
    network = SideBySide(len(latents), {"DEQ": encoder}, NUM_FEATURES, LATENT_DIM)
    # UMAP sets PyTorch's threads as well; small products are slower in several threads.
    torch.set_num_threads(1)
    start = time.perf_counter()
    train(network, of_train, y[train_rows], target[train_rows], num_epochs)
    head_seconds = time.perf_counter() - start
    methods = [*latents, "DEQ", "network on y"]

    def by_method(embedded: Tensor, rows: Tensor) -> dict[str, float]:
        found = errors(network, embedded, y[rows], target[rows])
        return dict(zip(methods, found.tolist(), strict=True))

    return {
        "settings": settings(name, trial, num_rows, num_epochs, with_umap),
        "errors": by_method(of_test, test_rows),
        "train_errors": by_method(of_train, train_rows),
        "seconds": {method: found.seconds for method, found in embeddings.items()},
        "head_seconds": head_seconds,
    }


def settings(
    name: str, trial: int, num_rows: int, num_epochs: int, with_umap: bool
) -> dict[str, Any]:
    """What a trial was run with."""
    return {
        "family": name,
        "trial": trial,
        "rows": num_rows,
        "epochs": num_epochs,
        "umap_rows": UMAP_ROWS if with_umap else 0,
    }


def split(num_rows: int) -> tuple[Tensor, Tensor]:
    """A random partition into training and test rows, by index."""
    order = torch.randperm(num_rows)
    num_train = round(TRAINING_SHARE * num_rows)
    return order[:num_train], order[num_train:]
