"""A file of tensors and plain data, which says whether it came back whole.

The file is in the format of safetensors, which holds numbers and texts and never code. Its texts
are the plain data as JSON and a checksum of everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

FORMAT = 1
"""The number of the layout of the plain data. Files of another number are refused."""

PROGRAM = "pyro-expfam"


class FileError(ValueError):
    """A file is not what it should be; nothing has been changed."""


GUIDE = "guide"
"""The kind of a file that does not say its kind."""


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], plain: Any, kind: str = GUIDE
) -> None:
    """Writes tensors and plain data; a file that is there is replaced at once or not at all.

    Args:
        path: the file.
        tensors: the tensors by name.
        plain: what JSON can hold.
        kind: what the file is, in words.

    Raises:
        OSError: if the folder does not exist, or the disk is full.
    """
    # Parts of one memory and views in another order are no tensors of the format.
    own = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    text = json.dumps(plain)
    texts = {"program": PROGRAM, "format": str(FORMAT), "plain": text, "sum": _checksum(own, text)}
    texts["kind"] = kind
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path must be in a folder that exists, got {os.fspath(path)!r}")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save(own, texts))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
        _flush_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _flush_folder(folder: Path) -> None:
    """Makes sure that a new name outlives a loss of power, where a folder can be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # Not every file system can.
    finally:
        os.close(handle)


def read_tensors(path: str | os.PathLike[str], kind: str = GUIDE) -> tuple[dict[str, Tensor], Any]:
    """The tensors and the plain data of a file.

    Args:
        path: the file.
        kind: what the file is to be, in words.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it is no such file, is cut short, has changed, or is of another format.
    """
    data = Path(path).read_bytes()
    try:
        tensors = load(data)
        texts = _texts(data)
    except (ValueError, KeyError, SafetensorError) as error:
        raise FileError(f"{path} is no {_described(kind)}, or it is cut short: {error}") from error
    if texts.get("program") != PROGRAM:
        raise FileError(f"{path} holds tensors, but is no {_described(kind)}")
    if texts.get("kind", GUIDE) != kind:
        raise FileError(f"{path} is a {_described(texts.get('kind', GUIDE))}")
    if texts.get("format", str(FORMAT)) != str(FORMAT):
        raise FileError(
            f"{path} has format {texts['format']}, but this version of the package reads format "
            f"{FORMAT}: load it with the version that has written it"
        )
    if set(texts) - {"kind"} != {"program", "format", "plain", "sum"}:
        raise FileError(f"{path} has changed since it was written: its header is another one")
    if texts["sum"] != _checksum(tensors, texts["plain"]):
        raise FileError(f"{path} has changed since it was written: its checksum is another one")
    return tensors, json.loads(texts["plain"])


def _described(kind: str) -> str:
    return "file that guide.save has written" if kind == GUIDE else kind


def _texts(data: bytes) -> dict[str, str]:
    """The texts in the header of a file of safetensors."""
    size = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return found


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
