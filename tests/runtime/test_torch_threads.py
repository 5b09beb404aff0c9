"""Small tables are fitted in one thread, and the number of threads is as before afterwards."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.guides import table_fit
from pyro_expfam.runtime.torch_threads import num_threads, one_thread, threads_for_kernels


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_is_as_before_after_an_error(two_threads):
    with pytest.raises(ValueError, match="'1 thread'"), one_thread():
        int(f"{torch.get_num_threads()} thread")
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("most", "expected"), [(None, 1), (0, 2)])
def test_a_small_table_is_fitted_in_one_thread(two_threads, monkeypatch, most, expected):
    if most is not None:
        monkeypatch.setattr(table_fit, "ENTRIES_OF_ONE_THREAD", most)
    seen = []
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, 2))
    y = torch.poisson(torch.exp(torch.randn(40, 6)))
    guide.fit(y, callback=lambda sweep: seen.append(torch.get_num_threads()))
    assert set(seen) == {expected}
    assert torch.get_num_threads() == 2


def test_kernels_have_the_threads_that_pytorch_leaves_them(two_threads):
    with threads_for_kernels():
        assert torch.get_num_threads() == 1
        assert num_threads() == 2
        with threads_for_kernels():
            assert num_threads() == 2
    assert torch.get_num_threads() == num_threads() == 2
    with one_thread(), threads_for_kernels():
        assert num_threads() == 1


@pytest.mark.parametrize(
    ("family", "of_pytorch"), [(pef.families.Poisson(), 1), (pef.families.Beta(2.0), 2)], ids=repr
)
def test_pytorch_leaves_the_processors_to_kernels_where_they_do_the_work(
    two_threads, monkeypatch, family, of_pytorch
):
    pytest.importorskip("numba")
    y = torch.rand(20_000, 6).clamp(0.1, 0.9) if of_pytorch == 2 else torch.ones(20_000, 6)
    table = pef.joint.TableInMemory(family, 6, torch.zeros(()), y)
    problem = pef.joint.JointProblem(table, torch.ones(()), 1.0, 1.0)
    seen = []

    def of_rows(place, rows):
        seen.append(torch.get_num_threads())
        return ()

    problem.sum_by_kernels(of_rows, torch.zeros(6, 3), 2)
    assert set(seen) == {of_pytorch}
