"""Lightning trains a block in two processes as in one, on the same batches."""

import functools
import sys
from pathlib import Path

import pytest
import torch

import pyro_expfam as pef

lightning = pytest.importorskip("lightning")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def trained(y, monkeypatch, **settings):
    """The parameters of a guide after two epochs of the example's training."""
    # Processes that Lightning starts find the example in the same place.
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from svi_lightning import train

    torch.manual_seed(1)
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 4, 1).double())
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    optimizer = functools.partial(torch.optim.SGD, lr=1e-4)
    train(guide, y, 20, optimizer, max_epochs=2, **quiet, **settings)
    return {name: x.detach().clone() for name, x in guide.named_parameters()}


def test_two_processes_take_the_steps_of_one(monkeypatch):
    y = torch.poisson(torch.exp(torch.randn(100, 1) * torch.randn(4))).double()
    alone = trained(y, monkeypatch, devices=1)
    together = trained(y, monkeypatch, devices=2, strategy="ddp_spawn")
    start = trained(y, monkeypatch, devices=1, limit_train_batches=0)
    assert "svi_lightning" in sys.modules
    for name, x in alone.items():
        torch.testing.assert_close(together[name], x, rtol=1e-9, atol=1e-12)
        assert not torch.equal(x, start[name])
