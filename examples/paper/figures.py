"""Figures 2 and 3 of the paper: the true latents, and the maps of them that each method finds.

Each row is a family. Its table has a random loading of 50 x 2 with entries of variance 1/2, and the
latents of figure 2. Each map is turned, mirrored, scaled and shifted to be closest to the truth;
the paper turned them by hand. Two numbers stand under it: the Procrustes error, which is the share
of the truth's sum of squares that the map leaves, and the rank correlation of the distances between
points with the true distances. The smallest error of a row is in bold.

``python examples/paper/figures.py`` takes about ten minutes, nearly all of them for t-SNE and UMAP.
They are the reason for ``--rows``: by default tables have 5,000 of the paper's 42,453 rows, drawn
at random, for all methods. Maps are stored in ``--out``, and made once.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from figure_drawing import draw_grid, draw_truth
from figure_panels import METHODS, SEED, Panel, stored_panel
from ground_truth import true_latents
from paper_tables import FAMILIES, random_table
from tqdm import tqdm

DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "output" / "figures"


def main(given: Sequence[str] | None = None) -> None:
    """Makes the maps that are missing, draws the figures and prints the scores."""
    parser = argparse.ArgumentParser(description="Figures 2 and 3 of the paper.")
    parser.add_argument("--rows", type=int, default=5_000, help="rows of each table")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="folder of the maps")
    parser.add_argument("--picture", type=Path, help="figure 3; by default in the folder")
    parser.add_argument("--markdown", type=Path, help="where to write a table of the scores")
    chosen = parser.parse_args(given)
    mpl.use("agg")
    chosen.out.mkdir(parents=True, exist_ok=True)
    todo = [(name, method) for name in chosen.families for method in chosen.methods]
    panels = {
        place: stored_panel(chosen.out, place[1], place[0], chosen.rows)
        for place in tqdm(todo, desc="maps", unit="map")
    }
    rows = {
        name: {method: panels[name, method] for method in chosen.methods}
        for name in chosen.families
    }
    draw_truth(chosen.out / "figure_2.png", true_latents())
    # The latents are the same in all tables of one seed.
    truth = random_table(chosen.families[0], chosen.rows, SEED).z
    draw_grid(chosen.picture or chosen.out / "figure_3.png", truth, rows)
    text = markdown(rows)
    if chosen.markdown is not None:
        chosen.markdown.write_text(text + "\n", encoding="utf-8")
    print(text)


def markdown(rows: Mapping[str, Mapping[str, Panel]]) -> str:
    """Procrustes errors, and rank correlations of distances in brackets."""
    methods = list(next(iter(rows.values())))
    lines = [f"| family | {' | '.join(methods)} |", "|---|" + "---|" * len(methods)]
    for name, panels in rows.items():
        cells = [f"{shown.error:.3f} ({shown.position:.2f})" for shown in panels.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
