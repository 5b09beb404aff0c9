"""One thing that a check found."""

from __future__ import annotations

from typing import NamedTuple

OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"


class Finding(NamedTuple):
    """One thing that a check found.

    Attributes:
        level: ``"ok"``, ``"note"`` for what to keep in mind, or ``"PROBLEM"``.
        subject: what it is about, in a word.
        text: what it is, and what to do about it.
    """

    level: str
    subject: str
    text: str
