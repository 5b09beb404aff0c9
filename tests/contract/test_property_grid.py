"""Every row converges, over a wide grid of loadings, precisions and numbers of latents."""

import pytest
import torch
from property_grid import DTYPES, LAWS, Setting, grid, outcome

SAMPLE = [
    Setting(scale, precision, latent_dim, dtype)
    for scale, precision, latent_dim in (
        (0.1, 0.01, 32),
        (5.0, 0.01, 1),
        (5.0, 100.0, 5),
        (1.0, 1.0, 10),
        (5.0, 0.01, 32),
    )
    for dtype in DTYPES
]


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("setting", SAMPLE, ids=str)
def test_every_row_converges_and_has_no_score_left(name, setting):
    found = outcome(LAWS[name], setting)
    assert found.converged == found.rows
    assert found.wrong == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_every_row_of_the_whole_grid(name):
    for number, setting in enumerate(grid()):
        torch.manual_seed(number)
        found = outcome(LAWS[name], setting)
        assert found.converged == found.rows, setting
        assert found.wrong == 0, setting
