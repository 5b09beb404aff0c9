"""Pixels of digits predicted from the others, by this package and by imputers of scikit-learn.

Run as a program, it prints the scores and draws the picture of the page on missing entries.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from torch import Tensor

import pyro_expfam as pef

REMOVED = 0.3
NUM_DRAWS = 300
MOST_SWEEPS = 200
CANDIDATES = (10, 20, 30, 40)
LATENTS = 30
"""The best of the candidates for pixels held out among those that are there, by ``choose``."""

HELD_OUT = 0.1
SMALLEST_SCALE = 0.1
"""Pixels that are always 0 have no residual, and would make other values impossible."""


class Score(NamedTuple):
    """What an imputer knows of removed pixels: nats per pixel, error and coverage of intervals.

    Coverage counts the middle of the jumps of discrete distributions; ``plain`` counts the ends.
    """

    log_likelihood: float
    error: float
    coverage: float
    plain: float


def digits() -> tuple[Tensor, Tensor]:
    """Pixels 0 to 16, and which of them are there."""
    y = torch.as_tensor(load_digits().data)
    present = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) >= REMOVED
    return y, present


def fitted(y: Tensor, present: Tensor, latent_dim: int = LATENTS) -> Any:
    torch.manual_seed(0)
    family = pef.families.Binomial(16)
    model = pef.ExpFamPCA(family, y.shape[1], latent_dim, missing="nan").double()
    guide = pef.LaplaceGuide(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pef.ConvergenceWarning)
        guide.fit(y.where(present, torch.nan), max_sweeps=MOST_SWEEPS, progress=False)
    return guide


def inner_pixels(present: Tensor) -> Tensor:
    """A tenth of the pixels that are there, to be held out when a method is chosen or scaled."""
    draws = torch.rand(present.shape, generator=torch.Generator().manual_seed(1))
    return present & (draws < HELD_OUT)


def choose(
    y: Tensor, present: Tensor, candidates: tuple[int, ...] = CANDIDATES
) -> dict[int, float]:
    """The log likelihood per pixel held out among those that are there, by number of latents."""
    inner = inner_pixels(present)
    there = present & ~inner
    return {
        size: score_of_guide(fitted(y, there, size), y, there, inner).log_likelihood
        for size in candidates
    }


def score_of_guide(guide: Any, y: Tensor, present: Tensor, wanted: Tensor | None = None) -> Score:
    """The score of wanted pixels, by default all that are not there, given those that are."""
    holes = y.where(present, torch.nan)
    wanted = ~present if wanted is None else wanted
    torch.manual_seed(1)
    found = pef.impute(guide, holes, num_draws=NUM_DRAWS)
    of_missing = wanted[~present]
    truth = y[wanted]
    draws, lower, upper = (x[..., of_missing] for x in (found.draws, found.lower, found.upper))
    jump = (draws == truth).double().mean(0)
    below = (draws < truth).double().mean(0) + torch.rand(len(truth)) * jump
    with torch.no_grad():
        parts = []
        for rows in torch.arange(len(y)).split(200):
            z = guide.posterior(holes[rows]).sample((NUM_DRAWS,))
            eta = z @ guide.loading.mT + guide.intercept
            log_probs = torch.logsumexp(guide.model.family.log_prob(y[rows], eta), 0)
            parts.append((log_probs - math.log(NUM_DRAWS))[wanted[rows]])
    return Score(
        float(torch.cat(parts).mean()),
        float((found.mean[of_missing] - truth).square().mean().sqrt()),
        float(((below > 0.05) & (below < 0.95)).double().mean()),
        float(((truth >= lower) & (truth <= upper)).double().mean()),
    )


def score_of_imputer(make: Any, y: Tensor, present: Tensor) -> tuple[Score, np.ndarray]:
    """Scores of a normal around the imputed value, rounded to the pixels' values.

    Its variance per column is that of residuals of a tenth of the training pixels, from an imputer
    that did not see them.
    """
    pixels, there = y.numpy(), present.numpy()
    inner = inner_pixels(present).numpy()
    without = make().fit_transform(np.where(there & ~inner, pixels, np.nan))
    residuals = np.where(inner, pixels - without, np.nan)
    scale = np.maximum(np.sqrt(np.nanmean(residuals**2, 0)), SMALLEST_SCALE)
    mean = make().fit_transform(np.where(there, pixels, np.nan))
    upper = np.where(pixels == 16, 1.0, norm.cdf((pixels + 0.5 - mean) / scale))
    lower = np.where(pixels == 0, 0.0, norm.cdf((pixels - 0.5 - mean) / scale))
    log_probs = np.log(np.maximum(upper - lower, 1e-12))
    place = lower + np.random.default_rng(1).random(pixels.shape) * (upper - lower)
    plain = (upper > 0.05) & (lower < 0.95)
    found = Score(
        log_probs[~there].mean(),
        np.sqrt(((mean - pixels) ** 2)[~there].mean()),
        ((place > 0.05) & (place < 0.95))[~there].mean(),
        plain[~there].mean(),
    )
    return found, mean


IMPUTERS = {
    "IterativeImputer, BayesianRidge": lambda: IterativeImputer(
        random_state=0, min_value=0, max_value=16
    ),
    "KNNImputer, 10 neighbours": lambda: KNNImputer(n_neighbors=10),
}


def draw(guide: Any, y: Tensor, present: Tensor, others: dict[str, np.ndarray]) -> None:
    """Digits, what is left of them, and what the imputers make of it."""
    import matplotlib.pyplot as plt

    rows = range(10, 20)
    holes = y.where(present, torch.nan)[:60]
    torch.manual_seed(2)
    found = pef.impute(guide, holes, num_draws=NUM_DRAWS)
    spread = torch.full_like(holes, torch.nan)
    spread[found.rows, found.columns] = found.upper - found.lower
    panels = {
        "digit": y[:60].numpy(),
        "30% removed": holes.numpy(),
        "impute": found.filled.numpy(),
        "interval": spread.numpy(),
        **{name.split(",")[0]: table for name, table in others.items()},
    }
    style = {"figure.constrained_layout.use": True, "font.size": 9, "savefig.dpi": 200}
    with plt.rc_context(style):
        size = (1.0 * len(rows), 1.02 * len(panels))
        figure, axes = plt.subplots(len(panels), len(rows), figsize=size)
        for line, (name, table) in zip(axes, panels.items(), strict=True):
            for axis, row in zip(line, rows, strict=True):
                colours = plt.get_cmap("magma" if name == "interval" else "gray_r").copy()
                colours.set_bad("#cfe3f5" if name != "interval" else "white")
                axis.imshow(table[row].reshape(8, 8), cmap=colours, vmin=0, vmax=16)
                axis.set(xticks=[], yticks=[])
            line[0].set_ylabel(name)
        figure.savefig("docs/images/missing.png")
        plt.close(figure)


def main() -> None:
    y, present = digits()
    guide = fitted(y, present)
    print(f"impute, Binomial(16), {LATENTS} latents", score_of_guide(guide, y, present), flush=True)
    means = {}
    for name, make in IMPUTERS.items():
        score, means[name] = score_of_imputer(make, y, present)
        print(name, score, flush=True)
    means = {name: np.where(present, y, mean) for name, mean in means.items()}
    draw(guide, y, present, means)


if __name__ == "__main__":
    main()
