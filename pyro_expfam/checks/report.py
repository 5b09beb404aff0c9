"""The call that checks a fit, and its report."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro.infer.autoguide import AutoGuideList

from pyro_expfam.checks.block import BlockCheck, check_group
from pyro_expfam.checks.finding import NOTE, PROBLEM, Finding
from pyro_expfam.checks.findings import SECTIONS, findings
from pyro_expfam.checks.rows_of_processes import check_processes, with_processes
from pyro_expfam.checks.start_findings import start_findings
from pyro_expfam.deq.inference_mode import outside_inference_mode
from pyro_expfam.deq.processes import Processes, processes_of
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.guides import BlockGuide, BlockRoot
from pyro_expfam.guides.fitted_guide import on_its_device
from pyro_expfam.guides.group_root import GroupRoot
from pyro_expfam.guides.table_fit import check_trained
from pyro_expfam.models import ExpFamPCA

WIDTH = 92
LABEL = "  {:<8} {:<10} "


@dataclass(frozen=True, eq=False)
class Report:
    """The results of :func:`check`; printed, it is a text.

    Attributes:
        blocks: the numbers of every block by its name, which is empty if the block is the model.
        findings: the findings of every block, by the same name.
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
    processes: Any = None,
    **kwargs: Any,
) -> Report:
    r"""Checks a fit: a report on what can be trusted, in words and numbers.

    The report answers three questions about the table of every block, with advice for an answer of
    no.

    - *Could the fitted model have made this table?* The table is compared with 30 tables that are
      drawn from the fitted model and fitted in the same way: how many entries lie in their 90%
      predictive intervals, how much entries vary around their means, how many are zero, how far off
      the most surprising are, what columns still share, and which columns and rows stand out.
    - *Is the fit finished?* Latents are at the root of their score. Loading and intercept are at an
      optimum of the joint density or of the evidence of everything that the latents depend on, and
      no column keeps them from it. All latents are used, and agree with their prior.
    - *If the model is right, are its posterior and evidence right?* This checks only the normal
      around the root, also for a model that does not fit: the Pareto shapes of importance weights,
      the evidence to both orders against quadrature (up to 2 latents) or importance sampling,
      whether latents explain more than independent columns do, and how far posterior means are from
      the root. With ``globals="laplace"`` it names columns whose loading and intercept have a
      posterior too skew for a normal.

    The latents may depend on several tables, labels and other sites. The answers about the latents
    are then at the first of these tables, which says what they depend on. Each table is compared
    with tables like it by itself: latents are drawn given everything, and found again from the
    drawn table alone, as from the observed one.

    Rows are checked at the medians of loading and intercept under the guide. The fit to the table
    and the training are checked at the coefficients at the end of training, which for
    ``LaplaceGuide(model, globals="laplace")`` are the mode. Importance sampling takes ``num_draws``
    evaluations of the whole table: for a large table, pass some of its rows. The fit to the table
    is checked on at most 131,072 entries, from evenly spaced rows. If an argument is a data frame,
    its labels name rows and columns.

    Several processes check one table together with ``processes="all"``, in a script that
    ``torchrun`` starts. Each passes rows of its own, at least one, of a single block, and all have
    the report of the whole table. What is not drawn at random is what one process would find, up to
    rounding. Twelve numbers per row go to every process, and so do the rows from which tables are
    compared.

    Source: Gelman, Meng and Stern (1996) for comparisons with replicates; Vehtari et al. (2024) for
    the Pareto shape.

    Args:
        model: the model of the guide.
        guide: a guide of this package, or an :class:`~pyro.infer.autoguide.AutoGuideList` with
            one.
        *args: positional arguments of the model and the guide.
        num_draws: draws of each row's latents, at least 50; with fewer than 1,000 the Pareto
            diagnostic is uncertain.
        processes: the processes that hold the rows, as for ``guide.fit``.
        **kwargs: keyword arguments of the model and the guide.

    Returns:
        The :class:`~pyro_expfam.checks.Report`; print it.

    Raises:
        TypeError: if ``guide`` is not a guide of this package.
        ValueError: if ``guide`` belongs to another model or has diverged, a table has batch
            dimensions, or ``num_draws`` is below 50; if several processes check latents that depend
            on several tables, or one of them has no rows.
        ~pyro_expfam.joint.ProcessesError: if another process has stopped.

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
        <BLANKLINE>
        Could the fitted model have made this table?
          ok       coverage   90% intervals of the fitted model hold ...
        >>> bool(report.blocks[""].rows.converged.all())
        True
    """
    group = processes_of(processes, on_its_device(model))
    with group.together():
        found = {
            block.name: block
            for part, root, trained in _roots(model, guide, group, args, kwargs)
            for block in check_group(
                root,
                trained,
                isinstance(model, ExpFamPCA),
                num_draws,
                [*args, *kwargs.values()],
                part.unreliable_columns(),
            )
        }
    # Only the fit of a single table has several starts.
    starts = guide._trained_guide()._starts if isinstance(guide, BlockGuide) else ()
    of_starts = list(start_findings(starts))
    return Report(found, {name: [*findings(block), *of_starts] for name, block in found.items()})


def _roots(
    model: Any, guide: Any, processes: Processes, args: Any, kwargs: Any
) -> list[tuple[BlockGuide, GroupRoot, GroupRoot]]:
    """The guide and the latents of every group, at the medians and at the end of training."""
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
        # The report lists rows that have not converged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        roots = [
            (part, root, _trained(part, root))
            for part in parts
            for root in part.group_roots(*args, **kwargs)
        ]
    for _, root, _ in roots:
        check_processes(root, processes)
    for _, _, trained in roots:
        for table in trained.tables:
            if table.sites.block.linear_map is not None:
                raise ValueError(
                    "model must have dense loadings for check, got a block with linear_map="
                    f"{table.sites.block.linear_map}: take guide.log_evidence of held-out rows, "
                    "and guide.sample_stats for the convergence of rows"
                )
            check_trained(*(table.likelihood.fields[name] for name in ("W", "b")))
    return [
        (part, with_processes(root, processes), with_processes(trained, processes))
        for part, root, trained in roots
    ]


def _trained(part: BlockGuide, root: GroupRoot) -> GroupRoot:
    """The root of a group under the coefficients that training has come to."""
    if not root.group.is_single_table:
        return root
    (table,) = root.tables
    _, problem, solution, _ = part.trained_root(BlockRoot(table.sites, root.problem, root.solution))
    at_end = table._replace(likelihood=problem, alone=problem, z=solution.value)
    return root._replace(problem=problem, solution=solution, tables=(at_end,))


def _text(block: BlockCheck, found: list[Finding]) -> str:
    latents = f"{block.latent_dim} {'latent' if block.latent_dim == 1 else 'latents'}"
    owner = block.conditioning.shared_with
    title = (
        f"{block.family_name} table of {block.num_table_rows:,} rows and {block.num_features:,} "
        f"features, with {latents if owner is None else f'the {latents} of {owner}'}"
        f"{'' if block.row_effect is None else f' and {block.row_effect} row effects'}"
    )
    lines = [f"{block.name}: {title}" if block.name else title]
    for question, subjects in SECTIONS.items():
        answers = [_line(finding) for finding in found if finding.subject in subjects]
        if answers:
            lines += ["", question, *answers]
    return "\n".join(lines)


def _line(finding: Finding) -> str:
    label = LABEL.format(finding.level, finding.subject)
    return textwrap.fill(
        finding.text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label)
    )
