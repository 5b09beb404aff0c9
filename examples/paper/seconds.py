"""Table 2 of the paper: seconds to learn a map of all 42,453 rows and to embed them.

They are seconds of one processor core, and leave out what happens once per process: imports, and
compilation, for which each method embeds some rows first. Trials of the downstream task have the
same tables, and the seconds are medians over them. t-SNE takes the longest: ``--tsne-rows`` gives
it fewer rows.

``python examples/paper/seconds.py --csv FILE`` writes each measurement as soon as it is there, and
skips those that the file has.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from figure_panels import METHODS, panel
from ground_truth import NUM_ROWS
from paper_tables import FAMILIES

ROWS_TO_COMPILE = {"PCA": 100, "DEQ": 1_000, "UMAP": 4_200, "t-SNE": 100}
"""UMAP compiles its search for neighbours at 4,096 rows."""

DEFAULT_FILE = Path(__file__).resolve().parent / "results" / "seconds.csv"


class Measurement(NamedTuple):
    """Seconds of a method to embed a table."""

    family: str
    method: str
    trial: int
    rows: int
    seconds: float


def measure(name: str, method: str, trial: int, num_rows: int) -> Measurement:
    """The seconds of one method on one table of a family."""
    panel(method, name, min(num_rows, ROWS_TO_COMPILE[method]))
    seconds = panel(method, name, num_rows, seed=trial).seconds
    return Measurement(name, method, trial, num_rows, seconds)


def read(path: Path) -> list[Measurement]:
    """The measurements of a file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Measurement(
                x["family"], x["method"], int(x["trial"]), int(x["rows"]), float(x["seconds"])
            )
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
    """Median seconds by family and method, and how many times longer each takes than the layer."""
    lines = [f"| family | {' | '.join(METHODS)} |", "|---|" + "---|" * len(METHODS)]
    for name in dict.fromkeys(x.family for x in found):
        of_family = [x for x in found if x.family == name]
        cells = [_cell(of_family, method) for method in METHODS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(of_family: Sequence[Measurement], method: str) -> str:
    found = [x for x in of_family if x.method == method]
    if not found:
        return ""
    seconds = median(x.seconds for x in found)
    text = f"{seconds:.3g}"
    if found[0].rows != NUM_ROWS:
        return f"{text} for {found[0].rows:,} rows"
    ours = [x.seconds for x in of_family if x.method == "DEQ"]
    if not ours or method in ("DEQ", "PCA"):
        return text
    return f"{text}, {seconds / median(ours):.0f} times DEQ"


def main(given: Sequence[str] | None = None) -> None:
    """Measures what is missing and prints the table."""
    parser = argparse.ArgumentParser(description="Seconds to embed a table.")
    parser.add_argument("--rows", type=int, default=NUM_ROWS, help="rows of each table")
    parser.add_argument("--tsne-rows", type=int, help="rows for t-SNE; by default the same")
    parser.add_argument("--trials", type=int, default=1, help="tables of each family")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES)[:3], choices=list(FAMILIES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--csv", type=Path, default=DEFAULT_FILE, help="file of the measurements")
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    chosen = parser.parse_args(given)
    torch.set_num_threads(1)
    done = {x[:3] for x in read(chosen.csv)}
    for method, trial, name in product(chosen.methods, range(chosen.trials), chosen.families):
        rows = (chosen.tsne_rows or chosen.rows) if method == "t-SNE" else chosen.rows
        if (name, method, trial) not in done:
            append(chosen.csv, measure(name, method, trial, rows))
    text = markdown(read(chosen.csv))
    if chosen.markdown is not None:
        chosen.markdown.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
