"""Models whose latents meet more than one table, for tests of guides, checks and containers."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor

import pyro_expfam as pef

NUM_ROWS, LATENTS, COUNT_COLUMNS, BIT_COLUMNS = 14, 2, 6, 5
F = pef.families


class Data:
    """A table of counts, a table of bits, labels and covariates of the same rows."""

    def __init__(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        torch.manual_seed(seed)
        z = torch.randn(NUM_ROWS, LATENTS)
        self.counts = torch.poisson(torch.exp(0.6 * z @ torch.randn(LATENTS, COUNT_COLUMNS)))
        self.bits = torch.bernoulli(torch.sigmoid(z @ torch.randn(LATENTS, BIT_COLUMNS)))
        self.label = torch.bernoulli(torch.sigmoid(2 * z[:, 0])).to(dtype)
        self.covariates = torch.randn(NUM_ROWS, 3).to(dtype)

    @property
    def args(self) -> tuple[Tensor, ...]:
        """The arguments of the models."""
        return self.counts, self.bits, self.label, self.covariates


class Base(PyroModule):
    """Two blocks and a head with priors on all coefficients."""

    def __init__(self, counts: dict | None = None, bits: dict | None = None) -> None:
        super().__init__()
        self.rna = pef.ExpFamPCA(F.Poisson(), COUNT_COLUMNS, LATENTS, **(counts or {}))
        self.protein = pef.ExpFamPCA(F.Bernoulli(), BIT_COLUMNS, LATENTS, **(bits or {}))
        self.head = PyroModule[torch.nn.Linear](LATENTS, 1)
        self.head.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, LATENTS]).to_event(2))
        self.head.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        self.slope = PyroParam(0.3 * torch.randn(3, LATENTS))

    def logit(self, z: Tensor) -> Tensor:
        """The logit of the label."""
        # Drawn weights have dimensions of plates left of the rows.
        return (z * self.head.weight.squeeze(-2)).sum(-1) + self.head.bias.squeeze(-1)


class TwoViews(Base):
    """Two tables share their latents."""

    def forward(self, counts, bits, label=None, covariates=None):
        return self.protein(bits, z=self.rna(counts))


class PartOfTheRows(Base):
    """The second table lacks some rows, and has the others in another order."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        rows = torch.tensor([5, 0, 3, 9])
        return self.protein(bits[rows], z=z, latent_rows=rows)


class Supervised(Base):
    """Labels depend on the latents of a table."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        logit = self.logit(z)
        with pyro.plate("cells", len(counts)):
            pyro.sample("label", dist.Bernoulli(logits=logit), obs=label)
        return z


class WeightsPerRow(Base):
    """The weights of a label are drawn in the plate of the rows, and so differ by row."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        with pyro.plate("cells", len(counts)):
            pyro.sample("label", dist.Bernoulli(logits=self.logit(z)), obs=label)
        return z


class Network(Base):
    """Labels depend on the latents through a network without priors."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(LATENTS, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
        )

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        with pyro.plate("cells", len(counts)):
            pyro.sample("label", dist.Normal(self.net(z).squeeze(-1), 0.7), obs=label)
        return z


class Everything(Base):
    """Two tables, a label, and prior means by covariates."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts, latent_loc=covariates @ self.slope)
        self.protein(bits, z=z)
        logit = self.logit(z)
        with pyro.plate("cells", len(counts)):
            pyro.sample("label", dist.Bernoulli(logits=logit), obs=label)
        return z


class TwoLatents(Base):
    """A label depends on the latents of two tables."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts) + self.protein(bits)
        rate = torch.exp(self.logit(z))
        with pyro.plate("cells", len(counts)):
            pyro.sample("label", dist.Poisson(rate), obs=label)
        return z


class Offset(Base):
    """The offset of a table depends on the latents of another one."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        return self.protein(bits, offset=z @ torch.ones(LATENTS, BIT_COLUMNS).to(z))


class Chain(Base):
    """The prior mean of latents depends on the latents of another table."""

    def forward(self, counts, bits, label=None, covariates=None):
        return self.protein(bits, latent_loc=0.5 * self.rna(counts))


class Visits(Base):
    """Every row has three labels."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        logit = self.logit(z)
        with pyro.plate("cells", len(counts), dim=-1), pyro.plate("visits", 3, dim=-2):
            pyro.sample("label", dist.Bernoulli(logits=logit), obs=label.expand(3, -1))
        return z


class WeightsPerVisit(Base):
    """Every row has three labels, whose weights differ by row and visit."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        with pyro.plate("cells", len(counts), dim=-1), pyro.plate("visits", 3, dim=-2):
            pyro.sample("label", dist.Bernoulli(logits=self.logit(z)), obs=label.expand(3, -1))
        return z


class RowEffect(Base):
    """Every row has an effect of its own, which has a guide of its own."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        logit = self.logit(z)
        with pyro.plate("cells", len(counts)):
            effect = pyro.sample("effect", dist.Normal(z[..., 0], 1.0))
            pyro.sample("label", dist.Normal(effect + logit, 0.5), obs=label)
        return z


class ScalePerLatent(TwoViews):
    """The latents have a learnt scale each."""

    def __init__(self) -> None:
        positive = dist.constraints.positive
        super().__init__({"latent_scale": PyroParam(torch.tensor([0.8, 1.5]), constraint=positive)})


class PrecisionMatrix(TwoViews):
    """The latents have a known precision matrix."""

    def __init__(self) -> None:
        super().__init__({"latent_precision": torch.tensor([[2.0, 0.5], [0.5, 1.0]])})


class OwnNormal(TwoViews):
    """The latents have a normal prior of the user's."""

    def __init__(self) -> None:
        super().__init__()
        covariance = torch.tensor([[1.0, 0.4], [0.4, 1.0]])
        self.rna.z = PyroSample(dist.MultivariateNormal(torch.ones(2), covariance))


class HeavyTails(TwoViews):
    """The latents have a prior that is not normal."""

    def __init__(self) -> None:
        super().__init__()
        self.rna.z = PyroSample(dist.StudentT(4.0, torch.zeros(LATENTS), 1.0).to_event(1))


MODELS = [
    TwoViews,
    PartOfTheRows,
    Supervised,
    WeightsPerRow,
    Network,
    Everything,
    TwoLatents,
    Offset,
    Chain,
    Visits,
    WeightsPerVisit,
    RowEffect,
    ScalePerLatent,
    PrecisionMatrix,
    OwnNormal,
    HeavyTails,
]
