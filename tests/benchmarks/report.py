"""Results of the benchmarks as sections of a page."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from math import isinf, log

import torch
from evidence_fits import EvidenceResult
from held_out import PACKAGE_METHOD, HeldOutResult
from laplace import LaplaceResult, PyroLaplaceResult
from large_counts import LargeResult
from optimum import GAPS, OptimumResult
from page import commit, processor, table
from peer_gaps import PeerGaps
from poisson_pca import LATENT_DIM, PeerResult
from reduced_rank import ReducedRankResult
from scaling import ScalingResult
from solving import PACKAGE, SolveResult
from step import StepResult
from training import Run, TrainingResult

COMMON = ("torch", "pyro-ppl", "numpy")
PACKAGES = {
    "solving": (*COMMON, "torchdeq"),
    "training": COMMON,
    "peers": (*COMMON, "fastglmpca", "glmpca", "pyPLNmodels"),
    "peer-gaps": (*COMMON, "fastglmpca", "glmpca"),
    "optimum": (*COMMON, "pyPLNmodels"),
    "evidence": COMMON,
    "scaling": COMMON,
}


def machine_section(part: str) -> str:
    """Where, when and with what the results of a part were measured."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES.get(part, COMMON))
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} at commit {commit()}, on {processor()}, "
        f"{torch.get_num_threads()} threads, {platform.system()}, "
        f"Python {platform.python_version()}, {versions}."
    )


def training_section(results: Sequence[TrainingResult]) -> str:
    """Seconds, ratios and objectives of training."""
    rows = []
    for result in results:
        runs = {
            "paper's method, as published": result.published,
            "the same by Gaussian elimination": result.elimination,
            f"{PACKAGE}, SVI": result.package,
            f"{PACKAGE}, `guide.fit`": result.joint,
        }
        for name, run in runs.items():
            ratio = f"{result.published.seconds / run.seconds:.1f}"
            rows.append([result.family, name, f"{run.seconds:.1f}", ratio, *_outcome(run)])
    heading = ["family", "method", "seconds", "times faster", "objective", "steps skipped"]
    return (
        f"### Training: {results[0].epochs} epochs of {results[0].steps // results[0].epochs} "
        "steps\n\n" + table(heading, rows)
    )


def _outcome(run: Run) -> list[str]:
    return [f"{run.objective:,.0f}", str(run.skipped_steps)]


def step_section(results: Sequence[StepResult]) -> str:
    """The table of steps of SVI."""
    rows = [
        ("on" if result.validation else "off", name, f"{best:.2f}", f"{usual:.2f}")
        for result in results
        for name, (best, usual) in (
            (f"{PACKAGE}, `DEQMAPGuide`", result.package),
            ("plain Pyro, `AutoDelta`", result.plain),
        )
    ]
    heading = ("Pyro's validation", "guide", "least, ms", "tenth percentile, ms")
    title = (
        "### A step of SVI on 500 rows of 50 bits with 2 latents, in processor time of one thread"
    )
    return f"{title}\n\n{table(heading, rows)}"


def solving_section(results: Sequence[SolveResult]) -> str:
    """Seconds, ratios and rows that are left unsolved."""
    package = {r.loading_factor: r.seconds for r in results if r.solver == PACKAGE}
    rows = []
    for result in results:
        ours = package[result.loading_factor]
        if result.seconds is None or ours is None:
            seconds, ratio, score = "stops: singular matrix", "", ""
        else:
            seconds, score = f"{result.seconds:.3f}", f"{result.largest_score:.1e}"
            ratio = "" if result.solver == PACKAGE else f"{result.seconds / ours:.1f}"
        factor = f"{result.loading_factor:g}"
        rows.append([factor, result.solver, seconds, ratio, f"{result.unsolved:,}", score])
    heading = ["loading x", "solver", "seconds", "ratio", "rows unsolved", "largest score"]
    return "### Solving all 42,453 rows\n\n" + table(heading, rows)


