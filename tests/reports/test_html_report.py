"""The report of a fit on one page."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from quick_cases import slow_unless

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


@pytest.mark.parametrize(
    "case",
    # The mixed table below has one latent, categories, numbers and counts.
    slow_unless(lambda case: case == "compositions", CASES),
)
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


def test_a_mixed_table_has_its_families_levels_and_covariates_by_name(tmp_path):
    random = np.random.default_rng(0)
    z = random.normal(size=(150, 1))
    frame = pd.DataFrame(
        {
            "size": z[:, 0] + random.normal(size=150),
            "length": 5 * z[:, 0] + random.normal(size=150),
            "share": random.beta(1, 1, 150),
            "colour": pd.Categorical(
                np.where(z[:, 0] + random.normal(size=150) > 1, "red", "blue")
            ),
            "shape": pd.Categorical(random.choice(["round", "square", "flat"], 150)),
        }
    )
    frame.loc[3, "size"] = np.nan
    frame.loc[4, "share"] = 1.0
    covariates = pd.DataFrame({"age": random.normal(size=150)})
    family = F.Columns.from_frame(frame, {"share": F.ContinuousBernoulli()})
    model = pef.ExpFamPCA(family, latent_dim=1, num_covariates=1, missing="nan")
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(frame, covariates=covariates, progress=False)
    names = pef.rotate(guide).names
    assert names == ["size", "length", "share", "colour", *(f"shape={x}" for x in FLAT)]
    pef.report(guide, frame, tmp_path / "fit.html", covariates=covariates, num_samples=20)
    text = (tmp_path / "fit.html").read_text()
    page = Parsed(text)
    assert "Covariates" in page.headings
    assert "of a family per column, 150 rows, 5 columns, 1 latents, 1 covariates" in text
    for wanted in ("Gaussian(scale=", "shape=square", "age low", ">q<"):
        assert wanted in text
    # Each column has a scale of its own, not a list of the scales of all columns.
    assert "Gaussian(scale=[" not in text
    # A share of 1 has a density without a bound, and so no deviance; the rest of the page is there.
    assert "ContinuousBernoulli, of column &#x27;share&#x27;, has no bound" in text
    with pytest.raises(ValueError, match="ContinuousBernoulli, of column 'share', has no bound"):
        pef.explained_deviance(guide, frame, covariates=covariates)


FLAT = ["flat", "round", "square"]


def test_posteriors_are_described_without_their_numbers():
    guide, _ = fitted(F.Poisson(), 2)
    described = "CoefficientPosterior(num_features=6, num_coefficients=3, num_rotations=1)"
    assert repr(guide.coefficients) == described
    torch.manual_seed(0)
    y = torch.poisson(torch.distributions.Gamma(0.5, 0.1).sample((100, 5)))
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.NegativeBinomial(), 5, 1), globals="laplace")
    guide.fit(y, progress=False)
    assert repr(guide.coefficients).startswith("JointPosterior(num_features=5, ")
    assert repr(guide.coefficients.parameters) == "ParameterPosterior(5 size)"
