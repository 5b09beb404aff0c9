"""Evidence and LOO by number of latents."""

import numpy as np
import pytest

from pyro_expfam.plots import plot_evidence

NUMBER, EVIDENCE, LOO = [4, 1, 2], [-90.0, -120.0, -85.0], [-80.0, -110.0, -81.0]


def test_lines_are_the_values_in_order(ax):
    assert plot_evidence(NUMBER, EVIDENCE, loo=LOO, ax=ax) is ax
    evidence, loo = (container.lines[0] for container in ax.containers)
    np.testing.assert_array_equal(evidence.get_xdata(), [1, 2, 4])
    np.testing.assert_array_equal(evidence.get_ydata(), [-120, -85, -90])
    np.testing.assert_array_equal(loo.get_ydata(), [-110, -81, -80])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["evidence", "LOO"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["4", "1", "2"]
    assert ax.get_title() == "Evidence and LOO"


def test_rings_mark_the_largest():
    ax = plot_evidence(NUMBER, EVIDENCE, loo=LOO)
    rings = [line.get_xydata()[0] for line in ax.lines if line.get_markerfacecolor() == "none"]
    np.testing.assert_array_equal(rings, [[2, -85], [4, -80]])


def test_bars_are_one_standard_error():
    ax = plot_evidence(NUMBER, EVIDENCE, evidence_se=[3.0, 1.0, 2.0])
    _, _, (bars,) = ax.containers[0]
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, [[-121, -119], [-87, -83], [-93, -87]])


def test_evidence_alone_has_no_legend():
    ax = plot_evidence(NUMBER, EVIDENCE)
    assert ax.get_legend() is None
    assert ax.get_ylabel() == "log evidence (nats)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_latents": []}, r"num_latents must be of shape \(K,\), got \(0,\)"),
        ({"evidence": [1.0]}, r"evidence must be of shape \(3,\), got \(1,\)"),
        ({"evidence_se": [1.0]}, r"evidence_se must be of shape \(3,\), got \(1,\)"),
        ({"loo": [[1.0]]}, r"loo must be of shape \(3,\), got \(1, 1\)"),
        ({"loo_se": LOO}, "loo_se must be left out if there is no loo"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_evidence(**{"num_latents": NUMBER, "evidence": EVIDENCE, **arguments})
