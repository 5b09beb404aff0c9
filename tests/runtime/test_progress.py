"""Progress bars: drawn where a person watches, and only there."""

import io
import sys
from types import SimpleNamespace

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.runtime.progress import is_watched, progress_bar, tell


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    def use(stream, shell=None):
        monkeypatch.setattr(sys, "stderr", stream)
        ipython = SimpleNamespace(get_ipython=lambda: shell)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        return stream

    return use


@pytest.mark.parametrize(
    ("stream", "shell", "watched"),
    [
        (io.StringIO(), None, False),
        (Terminal(), None, True),
        (io.StringIO(), "a kernel", True),
        (None, None, False),
    ],
)
def test_terminals_and_notebooks_are_watched(stream, shell, watched, stderr):
    stderr(stream, shell)
    assert is_watched() is watched


def test_without_ipython_a_log_file_is_not_watched(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not is_watched()


@pytest.mark.parametrize(("progress", "terminal"), [(None, False), (False, True), (True, False)])
def test_a_choice_overrides_where_the_output_goes(progress, terminal, stderr):
    stream = stderr(Terminal() if terminal else io.StringIO())
    with progress_bar(progress, total=2, desc="fits") as bar:
        bar.update(2)
    assert ("fits" in stream.getvalue()) is bool(progress)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"progress": "no"}, "progress must be True, False or None, got 'no'"),
        ({"callback": 3}, "callback must be a function of a Sweep or None, got 3"),
    ],
)
def test_a_fit_names_an_argument_that_does_not_fit(settings, message):
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 4, 1))
    with pytest.raises(TypeError, match=message):
        guide.fit(torch.ones(5, 4), **settings)


def test_what_was_decided_is_told_once_and_only_where_a_person_watches(stderr):
    quiet = stderr(io.StringIO())
    tell("a choice")
    assert quiet.getvalue() == ""
    terminal = stderr(Terminal())
    tell("a choice")
    tell("a choice")
    assert terminal.getvalue() == "a choice\n"
