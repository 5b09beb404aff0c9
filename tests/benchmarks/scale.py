"""Tables beyond memory and beyond one process: memory, and seconds per entry and sweep.

Each fit runs in processes of its own, since the peak of memory is that of a process.

Run ``python tests/benchmarks/scale.py disk --rows 10000000`` for a table in Zarr against one in
memory, and ``python tests/benchmarks/scale.py processes`` for 1, 2 and 4 processes of one thread
each, with the cost model of docs/scale.md. Results go to the terminal, one line of JSON each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import zarr
from torch import distributed

import pyro_expfam as pef

SEED = 20260301
NUM_COLUMNS, LATENT_DIM = 200, 5
PART_PRESENT = 0.05
CHUNK = 50_000
IN_MEMORY = 1_800_000
"""Rows of the table in memory beside a larger one on disk. Both are then too large for a fit that
remembers steps of their latents, and are fitted in the same way."""


def rows_of_table(begin: int, end: int) -> np.ndarray:
    """Some rows of a Poisson table with one entry in twenty present, as bytes.

    They are the same whatever process asks for them.
    """
    parts = []
    for number in range(begin // CHUNK, -(-end // CHUNK)):
        first = number * CHUNK
        parts.append(chunk(number)[max(begin - first, 0) : end - first])
    return np.concatenate(parts)


def chunk(number: int) -> np.ndarray:
    """A chunk of rows of the table, as bytes."""
    generator = np.random.default_rng([SEED, number])
    loading = np.random.default_rng(SEED).normal(0, 0.4, (LATENT_DIM, NUM_COLUMNS))
    z = generator.normal(size=(CHUNK, LATENT_DIM)).astype(np.float32)
    # The mean of exp(z W) is exp(|W|^2 / 2).
    shift = np.log(PART_PRESENT) - 0.5 * np.square(loading).sum(0)
    rate = np.exp(z @ loading.astype(np.float32) + shift.astype(np.float32))
    return generator.poisson(rate).clip(max=255).astype(np.uint8)


def write(path: Path, rows: int) -> None:
    """Writes the table to Zarr, chunk by chunk."""
    array = zarr.create_array(
        str(path), shape=(rows, NUM_COLUMNS), chunks=(CHUNK, NUM_COLUMNS), dtype="uint8"
    )
    for begin in range(0, rows, CHUNK):
        end = min(begin + CHUNK, rows)
        array[begin:end] = rows_of_table(begin, end)


def fit(source: str, rows: int, max_sweeps: int) -> None:
    """Fits a table, alone or as one of several processes, and prints what it took."""
    threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    if threads:
        torch.set_num_threads(threads)
    is_one_of_many = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if is_one_of_many:
        distributed.init_process_group("gloo")
    processes = "all" if is_one_of_many else None
    number = distributed.get_rank() if is_one_of_many else 0
    count = distributed.get_world_size() if is_one_of_many else 1
    if source == "memory":
        y = rows_of_table(rows * number // count, rows * (number + 1) // count)
    else:
        y = pef.tables.zarr(source)
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), NUM_COLUMNS, LATENT_DIM))
    # The first fit compiles its kernels.
    first = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), NUM_COLUMNS, LATENT_DIM))
    first.fit(rows_of_table(0, 1000), max_time=1e-9, progress=False)
    begin, clock = time.perf_counter(), []
    found = guide.fit(
        y,
        processes=processes,
        max_sweeps=max_sweeps,
        # The start from the residuals: further starts take as long for every table.
        num_starts=1,
        progress=False,
        callback=lambda sweep: (
            clock.append(time.process_time()) if math.isfinite(sweep.objective) else None
        ),
    )
    seconds = time.perf_counter() - begin
    sweeps = found.sweeps[-1].number
    begin_of_sweeps = found.sweeps[0].seconds
    evaluations = max(sweeps, 1) * rows * NUM_COLUMNS
    result = {
        "source": "memory" if source == "memory" else "zarr",
        "rows": rows,
        "processes": count,
        "threads": torch.get_num_threads(),
        "sweeps": sweeps,
        "converged": found.converged,
        "objective": found.objective,
        "seconds": seconds,
        "seconds to the first sweep": begin_of_sweeps,
        "ns per entry and sweep": 1e9 * (found.seconds - begin_of_sweeps) / evaluations,
        # Of the first process, on whatever else the machine does.
        "processor ns per entry and sweep": 1e9 * (clock[-1] - clock[0]) / evaluations
        if clock
        else None,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if number == 0:
        print(json.dumps(result), flush=True)
    if is_one_of_many:
        distributed.destroy_process_group()


def run(arguments: Sequence[str], processes: int = 1, threads: int | None = None) -> dict:
    """What a fit in processes of its own has printed."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}"]
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        [*command, __file__, "fit", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(result), flush=True)
    return result


def disk(rows: int, max_sweeps: int, rows_in_memory: int) -> None:
    """A table in Zarr, beside a smaller one in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.zarr"
        write(path, rows)
        in_memory = run(["memory", str(min(rows, rows_in_memory)), str(max_sweeps)])
        on_disk = run([str(path), str(rows), str(max_sweeps)])
    name = "ns per entry and sweep"
    print(f"peak {on_disk['peak MB']:,.0f} MB, {on_disk[name] / in_memory[name]:.2f} times as long")


def processes(rows: int, max_sweeps: int, most: int) -> None:
    """Processes of one thread, and the cost model: seconds of a sweep by rows of a process."""
    results = []
    for count in [k for k in (1, 2, 4) if k <= most]:
        for size in (rows // 8, rows // 2, rows):
            results.append(run(["memory", str(size), str(max_sweeps)], count, threads=1))
    base = {r["rows"]: r for r in results if r["processes"] == 1}
    name = "ns per entry and sweep"
    for r in results:
        speed = base[r["rows"]][name] / r[name]
        print(f"{r['processes']} processes, {r['rows']:,} rows: {speed:.2f} times as quick as one")
    design = np.array([[r["rows"] * NUM_COLUMNS / r["processes"], 1.0] for r in results])
    sweeps = np.array([r[name] * 1e-9 * r["rows"] * NUM_COLUMNS for r in results])
    (entry, fixed), *_ = np.linalg.lstsq(design / sweeps[:, None], np.ones(len(sweeps)))
    print(f"a sweep: {entry * 1e9:.2f} ns per entry of a process, and {fixed * 1e3:.1f} ms")


def main() -> None:
    """Runs what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("disk", "processes"):
        command = commands.add_parser(name)
        command.add_argument("--rows", type=int, default=400_000)
        command.add_argument("--sweeps", type=int, default=500)
        if name == "disk":
            command.add_argument("--in-memory", type=int, default=IN_MEMORY)
        else:
            command.add_argument("--most", type=int, default=os.cpu_count() or 1)
    command = commands.add_parser("fit")
    command.add_argument("source")
    command.add_argument("rows", type=int)
    command.add_argument("sweeps", type=int)
    given = parser.parse_args()
    if given.command == "fit":
        fit(given.source, given.rows, given.sweeps)
    elif given.command == "disk":
        disk(given.rows, given.sweeps, given.in_memory)
    else:
        processes(given.rows, given.sweeps, given.most)


if __name__ == "__main__":
    main()
