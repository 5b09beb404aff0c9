"""How many rows and features a program takes at once.

The sizes are chosen such that ``ptxas`` spills nothing on sm_80 and sm_90, or at most two registers
of a thread where that fits one more block on a processor. Rows of up to 16 latents are taken 32 at
a time; wider rows 8 at a time, since their information fills as many registers.
"""

from __future__ import annotations

from typing import Any

FEATURES = 16

COLUMNS = 128
"""The most products of loadings that such a program sums."""

CHUNK_ROWS = 1 << 12
"""Rows whose contributions to the gradient of a loading are summed by one program."""


def row_blocks(constants: dict[str, Any]) -> dict[str, int]:
    """Rows and features of a program that keeps the information of its rows and solves systems."""
    rows = 32 if constants["WIDTH"] == 16 else 8
    # The matrix units take no fewer than 16 rows.
    if constants["DOT"] != "ieee":
        rows = max(rows, 16)
    return {"ROWS": rows, "FEATURES": FEATURES, "num_warps": 8, "num_stages": 1}


def search_blocks(constants: dict[str, Any]) -> dict[str, int]:
    """Rows and features of a program that searches along steps, in float64."""
    rows = 8 if constants["PACKED"] == 16 else 4
    return {"ROWS": rows, "FEATURES": FEATURES, "num_warps": 4, "num_stages": 1}


def light_blocks(constants: dict[str, Any]) -> dict[str, int]:
    """Rows and features of a program that keeps little of its rows."""
    rows, num_warps = (16, 8) if constants["WIDTH"] == 16 else (8, 4)
    # The matrix units take no fewer than 16 rows.
    if constants["DOT"] != "ieee":
        rows = 16
    return {"ROWS": rows, "FEATURES": FEATURES, "num_warps": num_warps, "num_stages": 1}


def sum_blocks() -> dict[str, int]:
    """Rows and features of a program that sums over rows."""
    return {"ROWS": 16, "FEATURES": FEATURES, "num_warps": 4, "num_stages": 1}
