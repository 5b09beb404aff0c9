"""Interpolated starts are off by the third power of the spacing."""

import numpy as np
import pytest

pytest.importorskip("numba")

from pyro_expfam.deq.cpu.start import INTERPOLATE, Grid, Warp, nodes, tangents, warp


def smooth(x, latent_dim):
    """A function of statistics, ``(N, l)``, with curvature in all directions."""
    mixed = x.sum(1) + 0.5 * x[:, 0] * x[:, -1]
    return np.stack([np.sin(mixed + k) + 0.1 * x[:, k] ** 3 for k in range(latent_dim)], 1)


def largest_error(size, latent_dim):
    statistics = np.random.default_rng(3).uniform(-1, 1, (2_000, latent_dim))
    grid = Grid.around(statistics)
    grid = Grid(grid.low, grid.spacing * (grid.size - 1) / (size - 1), size)
    start = np.full_like(statistics, np.nan)
    at_nodes = tangents(grid, smooth(nodes(grid), latent_dim))
    INTERPOLATE[latent_dim](*grid, at_nodes, statistics, start, 0, len(start))
    return np.abs(start - smooth(statistics, latent_dim)).max()


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_the_error_is_of_third_order(latent_dim):
    coarse, fine = largest_error(11, latent_dim), largest_error(41, latent_dim)
    assert fine < coarse / 4**2.7


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_a_quadratic_is_exact(latent_dim):
    statistics = np.random.default_rng(4).uniform(-2, 3, (500, latent_dim))
    grid = Grid.around(statistics)

    def quadratic(x):
        return np.stack([(x @ x.T).diagonal() + k * x[:, 0] for k in range(latent_dim)], 1)

    start = np.empty_like(statistics)
    at_nodes = tangents(grid, quadratic(nodes(grid)))
    INTERPOLATE[latent_dim](*grid, at_nodes, statistics, start, 0, len(start))
    np.testing.assert_allclose(start, quadratic(statistics), rtol=1e-10, atol=1e-10)


def test_rows_are_written_from_begin_to_end():
    statistics = np.random.default_rng(5).normal(size=(100, 2))
    grid = Grid.around(statistics)
    start = np.full_like(statistics, np.nan)
    INTERPOLATE[2](*grid, tangents(grid, nodes(grid)), statistics, start, 20, 30)
    np.testing.assert_allclose(start[20:30], statistics[20:30], atol=1e-12)
    assert np.isnan(start[:20]).all()
    assert np.isnan(start[30:]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_warp_has_an_inverse_also_where_all_statistics_are_the_same(dtype):
    draws = np.random.default_rng(6).lognormal(0, 3, (3_000, 2)).astype(dtype)
    for statistics in (draws, np.ones((50, 2), dtype)):
        counts = Warp.of(statistics)
        place = np.full_like(statistics, np.nan)
        warp(*counts, statistics, place, 0, len(place))
        assert np.isfinite(place).all()
        back = counts.statistics(place)
        # A value close to zero is exact up to a rounding of the centre.
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(back, statistics, rtol=200 * eps, atol=20 * eps)
