"""The public face of the checks: one call, and a report that reads as text."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro.infer.autoguide import AutoGuideList

from pyro_expfam.checks.block import BlockCheck, check_block
from pyro_expfam.checks.findings import NOTE, PROBLEM, Finding, findings
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.guides import BlockGuide, BlockRoot
from pyro_expfam.guides.table_fit import check_trained
from pyro_expfam.inference_mode import outside_inference_mode
from pyro_expfam.models import ExpFamPCA

WIDTH = 92
LABEL = "  {:<8} {:<10} "


@dataclass(frozen=True, eq=False)
class Report:
    """What :func:`check` found; as text it says so in words.

    Attributes:
        blocks: the numbers of every block by its name, which is empty where it is the model.
        findings: what they mean, by the same name.
    """

    blocks: dict[str, BlockCheck]
    findings: dict[str, list[Finding]]

    @property
    def problems(self) -> list[Finding]:
        """The findings that are problems."""
        return [found for of in self.findings.values() for found in of if found.level == PROBLEM]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def __str__(self) -> str:
        parts = [_text(block, self.findings[name]) for name, block in self.blocks.items()]
        return "\n\n".join([*parts, self._verdict()])

    def __repr__(self) -> str:
        return str(self)

    def _verdict(self) -> str:
        everything = [found for of in self.findings.values() for found in of]
        notes = sum(found.level == NOTE for found in everything)
        noted = f"{notes} {'note' if notes == 1 else 'notes'}"
        if self.ok:
            return f"No problem was found, with {noted} to keep in mind."
        subjects = ", ".join(dict.fromkeys(found.subject for found in self.problems))
        count = len(self.problems)
        return f"{count} {'problem' if count == 1 else 'problems'}: {subjects}; and {noted}."


@outside_inference_mode()
def check(
    model: Callable[..., Any],
    guide: Any,
    *args: Any,
    num_draws: int = 1000,
    **kwargs: Any,
) -> Report:
    r"""What of a fit can be trusted, and what not: a report in words, with its numbers.

    Of every block it says whether

    - the latents of all rows are at the root of their score;
    - loading and intercept are at an optimum, of the joint density or the evidence; whether columns
      that are all zero, or a flat prior, keep them from one; whether all latents are used, and in
      keeping with their prior;
    - the Laplace posterior of each row is near the true one, by the Pareto diagnostic of
      importance sampling;
    - its evidence is right, to first and second order, against importance sampling;
    - the posterior means are near the root.

    Rows are checked at the medians of what the guide says of loading and intercept, and training
    where it has come to, which for ``LaplaceGuide(model, globals="laplace")`` is the mode; how far
    these are uncertain themselves is not looked at. Importance sampling takes ``num_draws``
    evaluations of the whole table: for a large one, some of its rows will do.

    Args:
        model: the model of the guide.
        guide: a guide of this package, or an :class:`~pyro.infer.autoguide.AutoGuideList` with
            one.
        *args: positional arguments of the model and the guide.
        num_draws: draws of each row's latents, at least 50; with fewer than 1,000 the Pareto
            diagnostic is too uncertain to say much.
        **kwargs: keyword arguments of the model and the guide.

    Returns:
        The :class:`~pyro_expfam.checks.Report`; print it.

    Raises:
        TypeError: if ``guide`` is no guide of this package.
        ValueError: if ``guide`` is of another model or has diverged, a table has batch dimensions,
            or ``num_draws`` is below 50.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
        >>> model = pef.ExpFamPCA(pef.families.Poisson(), num_features=6, latent_dim=2)
        >>> guide = pef.DEQMAPGuide(model)
        >>> fit = guide.fit(y)
        >>> report = pef.check(model, guide, y)
        >>> print(report)
        Poisson table of 100 rows and 6 features, with 2 latents
          ok       solving    the latents of all 100 rows are at the root of the score.
          ok       training   loading and intercept are at an optimum of the joint density: ...
        >>> bool(report.blocks[""].rows.converged.all())
        True
    """
    blocks: dict[str, BlockCheck] = {}
    for root, trained in _roots(model, guide, args, kwargs):
        is_whole_model = isinstance(model, ExpFamPCA)
        blocks[root.block.name] = check_block(root, trained, is_whole_model, num_draws)
    return Report(blocks, {name: findings(block) for name, block in blocks.items()})


def _roots(model: Any, guide: Any, args: Any, kwargs: Any) -> list[tuple[BlockRoot, BlockRoot]]:
    """Of every block the latents at the medians, and where training has come to."""
    listed: list[Any] = list(guide) if isinstance(guide, AutoGuideList) else [guide]
    parts: list[Any] = [part for part in listed if isinstance(part, BlockGuide)]
    if not parts:
        raise TypeError(
            "guide must be a guide of this package, such as pyro_expfam.LaplaceGuide, or a list "
            f"with one, got {type(guide).__name__}"
        )
    if guide.model is not model:
        raise ValueError(f"guide must be of the same model, got one of {guide.model!r}")
    with warnings.catch_warnings():
        # The report says so itself.
        warnings.simplefilter("ignore", ConvergenceWarning)
        roots = [
            (root, part.trained_root(root))
            for part in parts
            for root in part.roots(*args, **kwargs)
        ]
    for _, trained in roots:
        check_trained(trained.problem.W, trained.problem.b)
    return roots


def _text(block: BlockCheck, found: list[Finding]) -> str:
    latents = f"{block.latent_dim} {'latent' if block.latent_dim == 1 else 'latents'}"
    title = (
        f"{block.family} table of {block.num_rows:,} rows and {block.num_features:,} features, "
        f"with {latents}"
    )
    lines = [f"{block.name}: {title}" if block.name else title]
    for level, subject, text in found:
        label = LABEL.format(level, subject)
        lines.append(
            textwrap.fill(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label))
        )
    return "\n".join(lines)
