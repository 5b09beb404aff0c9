"""One thing that a check found."""

from __future__ import annotations

from typing import NamedTuple

OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"


class Finding(NamedTuple):
    """One thing that a check found.

    Attributes:
        level: ``"ok"``, ``"note"`` for something to keep in mind, or ``"PROBLEM"``.
        subject: the subject, in a word.
        text: the finding, and what to do about it.
    """

    level: str
    subject: str
    text: str
