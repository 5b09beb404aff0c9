"""Table 2 of the paper: seconds to learn a map of all 42,453 rows and to embed them.

They are seconds of one processor core, and leave out what happens once per process: imports, and
compilation, for which each method embeds some rows first. t-SNE takes the longest. Its rows may be
fewer, by ``--tsne-rows``; its time per row grows slowly with their number, by about its logarithm.

``python examples/paper/seconds.py --csv FILE`` writes each measurement as soon as it is there, and
skips those that the file has.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from figure_panels import METHODS, panel
from ground_truth import NUM_ROWS
from random_tables import FAMILIES

ROWS_TO_COMPILE = {"PCA": 100, "DEQ": 1_000, "UMAP": 4_200, "t-SNE": 100}
"""UMAP compiles its search for neighbours at 4,096 rows."""

DEFAULT_FILE = Path(__file__).resolve().parent / "results" / "seconds.csv"


class Measurement(NamedTuple):
    """Seconds of a method to embed a table."""

    family: str
    method: str
    rows: int
    seconds: float


def measure(name: str, method: str, num_rows: int) -> Measurement:
    """The seconds of one method on the table of one family."""
    panel(method, name, min(num_rows, ROWS_TO_COMPILE[method]))
    return Measurement(name, method, num_rows, panel(method, name, num_rows).seconds)


def read(path: Path) -> list[Measurement]:
    """The measurements of a file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Measurement(x["family"], x["method"], int(x["rows"]), float(x["seconds"]))
            for x in csv.DictReader(file)
        ]


def append(path: Path, found: Measurement) -> None:
    """Adds a measurement to a file."""
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(Measurement._fields)
        writer.writerow([*found[:-1], f"{found.seconds:.4g}"])


def markdown(found: Sequence[Measurement]) -> str:
    """Seconds by family and method, and how many times longer each takes than the layer."""
    lines = [f"| family | {' | '.join(METHODS)} |", "|---|" + "---|" * len(METHODS)]
    for name in dict.fromkeys(x.family for x in found):
        by_method = {x.method: x for x in found if x.family == name}
        cells = [_cell(by_method.get(method), by_method.get("DEQ")) for method in METHODS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: Measurement | None, ours: Measurement | None) -> str:
    if found is None:
        return ""
    text = f"{found.seconds:.2f}"
    if found.rows != NUM_ROWS:
        text += f" ({found.rows:,} rows)"
    if ours is None or found.method in ("DEQ", "PCA"):
        return text
    return f"{text}, {found.seconds / ours.seconds:.0f} times DEQ"


def main(given: Sequence[str] | None = None) -> None:
    """Measures what is missing and prints the table."""
    parser = argparse.ArgumentParser(description="Seconds to embed a table.")
    parser.add_argument("--rows", type=int, default=NUM_ROWS, help="rows of each table")
    parser.add_argument("--tsne-rows", type=int, help="rows for t-SNE; by default the same")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES)[:3], choices=list(FAMILIES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--csv", type=Path, default=DEFAULT_FILE, help="file of the measurements")
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    chosen = parser.parse_args(given)
    torch.set_num_threads(1)
    done = {(x.family, x.method) for x in read(chosen.csv)}
    for method in chosen.methods:
        rows = (chosen.tsne_rows or chosen.rows) if method == "t-SNE" else chosen.rows
        for name in chosen.families:
            if (name, method) not in done:
                append(chosen.csv, measure(name, method, rows))
    text = markdown(read(chosen.csv))
    if chosen.markdown is not None:
        chosen.markdown.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
