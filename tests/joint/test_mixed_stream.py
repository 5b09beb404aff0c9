"""The evidence fit of a mixed table that comes in batches."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_expfam as pef

F = pef.families
PLACES = ([0, 2], [1], [3, 4], [5])
KNOWN = (F.NegativeBinomial(2.0), F.Categorical(3), F.Gaussian(0.7), F.Bernoulli())
LEARNT = (F.NegativeBinomial(), F.Categorical(3), F.Gaussian(), F.Bernoulli())


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def table(num_rows=100):
    law = F.Columns(list(zip(PLACES, KNOWN, strict=True)))
    loading = 0.8 * torch.randn(law.num_predictors(6), 1)
    return law.decode(law.sample(torch.randn(num_rows, 1) @ loading.T + 0.5))


@pytest.mark.parametrize(
    "laws",
    [pytest.param(KNOWN, marks=pytest.mark.slow, id="known"), pytest.param(LEARNT, id="learnt")],
)
def test_a_loader_has_the_fit_of_the_table_in_memory(laws):
    y = table()
    mask = torch.rand(y.shape) < 0.9
    batches = DataLoader(TensorDataset(y, mask), batch_size=32)
    as_arguments = [{"y": rows, "mask": there} for rows, there in batches]
    found = []
    for arguments in ({"y": y, "mask": mask}, {"y": as_arguments}):
        torch.manual_seed(1)
        guide = pef.LaplaceGuide(
            pef.ExpFamPCA(F.Columns(list(zip(PLACES, laws, strict=True))), 6, 1)
        )
        fit = guide.fit(**arguments, progress=False, tol=1e-10)
        assert fit.converged
        parameters = guide.model.family.parameters
        found.append((fit.objective, guide.loading, guide.intercept, parameters))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
