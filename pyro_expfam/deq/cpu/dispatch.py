"""What kernels compute of a table, by the type of its design; for compiled functions."""

from __future__ import annotations

from typing import Any


def sum_over_features(table: Any, row: Any, z: Any, sums: Any, information: Any, work: Any) -> None:
    """Means times loadings, and the information, of all lanes; for compiled functions."""
    raise NotImplementedError("only for compiled functions")


def add_to_gradients(table: Any, row: Any, z: Any, u: Any, work: Any, total: Any) -> None:
    """Adds what all lanes contribute to the gradients, by feature; for compiled functions."""
    raise NotImplementedError("only for compiled functions")


def working_memory(table: Any, latent_dim: Any) -> Any:
    """Memory that these functions keep between their calls; for compiled functions."""
    raise NotImplementedError("only for compiled functions")
