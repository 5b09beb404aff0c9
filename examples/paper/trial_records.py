"""Trials as files: one JSON file per trial, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def path_of(folder: Path, family: str, trial: int) -> Path:
    """The file of a trial."""
    return folder / f"{family.lower().replace(' ', '_')}_{trial:03d}.json"


def write(path: Path, record: Record) -> None:
    """Writes a record; an interruption leaves either the whole file or none."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def is_done(path: Path, settings: Record) -> bool:
    """Whether a trial has been run with these settings.

    Raises:
        ValueError: if the file holds a trial with other settings.
    """
    if not path.exists():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))["settings"]
    if found != settings:
        raise ValueError(f"{path} must hold a trial with {settings}, got one with {found}")
    return True


def read_all(folder: Path) -> list[Record]:
    """All records of a folder, in the order of their names."""
    files = sorted(folder.glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]