def laplace_section(
    results: Sequence[LaplaceResult], pyro_results: Sequence[PyroLaplaceResult]
) -> str:
    """Seconds of covariances by number of rows."""
    rows = [
        [
            f"{r.num_rows:,}",
            f"{r.solve:.4f}",
            f"{r.posterior:.4f}",
            f"{r.posterior / r.solve:.2f}",
            f"{1e6 * r.posterior / r.num_rows:.2f}",
        ]
        for r in results
    ]
    heading = ["rows", "solve, s", "solve and covariances, s", "ratio", "microseconds a row"]
    pyro_rows = [
        [
            str(r.num_rows),
            f"{r.pyro:.3f}",
            f"{r.package:.5f}",
            f"{r.pyro / r.package:,.0f}",
            f"{r.largest_difference:.1e}",
        ]
        for r in pyro_results
    ]
    pyro_heading = ["rows", "AutoLaplaceApproximation, s", f"{PACKAGE}, s", "ratio", "difference"]
    return (
        "### Laplace covariances\n\n"
        + table(heading, rows)
        + "\n\nBeside `AutoLaplaceApproximation` at the same latents, with the largest difference "
        "of an entry of a row's covariance:\n\n" + table(pyro_heading, pyro_rows)
    )


def poisson_pca_section(results: Sequence[PeerResult]) -> str:
    """Seconds to the log likelihoods that peers come to."""
    rows = [
        [
            r.table,
            f"{r.peer}, {r.iterations} iterations",
            f"{r.peer_log_likelihood:,.0f}",
            f"{r.gap:.0e}",
            f"{r.peer_seconds:.1f}",
            f"{r.seconds:.2f} ({r.sweeps})",
            f"{r.peer_seconds / r.seconds:.0f}" if r.gap > 0 else "",
        ]
        for r in results
    ]
    heading = ["table", "peer", "log likelihood", "gap", "seconds"]
    heading += [f"{PACKAGE}, seconds (sweeps)", "times faster"]
    largest = max(r.penalty for r in results)
    return (
        f"### Poisson PCA with {LATENT_DIM} latents, to what a peer comes to\n\n"
        "The gap is to the log likelihood of `guide.fit` at rest, as a part of it. Where it is "
        "negative, the peer has found a better optimum than `guide.fit` from its own starts.\n\n"
        + table(heading, rows)
        + f"\n\nThe penalties of the package's priors are at most {largest:.0e} of the objective."
    )


def peer_gaps_section(results: Sequence[PeerGaps]) -> str:
    """Processor seconds of peers to small gaps of the log likelihood, beside the package."""
    rows = [
        [
            r.table,
            r.peer,
            f"{r.iterations:,}",
            *(_times(*seconds, r.seconds) for seconds in zip(r.theirs, r.ours, strict=True)),
            f"{r.end:.0e}",
        ]
        for r in results
    ]
    gaps = [f"to {gap:.0e}, s" for gap in GAPS]
    heading = ["table", "peer", "iterations", *gaps, "gap of the peer at its end"]
    return (
        f"### Poisson PCA with {LATENT_DIM} latents, on the way to the optimum\n\n"
        f"Processor seconds of one thread, peer / {PACKAGE}, to gaps of the log likelihood "
        "relative to the best one known, and in brackets their ratio. A peer that has not reached "
        "a gap in its time takes longer (>).\n\n"
        + table([*heading, "gap of the peer at its end"], rows)
    )


def _times(theirs: float, ours: float, most: float) -> str:
    """The seconds of a peer and of the package, and their ratio."""
    more, theirs = (">", most) if isinf(theirs) else ("", theirs)
    return f"{more}{theirs:.0f} / {ours:.2f} ({more}{theirs / ours:.0f})"


def held_out_section(results: Sequence[HeldOutResult]) -> str:
    """Seconds to convergence, and log likelihoods of held-out counts."""
    (ours,) = (r.seconds for r in results if r.method == PACKAGE_METHOD)
    rows = [
        [
            r.method,
            f"{r.seconds:.2f}",
            f"{r.seconds / ours:.1f}" if r.method.startswith("PlnPCA") else "",
            r.outcome,
            f"{r.log_likelihood:,.0f}",
        ]
        for r in results
    ]
    heading = ["method", "seconds", "ratio", "end", "held-out log likelihood"]
    return "### Single cells, 5 latents, to convergence\n\n" + table(heading, rows)


def optimum_section(results: Sequence[OptimumResult]) -> str:
    """Processor seconds to small gaps of the objective, of a plain iteration and of the package."""
    rows = [
        [
            r.table,
            r.priors,
            str(r.latent_dim),
            *(f"{plain:.2f} / {ours:.2f}" for plain, ours in zip(r.plain, r.package, strict=True)),
            f"{r.plain_end:.0e} / {r.package_end:.0e}",
        ]
        for r in results
    ]
    gaps = [f"to {wanted:.0e}, s" for wanted in GAPS]
    heading = ["table", "priors", "latents", *gaps, "gap at the end"]
    return (
        "### The way to the optimum\n\n"
        "Processor seconds of one thread, alternating Newton steps / `guide.fit`, to gaps relative "
        "to the best objective known; `inf` where the gap was not reached.\n\n"
        + table(heading, rows)
    )


