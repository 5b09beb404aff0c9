"""Systems of all lanes, solved at once."""

import numpy as np
import pytest

pytest.importorskip("numba")

import numba

from pyro_expfam.deq.cpu.evaluation import LANES, STRIDE
from pyro_expfam.deq.cpu.linear_algebra import factor_memory, solve_lanes

RANDOM = np.random.default_rng(0)


@numba.njit
def compute(information, vector, smallest_pivot, solution, resolved):
    factor = factor_memory(len(vector), vector)
    solve_lanes(information, vector, smallest_pivot, solution, resolved, factor)


def solve(matrices, vectors, dtype, smallest_pivot=0.0):
    """Solutions, and which matrices are resolved."""
    size = matrices.shape[-1]
    row, column = np.tril_indices(size)
    information = np.zeros((len(row), STRIDE), dtype)
    information[:, :LANES] = matrices[:, row, column].T
    vector = np.ascontiguousarray(vectors.T.astype(dtype))
    solution, resolved = np.empty_like(vector), np.empty(LANES, np.bool_)
    compute(information, vector, dtype(smallest_pivot), solution, resolved)
    return solution.T, resolved


def random_systems(size):
    roots = RANDOM.normal(size=(LANES, size, size + 3))
    return roots @ roots.swapaxes(1, 2) + np.eye(size), RANDOM.normal(size=(LANES, size))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-3), (np.float64, 1e-11)])
def test_solutions_are_those_of_numpy(dtype, tolerance):
    for size in (1, 2, 3, 4, 5, 8, 11, 64):
        matrices, vectors = random_systems(size)
        solution, resolved = solve(matrices, vectors, dtype)
        assert resolved.all()
        expected = np.linalg.solve(matrices, vectors[..., None])[..., 0]
        np.testing.assert_allclose(solution, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1, 3, 6])
def test_only_positive_definite_matrices_with_digits_are_resolved(size):
    matrices, vectors = random_systems(size)
    expected = np.ones(LANES, bool)
    for lane, entry in ((3, -1.0), (40, np.inf), (77, np.nan), (90, 0.0)):
        matrices[lane, -1, -1] = entry
        expected[lane] = False
    # The pivot of the last latent is a millionth of its diagonal entry.
    root = np.linalg.cholesky(matrices[5])
    root[-1, -1] = 1e-3 * np.linalg.norm(root[-1, :-1])
    matrices[5] = root @ root.T
    for smallest_pivot in (0.0, 1e-4):
        expected[5] = smallest_pivot == 0 and size > 1
        solution, resolved = solve(matrices, vectors, np.float64, smallest_pivot)
        assert (resolved == expected).all()
        assert np.isfinite(solution[resolved]).all()
