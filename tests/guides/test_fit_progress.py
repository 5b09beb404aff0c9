"""The progress line of a fit says where it is, and about how long it still takes."""

import io
import math

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.guides.fit_progress import FitProgress
from pyro_expfam.joint import Sweep


def line_after(*sweeps, tol=1e-6, num_rows=1000):
    line = FitProgress(False, num_rows, tol)
    for sweep in sweeps:
        line.show(Sweep(*sweep))
    return line


def test_a_geometric_decrement_gives_the_seconds_left():
    wanted = 1e-6 * (1 + 5.0)
    line = line_after(*((k, -5.0, wanted * 10.0 ** (6 - k), 2.0 * k) for k in range(4)))
    assert line.seconds_left() == pytest.approx(6.0)
    assert line.rows_a_second() == pytest.approx(500.0)
    assert line.text() == (
        "fit: sweep 3, objective -5.00, 6.0 s, about 6 s left, decrement 6.0e-03, 500 rows/s"
    )


def test_hours_are_written_as_a_clock():
    line = line_after((0, 1.0, 1e3, 0.0), (1, 1.0, 1e2, 1800.0), tol=0.5e-1)
    assert "about 01:30:00 left, decrement" in line.text()


@pytest.mark.parametrize("decrement", [0.0, -1.0, math.nan, math.inf, 2.0])
def test_without_progress_there_is_no_guess(decrement):
    line = line_after((0, 1.0, 1.0, 0.0), (1, 1.0, decrement, 1.0), num_rows=None)
    assert line.seconds_left() is None
    assert "left" not in line.text()
    assert "rows" not in line.text()


def test_a_narrow_terminal_shows_the_seconds_left():
    sweeps = [(1000 + k, 12_345_678_901.23 - k, 1e9 * 0.9**k, 1000.0 + k) for k in range(4)]
    text = line_after(*sweeps, num_rows=10_000_000).text()
    assert text.startswith("fit: sweep 1003, objective 12,345,678,898.23, 1003.0 s, about")
    # A bar cuts its line one short of the width.
    assert "left" in text[:79]
    assert "rows/s" in text


@pytest.mark.several_starts
def test_starts_that_are_compared_have_no_objective_to_show(monkeypatch):
    y = torch.poisson(torch.ones(30, 4))
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 4, 1)).fit(y, progress=True)
    assert "inf" not in stream.getvalue()
    line = line_after((0, math.inf, math.inf, 5.0), (0, 3.0, 2.0, 6.0), (1, 2.0, 1.0, 7.0))
    assert line.text().startswith("fit: sweep 1, objective 2.00, 7.0 s, about")
    assert line.rows_a_second() == pytest.approx(1000.0)


def test_a_fit_draws_it_if_asked(capsys, monkeypatch):
    y = torch.poisson(torch.ones(30, 4))
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 4, 1))
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    guide.fit(y)
    assert stream.getvalue() == ""
    guide.fit(y, progress=True)
    assert "fit: sweep" in stream.getvalue()
    assert "rows/s" in stream.getvalue()
