"""What is no table is refused in words that say what to do."""

import pathlib
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse

import pyro_expfam as pef


class Rows(torch.utils.data.Dataset):
    """A dataset of single rows, which as a sequence would never end."""

    def __len__(self):
        return 3

    def __getitem__(self, number):
        return torch.ones(2)


@pytest.fixture(scope="module")
def guide():
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 2, 1))
    guide.fit(torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]]))
    return guide


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("counts.parquet", r"got the text 'counts\.parquet': if .* pyro_expfam\.tables open"),
        (pathlib.Path("a") / "b.npy", r"got the text '.*b\.npy': if it is the path"),
        (None, "y must be a table of numbers, got None"),
        ({"oak": [1, 2], "elm": [0, 1]}, r"dict with the keys 'oak', 'elm': .*pandas\.DataFrame"),
        (pl.DataFrame({"oak": [1], "elm": [2]}).lazy(), r"LazyFrame.*: take its collect\(\)"),
        (
            SimpleNamespace(X=np.ones((2, 2)), obs_names=["a", "b"], var_names=["oak", "elm"]),
            r"pass its to_df\(\), whose columns have the names of the genes, or its X",
        ),
        (Rows(), r"got a Rows, whose items are single rows: wrap it, .*DataLoader\(dataset"),
    ],
    ids=["text", "path", "none", "dictionary", "lazy", "annotated", "dataset"],
)
@pytest.mark.filterwarnings("error::polars.exceptions.PerformanceWarning")
def test_what_is_no_table_is_refused_with_what_to_do(value, message, guide):
    new = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 2, 1))
    for call in (new.fit, guide.fit, guide.latents):
        with pytest.raises(TypeError, match=message):
            call(value)


def test_a_sparse_table_without_rows_says_so():
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 2, 1))
    with pytest.raises(ValueError, match=r"y must have at least one row, got shape \(0, 2\)"):
        guide.fit(sparse.csr_matrix((0, 2)))


def test_a_guide_is_saved_in_a_folder_that_exists(guide, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"in a folder that exists, got '.*none.guide'"):
        guide.save(tmp_path / "none" / "guide")
