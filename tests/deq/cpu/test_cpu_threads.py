"""Work on spans of rows by threads."""

import pytest
import torch

from pyro_expfam.deq.cpu.threads import in_threads, spans


def test_every_row_is_in_one_span():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    rows = spans(1_000, 10, worth_a_thread=100)
    few = spans(1_000, 10, worth_a_thread=100_000)
    torch.set_num_threads(threads)
    assert [begin for begin, _ in rows[1:]] == [end for _, end in rows[:-1]]
    assert (rows[0][0], rows[-1][1], len(rows)) == (0, 1_000, 3)
    assert few == [(0, 1_000)]


def test_results_come_in_the_order_of_the_spans():
    assert in_threads(lambda begin, end: end - begin, [(0, 3), (3, 4), (4, 9)]) == [3, 1, 5]


@pytest.mark.parametrize("span", [(0, 1), (2, 3)])
def test_an_error_on_a_span_is_raised(span):
    def work(begin, end):
        if (begin, end) == span:
            raise ValueError("on this span")

    with pytest.raises(ValueError, match="on this span"):
        in_threads(work, [(0, 1), (1, 2), (2, 3)])
