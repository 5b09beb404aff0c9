"""The run of a guide whose model is a single block, without a run of the model.

The block alone says which problem its latents solve. A run of the model under a handler would find
the same, and takes as long again as the solver.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_expfam.deq.likelihood_at_root import AtRoot
from pyro_expfam.guides.latent_messenger import Answers, TableCheck
from pyro_expfam.models import Answer, ExpFamPCA
from pyro_expfam.models.annotations import infer
from pyro_expfam.runtime.handlers import computes_loss, plate_sizes

_COEFFICIENTS = {"loading": 2, "intercept": 1}
"""The latents upstream of a block that it reads, with their dimensions."""

_OF_TABLE = frozenset(
    ("y", "offset", "mask", "weights", "covariates", "num_rows", "rows", "latent_loc")
)
"""The arguments of a block that samples latents of its own."""


def call_of_block(
    model: Any, values: Mapping[str, Tensor], plates: Mapping[str, Any], args: Any, kwargs: Any
) -> dict[str, Any] | None:
    """The arguments by name of a call of a block that needs no run, or None.

    None where the model is not a block, or its latents depend on other numbers than observations,
    loading and intercept; where there are batch dimensions; and where arguments are wrong, of which
    the model's own run tells.

    Args:
        model: the model.
        values: the values of all latents upstream, by name.
        plates: plates that exist already, by name.
        args: of the model.
        kwargs: of the model.
    """
    is_block = type(model) is ExpFamPCA and not (model._forward_hooks or model._forward_pre_hooks)
    if not is_block or not model.reads_loading_and_intercept_alone:
        return None
    if plates or plate_sizes() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return None
    for name, dim in _COEFFICIENTS.items():
        value = values.get(name)
        if value is None or value.dim() != dim:
            return None
    names = _names_of_arguments()
    call = dict(zip(names, args, strict=False))
    if len(args) > len(names) or call.keys() & kwargs.keys():
        return None
    call |= kwargs
    given = {name for name, value in call.items() if value is not None}
    return call if "y" in given and given <= _OF_TABLE else None


def answer_block(
    block: ExpFamPCA,
    values: Mapping[str, Tensor],
    answers: Answers,
    call: Mapping[str, Any],
    check: TableCheck,
) -> dict[str, Tensor]:
    """Samples the latents of a block as its guide answers them.

    Args:
        block: the block, which is the model.
        values: the values of loading and intercept, by name.
        answers: how to answer.
        call: the arguments of the block, as :func:`call_of_block` found them.
        check: raises an error if the observations do not fit the guide.

    Returns:
        The latents by name.
    """
    site, table = block.latents_given(values["loading"], values["intercept"], call)
    name, problem = block.site_name("z"), site.problem
    assert problem is not None
    check(name, site.arguments)
    if answers.solve_with_likelihood is not None and computes_loss():
        found = answers.solve_with_likelihood(name, problem, site.rows)
    else:
        found = AtRoot(answers.solve(name, problem, site.rows, torch.Size()))
    posterior = answers.posterior(problem, found.solution)
    record = Answer(
        problem,
        found.solution.value,
        posterior,
        ((block, site.arguments),),
        found.log_likelihood,
        found.log_prior,
        table.observed,
    )
    with table.plate:
        return {name: pyro.sample(name, posterior, infer=infer(record))}


@cache
def _names_of_arguments() -> tuple[str, ...]:
    return tuple(inspect.signature(ExpFamPCA.forward).parameters)[1:]
