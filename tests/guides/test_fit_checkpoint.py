"""A fit that was killed goes on from its checkpoint; other files are refused and kept."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pytest
import torch
from pyro.nn import PyroModule

import pyro_expfam as pef
from pyro_expfam import families
from pyro_expfam.guides import fit_checkpoint

EVIDENCE = pef.LaplaceEvidence()
ROOT = Path(__file__).resolve().parents[2]


class Killed(Exception):
    pass


class InModel(PyroModule):
    """A model that has a block in it."""

    def __init__(self):
        super().__init__("whole")
        self.block = pef.ExpFamPCA(families.Poisson(), 5, 2)

    def forward(self, y):
        return self.block(y)


def counts(num_rows=60):
    return torch.poisson(torch.exp(torch.randn(num_rows, 2) @ torch.randn(2, 5) / 2)).double()


def guide_of(family=None, latent_dim=2, **settings):
    model = pef.ExpFamPCA(family or families.Poisson(), 5, latent_dim, **settings)
    return pef.DEQMAPGuide(model.double())


def killed_after(sweeps):
    def callback(sweep):
        if sweep.number >= sweeps:
            raise Killed

    return callback


def killed(path, y, guide, sweeps=4, **settings):
    """A fit that has left a checkpoint."""
    with pytest.raises(Killed):
        guide.fit(y, checkpoint=path, every=1e-9, callback=killed_after(sweeps), **settings)
    assert path.exists()


@pytest.mark.parametrize(
    ("family", "loss"),
    [
        (families.Poisson(), None),
        pytest.param(families.Poisson(), EVIDENCE, marks=pytest.mark.slow),
        (families.NegativeBinomial(), EVIDENCE),
        (families.Gaussian(), None),
        pytest.param(families.Gaussian(scale="per column"), EVIDENCE, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_killed_fit_goes_on(family, loss, tmp_path):
    y, path = (
        counts() + torch.rand(60, 5).double() * (family.support.is_discrete < 1),
        tmp_path / "fit",
    )
    whole = guide_of(family)
    expected = whole.fit(y, loss=loss, tol=1e-12)
    killed(path, y, guide_of(family), loss=loss, tol=1e-12)
    again = guide_of(family)
    fit = again.fit(y, loss=loss, tol=1e-12, checkpoint=path)
    assert fit.converged
    assert fit.objective == pytest.approx(expected.objective, rel=1e-9)
    numbers = [sweep.number for sweep in fit.sweeps]
    assert numbers == sorted(set(numbers))
    # Objectives are moved by the rounding at the end of a fit.
    first = expected.sweeps[0]._replace(seconds=fit.sweeps[0].seconds)
    assert fit.sweeps[0]._replace(objective=first.objective) == first
    assert fit.sweeps[0].objective == pytest.approx(first.objective, rel=1e-12)
    assert fit.seconds > fit.sweeps[3].seconds
    natural = [g.latents(y) @ g.loading.T + g.intercept for g in (whole, again)]
    torch.testing.assert_close(*natural, rtol=1e-4, atol=1e-4)
    # It has ended, and ends at once.
    assert guide_of(family).fit(y, loss=loss, checkpoint=path).sweeps[-1].number <= numbers[-1] + 4


def test_limits_count_over_all_runs(tmp_path):
    y, path = counts(), tmp_path / "fit"
    killed(path, y, guide_of())
    guide = guide_of()
    with pytest.warns(pef.ConvergenceWarning, match="max_sweeps, 4, have been taken"):
        fit = guide.fit(y, checkpoint=path, max_sweeps=4)
    assert fit.sweeps[-1].number == 4


def test_batches_and_other_orders_of_rows_are_the_same_table(tmp_path):
    y, path = counts(), tmp_path / "fit"
    killed(path, y, guide_of())
    loader = torch.utils.data.DataLoader(y.flip(0), batch_size=11)
    assert guide_of().fit(loader, checkpoint=path).converged


def other_table(y):
    y = y.clone()
    y[3, 2] += 1
    return guide_of(), y, {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_table, "is of a fit to another table"),
        (lambda y: (guide_of(), y, {"offset": 0.1}), "is of a fit to another table"),
        (lambda y: (guide_of(), y[:50], {}), "rows 60, and this one has 50"),
        (lambda y: (guide_of(), y, {"loss": EVIDENCE}), "loss the joint density"),
        (lambda y: (guide_of(latent_precision=2.0), y, {}), "latent_precision 1.0"),
        (lambda y: (guide_of(latent_dim=3), y, {}), "latent_dim"),
        (lambda y: (guide_of(families.Geometric()), y, {}), "family"),
        (lambda y: (guide_of(families.NegativeBinomial(3.0)), y, {}), "family"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused_and_kept(make, message, tmp_path):
    y, path = counts(), tmp_path / "fit"
    killed(path, y, guide_of())
    before = path.read_bytes()
    guide, table, settings = make(y)
    with pytest.raises(ValueError, match=f"checkpoint must be a file of an earlier.*{message}"):
        guide.fit(table, checkpoint=path, **settings)
    assert path.read_bytes() == before
    assert not guide.is_trained


@pytest.mark.parametrize("damage", ["cut", "changed", "text", "guide"])
def test_a_damaged_checkpoint_is_refused_and_kept(damage, tmp_path):
    y, path = counts(), tmp_path / "fit"
    killed(path, y, guide_of())
    data = path.read_bytes()
    if damage == "guide":
        guide = guide_of()
        guide.fit(y, max_time=1e-9)
        guide.save(path)
        with pytest.raises(ValueError, match="is a checkpoint of a fit"):
            pef.load(_written(tmp_path / "other", data))
    else:
        middle = len(data) - 9
        _written(
            path,
            {
                "cut": data[:-5],
                "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
                "text": b"not a checkpoint",
            }[damage],
        )
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint must be .*It is kept as it is"):
        guide_of().fit(y, checkpoint=path)
    assert path.read_bytes() == before


def _written(path, data):
    path.write_bytes(data)
    return path


def test_a_full_disk_ends_no_fit(tmp_path, monkeypatch):
    y, path = counts(), tmp_path / "fit"
    killed(path, y, guide_of())
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fit_checkpoint, "write_tensors", full)
    with pytest.warns(UserWarning, match="could not be written.*No space left") as caught:
        assert guide_of().fit(y, checkpoint=path, every=1e-9).converged
    assert len(caught) == 1
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["fit"]


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    y, path = counts(), tmp_path / "fit"
    killed(path, y, guide_of())
    before, write = path.read_bytes(), fit_checkpoint.write_tensors

    def write_little(*args):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            write(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(fit_checkpoint, "write_tensors", write_little)
    with pytest.warns(UserWarning, match="could not be written.*The fit goes on") as caught:
        assert guide_of().fit(y, checkpoint=path, every=1e-9).converged
    assert len(caught) == 1
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["fit"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": "no/such/folder/fit"}, "checkpoint must be in a folder that exists"),
        ({"checkpoint": "."}, "checkpoint must be a file, got the folder"),
        ({"checkpoint": "fit", "every": 0}, "every must be a positive finite number, got 0"),
    ],
)
def test_places_that_cannot_be(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((OSError, ValueError), match=message):
        guide_of().fit(counts(), **settings)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: pef.ExpFamPCA(families.Poisson(), 5, 2, latent_scale=torch.ones(2)),
            "a block whose latents have a latent_scale",
        ),
        (InModel, "a model that is more than one block"),
        (
            lambda: pef.ExpFamPCA(families.Gaussian(), 5, 2, row_effect="random"),
            "a block with a row_effect beside a learnt scale",
        ),
    ],
)
def test_other_models_have_no_checkpoint(make, words, tmp_path):
    guide = pef.DEQMAPGuide(make().double())
    with pytest.raises(ValueError, match=f"checkpoint must be None for .*{words}.* with max_time"):
        guide.fit(counts(), checkpoint=tmp_path / "fit")
    assert not os.listdir(tmp_path)


def test_other_models_go_on_from_their_state():
    """As the refusal of a checkpoint says."""
    y = counts()
    whole = pef.DEQMAPGuide(InModel().double()).fit(y, tol=1e-9)
    first, second = pef.DEQMAPGuide(InModel().double()), pef.DEQMAPGuide(InModel().double())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begun = first.fit(y, max_sweeps=6)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    fit = second.fit(y, tol=1e-9)
    assert fit.sweeps[0].objective == pytest.approx(begun.objective, rel=1e-12)
    assert fit.objective < begun.objective
    assert fit.objective == pytest.approx(whole.objective, rel=1e-6)


SCRIPT = """
    import os, signal, sys, torch, pyro_expfam as pef
    from torch import distributed

    y = torch.load({table!r})
    number, count = 0, int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        distributed.init_process_group("gloo")
        number = distributed.get_rank()
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 5, 2).double())

    def callback(sweep):
        if sweep.number >= 5 and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
            os.kill({pid}, signal.SIGKILL)

    distributed_or_not = dict(processes="all") if count > 1 else dict()
    numbers = [os.getpid()] * count
    if count > 1:
        distributed.all_gather_object(numbers, os.getpid())
    fit = guide.fit(
        y[number::count], tol=1e-12, checkpoint={path!r}, every=1e-9, callback=callback,
        **distributed_or_not,
    )
    if number == 0:
        torch.save((fit.objective, guide.loading.detach()), {result!r})
