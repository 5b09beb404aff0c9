"""What a comparison of numbers of latents takes and shows, beside its scores."""

import math

import pandas as pd
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.selection import LatentDim, LatentDims


def counts(num_rows, num_features):
    return torch.poisson(torch.exp(torch.randn(num_rows, 1) @ torch.randn(1, num_features) / 2))


def test_the_text_of_a_comparison_holds_the_scores_of_every_number():
    rows = (
        LatentDim(1, -1234.567, -1300.25, 12.5, 40.75, 6.125, 0.875, 1.5),
        LatentDim(3, -1200.0, -1259.5, 11.0, 0.0, 0.0, 1.25, 2.0),
        LatentDim(4, *[math.nan] * 6, 0.5),
    )
    lines = repr(LatentDims(rows, 9)).splitlines()
    assert lines[0].split() == list(LatentDim._fields[1:])
    first, second = (" ".join(line.split()) for line in lines[-4:-2])
    assert first == "1 -1,234.57 -1,300.25 12.50 40.75 6.12 0.88 1.50"
    assert second == "3 -1,200.00 -1,259.50 11.00 0.00 0.00 1.25 2.00"
    assert lines[-2].split()[:3] == ["4", "NaN", "NaN"]
    assert lines[-1] == "best: 3"


@pytest.mark.parametrize("dtype", ["Int64", pytest.param("Float64", marks=pytest.mark.slow)])
def test_a_nullable_frame_and_labelled_rows_are_read_as_labels_say(dtype):
    y = counts(8, 8)
    labels = [f"place {number}" for number in range(8)]
    frame = pd.DataFrame(y.numpy(), index=labels).astype(dtype)
    frame.iloc[2, 3] = pd.NA
    by_row = torch.linspace(-0.5, 0.5, 8)
    found = pef.compare_latent_dims(
        pef.families.Poisson(),
        frame,
        [1],
        offset=pd.Series(by_row.numpy(), index=labels),
        mask=frame.notna(),
        num_folds=2,
    )
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[2, 3] = False
    expected = pef.compare_latent_dims(
        pef.families.Poisson(), y, [1], offset=by_row[:, None], mask=mask, num_folds=2
    )
    for name in ("evidence", "held_out", "loading_scale"):
        value = getattr(expected.rows[0], name)
        assert getattr(found.rows[0], name) == pytest.approx(value, rel=1e-9)
