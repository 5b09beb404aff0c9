"""What a guide of a whole model refuses, and what it says."""

import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch
from torch.utils.data import DataLoader, TensorDataset
from whole_model_guides import made
from whole_models import (
    NUM_ROWS,
    Base,
    Data,
    TwoViews,
)

import pyro_expfam as pef

pytestmark = pytest.mark.usefixtures("double_precision")


def test_a_table_of_other_rows_wants_latent_rows():
    class Part(Base):
        def forward(self, counts, bits, label=None, covariates=None):
            return self.protein(bits[:5], z=self.rna(counts)[:5])

    _, guide, args = made(Part)
    with pytest.raises(ValueError, match=r"table 'protein.y'.*pass all latents as z, and latent_r"):
        guide(*args)


class Coupled(Base):
    """A site in no plate depends on the latents of all rows."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        pyro.sample("total", dist.Normal(z.sum(), 1.0), obs=torch.tensor(0.0))


class Hidden(Base):
    """A site in the plate of rows depends on the latents of all rows."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        with pyro.plate("cells", len(counts)):
            pyro.sample("label", dist.Normal((z - z.mean(0)).sum(-1), 1.0), obs=label)


class OtherRows(Base):
    """A site is in a plate of another number of rows."""

    def forward(self, counts, bits, label=None, covariates=None):
        z = self.rna(counts)
        with pyro.plate("pairs", len(counts) - 1):
            pyro.sample("label", dist.Normal((z[1:] - z[:-1]).sum(-1), 1.0), obs=label[1:])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (Coupled, r"'total'.*in a plate of dimension -1 of 14 rows, got it in no plate"),
        (Hidden, r"'label'.*of their own row"),
        (OtherRows, r"'label'.*the plate 'pairs' of 13 rows"),
    ],
)
def test_sites_that_couple_rows_are_refused(make, named):
    model, guide, args = made(make)
    with pytest.raises(ValueError, match=named):
        guide(*args)
    encoder = pef.DEQMAPGuide(model, condition_on="table")
    assert encoder(*args)["rna.z"].shape == (NUM_ROWS, 2)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m, c, b: m.protein(b[:5], z=m.rna(c)), "row for each of the 5 rows of y, got 14"),
        (
            lambda m, c, b: m.protein(b, z=m.rna(c)[:, :1]),
            r"z must be the latents \(\.\.\., rows, 2\)",
        ),
        (
            lambda m, c, b: m.protein(b[:2], z=m.rna(c), latent_rows=[0, 0]),
            "at most once, got row 0 for 2 rows",
        ),
        (
            lambda m, c, b: m.protein(b[:2], z=m.rna(c), latent_rows=[0, 99]),
            "between 0 and 13, got 0 to 99",
        ),
        (
            lambda m, c, b: m.protein(b[:2], z=m.rna(c), latent_rows=[0.5, 1.0]),
            "2 integers, one for each row",
        ),
        (
            lambda m, c, b: m.protein(b, z=m.rna(c), latent_loc=torch.ones(2)),
            "latent_loc must be left out where z is given",
        ),
        (lambda m, c, b: m.rna(c, latent_loc=torch.ones(3, 2)), r"broadcast to \(14, 2\)"),
        (lambda m, c, b: m.rna(c, latent_loc=torch.tensor(torch.nan)), "must be finite"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, named):
    data = Data()
    with pytest.raises(ValueError, match=named):
        call(Base(), data.counts, data.bits)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"latent_precision": torch.tensor([[1.0, 2.0], [2.0, 1.0]])}, "positive definite"),
        ({"latent_precision": 2.0, "latent_scale": 1.0}, "must be left out where latent_scale"),
        ({"latent_scale": torch.ones(3)}, r"latent_scale must have shape \(\) or \(2,\)"),
        ({"latent_scale": -1.0}, "latent_scale must be a positive"),
        ({"latent_precision": torch.ones(3)}, "latent_precision must have shape"),
    ],
)
def test_priors_that_do_not_fit_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        pef.ExpFamPCA(pef.families.Bernoulli(), 6, 2, **settings)


def test_an_unknown_condition_is_refused():
    with pytest.raises(ValueError, match="condition_on must be 'model' or 'table', got 'all'"):
        pef.DEQMAPGuide(TwoViews(), condition_on="all")


COUNTS = torch.ones(8, 6)


@pytest.mark.parametrize(
    ("y", "named"),
    [
        (scipy.sparse.csr_matrix(COUNTS.numpy()), "a sparse csr_matrix: pass its dense form"),
        (COUNTS.to_sparse_csr(), "a sparse Tensor: pass its dense form"),
        ([{"y": COUNTS[:4]}, {"y": COUNTS[4:]}], "batches, a list: join the batches"),
        (DataLoader(TensorDataset(COUNTS), batch_size=4), "batches, a DataLoader: join the"),
    ],
)
@pytest.mark.parametrize(
    ("settings", "arguments", "what"),
    [
        ({"latent_scale": 2.0}, {}, "a block whose latents have a latent_scale"),
        ({}, {"latent_loc": torch.ones(8, 2)}, "a block with latent_loc"),
        ({"row_effect": "random"}, {}, "a block with a row_effect beside a learnt scale"),
    ],
)
def test_a_block_that_wants_a_table_in_memory_says_so_of_batches_and_sparse_tables(
    settings, arguments, what, y, named
):
    block = pef.ExpFamPCA(pef.families.LogNormal(), 6, 2, **settings)
    with pytest.raises(TypeError, match=f"y must be one dense table in memory for {what}.*{named}"):
        pef.LaplaceGuide(block).fit(y, **arguments)
