"""The names of the columns that a guide was trained on."""

from __future__ import annotations

from typing import Any

from pyro_expfam.guides import BlockGuide
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.table_categories import level_names


def single_block(guide: BlockGuide) -> ExpFamPCA:
    """The only block of a guide, with a dense loading.

    Raises:
        TypeError: if it is no guide of this package.
        ValueError: if its model is no single block, or its loading is a convolution.
    """
    if not isinstance(guide, BlockGuide):
        raise TypeError(
            "guide must be a guide of this package, such as a LaplaceGuide, got "
            f"{type(guide).__name__}"
        )
    block: Any = guide.model
    if not isinstance(block, ExpFamPCA):
        raise ValueError(
            f"guide must be of a single block, an ExpFamPCA, got one of {type(block).__name__}"
        )
    if block.linear_map is not None:
        raise ValueError(f"guide must have a dense loading, got linear_map={block.linear_map}")
    return block


def trained_block(guide: BlockGuide) -> ExpFamPCA:
    """The only block of a guide that has been trained.

    Raises:
        TypeError: as for :func:`single_block`.
        ValueError: as for :func:`single_block`, or if the guide has not been trained.
    """
    block = single_block(guide)
    if not guide.is_trained:
        raise ValueError("guide must be trained, got one with its first, random parameters")
    return block


def predictor_names(guide: BlockGuide) -> list[Any]:
    """The names of the linear predictors: columns, and levels of a column as in ``colour=red``.

    A level whose category the guide has not seen by name has its number.

    Args:
        guide: a guide of a single block.
    """
    block, names = single_block(guide), column_names(guide)
    columns = block._known_family.column_of_predictor(block.num_features).tolist()
    counts = [columns.count(k) for k in range(block.num_features)]
    categories = guide.column_categories() if guide._known_blocks() else None
    levels = level_names(names, counts, categories)
    found: list[Any] = []
    for name, count in zip(names, counts, strict=True):
        found += [name] if count == 1 else levels[len(found) : len(found) + count]
    return found


def column_names(guide: BlockGuide) -> list[Any]:
    """The labels of the data frame that a guide was trained on, or the positions of the columns.

    Args:
        guide: a guide of a single block.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> from pyro_expfam.loadings import column_names
        >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 3, latent_dim=1))
        >>> column_names(guide)
        [0, 1, 2]
    """
    block = single_block(guide)
    labels = guide.column_labels() if guide._known_blocks() else None
    if labels is not None:
        return list(labels)
    return list(block._known_family.column_names or range(block.num_features))
