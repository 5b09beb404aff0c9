"""A map along a chromosome: a Gaussian process as the prior of latents
=====================================================================

Petit et al. (2017) counted crossovers in sheep, in pieces of a million bases along a
chromosome, in two populations and both sexes; pyPLNmodels ships the table. Pieces next to each
other have similar rates. A Gaussian process says so: it is the prior mean of the latents.
"""

import warnings

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.contrib.gp.kernels import RBF
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

import pyro_expfam as pef

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources
    from pyPLNmodels import load_crossover

pyro.set_rng_seed(0)
data = load_crossover()
first = (data["chrom"].astype(str) == "1").to_numpy()
counts = data["endog"][first]
offset = torch.tensor(data["offsets"][first].to_numpy(), dtype=torch.float32)
num_pieces = len(counts)
place = torch.arange(num_pieces) + 0.5
print(counts.describe().loc[["count", "mean", "std"]].round(1))

# %%
# Four stretches of 8 million bases are hidden, to be predicted.

hidden = torch.zeros(num_pieces, dtype=torch.bool)
for begin in (40, 110, 180, 240):
    hidden[begin : begin + 8] = True
mask = ~hidden[:, None]

# %%
# The process is a linear map of independent normals, one for each place. The latents of a piece
# vary around it by ``latent_scale``. Without the process a piece knows nothing of its neighbours.


class Rates(PyroModule):
    """Counts of crossovers, whose latents follow a Gaussian process along the chromosome."""

    def __init__(self, is_smooth: bool) -> None:
        super().__init__()
        family = pef.families.NegativeBinomial(10.0)
        scale = 0.5 if is_smooth else 1.0
        self.rates = pef.ExpFamPCA(family, 4, latent_dim=2, latent_scale=scale)
        if is_smooth:
            kernel = RBF(1, lengthscale=torch.tensor(10.0))
            covariance = kernel(place[:, None]).detach() + 1e-3 * torch.eye(num_pieces)
            self.root = torch.linalg.cholesky(covariance)
            self.noise = PyroSample(dist.Normal(0.0, 1.0).expand([num_pieces, 2]).to_event(2))
        self.is_smooth = is_smooth

    def forward(self, counts: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """The latents of the pieces."""
        mean = self.root @ self.noise if self.is_smooth else None
        return self.rates(counts, offset=offset, mask=mask, latent_loc=mean)


y = torch.tensor(counts.to_numpy(), dtype=torch.float32)
guides = {}
for name, is_smooth in {"independent pieces": False, "a Gaussian process": True}.items():
    guide = guides[name] = pef.LaplaceGuide(Rates(is_smooth))
    fit = guide.fit(y, offset, mask)
    block = guide.block("rates")
    z = guide.posteriors(y, offset, mask)["rates.z"].sample((500,))[:, hidden]
    predictor = z @ block.loading.T + block.intercept + offset[hidden]
    law = pef.distributions.distribution(pef.families.NegativeBinomial(10.0), predictor)
    score = (law.log_prob(y[hidden]).sum(-1).logsumexp(0) - torch.tensor(500.0).log()).mean()
    print(f"{name}: {fit.sweeps[-1].number} sweeps, hidden pieces {score:.2f} nats per piece")

# %%
# The rate of one population along the chromosome. The hidden stretches are grey: there the model
# knows the neighbours only, and the counts in the picture test it.

guide, column = guides["a Gaussian process"], 0
block = guide.block("rates")
z = guide.posteriors(y, offset, mask)["rates.z"].sample((500,))
rate = (z @ block.loading.T + block.intercept + offset).exp()[..., column]
low, middle, high = rate.quantile(torch.tensor([0.05, 0.5, 0.95]), dim=0)
figure, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
ax.fill_between(place, low, high, color="tab:blue", alpha=0.3, lw=0, label="90% of the rate")
ax.plot(place, middle, color="tab:blue", lw=1)
ax.plot(place, y[:, column], ".", color="0.2", markersize=3, label="counts")
for begin in (40, 110, 180, 240):
    ax.axvspan(begin, begin + 8, color="0.85", zorder=0)
ax.set(xlabel="million bases", ylabel=f"crossovers, {counts.columns[column]}", yscale="log")
ax.set_yticks([20, 50, 100, 200, 400], labels=["20", "50", "100", "200", "400"])
ax.minorticks_off()
ax.legend(frameon=False)
