"""Small tables are fitted in one thread, and the number of threads is as before afterwards."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.guides import table_fit
from pyro_expfam.runtime.one_thread import one_thread


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
