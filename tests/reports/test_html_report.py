"""The report of a fit on one page."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.reports.page import Page

F = pef.families


class Parsed(HTMLParser):
    """The headings, the pictures and the open tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.sources, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def fitted(family, latent_dim, num_features=6, globals="laplace"):
    torch.manual_seed(0)
    eta = torch.randn(120, 2) @ torch.randn(2, num_features * family.predictors_per_column) / 2
    drawn = F.Poisson().sample(eta) if family == F.Multinomial() else family.sample(eta)
    y = family.decode(drawn)
    frame = pd.DataFrame(y.numpy(), columns=[f"a<{k}>" for k in range(num_features)])
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, num_features, latent_dim), globals=globals)
    guide.fit(frame)
    return guide, frame


CASES = {
    "counts": (F.Poisson(), 2, "laplace"),
    "one latent": (F.Bernoulli(), 1, None),
    "real numbers": (F.Gaussian(1.0), 2, None),
    "categories": (F.Categorical(3), 2, None),
    "compositions": (F.Multinomial(), 1, None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_page_stands_alone_and_has_every_section(case, tmp_path):
    family, latent_dim, globals = CASES[case]
    guide, frame = fitted(family, latent_dim, globals=globals)
    pef.report(guide, frame, tmp_path / "fit.html", title="A & B", num_samples=30)
    text = (tmp_path / "fit.html").read_text()
    page = Parsed(text)
    assert page.open == []
    assert page.headings == [
        "A & B",
        "What can be trusted",
        "What the latents explain",
        "Loadings",
        "Rows",
        "Columns against their predictions",
    ]
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == (3 if case == "compositions" else 5)
    assert "a<1>" not in text, "names of columns are escaped"
    assert "a&lt;1&gt;" in text
    assert not re.search(r"\bnan\b", text)


def test_texts_and_tables_are_escaped():
    page = Page("<script>")
    page.note("a < b")
    page.text("c & d")
    page.table(pd.DataFrame({"<x>": [1.0]}))
    text = page.html()
    assert "<script>" not in text
    assert "a &lt; b" in text
    assert "c &amp; d" in text
    assert "&lt;x&gt;" in text


def test_a_report_is_of_a_single_block(tmp_path):
    with pytest.raises(TypeError, match="guide must be a guide of this package"):
        pef.report(object(), torch.zeros(3, 2), tmp_path / "fit.html")
