"""Groups of rows: how far apart are three trees?
==============================================

116 samples of leaves from three oaks, and which taxa of fungi live on them (Jakuschkin et al.,
2016; pyPLNmodels ships the table). The mean of the latents differs by tree, and follows the height
of the leaf. Both are in the prior of the latents, with intervals.
"""

import warnings
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoMultivariateNormal,
    init_to_value,
)
from pyro.nn import PyroModule, PyroSample
from pyro.optim import ClippedAdam
from torch import Tensor

import pyro_expfam as pef

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources
    from pyPLNmodels import load_oaks

pyro.set_rng_seed(0)
oaks = load_oaks()
presence = (oaks["endog"].filter(regex="^(f_|E_)") > 0).astype(float)
share = presence.mean()
presence = presence[share[(share > 0.1) & (share < 0.9)].index]
trees = pd.Categorical(oaks["tree"], ["susceptible", "intermediate", "resistant"])
tree = torch.tensor(trees.codes).long()
height = torch.tensor(oaks["dist2ground"].to_numpy(), dtype=torch.float32)
height = (height - height.mean()) / height.std()


class Leaves(PyroModule):
    """Which fungi live on a leaf, by its latents; and the latents by tree and height."""

    def __init__(self) -> None:
        super().__init__()
        num_taxa = presence.shape[1]
        self.fungi = pef.ExpFamPCA(pef.families.Bernoulli(), num_taxa, latent_dim=2)
        self.mean: Any = PyroSample(dist.Normal(0.0, 3.0).expand([3, 2]).to_event(2))
        self.slope: Any = PyroSample(dist.Normal(0.0, 1.0).expand([2]).to_event(1))

    def forward(self, presence: pd.DataFrame, tree: Tensor, height: Tensor) -> Tensor:
        """The latents of leaves."""
        by_height = self.slope.unsqueeze(-2) * height[:, None]
        return self.fungi(presence, latent_loc=self.mean[..., tree, :] + by_height)


# %%
# ``guide.fit`` finds point estimates of everything, without step sizes.

model = Leaves()
guide = pef.LaplaceGuide(model)
fit = guide.fit(presence, tree, height)
point = guide.median(presence, tree, height)
print(f"converged: {fit.converged} after {fit.sweeps[-1].number} sweeps")

# %%
# A distribution over means and slope takes SVI. An ``AutoGuideList`` gives them a normal, and
# leaves the rest to a ``LaplaceGuide``. ``LaplaceEvidence`` integrates the latents out. Both parts
# start from the fit. The loading stays a point estimate.

names = ["mean", "slope"]
start = init_to_value(values=point)
parts = AutoGuideList(model)
parts.append(
    AutoMultivariateNormal(poutine.block(model, expose=names), init_loc_fn=start, init_scale=0.2)
)
parts.append(
    pef.LaplaceGuide(
        poutine.block(model, hide=names),
        global_guide=lambda rest: AutoDelta(rest, init_loc_fn=start),
    )
)
svi = SVI(model, parts, ClippedAdam({"lr": 0.02}), pef.LaplaceEvidence())
for _ in range(400):
    svi.step(presence, tree, height)

# %%
# Latents are known up to a rotation, and so are their means. Distances between means do not
# depend on it. They are in units of the standard deviation of leaves of one tree.

draws = [parts(presence, tree, height) for _ in range(400)]
means = torch.stack([draw["mean"] for draw in draws]).detach()
slopes = torch.stack([draw["slope"] for draw in draws]).detach()
quantiles = torch.tensor([0.05, 0.95])
for a, b in [(0, 1), (0, 2), (1, 2)]:
    low, high = (means[:, a] - means[:, b]).norm(dim=-1).quantile(quantiles)
    print(f"{trees.categories[a]} to {trees.categories[b]}: {low:.1f} to {high:.1f}")
low, high = slopes.norm(dim=-1).quantile(quantiles)
print(f"one standard deviation of height: {low:.1f} to {high:.1f}")

# %%
# Leaves, and in grey draws of the three means. The trees differ much more than leaves of one tree
# do, and height matters little.

z = parts.median(presence, tree, height)["fungi.z"]
ax = pef.plots.plot_latents(z, labels=list(trees))
for k in range(3):
    ax.plot(*means[:, k].T, ".", color="0.75", markersize=8, zorder=0)
