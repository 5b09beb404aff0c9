"""SVI of a block by Lightning, on one device or several.

The module below is the module of Pyro's own example for Lightning, with the rows of each process.
Nothing in it knows of this package: ``Trace_ELBO()(model, guide)`` is a module with the parameters
of both, whose call is the loss.

1. Call the guide once, so that it has its parameters before Lightning looks at them.
2. Each process passes rows of its own. ``num_rows`` is the number of rows of the whole table, so
   that the loss of each batch is an estimate of the loss of the table. Lightning takes the mean of
   the gradients over the processes. With batches of equal size it is the gradient of all batches
   together.

Run it with ``python examples/svi_lightning.py --devices 2``. It takes some seconds and needs
``pip install lightning``.
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import pyro_expfam as pef

NUM_ROWS, NUM_FEATURES, LATENT_DIM = 4_000, 20, 2
BATCH = 100


def table() -> Tensor:
    """Counts, the same in every process; a real table would be read in parts."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(NUM_ROWS, LATENT_DIM, generator=generator)
    loading = torch.randn(LATENT_DIM, NUM_FEATURES, generator=generator)
    return torch.poisson(torch.exp(latents @ loading / 2), generator=generator)


class PyroModule(lightning.LightningModule):
    """Trains model and guide by the loss of batches of rows.

    Args:
        loss_of: the loss as a module.
        y: the whole table.
        batch: rows of a batch of all processes together.
        optimizer: makes the optimiser of some parameters.
    """

    def __init__(self, loss_of: Any, y: Tensor, batch: int, optimizer: Any) -> None:
        super().__init__()
        self.loss_of, self.y, self.batch, self.optimizer = loss_of, y, batch, optimizer

    def train_dataloader(self) -> Any:
        """Batches of the rows of this process."""
        number, count = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(TensorDataset(self.y[number::count]), self.batch // count)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """The loss of a batch, which Lightning differentiates."""
        loss: Tensor = self.loss_of(*batch, num_rows=len(self.y))
        self.log("loss", loss / len(self.y), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """The optimiser of all parameters."""
        return self.optimizer(self.loss_of.parameters())


def train(
    guide: pef.DEQMAPGuide, y: Tensor, batch: int, optimizer: Any, **settings: Any
) -> lightning.Trainer:
    """Trains a guide on batches of the rows of a table.

    Args:
        guide: the guide.
        y: the table.
        batch: rows of a batch of all processes together.
        optimizer: makes the optimiser of some parameters.
        settings: of :class:`lightning.Trainer`.
    """
    guide(y[:batch], num_rows=len(y))
    module = PyroModule(Trace_ELBO()(guide.model, guide), y, batch, optimizer)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        # The module shares the rows itself; Lightning would shuffle them.
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(module)
    return trainer


def main() -> None:
    """Trains, and prints the loss of the whole table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    pyro.set_rng_seed(0)
    y = table()
    guide = pef.DEQMAPGuide(
        pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, latent_dim=LATENT_DIM)
    )
    trainer = train(
        guide,
        y,
        BATCH,
        lambda parameters: torch.optim.Adam(parameters, lr=0.05),
        devices=given.devices,
        strategy="ddp" if given.devices > 1 else "auto",
        max_epochs=given.epochs,
        enable_model_summary=False,
    )
    with torch.no_grad():
        whole = Trace_ELBO()(guide.model, guide)(y)
    if trainer.is_global_zero:
        print(f"the loss of the whole table: {whole.item() / len(y):.3f} per row")


if __name__ == "__main__":
    main()
