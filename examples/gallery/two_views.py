"""Two views: genes and proteins of the same cells
===============================================

Some instruments count the transcripts of genes and measure proteins on the surface of the same
cell. Both tables tell of one state of the cell. Here two blocks share their latents, each with a
family of its own. The table is simulated, so that the truth is known.
"""

import matplotlib.pyplot as plt
import pyro
import torch
from pyro.infer import Predictive
from pyro.nn import PyroModule
from torch import Tensor

import pyro_expfam as pef

pyro.set_rng_seed(0)
num_cells, num_genes, num_proteins = 400, 60, 6
types = torch.arange(num_cells) % 4
corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
truth = corners[types] + 0.5 * torch.randn(num_cells, 2)
gene_loading = 0.35 * torch.randn(num_genes, 2)
genes = torch.poisson(torch.exp(truth @ gene_loading.T - 1.5))
levels = truth @ torch.randn(2, num_proteins) + torch.randn(num_cells, num_proteins)
print(f"transcripts per cell: {genes.sum(1).mean():.0f}")

# %%
# The proteins of the first 250 cells are measured. ``latent_rows`` says which cell each row of
# the second table belongs to.

measured = torch.arange(250)


class Cells(PyroModule):
    """Genes and proteins, which share latents."""

    def __init__(self) -> None:
        super().__init__()
        self.genes = pef.ExpFamPCA(pef.families.Poisson(), num_genes, latent_dim=2)
        self.proteins = pef.ExpFamPCA(pef.families.Gaussian(), num_proteins, latent_dim=2)

    def forward(self, genes: Tensor, levels: Tensor | None, measured: Tensor | None) -> Tensor:
        """Genes of all cells, and proteins of some."""
        z = self.genes(genes)
        return self.proteins(levels, z=z, latent_rows=measured)


model = Cells()
guide = pef.LaplaceGuide(model)
fit = guide.fit(genes, levels[measured], measured)
print(f"converged: {fit.converged} after {fit.sweeps[-1].number} sweeps")

# %%
# The latents of the cells from both tables, and from each table alone. Latents are known up to a
# rotation, so a linear map onto the true states is fitted first.

estimates = {}
for name, family, table in [
    ("genes alone", pef.families.Poisson(), genes),
    ("proteins alone", pef.families.Gaussian(), levels),
]:
    one = pef.LaplaceGuide(pef.ExpFamPCA(family, table.shape[1], latent_dim=2))
    one.fit(table[measured])
    with torch.no_grad():
        estimates[name] = one.latents(table[measured])
both = guide.median(genes, levels[measured], measured)["genes.z"]
estimates["both"] = both[measured]

state = truth[measured]
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharex=True, sharey=True, layout="constrained")
for ax, (name, z) in zip(axes, estimates.items(), strict=True):
    z = torch.cat([z, torch.ones(len(z), 1)], 1)
    mapped = z @ torch.linalg.lstsq(z, state).solution
    explained = 1 - (state - mapped).square().sum() / (state - state.mean(0)).square().sum()
    pef.plots.plot_latents(mapped, labels=[f"type {k + 1}" for k in types[measured]], ax=ax)
    ax.set(title=f"{name}: R² {explained:.2f}")
for ax in axes[:2]:
    ax.get_legend().remove()

# %%
# The other 150 cells have genes only. A call without proteins is a call in which nobody has
# measured them: draws of the model under the guide predict them from the genes.

rest = torch.arange(250, num_cells)
predict = Predictive(model, guide=guide, num_samples=200, parallel=True)
draws = predict(genes[rest], None, None)["proteins.y"]
low, high = draws.quantile(0.05, 0), draws.quantile(0.95, 0)
inside = ((levels[rest] > low) & (levels[rest] < high)).float().mean()
residual = (levels[rest] - draws.mean(0)).square().sum(0)
total = (levels[rest] - levels[measured].mean(0)).square().sum(0)
print(f"{inside:.0%} of the proteins are in their 90% intervals")
print(f"R² of predicted proteins {1 - float(residual.sum() / total.sum()):.2f}")

# %%
# Without noise, the true state itself would explain about as much.

best = torch.linalg.lstsq(truth, levels).solution
residual = (levels[rest] - truth[rest] @ best).square().sum(0)
print(f"R² of the true states {1 - float(residual.sum() / total.sum()):.2f}")