def evidence_section(results: Sequence[EvidenceResult]) -> str:
    """Seconds of joint fits and of fits of the evidence."""
    rows = [
        [
            r.family,
            f"{r.shape[0]:,} x {r.shape[1]:,}",
            str(r.latent_dim),
            f"{r.joint:.2f}",
            *(f"{x:.2f} ({x / r.joint:.1f})" for x in (r.evidence, r.second, r.posterior)),
        ]
        for r in results
    ]
    heading = ["family", "table", "latents", "joint, s", "evidence, s", "to second order, s"]
    heading += ["evidence and posterior of coefficients, s"]
    return (
        "### Fits of the evidence\n\nFits from nothing to rest with default priors; in brackets "
        "the ratio to the joint fit.\n\n" + table(heading, rows)
    )


def reduced_rank_section(r: ReducedRankResult) -> str:
    """Seconds to the end of a fit by glmmTMB and by the package."""
    heading = ["method", "seconds", "ratio", "log likelihood", "end"]
    end = "at rest" if r.peer_is_at_rest else "stopped at its limit of iterations"
    covariance = "covariances" if r.peer_has_covariance else "covariances, which are no numbers"
    with_covariance = r.peer_seconds + r.peer_covariance_seconds
    theirs, ours = f"{r.peer_log_likelihood:,.4f}", f"{r.log_likelihood:,.4f}"
    name, fit = f"glmmTMB {r.version}", f"{PACKAGE}, `LaplaceGuide.fit`"
    ratios = (r.peer_seconds / r.without_posterior, with_covariance / r.seconds)
    rows = [
        [name, f"{r.peer_seconds:.1f}", "", theirs, end],
        [fit, f"{r.without_posterior:.2f}", f"{ratios[0]:.0f}", ours, "at rest"],
        [f"{name}, and {covariance}", f"{with_covariance:.1f}", "", theirs, end],
        [
            f"{fit} and the posterior of the coefficients",
            f"{r.seconds:.2f}",
            f"{ratios[1]:.0f}",
            ours,
            "at rest",
        ],
    ]
    return (
        "### Evidence of reduced-rank models\n\n"
        f"{r.shape[0]:,} x {r.shape[1]} counts, 2 latents, flat priors, one thread each. The "
        "likelihood of both is the same Laplace approximation. Ratios are to the row above.\n\n"
        + table(heading, rows)
    )


def large_section(r: LargeResult) -> str:
    """Seconds and memory of a fit of more than a million rows."""
    heading = ["rows", "zeros", "largest count", "fit to rest, s", "of which starts, s"]
    heading += ["sweeps", "posterior, s", "GB beside the table: fit", "with posterior"]
    row = [
        f"{r.num_rows:,}",
        f"{r.share_of_zeros:.0%}",
        f"{r.largest:,.0f}",
        f"{r.fit:.1f}",
        f"{r.starts:.1f}",
        str(r.sweeps),
        f"{r.posterior:.1f}",
        *(f"{x:.2f}" for x in r.gigabytes),
    ]
    return (
        "### Counts of 500 features with 10 latents, joint fit\n\nWith default priors and an "
        "offset per row. The posterior is the covariance of every row's latents.\n\n"
        + table(heading, [row])
    )


def scaling_section(results: Sequence[ScalingResult]) -> str:
    """Microseconds a row by number of rows."""
    rows = [
        [
            f"{r.num_rows:,}",
            f"{r.solve:.3f}",
            f"{1e6 * r.solve / r.num_rows:.3f}",
            f"{r.fit:.2f}",
            str(r.sweeps),
            f"{1e6 * r.fit_by_row_and_sweep:.3f}",
        ]
        for r in results
    ]
    heading = ["rows", "solve, s", "microseconds a row"]
    heading += ["`guide.fit`, s", "sweeps", "microseconds a row and sweep"]
    return (
        "### Rows of a Bernoulli table\n\n"
        + table(heading, rows)
        + "\n\nFrom the first to the last table the time of solving grows as the power "
        f"{_growth(results, [r.solve for r in results]):.2f} of the rows, and the time of a "
        f"sweep as the power {_growth(results, [r.fit / r.sweeps for r in results]):.2f}."
    )


def _growth(results: Sequence[ScalingResult], seconds: Sequence[float]) -> float:
    """The power of the number of rows by which seconds grow."""
    rows = results[-1].num_rows / results[0].num_rows
    return log(seconds[-1] / seconds[0]) / log(rows)
