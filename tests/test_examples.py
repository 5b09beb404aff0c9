"""The examples run as they stand."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PROGRAMS = [
    EXAMPLES / f"{name}.py"
    for name in ("quickstart", "evidence", "laplace_workflow", "svi_data_parallel")
]
PAGES = [*sorted(EXAMPLES.glob("start/*.py")), *sorted(EXAMPLES.glob("gallery/*.py"))]


@pytest.mark.slow
@pytest.mark.parametrize("program", [*PROGRAMS, *PAGES], ids=lambda path: path.stem)
def test_an_example_runs(program):
    environment = {**os.environ, "MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "ignore", str(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_page_of_the_gallery_is_in_its_order():
    order = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    assert len(PAGES) >= 7
    for page in PAGES:
        assert f'"{page.name}"' in order


@pytest.mark.slow
def test_a_source_distribution_has_what_the_suite_needs(tmp_path):
    build = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        packed = {name.partition("/")[2] for name in files.getnames()}
    for folder in ("pyro_expfam", "tests", "examples", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            made = {"output", "_build", "__pycache__"} & set(path.parts)
            if not made and path.parts[-2:-1] not in (("start",), ("gallery",)):
                assert str(path.relative_to(ROOT)) in packed
    assert {"conftest.py", "constraints.txt", "Makefile", "README.md", "LICENSE"} <= packed
    assert {"docs/images/cells.png", "examples/gallery/digits.py", "docs/guide/index.md"} <= packed
