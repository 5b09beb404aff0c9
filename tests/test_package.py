"""What the package is from outside: its names, its version, and what an import brings along."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest

import pyro_expfam as pef

SLOW_TO_IMPORT = {"arviz", "matplotlib", "numba", "pandas", "scipy", "sklearn", "triton", "xarray"}
IMPORTED_LATER = """
import sys, json
before = set(sys.modules)
import torch, pyro, pyro.infer, pyro.infer.autoguide, pyro.nn
with_pyro = set(sys.modules)
import pyro_expfam as pef
with_package = {name.partition(".")[0] for name in set(sys.modules) - with_pyro}
listed = dir(pef)
pef.check, pef.compare_latent_dims, pef.LatentDims
json.dump([sorted(with_package), listed, "pyro_expfam.selection" in sys.modules], sys.stdout)
"""


def run(program, **environment):
    command = [sys.executable, "-W", "error::DeprecationWarning:pyro_expfam", "-c", program]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    ).stdout


def test_an_import_brings_no_package_that_is_slow_to_import():
    imported, listed, selection_at_use = json.loads(run(IMPORTED_LATER))
    assert not SLOW_TO_IMPORT & set(imported)
    assert set(pef.__all__) <= set(listed)
    assert selection_at_use


@pytest.mark.slow
def test_the_package_imports_and_fits_without_a_home_directory(tmp_path):
    # A file is no directory: nothing can be made in it, by root either.
    nowhere = tmp_path / "nowhere"
    nowhere.touch()
    program = """
import torch, pyro_expfam as pef
y = torch.ones(20, 4)
guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 4, 1))
print(guide.fit(y).converged)
"""
    assert run(program, HOME=str(nowhere), XDG_CACHE_HOME=str(nowhere)).strip() == "True"


@pytest.mark.parametrize("name", pef.__all__)
def test_every_public_name_is_there(name):
    assert getattr(pef, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'pyro_expfam' has no attribute 'pca'"):
        _ = pef.pca


def test_the_version_is_that_of_the_installed_distribution():
    assert pef.__version__ == importlib.metadata.version("pyro-expfam")


def test_folders_of_tests_are_collected_together_in_any_order(request):
    # Modules of one name stand in each other's way, and pytest would collect conftest.py for
    # examples if it were not told to leave it out.
    tests = Path(__file__).parent
    ignored = [tests / folder for folder in ("benchmarks", "mutation")]
    paths = [p for p in tests.rglob("*.py") if not any(p.is_relative_to(x) for x in ignored)]
    names = Counter(path.name for path in paths if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []
    patterns = request.config.getoption("ignore_glob")
    kept = [p for p in tests.rglob("conftest.py") if not any(fnmatch(p, x) for x in patterns)]
    assert kept == []
