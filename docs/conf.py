"""Configuration of the documentation."""

import importlib.metadata
import shutil
import warnings
from pathlib import Path

import matplotlib as mpl
from sphinx.application import Sphinx
from sphinx_gallery.sorting import ExplicitOrder

import pyro_expfam

mpl.use("agg")
warnings.filterwarnings("ignore", category=FutureWarning, module="arviz")

REPOSITORY = "https://github.com/pyro-expfam/pyro-expfam"

project = "pyro-expfam"
author = "The pyro-expfam authors"
project_copyright = author
release = pyro_expfam.__version__
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build",
    # Tables that another page includes.
    "paper_results.md",
    "paper_seconds.md",
    "paper_maps.md",
    "start/index.rst",
    "**/GALLERY_HEADER.rst",
    "**/sg_execution_times.rst",
]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
math_eqref_format = "({number})"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
# Attributes of data classes are described in the class docstring; listing each once is enough.
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": ["../examples/start", "../examples/gallery"],
    "gallery_dirs": ["start", "gallery"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": ExplicitOrder(
        [
            "get_started.py",
            "digits.py",
            "convolution.py",
            "cells.py",
            "oaks.py",
            "choosing.py",
            "mixed_survey.py",
            "questionnaire.py",
            "abilities.py",
            "supervised.py",
            "labels.py",
            "two_views.py",
            "batches.py",
            "groups.py",
            "space.py",
            "restarts.py",
        ]
    ),
    "download_all_examples": False,
    "image_srcset": ["2x"],
    "min_reported_time": 10_000,
    "reset_modules": ("matplotlib",),
    # An example shows what this version of the package prints, whether its script changed or not.
    "run_stale_examples": True,
    "show_memory": False,
    "show_signature": False,
}

html_theme = "furo"
html_title = f"pyro-expfam {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "navigation_with_keys": True,
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
    "footer_icons": [{"name": "Repository", "url": REPOSITORY, "html": "Repository", "class": ""}],
}

# One file draws all mathematics as SVG: no fonts, and nothing from a network.
MATHJAX = "tex-svg-full.js"
mathjax_path = MATHJAX


def copy_mathjax(app: Sphinx) -> None:
    """Puts MathJax, which a package brings along, beside the pages."""
    if app.builder.format != "html":
        return
    files = importlib.metadata.files("sphinx-mathjax-offline") or []
    source = next(file for file in files if file.name == MATHJAX)
    target = Path(app.outdir) / "_static" / MATHJAX
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(str(source.locate()), target)


def setup(app: Sphinx) -> None:
    """Adds what this documentation needs to Sphinx."""
    app.connect("builder-inited", copy_mathjax)
