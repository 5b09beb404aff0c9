"""Processes that need the same kernel at once."""

import multiprocessing
import os
import threading

import pytest

pytest.importorskip("numba")
pytest.importorskip("fcntl")

import numba

from pyro_expfam.deq.cpu import one_compiler
from pyro_expfam.deq.cpu.compilation import compiled_once
from pyro_expfam.deq.cpu.one_compiler import one_at_a_time


def triple(x):
    return 3.0 * x


def call(folder, barrier, answers):
    numba.config.CACHE_DIR = folder
    compiled = compiled_once(triple)
    barrier.wait()
    answers.put((compiled(1.5), sum(compiled.stats.cache_hits.values())))


def test_one_process_compiles_and_the_others_load(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.Queue()
    arguments = (str(tmp_path), barrier, answers)
    processes = [context.Process(target=call, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    found = sorted(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(10)
    assert found == [(4.5, 0), (4.5, 1), (4.5, 1)]
    assert list(tmp_path.rglob("*.lock")) == []


def test_the_second_waits_until_the_first_is_done(tmp_path):
    path, order = tmp_path / "kernel.lock", []

    def second():
        with one_at_a_time(path):
            order.append("second")

    thread = threading.Thread(target=second)
    with one_at_a_time(path):
        thread.start()
        thread.join(5 * one_compiler.PAUSE)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_an_error_frees_the_lock(tmp_path):
    path = tmp_path / "kernel.lock"
    with pytest.raises(ZeroDivisionError), one_at_a_time(path):
        raise ZeroDivisionError
    with one_at_a_time(path):
        pass


def test_nobody_waits_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(one_compiler, "LONGEST_WAIT", 3 * one_compiler.PAUSE)
    path, order = tmp_path / "kernel.lock", []
    with one_at_a_time(path), one_at_a_time(path):
        order.append("both")
    assert order == ["both"]


def test_nobody_waits_where_nothing_can_be_written(tmp_path):
    place = tmp_path / "a file"
    place.write_text("")
    with one_at_a_time(place / "kernel.lock"):
        assert os.path.isfile(place)
