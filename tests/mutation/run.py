"""Estimates the share of small wrong changes to the package that its tests notice.

mutmut makes the changes, one at a time. Of each part of the package a random sample is tried
against the tests of that part, since all changes against all tests would take days. Run it with
``python tests/mutation/run.py``; ``--help`` lists the options.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PARTS = {
    "families": ["tests/families"],
    "deq": ["tests/deq"],
    "evidence": ["tests/evidence"],
    "joint": [
        "tests/joint",
        "tests/guides/test_table_fit.py",
        "tests/guides/test_learnt_scale.py",
    ],
    "coefficients": [
        "tests/coefficients",
        "tests/guides/test_global_posterior.py",
        "tests/guides/test_hyperparameters.py",
        "tests/guides/test_learnt_scale.py",
        "tests/selection",
    ],
    "guides": ["tests/guides", "tests/test_losses.py"],
    "checks": ["tests/checks"],
    "selection": ["tests/selection"],
}
"""The folders of the package and the tests of each."""

LEFT_OUT = {
    "deq": ["pyro_expfam/deq/cpu/*", "pyro_expfam/deq/cuda/*"],
    "guides": [],
}
"""Compiled kernels, whose text mutmut cannot change."""

SLOW_TESTS = ["tests/deq/cuda", "tests/guides/test_against_nuts.py", "tests/joint/test_memory.py"]
"""Tests that take long and repeat what quicker ones show."""

LIBRARIES = "INSIDE = frozenset({"
"""Where the package lists what lies between a user's line and the code that warns."""


def main() -> None:
    """Runs the parts that are asked for and prints the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"among {list(PARTS)}")
    parser.add_argument("--sample", type=int, default=40, help="changes per part")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutation")
    options = parser.parse_args()
    noticed = tried = 0
    for part in options.parts:
        found = run_part(part, options)
        survivors = sorted(name for name, code in found.items() if code in (0, 33))
        noticed, tried = noticed + len(found) - len(survivors), tried + len(found)
        print(f"{part}: {len(found) - len(survivors)} of {len(found)} noticed")
        for name in survivors:
            print(f"  survived: {name}")
            show(options.folder / part, name)
        sys.stdout.flush()
    share = noticed / tried
    error = math.sqrt(share * (1 - share) / tried)
    print(f"all: {noticed} of {tried} noticed, {share:.1%} (standard error {error:.1%})")


def run_part(part: str, options: argparse.Namespace) -> dict[str, int]:
    """The exit code of the tests by the name of each change that was tried."""
    folder = options.folder / part
    make_copy(part, folder)
    # A pattern that matches nothing makes all changes and measures the tests, and tries none.
    mutmut(folder, options.processes, "nothing*")
    names = [name for name in results(folder) if "__init__" not in name]
    if not names:
        raise RuntimeError(f"the tests of {part} fail without any change: see {folder}/mutmut.log")
    chosen = random.Random(options.seed).sample(sorted(names), min(options.sample, len(names)))
    mutmut(folder, options.processes, *chosen)
    found = results(folder)
    return {name: code for name in chosen if (code := found[name]) is not None}


def make_copy(part: str, folder: Path) -> None:
    """Copies the tracked files of the repository, with the settings of mutmut for a part."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    # mutmut puts a frame of its own between any function and its caller.
    warning = folder / "pyro_expfam" / "user_warning.py"
    warning.write_text(warning.read_text().replace(LIBRARIES, f'{LIBRARIES}"mutmut", '))
    ignored = [f"--ignore={path}" for path in SLOW_TESTS]
    settings = {
        "source_paths": ["pyro_expfam"],
        "only_mutate": [f"pyro_expfam/{part}/*"],
        "do_not_mutate": LEFT_OUT.get(part, []),
        "also_copy": ["conftest.py", "README.md", "CHANGELOG.md", "docs", "examples"],
        "pytest_add_cli_args_test_selection": PARTS[part],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-q", *ignored],
        "process_isolation": ["forkserver"],
    }
    lines = ["[mutmut]"]
    for key, values in settings.items():
        if key == "process_isolation":
            lines.append(f"{key} = {values[0]}")
        elif values:
            lines += [f"{key} =", *(f"    {value}" for value in values)]
    (folder / "setup.cfg").write_text("\n".join(lines) + "\n")


def mutmut(folder: Path, processes: int, *names: str) -> None:
    """Runs mutmut on some changes."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(processes), *names]
    with (folder / "mutmut.log").open("a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, env=environment, check=False)


def results(folder: Path) -> dict[str, int | None]:
    """The exit code of the tests by the name of every change, None where it was not tried."""
    found: dict[str, int | None] = {}
    for path in (folder / "mutants").rglob("*.meta"):
        found.update(json.loads(path.read_text())["exit_code_by_key"])
    return found


def show(folder: Path, name: str) -> None:
    """Prints a change."""
    command = [sys.executable, "-m", "mutmut", "show", name]
    text = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    print(
        "\n".join(
            f"    {x}" for x in text.splitlines() if x[:1] in "+-" and x[:3] not in ("+++", "---")
        )
    )


if __name__ == "__main__":
    main()
