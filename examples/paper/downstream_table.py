"""The tables of the downstream task, from the records of its trials.

``python examples/paper/downstream_table.py SOURCE --csv FILE --markdown FILE`` writes them again,
where SOURCE is a folder of records or a CSV file that was written from one.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student
from trial_records import Record, read_all

OURS = "DEQ"
OF_THE_PAPER = ("PCA, scaled", "UMAP", OURS)
"""The methods of which the paper counts the wins."""

METHODS = (
    "PCA, scaled",
    "PCA",
    "PCA of log(1 + y)",
    "UMAP",
    "DEQ, frozen",
    OURS,
    "network on y",
    "true latents",
)
TITLES = {OURS: "DEQ, fine-tuned"}
CONFIDENCE = 0.95


class Score(NamedTuple):
    """How one method did in one trial.

    Attributes:
        family: the family of the table.
        trial: the number of the trial.
        rows: rows of the table.
        umap_rows: training rows that UMAP was fitted to.
        method: the method.
        test_error: mean squared error on the test rows.
        train_error: mean squared error on the training rows.
        seconds: seconds to learn the embedding and to embed all rows, by the clock of a machine
            that may have been busy; NaN where there is none.
    """

    family: str
    trial: int
    rows: int
    umap_rows: int
    method: str
    test_error: float
    train_error: float
    seconds: float


class Family:
    """The scores of one family, by method and trial."""

    def __init__(self, scores: Sequence[Score]) -> None:
        self.trials = sorted({score.trial for score in scores})
        self.rows = scores[0].rows
        self.umap_rows = scores[0].umap_rows
        self.methods = [name for name in METHODS if any(s.method == name for s in scores)]
        self._scores = {(score.method, score.trial): score for score in scores}

    def errors(self, method: str) -> np.ndarray:
        """Test errors of a method by trial."""
        return np.array([self._scores[method, trial].test_error for trial in self.trials])

    def wins_among(self, methods: Sequence[str]) -> dict[str, int]:
        """In how many trials each of some methods is the best of those that took part."""
        present = [method for method in methods if method in self.methods]
        best = np.argmin([self.errors(method) for method in present], axis=0)
        return {method: int((best == i).sum()) for i, method in enumerate(present)}


def scores_of(records: Iterable[Record]) -> list[Score]:
    """The scores of all records, one for each method and trial."""
    return [
        Score(
            record["settings"]["family"],
            record["settings"]["trial"],
            record["settings"]["rows"],
            record["settings"]["umap_rows"],
            method,
            error,
            record["train_errors"][method],
            record["seconds"].get(method, float("nan")),
        )
        for record in records
        for method, error in record["errors"].items()
    ]


def by_family(scores: Iterable[Score]) -> dict[str, Family]:
    """Scores by family, in the order in which families appear."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(score.family, []).append(score)
    order = ["Gaussian", "Bernoulli", "Poisson"]
    names = sorted(groups, key=lambda name: (order.index(name) if name in order else 9, name))
    return {name: Family(groups[name]) for name in names}


def interval(values: np.ndarray) -> str:
    """A mean with the half width of its 95% interval, by Student's t."""
    mean = float(values.mean())
    if len(values) < 2:
        return f"{mean:.4g}"
    error = float(values.std(ddof=1)) / len(values) ** 0.5
    width = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return f"{mean:.4g} ± {width:.2g}"


def markdown(scores: Sequence[Score]) -> str:
    """All tables as Markdown."""
    families = by_family(scores)
    return "\n\n".join(
        [
            _conditions(families),
            "**Wins**, counted as the paper does: in how many trials each of these has the "
            "smallest test error.",
            _table(families, OF_THE_PAPER, lambda f, m: str(f.wins_among(OF_THE_PAPER)[m])),
            "**Wins of the fine-tuned layer** over each other method alone, by test error.",
            _table(families, [m for m in METHODS if m not in (OURS, "true latents")], _wins_over),
            "**Mean squared test error**, the mean over trials with a 95% interval.",
            _table(families, METHODS, lambda f, m: interval(f.errors(m))),
            "**Median** of the test errors over trials.",
            _table(families, METHODS, lambda f, m: f"{np.median(f.errors(m)):.4g}"),
        ]
    )


def _conditions(families: dict[str, Family]) -> str:
    trials = ", ".join(
        f"{len(found.trials)} {name} of {found.rows:,} rows" for name, found in families.items()
    )
    found = next(iter(families.values()))
    of_umap = (
        f"UMAP is fitted to {min(found.umap_rows, round(0.8 * found.rows)):,} training rows, and "
        "places all others. "
        if found.umap_rows
        else ""
    )
    return (
        f"Trials: {trials}; 80% of the rows train. {of_umap}"
        "Heads, epochs, batches, precision and the prior of the loading are the paper's. "
        "Maps are learnt from the training rows alone, the layer is fitted to Theorem 1 until it "
        "converges, every head starts from the same parameters, and rows are shuffled in every "
        "epoch. The last column is the best that can be had."
    )


def _wins_over(family: Family, method: str) -> str:
    won = int((family.errors(OURS) < family.errors(method)).sum())
    return f"{won} of {len(family.trials)}"


def _table(
    families: dict[str, Family], methods: Sequence[str], cell: Callable[[Family, str], str]
) -> str:
    shown = [m for m in methods if any(m in found.methods for found in families.values())]
    lines = [
        f"| family | {' | '.join(TITLES.get(method, method) for method in shown)} |",
        "|---|" + "---|" * len(shown),
    ]
    for name, found in families.items():
        cells = [cell(found, method) if method in found.methods else "" for method in shown]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_csv(scores: Sequence[Score], path: Path) -> None:
    """Writes one line per method and trial."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Score._fields)
        for score in scores:
            writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in score])


def read_csv(path: Path) -> list[Score]:
    """Reads what :func:`write_csv` has written."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Score(
                line["family"],
                int(line["trial"]),
                int(line["rows"]),
                int(line["umap_rows"]),
                line["method"],
                *(float(line[name]) for name in ("test_error", "train_error", "seconds")),
            )
            for line in csv.DictReader(file)
        ]


def main(given: Sequence[str] | None = None) -> None:
    """Writes the tables from a folder of records, or from a CSV file."""
    parser = argparse.ArgumentParser(description="The tables of the downstream task.")
    parser.add_argument("source", type=Path, help="folder of records, or a CSV file")
    parser.add_argument("--csv", type=Path, help="where to write all scores")
    parser.add_argument("--markdown", type=Path, help="where to write the tables")
    chosen = parser.parse_args(given)
    is_folder = chosen.source.is_dir()
    scores = scores_of(read_all(chosen.source)) if is_folder else read_csv(chosen.source)
    if chosen.csv is not None:
        chosen.csv.parent.mkdir(parents=True, exist_ok=True)
        write_csv(scores, chosen.csv)
    text = markdown(scores)
    if chosen.markdown is not None:
        chosen.markdown.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
