"""A fit takes memory for latents, coefficients and a tile of rows beside its table."""

import os
import subprocess
import sys

import pytest
import torch
from quick_cases import in_turn, name_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

import pyro_expfam as pef
from pyro_expfam.deq import row_block
from pyro_expfam.joint import joint_problem

NUM_ROWS, NUM_FEATURES = 3_000, 100
TILE = 1 << 14
POISSON, GAUSSIAN = pef.families.Poisson(), pef.families.Gaussian(scale=2.0)


@pytest.fixture(autouse=True, scope="module")
def _log_factorials():
    """The table of log factorials, which a program makes once."""
    POISSON.log_prob(torch.ones(TILE).double(), torch.zeros(TILE).double())


class LargestTensor(TorchDispatchMode):
    """Sees the size of every tensor that is made, but for views of those that are given."""

    def __init__(self, *given):
        super().__init__()
        self.given = {x.untyped_storage().data_ptr() for x in given}
        self.entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self.given:
                self.entries = max(self.entries, x.untyped_storage().nbytes() // 4)
        return out


def arguments(given):
    mask = torch.rand(NUM_ROWS, NUM_FEATURES) < 0.9
    weights = torch.rand(NUM_ROWS, NUM_FEATURES)
    offset = torch.zeros(NUM_ROWS, 1)
    return {
        "nothing": {},
        "all": {"mask": mask, "weights": weights, "offset": offset},
    }[given]


LOSSES = [None, pef.LaplaceEvidence(), pef.LaplaceEvidence(order=2)]


# A few sweeps show what a fit takes, and are not enough for it.
UNCONVERGED = pytest.mark.filterwarnings("ignore:the fit has not converged")


@UNCONVERGED
@pytest.mark.parametrize(
    ("family", "given", "dtype", "loss"),
    in_turn([GAUSSIAN, POISSON], ["nothing", "all"], [torch.float32, torch.int16], LOSSES),
)
def test_a_fit_makes_nothing_larger_than_some_tiles(monkeypatch, family, given, dtype, loss):
    # Kernels take fewer tiles at once than by default, so that a few tiles make a table.
    num_tiles = 2
    monkeypatch.setattr(joint_problem, "TILES_OF_KERNELS", num_tiles)
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", TILE)
    y, others = torch.poisson(torch.ones(NUM_ROWS, NUM_FEATURES)).to(dtype), arguments(given)
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(family, NUM_FEATURES, 2))
    with LargestTensor(y, *others.values()) as largest:
        fit = guide.fit(y, **others, max_sweeps=2, loss=loss)
    assert fit.sweeps[-1].number >= 2
    assert TILE / 2 < largest.entries < 3 * num_tiles * TILE < y.numel() / 3


@UNCONVERGED
@pytest.mark.parametrize(
    "loss", [*LOSSES[:2], pytest.param(LOSSES[2], marks=pytest.mark.slow)], ids=name_of
)
def test_a_fit_to_batches_makes_nothing_larger_than_some_batches(monkeypatch, loss):
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", TILE)
    y = torch.poisson(torch.ones(NUM_ROWS, NUM_FEATURES))
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(POISSON, NUM_FEATURES, 2))
    with LargestTensor(y) as largest:
        guide.fit(DataLoader(y, batch_size=150), max_sweeps=2, loss=loss)
    # At the end there are three matrices of a batch in double precision.
    assert largest.entries < 6 * TILE


def test_a_solve_makes_nothing_larger_than_some_tiles(monkeypatch):
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", TILE)
    y, W = torch.poisson(torch.ones(NUM_ROWS, NUM_FEATURES)), torch.randn(NUM_FEATURES, 2) / 3
    with LargestTensor(y, W) as largest:
        pef.solve_latents(POISSON, y, W, torch.zeros(NUM_FEATURES))
    assert largest.entries < 4 * TILE


MEASURE = """
import gc
import torch
import pyro_expfam as pef

torch.set_num_threads(1)
num_rows, num_features, where = {num_rows}, {num_features}, {where!r}
batch_rows = 400_000 // num_features


class Batches:
    def __iter__(self):
        for begin in range(0, num_rows, batch_rows):
            generator = torch.Generator().manual_seed(begin)
            yield torch.randint(0, 4, (batch_rows, num_features), generator=generator).float()


def memory(name):
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith(name))
    return int(line.split()[1]) * 1024


def use(table, warm_up=False):
    model = pef.ExpFamPCA(pef.families.Poisson(), num_features, 2)
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(table, max_sweeps=1 if warm_up else 5)
    if where == "in memory":
        guide.latents(table)


first = next(iter(Batches()))
if where == "in memory":
    table = torch.empty(num_rows, num_features)
    for begin, batch in zip(range(0, num_rows, batch_rows), Batches()):
        table[begin : begin + batch_rows] = batch
    use(first, warm_up=True)
else:
    table = Batches()
    use(first, warm_up=True)
gc.collect()
before = memory("VmRSS")
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
use(table)
print(memory("VmHWM") - before)
"""


def peak(num_rows, num_features, where):
    """Bytes that a fit of a new process takes beyond what it had before."""
    program = MEASURE.format(num_rows=num_rows, num_features=num_features, where=where)
    # Memory that is freed goes back at once, and so is not counted as used.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    environment.pop("MALLOC_TRIM_THRESHOLD_", None)
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("where", ["in memory", "streamed"])
def test_the_peak_does_not_grow_with_the_features(where):
    num_rows = 40_000
    tile = 4 * row_block.TILE_ENTRIES["cpu"]
    few, many = peak(num_rows, 100, where), peak(num_rows, 1_000, where)
    for num_features, found in ((100, few), (1_000, many)):
        numbers = (num_rows + num_features) * 2
        assert found < 10 * tile + 10 * 8 * numbers
    # A stream keeps an eighth of its rows for the starts, in single precision.
    sample = 4 * (num_rows // 8) * (1_000 - 100) if where == "streamed" else 0
    assert many < few + 4 * tile + sample
