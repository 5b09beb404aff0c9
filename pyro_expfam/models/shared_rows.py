"""Tables that share the latents of another block: which row of the latents each row belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SharedRows:
    """The rows of latents that the rows of a table belong to.

    Attributes:
        index: the row of the latents for each row of the table, or None where they are the same.
        num_latents: rows of the latents.
    """

    index: Tensor | None
    num_latents: int

    @classmethod
    def of(
        cls, latent_rows: Any, num_rows: int, num_latents: int, device: torch.device
    ) -> SharedRows:
        """From the argument ``latent_rows`` of a block.

        Raises:
            ValueError: if it is missing where the numbers of rows differ, is no row of the latents,
                or names a row twice.
        """
        if latent_rows is None:
            if num_rows != num_latents:
                raise ValueError(
                    f"z must have a row for each of the {num_rows} rows of y, got {num_latents}: "
                    "pass latent_rows, the row of z that each row of y belongs to"
                )
            return cls(None, num_latents)
        index = torch.as_tensor(latent_rows, device=device)
        if index.shape != (num_rows,) or index.is_floating_point() or index.dtype == torch.bool:
            raise ValueError(
                f"latent_rows must be {num_rows} integers, one for each row of y, got dtype "
                f"{index.dtype} and shape {tuple(index.shape)}"
            )
        if bool(((index < 0) | (index >= num_latents)).any()):
            raise ValueError(
                f"latent_rows must be between 0 and {num_latents - 1}, got {int(index.min())} to "
                f"{int(index.max())}"
            )
        values, counts = index.unique(return_counts=True)
        if bool((counts > 1).any()):
            raise ValueError(
                f"latent_rows must name each row of z at most once, got row "
                f"{int(values[counts > 1][0])} for {int(counts.max())} rows of y: add up repeated "
                "observations of a row, or give each its own columns"
            )
        return cls(index, num_latents)

    def named(self, rows: str) -> tuple[str, Tensor, int] | None:
        """The rows of the latents by name, which each row belongs to, and their number.

        None where the rows are the same.
        """
        return None if self.index is None else (rows, self.index, self.num_latents)

    def of_table(self, z: Tensor) -> Tensor:
        """The latents of the rows of the table."""
        return z if self.index is None else z[..., self.index, :]

    def of_latents(self, entries: Tensor) -> Tensor:
        """Entries of the table in the order of the latents.

        A row of the latents without a row in the table takes the entries of the first row. It has
        weight 0.
        """
        if self.index is None or entries.shape[-2] == 1:
            return entries
        place = torch.zeros(self.num_latents, dtype=torch.int64, device=entries.device)
        place[self.index] = torch.arange(len(self.index), device=entries.device)
        return entries[..., place, :]

    def weights(self, weights: Tensor | None, y: Tensor) -> Tensor | None:
        """Entry weights in the order of the latents, 0 where the table has no row."""
        if self.index is None:
            return weights
        present = y.new_zeros(self.num_latents, 1)
        present[self.index] = 1.0
        return present if weights is None else self.of_latents(weights) * present


def check_shared(z: Any, latent_dim: int) -> None:
    """An error unless latents of another block fit the latents of this one.

    Raises:
        ValueError: if the last dimension is another number of latents.
    """
    if not isinstance(z, Tensor) or z.dim() < 2 or z.shape[-1] != latent_dim:
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(
            f"z must be the latents (..., rows, {latent_dim}) that another block has returned, got "
            f"{got}"
        )
