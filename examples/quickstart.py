"""Exponential-family PCA of handwritten digits, from the table to a posterior in ArviZ.

scikit-learn ships 1,797 handwritten digits of 8 by 8 pixels. A pixel counts the dark points in a
4 by 4 patch of the scan, so its natural law is binomial out of 16, not Gaussian. Three pixels are
blank in every image; exponential-family PCA needs no special treatment of them.

1. Fit: stochastic variational inference with :class:`pef.DEQMAPGuide`, in which the latents of a
   minibatch are the output of an equilibrium layer, so that only loading and intercept are trained.
2. Posterior: :class:`pef.LaplaceGuide` approximates the posterior of the latents of new rows by a
   normal.
3. Score: a quarter of the pixels of each test image is hidden. The latents are inferred from the
   other pixels, and predict the hidden ones. Ordinary PCA does the same for comparison.
4. Criticism: :func:`pef.to_arviz`, then leave-one-out cross-validation and a posterior predictive
   check in ArviZ.

Run it with ``make demo``, or ``python examples/quickstart.py``. A table goes to the terminal, and
pictures and the posterior, as netCDF, to ``examples/output/``.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    # ArviZ 0.23 announces ArviZ 1.x at import; this script runs on both.
    warnings.simplefilter("ignore", FutureWarning)
    import arviz as az

import matplotlib as mpl
import numpy as np
import pictures
import pyro
import scores
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from sklearn.decomposition import PCA
from torch import Tensor
from tqdm import tqdm

import pyro_expfam as pef

OUTPUT = Path(__file__).parent / "output"
SEED = 0
LATENT_DIM = 16
TEST_ROWS = 450
HIDDEN = 0.25
EPOCHS = 60
BATCH_ROWS = 256
DRAWS = 500
ARVIZ_ROWS = 200
PICTURE_ROWS = 150


def fit(model: pef.ExpFamPCA, y: Tensor) -> tuple[pef.DEQMAPGuide, list[float]]:
    """Joint MAP estimate of loading and intercept; the guide and the loss of every epoch."""
    guide = pef.DEQMAPGuide(model)
    batches = -(-len(y) // BATCH_ROWS)
    decay = 0.01 ** (1 / (EPOCHS * batches))  # to a hundredth of the step size in the end
    svi = SVI(model, guide, ClippedAdam({"lr": 0.1, "lrd": decay}), Trace_ELBO())
    losses = []
    bar = "{desc} |{bar:24}| {percentage:3.0f}%, {elapsed}{postfix}"
    with tqdm(total=EPOCHS, desc="fit", bar_format=bar, mininterval=0.5) as progress:
        progress.set_postfix_str("compiling kernels at first")
        for _ in range(EPOCHS):
            steps = [
                svi.step(y[rows], num_rows=len(y)) / y.numel()
                for rows in torch.randperm(len(y)).chunk(batches)
            ]
            losses.append(sum(steps) / len(steps))
            progress.set_postfix_str(f"loss {losses[-1]:.4f} per pixel", refresh=False)
            progress.update()
    return guide, losses


def principal_basis(loading: Tensor, z: Tensor) -> Tensor:
    """The map from latents to principal axes of the paper's orthogonal basis, ``(l, l)``.

    With W = QR, distances between the R z equal distances between the natural parameters W z.
    """
    R = torch.linalg.qr(loading).R
    axes = torch.linalg.svd(z @ R.T - (z @ R.T).mean(0), full_matrices=False).Vh @ R
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return axes * largest.sign()


def latent_panel(
    title: str, basis: Tensor, posterior: pef.guides.LaplacePosterior
) -> pictures.LatentPanel:
    """The posterior of rows in the plane of the first two principal axes."""
    plane = basis[:2]
    covariance = plane @ posterior.covariance_matrix @ plane.T
    return pictures.LatentPanel(title, (posterior.mean @ plane.T).numpy(), covariance.numpy())


@torch.no_grad()
def draw_pictures(guide: pef.LaplaceGuide, split: scores.Split, losses: list[float]) -> None:
    """Loss, latents and reconstructions, as ``examples/output/*.png``."""
    logits = scores.independent_logits(split.train)
    law = pef.distributions.Binomial(logits, total_count=scores.TOTAL_COUNT)
    baseline = -float(law.log_prob(split.train).mean())
    pictures.save_loss(OUTPUT / "loss.png", losses, baseline)
    test, digits = split.test[:PICTURE_ROWS], split.test_digits[:PICTURE_ROWS]
    basis = principal_basis(guide.loading, guide.latents(split.train))
    half = torch.rand(test.shape) < 0.5
    panels = [
        latent_panel("all pixels observed", basis, guide.posterior(test)),
        latent_panel("half of the pixels observed", basis, guide.posterior(test, mask=half)),
    ]
    pictures.save_latents(OUTPUT / "latents.png", panels, digits)
    examples = [int(np.flatnonzero(split.test_digits == digit)[0]) for digit in range(10)]
    images, seen = split.test[examples], split.observed[examples]
    eta = natural_params(guide, images, seen)
    count = pef.families.Binomial(scores.TOTAL_COUNT).mean(eta)
    pictures.save_reconstructions(
        OUTPUT / "reconstructions.png",
        images.numpy(),
        seen.numpy(),
        count.mean(0).numpy(),
        count.std(0).numpy(),
        scores.TOTAL_COUNT,
    )


def natural_params(guide: pef.LaplaceGuide, y: Tensor, observed: Tensor) -> Tensor:
    """Posterior draws of natural parameters ``(S, N, d)``, given the observed entries."""
    z = guide.posterior(y, mask=observed).sample((DRAWS,))
    return z @ guide.loading.T + guide.intercept


def save_predictive_check(path: Path, idata: Any) -> None:
    """The distribution of the counts beside the distribution in replicated tables."""
    arviz: Any = az
    if az.__version__.startswith("0."):
        axes = arviz.plot_ppc(idata, kind="cumulative", num_pp_samples=50)
        axes.figure.savefig(path, dpi=200, bbox_inches="tight")
    else:
        arviz.plot_ppc_dist(idata, kind="ecdf", num_samples=50).savefig(path, dpi=200)


def criticise(model: pef.ExpFamPCA, guide: pef.LaplaceGuide, split: scores.Split) -> None:
    """Leave-one-out cross-validation and a posterior predictive check of some test rows."""
    idata = pef.to_arviz(model, guide, split.test[:ARVIZ_ROWS], num_samples=DRAWS)
    idata.to_netcdf(OUTPUT / "posterior.nc")
    save_predictive_check(OUTPUT / "predictive_check.png", idata)
    print(f"Leave-one-out cross-validation, pixel by pixel, of {ARVIZ_ROWS} test images")
    with warnings.catch_warnings():
        # The printed result counts entries with a high Pareto k.
        warnings.simplefilter("ignore", UserWarning)
        print(az.loo(idata))
    print(
        "\nPixels with a bad k determine much of their image's latents: without such a pixel the\n"
        "posterior moves further than importance sampling can follow. The held-out score has no\n"
        "such limit."
    )


@torch.no_grad()
def compare(
    guide: pef.DEQMAPGuide, laplace: pef.LaplaceGuide, split: scores.Split, seconds: float
) -> None:
    """Print how well hidden pixels are predicted and digits are told apart."""
    pca = PCA(LATENT_DIM).fit(split.train)
    logits = scores.independent_logits(split.train)
    held_out = [
        scores.held_out_score(natural_params(laplace, split.test, split.observed), split),
        scores.pca_score(pca, split),
        scores.held_out_score(logits.expand(1, *split.test.shape), split),
    ]
    basis = principal_basis(guide.loading, guide.latents(split.train))
    accuracy = [
        scores.neighbour_accuracy(transform(split.train), transform(split.test), split)
        for transform in (lambda y: guide.latents(y) @ basis.T, pca.transform)
    ]
    converged = guide.block().solution(split.test, mask=split.observed).converged
    print(f"\n{'':36}{'binomial':>10}{'PCA':>10}{'no latents':>12}")
    print(f"{'held-out log likelihood per entry':36}{held_out[0]:10.3f}", end="")
    print(f"{held_out[1]:10.3f}{held_out[2]:12.3f}")
    print(f"{f'{scores.NEIGHBOURS}-NN accuracy in latent space':36}", end="")
    print(f"{accuracy[0]:10.1%}{accuracy[1]:10.1%}")
    print(f"{'test rows converged':36}{converged.float().mean():10.1%}")
    print(f"{'seconds to fit':36}{seconds:10.1f}\n")


def main() -> None:
    """Fit, compare, criticise and draw."""
    mpl.use("agg")
    OUTPUT.mkdir(exist_ok=True)
    pyro.set_rng_seed(SEED)
    split = scores.split_digits(TEST_ROWS, HIDDEN, SEED)
    num_features = split.train.shape[1]
    family = pef.families.Binomial(scores.TOTAL_COUNT)
    # Joint estimation with the latents inflates the loading; a narrow prior prevents this.
    model = pef.ExpFamPCA(family, num_features, LATENT_DIM, loading_scale=0.1, intercept_scale=5.0)
    start = time.perf_counter()
    guide, losses = fit(model, split.train)
    seconds = time.perf_counter() - start
    laplace = pef.LaplaceGuide(model, params=guide)
    compare(guide, laplace, split, seconds)
    criticise(model, laplace, split)
    draw_pictures(laplace, split, losses)
    print("\nWritten:", *sorted(f"  {path}" for path in OUTPUT.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
