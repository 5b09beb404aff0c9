"""What all pictures share."""

import sys

import pytest

from pyro_expfam.plots import plot_khat


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyro-expfam\[plots\]'"):
        plot_khat([0.1])