"""


def script(tmp_path, y, pid="os.getpid()"):
    paths = {name: str(tmp_path / name) for name in ("table", "path", "result")}
    torch.save(y, paths["table"])
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(SCRIPT).format(pid=pid, **paths))
    return file


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


@pytest.mark.slow
def test_a_fit_killed_at_any_moment_goes_on(tmp_path):
    y = counts(20_000)
    expected = guide_of().fit(y, tol=1e-12)
    file, times = script(tmp_path, y), random.Random(0)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, file], env=environment())
        begin = time.monotonic()
        while not (tmp_path / "path").exists() and time.monotonic() < begin + 60:
            time.sleep(0.05)
        time.sleep(times.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, file], env=environment(), check=True, timeout=120)
    objective, _ = torch.load(tmp_path / "result")
    assert objective == pytest.approx(expected.objective, rel=1e-10)


@pytest.mark.slow
@pytest.mark.several_starts
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_process_that_dies_ends_the_others_and_torchrun_starts_again(restarts, tmp_path):
    y = counts(2_000)
    file = script(tmp_path, y, "numbers[1]")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    command += [f"--max-restarts={restarts}", str(file)]
    # Without it PyTorch 2.13 leaves addresses of dead processes in the store of the next attempt.
    own = environment(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    ran = subprocess.run(command, env=own, capture_output=True, text=True, timeout=300)
    assert (ran.returncode == 0) is (restarts == 1), ran.stderr
    if restarts:
        expected = guide_of().fit(y, tol=1e-12)
        objective, _ = torch.load(tmp_path / "result")
        assert objective == pytest.approx(expected.objective, rel=1e-10)
    else:
        assert "ProcessesError: another process has ended" in ran.stderr
        assert not (tmp_path / "result").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_all_processes_that_end_at_once_go_on(sent, tmp_path):
    y, path = counts(20_000), tmp_path / "path"
    file = script(tmp_path, y, "10**9")
    text = file.read_text().replace("if sweep.number >= 5", "time.sleep(pause)\n    if False")
    file.write_text(f"import time, sys\npause = float(sys.argv[1])\n{text}")

    def start(pause):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node=2", str(file), str(pause)]
        return subprocess.Popen(command, env=environment(), start_new_session=True)

    process, begin = start(0.5), time.monotonic()
    while not path.exists() and time.monotonic() < begin + 60:
        time.sleep(0.05)
    os.killpg(process.pid, sent)
    process.wait(60)
    # Ctrl-C ends the fit after the sweep, with the guide as it is then.
    assert (tmp_path / "result").exists() is (sent == signal.SIGINT)
    (tmp_path / "result").unlink(missing_ok=True)
    assert start(0.0).wait(120) == 0
    objective, _ = torch.load(tmp_path / "result")
    expected = guide_of().fit(y, tol=1e-12)
    assert objective == pytest.approx(expected.objective, rel=1e-10)


def test_a_checkpoint_of_other_covariates_is_refused(tmp_path):
    x = torch.randn(60, 2).double()
    y, path = torch.poisson(torch.exp(0.5 * x @ torch.randn(2, 5).double())), tmp_path / "fit"

    def fit(covariates, **settings):
        block = pef.ExpFamPCA(
            families.Poisson(), 5, 1, num_covariates=covariates.shape[1], **settings
        )
        guide = pef.DEQMAPGuide(block.double())
        return guide.fit(y, covariates=covariates, checkpoint=path, max_sweeps=4)

    with pytest.warns(pef.ConvergenceWarning):
        fit(x)
    before = path.read_bytes()
    for other, settings in (
        (-x, {}),
        (x.flip(0), {}),
        (x, {"coefficient_scale": 0.01}),
        (torch.cat([x, 0 * x[:, :1]], 1), {}),
    ):
        with pytest.raises(
            fit_checkpoint.FileError, match="checkpoint must be a file of an earlier fit"
        ):
            fit(other, **settings)
        assert path.read_bytes() == before
