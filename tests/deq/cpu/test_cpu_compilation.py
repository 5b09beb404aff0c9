"""Compiled code is kept on disk, and nothing depends on what is found there."""

from types import FunctionType

import numba
import pytest

from pyro_expfam.deq.cpu.compilation import OPTIONS, compiled_once


def double(x):
    return 2.0 * x


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def files(folder, ending):
    return sorted(folder.rglob(f"*.{ending}"))


def hits(compiled):
    return sum(compiled.stats.cache_hits.values())


def test_a_second_program_finds_what_the_first_compiled(folder):
    assert compiled_once(double)(1.5) == 3.0
    assert len(files(folder, "nbi")) == len(files(folder, "nbc")) == 1
    again = compiled_once(double)
    assert again(1.5) == 3.0
    assert hits(again) == 1


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "all but the end": lambda content: content[:-1],
    "the start": lambda content: content[:1],
    "something else": lambda content: b"\x80\x05garbage.",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_a_damaged_file_is_compiled_anew_and_repaired(folder, ending, damage):
    compiled_once(double)(1.5)
    (file,) = files(folder, ending)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    damaged = compiled_once(double)
    assert damaged(1.5) == 3.0
    assert hits(damaged) == 0
    repaired = compiled_once(double)
    assert repaired(1.5) == 3.0
    assert hits(repaired) == 1


def test_a_file_that_is_gone_is_compiled_anew(folder):
    compiled_once(double)(1.5)
    files(folder, "nbc")[0].unlink()
    assert compiled_once(double)(1.5) == 3.0


def test_a_folder_that_cannot_be_written_keeps_nothing(folder):
    compiled = compiled_once(double)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()
    # A file where the folder was: whoever runs this, nothing can be written.
    folder.write_text("")
    assert compiled(1.5) == 3.0
    assert compiled_once(double)(1.5) == 3.0


@numba.njit(**OPTIONS)
def half(x):
    return 0.5 * x


def quarter(x):
    return 0.5 * half(x)


FACTOR = 3.0


def scaled(x):
    return FACTOR * quarter_of(x)


@numba.njit(**OPTIONS)
def quarter_of(x):
    return 0.5 * half(x)


@numba.njit(**OPTIONS)
def eighth_of(x):
    return 0.25 * half(x)


def with_names(function, **names):
    """The function where names stand for something else, as after a change of another file."""
    return FunctionType(function.__code__, function.__globals__ | names, function.__name__)


@pytest.mark.parametrize(
    ("names", "expected"), [({"FACTOR": 5.0}, 10.0), ({"quarter_of": eighth_of}, 3.0)]
)
def test_a_change_of_a_part_or_of_a_constant_is_compiled_anew(folder, names, expected):
    assert compiled_once(scaled)(8.0) == 6.0
    changed = compiled_once(with_names(scaled, **names))
    assert changed(8.0) == expected
    assert hits(changed) == 0
    again = compiled_once(with_names(scaled))
    assert again(8.0) == 6.0
    assert hits(again) == 1


def test_parts_belong_to_kernels(folder):
    assert compiled_once(quarter)(3.0) == 0.75
    # The part is in the kernel that comes from disk.
    again = compiled_once(quarter)
    assert again(3.0) == 0.75
    assert hits(again) == 1


@pytest.mark.parametrize("arguments", [((3.0,), {}), ((), {"x": 3.0}), ((3,), {})])
def test_python_cannot_call_a_part_by_itself(arguments):
    compiled_once(quarter)(3.0)
    positional, named = arguments
    with pytest.raises(TypeError, match="not callable"):
        half(*positional, **named)
