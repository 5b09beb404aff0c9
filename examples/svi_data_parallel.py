"""SVI of a block in several processes, under DistributedDataParallel.

``guide.fit`` fits one table in several processes by itself. SVI is for what it does not fit: heads,
hyperparameters, models of your own. PyTorch then trains model and guide as it trains any module.
``Trace_ELBO()(model, guide)`` is a module with the parameters of both, whose call is the loss.

1. Call the guide once, so that it has its parameters.
2. Wrap the module in ``DistributedDataParallel``, which takes the mean of the gradients over the
   processes.
3. Each process passes rows of its own. ``num_rows`` is the number of rows of the whole table, so
   that the loss of each batch is an estimate of the loss of the table. With batches of equal size
   the mean of the gradients is the gradient of all batches together.

Draws differ between processes only if their seeds do: seed by the number of the process. The start
is sent from the first process to the others.

Run it with ``torchrun --nproc-per-node=2 examples/svi_data_parallel.py``, or with ``python`` for a
single process. It takes some seconds.
"""

from __future__ import annotations

import os

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

import pyro_expfam as pef

NUM_ROWS, NUM_FEATURES, LATENT_DIM = 4_000, 20, 2
BATCH, STEPS = 100, 200


def table() -> Tensor:
    """Counts, the same in every process; a real table would be read in parts."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(NUM_ROWS, LATENT_DIM, generator=generator)
    loading = torch.randn(LATENT_DIM, NUM_FEATURES, generator=generator)
    return torch.poisson(torch.exp(latents @ loading / 2), generator=generator)


def main() -> None:
    """Trains, and prints how far the loss has come."""
    distributed.init_process_group("gloo")
    number, count = distributed.get_rank(), distributed.get_world_size()
    y = table()[number::count]
    pyro.set_rng_seed(number)
    guide = pef.DEQMAPGuide(
        pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, latent_dim=LATENT_DIM)
    )
    guide(y[:BATCH], num_rows=NUM_ROWS)
    loss_of = DistributedDataParallel(Trace_ELBO()(guide.model, guide))
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=0.05)
    for step in range(STEPS):
        rows = torch.randperm(len(y))[: BATCH // count]
        loss = loss_of(y[rows], num_rows=NUM_ROWS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number == 0 and step % 50 == 0:
            print(f"step {step}: loss {loss.item() / NUM_ROWS:.3f} per row")
    whole = loss_of.module(table())
    if number == 0:
        print(f"the loss of the whole table: {whole.item() / NUM_ROWS:.3f} per row")
    distributed.destroy_process_group()


if __name__ == "__main__":
    # Without torchrun: a group of this process alone.
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29501"}
    for name, value in alone.items():
        os.environ.setdefault(name, value)
    main()
