"""Where progress is shown unless a caller says otherwise."""

import sys
from types import SimpleNamespace

import pytest

from pyro_expfam.progress import is_interactive


def fake_ipython(config):
    shell = SimpleNamespace(config=config)
    return SimpleNamespace(get_ipython=lambda: shell)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_program_with_a_terminal_is_interactive(is_terminal, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: is_terminal))
    assert is_interactive() == is_terminal


def test_a_program_without_standard_error_is_not_interactive(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert not is_interactive()


@pytest.mark.parametrize(("config", "expected"), [({"IPKernelApp": {}}, True), ({}, False)])
def test_a_notebook_is_interactive_and_ipython_alone_is_not(config, expected, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", fake_ipython(config))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False))
    assert is_interactive() == expected
