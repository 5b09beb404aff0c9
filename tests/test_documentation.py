"""The programs that the documentation shows run as they stand."""

import re
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from quick_cases import slow_unless

import pyro_expfam as pef

ROOT = Path(__file__).resolve().parents[1]
LONG = [
    "docs/trust.md",
    *(
        f"docs/guide/{name}.md"
        for name in (
            "arviz",
            "convolution",
            "covariates",
            "estimator",
            "evidence",
            "families",
            "large",
            "models",
            "own",
            "reading",
            "saving",
            "uncertainty",
        )
    ),
]
"""Pages whose programs take seconds; what they show has tests of its own."""

PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
REPOSITORY = "https://github.com/pyro-expfam/pyro-expfam/"


def pages_with_programs():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    pages += sorted((ROOT / "docs" / "guide").glob("*.md"))
    home = ROOT / "docs" / "index.md"  # shows the program of the README
    return [str(page.relative_to(ROOT)) for page in pages if page != home and blocks_of(page)]


def blocks_of(page):
    return PYTHON_BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", slow_unless(lambda page: page not in LONG, pages_with_programs()))
def test_python_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    mpl.use("agg")
    # Draws are most of the time of a check, and nobody reads its numbers here.
    monkeypatch.setitem(pef.check.__wrapped__.__kwdefaults__, "num_draws", 100)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page}
    for block in blocks_of(ROOT / page):
        exec(compile(block, page, "exec"), namespace)


def test_missing_entries_of_a_gaussian_table_are_filled_in_in_its_units():
    torch.manual_seed(0)
    mean = 40 + 20 * torch.randn(200, 2) @ torch.randn(2, 8)
    y, mask = mean + 3 * torch.randn(200, 8), torch.rand(200, 8) < 0.8
    model = pef.ExpFamPCA(pef.families.Gaussian(), num_features=8, latent_dim=2)
    guide = pef.LaplaceGuide(model)
    guide.fit(y, mask=mask)
    filled = pef.impute(guide, y, mask=mask).filled
    assert filled[mask].equal(y[mask])
    error = (filled - mean)[~mask].square().mean().sqrt()
    assert error < 3


def test_the_home_page_shows_the_program_of_the_readme():
    assert blocks_of(ROOT / "docs" / "index.md") == blocks_of(ROOT / "README.md")


def test_links_of_the_readme_work_on_a_package_index():
    links = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert link.startswith("https://")
        path = re.sub(f"^{REPOSITORY}(blob|tree)/main/", "", link)
        path = path.replace("https://raw.githubusercontent.com/pyro-expfam/pyro-expfam/main/", "")
        if not path.startswith("https://"):
            assert (ROOT / path).exists()
