"""The page of results, whose parts are between markers of their own."""

import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"


def write_part(part: str, sections: Sequence[str]) -> None:
    """Replaces what is between the markers of a part of the page."""
    begin, end = f"<!-- {part}:begin -->", f"<!-- {part}:end -->"
    before, rest = PAGE.read_text(encoding="utf-8").split(begin, 1)
    after = rest.split(end, 1)[1]
    body = "\n\n".join(sections)
    PAGE.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}", encoding="utf-8")


def processor() -> str:
    """The model of the processor, where the system tells."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The short hash of the commit, with a plus where the code has changed since."""
    code = ["pyro_expfam", "tests/benchmarks"]
    try:
        name = git("rev-parse", "--short", "HEAD")
        return name + ("+" if git("status", "--porcelain", "--", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git(*arguments: str) -> str:
    """What a git command prints."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
