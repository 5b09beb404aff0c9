"""Compiled code is kept on disk, and nothing depends on what is found there."""

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
