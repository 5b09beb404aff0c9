"""The scale of loadings and latents: joint MAP estimation against the evidence.

Joint MAP estimation fits latents and loading at once. A table determines their product, but not how
the product is divided between them: only the penalties do. The penalty of large latents grows with
the number of rows, so that latents shrink and loadings grow with every row. New rows, with latents
that were not fitted, are then explained worse. The evidence integrates the latents out. A loading
that is too large then costs log evidence in every row.

1. Simulate: tables of counts, of bits and of rare bits, one in ten, from a known loading and
   intercept.
2. Fit: ``guide.fit(y, loss=None)``, the joint estimate; ``guide.fit(y)``, the evidence; and the
   evidence with ``order=2``.
3. Measure: the error of :math:`W W^T`, which no rotation of the latents changes; the mean square of
   the latents, posterior variance included, which is 1 under the prior; and the loss of log
   evidence of new rows, to second order, relative to the true parameters.
4. Draw: errors by the number of rows.
5. Few features: the scale of the loading for rows that determine their latents poorly. To second
   order the evidence of bits then has no bound, and a fit runs away.

Run it with ``python examples/evidence.py``, which takes about two minutes on one core. Tables go to
the terminal, and a picture to ``examples/output/evidence.png``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import pictures
import pyro
import torch
from matplotlib.ticker import FuncFormatter
from torch import Tensor

import pyro_expfam as pef

OUTPUT = Path(__file__).parent / "output"
SEED = 0
NUM_FEATURES, LATENT_DIM = 30, 2
NUM_ROWS = (100, 400, 1600, 6400)
NEW_ROWS = 10_000
TABLES = 5
FEW_FEATURES = (5, 10, 20, 30)
SOME_ROWS = 500
# A fit that runs away would use any number of sweeps.
MOST_SWEEPS = 100
LOSSES = {
    "joint MAP": None,
    "evidence, order 1": pef.LaplaceEvidence(),
    "evidence, order 2": pef.LaplaceEvidence(order=2),
}
LINES: tuple[dict[str, Any], ...] = (
    {"color": "#bd1f01"},
    {"color": "#3f90da", "linewidth": 2.5},
    # Dashed, so that the first order shows through where both are equal.
    {"color": "#832db6", "linestyle": "--"},
)


class Kind(NamedTuple):
    """A kind of table: its name, family and mean intercept."""

    name: str
    family: pef.families.Family
    intercept: float


KINDS = (
    Kind("counts", pef.families.Poisson(), 0.0),
    Kind("bits", pef.families.Bernoulli(), 0.0),
    Kind("rare bits", pef.families.Bernoulli(), -2.5),
)


class Truth(NamedTuple):
    """The parameters that generate tables: family, loading ``(d, l)`` and intercept ``(d,)``."""

    family: pef.families.Family
    loading: Tensor
    intercept: Tensor

    def draw(self, num_rows: int) -> Tensor:
        """A table with a given number of rows."""
        z = torch.randn(num_rows, self.loading.shape[1])
        return self.family.sample(z @ self.loading.T + self.intercept)


class Recovery(NamedTuple):
    """How well a fit recovers the truth.

    Attributes:
        error: the error of W Wᵀ, relative to its true value.
        square: the mean square of the latents under their posteriors.
        lost: the loss of log probability of a new row relative to the truth, in nats.
    """

    error: float
    square: float
    lost: float


def simulate(kind: Kind, num_features: int = NUM_FEATURES) -> Truth:
    """A random loading under which natural parameters have variance 1, and random intercepts."""
    W = torch.randn(num_features, LATENT_DIM) / math.sqrt(LATENT_DIM)
    return Truth(kind.family, W, kind.intercept + 0.3 * torch.randn(num_features))


def recover(truth: Truth, y: Tensor, new: Tensor, loss: pef.LaplaceEvidence | None) -> Recovery:
    """Fits a table by a loss."""
    guide = pef.LaplaceGuide(pef.ExpFamPCA(truth.family, NUM_FEATURES, LATENT_DIM))
    guide.fit(y, loss=loss)
    with torch.no_grad():
        return compare(truth, guide, y, new)


def compare(truth: Truth, guide: pef.LaplaceGuide, y: Tensor, new: Tensor) -> Recovery:
    """How far a fit is from the truth."""
    posterior = guide.posterior(y)
    found, true = (W @ W.T for W in (guide.loading, truth.loading))
    new_rows = [
        pef.log_evidence(truth.family, new, W, b, order=2).mean()
        for W, b in ((truth.loading, truth.intercept), (guide.loading, guide.intercept))
    ]
    return Recovery(
        float((found - true).norm() / true.norm()),
        float((posterior.mean.square() + posterior.variance).mean()),
        float(new_rows[0] - new_rows[1]),
    )


def measure(kind: Kind) -> Tensor:
    """Recoveries of random tables by number of rows and loss, ``(tables, sizes, losses, 3)``."""
    found = []
    for _ in range(TABLES):
        truth = simulate(kind)
        y, new = truth.draw(max(NUM_ROWS)), truth.draw(NEW_ROWS)
        found.append(
            [
                [recover(truth, y[:num_rows], new, loss) for loss in LOSSES.values()]
                for num_rows in NUM_ROWS
            ]
        )
    return torch.tensor(found)


def print_table(kind: Kind, recoveries: Tensor) -> None:
    """Means over tables: error of the loading, mean square of the latents, nats lost."""
    print(f"\n{kind.name}: {kind.family}")
    print(" " * 6 + "".join(f"{name:^27}" for name in LOSSES))
    print("  rows" + "".join(f"{name:>9}" for name in Recovery._fields) * len(LOSSES))
    for num_rows, by_loss in zip(NUM_ROWS, recoveries.mean(0), strict=True):
        numbers = "".join(f"{x:9.3f}" for x in by_loss.flatten().tolist())
        print(f"{num_rows:6d}{numbers}")


def draw(path: Path, recoveries: list[Tensor]) -> None:
    """Errors of the loading and of new rows, by number of rows: each table, and their mean."""
    labels = {0: r"relative error of $W W^\top$", 2: "nats lost on a new row"}
    with plt.rc_context(pictures.STYLE):
        figure, grid = plt.subplots(2, len(KINDS), figsize=(9, 5), sharex=True, sharey="row")
        for column, (kind, found) in enumerate(zip(KINDS, recoveries, strict=True)):
            grid[0, column].set_title(kind.name)
            grid[1, column].set_xlabel("rows")
            for axes, (number, label) in zip(grid[:, column], labels.items(), strict=True):
                for loss, (name, line) in enumerate(zip(LOSSES, LINES, strict=True)):
                    errors = found[:, :, loss, number]
                    dots = {"color": line["color"], "alpha": 0.35, "markersize": 4}
                    axes.plot(NUM_ROWS, errors.T, ".", **dots)
                    axes.plot(NUM_ROWS, errors.mean(0), **line, label=name)
                axes.set(xscale="log", yscale="log")
                axes.minorticks_off()
                axes.set_xticks(NUM_ROWS, [f"{n:,}" for n in NUM_ROWS])
                axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
                if column == 0:
                    axes.set_ylabel(label)
        figure.legend(
            *grid[0, 0].get_legend_handles_labels(),
            loc="outside upper center",
            ncols=len(LOSSES),
            frameon=False,
        )
        figure.savefig(path)
        plt.close(figure)


def too_large(truth: Truth, y: Tensor, order: int) -> float:
    """The scale of the loading that the evidence finds, relative to the true one."""
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(truth.family, y.shape[1], LATENT_DIM))
    guide.fit(y, loss=pef.LaplaceEvidence(order=order), max_sweeps=MOST_SWEEPS)
    return float(guide.loading.norm() / truth.loading.norm())


def print_scales(kind: Kind) -> None:
    """The scales of loadings of tables with few features, in order."""
    print(f"\n{kind.name}: scale of the loading relative to the true one, {SOME_ROWS} rows")
    print("features" + "".join(f"{f'order {order}':^{8 * TABLES}}" for order in (1, 2)))
    for num_features in FEW_FEATURES:
        truths = [simulate(kind, num_features) for _ in range(TABLES)]
        tables = [(truth, truth.draw(SOME_ROWS)) for truth in truths]
        print(f"{num_features:8d}", end="")
        for order in (1, 2):
            scales = sorted(too_large(*table, order) for table in tables)
            print("".join(f"{x:8.2f}" for x in scales), end="\n" if order == 2 else "")


def main() -> None:
    """Simulate, fit, measure and draw."""
    mpl.use("agg")
    OUTPUT.mkdir(exist_ok=True)
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(SEED)
    print(f"{NUM_FEATURES} features, {LATENT_DIM} latents, means over {TABLES} tables")
    recoveries = []
    for kind in KINDS:
        recoveries.append(measure(kind))
        print_table(kind, recoveries[-1])
    draw(OUTPUT / "evidence.png", recoveries)
    for kind in KINDS:
        print_scales(kind)


if __name__ == "__main__":
    main()
