"""One epoch of a convolutional layer on 60,000 synthetic digits of 28 x 28 pixels.

Run it from anywhere: ``python tests/benchmarks/convolution.py``. It prints seconds of an epoch of
joint MAP estimation by SVI, and of a pass that finds the latents of all images.
"""

import argparse
from time import process_time

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from timing import timed
from torch import Tensor

import pyro_expfam as pef

BATCH = 500
SEED = 20230611


def synthetic_digits(num_rows: int) -> Tensor:
    """Images of a few strokes, ``(N, 784)``, bits in float32."""
    generator = torch.Generator().manual_seed(SEED)
    place = torch.arange(28.0)
    images = torch.zeros(num_rows, 28, 28)
    for _ in range(3):
        ends = 5 + 18 * torch.rand(num_rows, 2, 2, 1, generator=generator)
        for share in torch.linspace(0, 1, 10):
            row, column = (ends[:, 0] * share + ends[:, 1] * (1 - share)).unbind(1)
            down = torch.exp(-((place - row) ** 2) / 3)
            across = torch.exp(-((place - column) ** 2) / 3)
            images = torch.maximum(images, down[:, :, None] * across[:, None, :])
    return torch.bernoulli(0.02 + 0.95 * images, generator=generator).flatten(1)


def epoch(svi: SVI, y: Tensor) -> float:
    """The mean loss of an image over one epoch."""
    rows = torch.randperm(len(y)).split(BATCH)
    losses = [svi.step(y[index], num_rows=len(y), rows=index) for index in rows]
    return sum(losses) / len(losses) / len(y)


def main(num_rows: int, threads: int) -> None:
    """Trains for two epochs, and finds all latents."""
    torch.set_num_threads(threads)
    pyro.set_rng_seed(0)
    y = synthetic_digits(num_rows)
    up = pef.linear.ConvTranspose2d(4, 1, 8, stride=4, padding=2, latent_shape=(4, 7, 7))
    model = pef.ExpFamPCA(pef.families.Bernoulli(), linear_map=up)
    guide = pef.DEQMAPGuide(model)
    svi = SVI(model, guide, Adam({"lr": 0.02}), Trace_ELBO())
    for number in (1, 2):
        busy = process_time()
        seconds, loss = timed(lambda: epoch(svi, y))
        busy = process_time() - busy
        print(
            f"epoch {number}: {seconds:.1f} s, {busy:.1f} s of processors, loss {loss:.1f} nats an "
            "image",
            flush=True,
        )
    with torch.no_grad():
        seconds, solution = timed(lambda: guide.block().solution(y))
    print(
        f"latents of {len(y):,} images: {seconds:.1f} s, all at their root: "
        f"{solution.all_converged()}, largest residual {solution.residual.max():.1e}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    main(given.rows, given.threads)
