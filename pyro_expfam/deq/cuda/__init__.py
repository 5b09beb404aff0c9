"""Fused kernels for CUDA devices, written in Triton: solving, gradients and row evidence.

Each kernel streams the features past a block of rows whose latents, score and information stay in
registers. Nothing of size rows x features is written, except a gradient that has that size.
Products are computed in float32, or as set by ``torch.set_float32_matmul_precision``.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec

import torch

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Family

LARGEST_LATENT_DIM = 32
"""The most latents for which the information of a row fits into the registers of a program."""

LARGEST_LEVELS = 16
"""The most levels of a category that a program takes at once."""

LARGEST_SEARCHED = 16
"""The most latents of rows that search along their steps, in float64."""

LINKS = ("probit", "complementary_log_log")
"""Links of bits and counts that the kernels have."""

COMPILED = ("identity", "exponential", "logistic", "continuous_bernoulli", "softmax", *LINKS)
"""Activations that the kernels have."""


def has_kernels(problem: LatentProblem) -> bool:
    """Whether kernels can compute with a problem without batch dimensions."""
    return (
        type(problem.map) is Dense
        and problem.map.device.type == "cuda"
        and problem.map.dtype == torch.float32
        and problem.latent_dim <= _largest_latent_dim(problem.family)
        and not problem.batch_shape
        and has_activation(problem.family)
        and _triton_is_installed()
    )


def _largest_latent_dim(family: Family) -> int:
    return LARGEST_SEARCHED if family.self_concordance is None else LARGEST_LATENT_DIM


def has_activation(family: Family) -> bool:
    """Whether the kernels have the activation of a family."""
    activation = activation_of(family)
    if activation is None or activation.levels > LARGEST_LEVELS:
        return False
    return activation.name in COMPILED


def has_evidence(problem: LatentProblem) -> bool:
    """Whether there are kernels for the evidence of a problem too: of canonical families."""
    if not has_kernels(problem) or problem.family.predictors_per_column > 1:
        return False
    return problem.entries.statistic is not None


@cache
def _triton_is_installed() -> bool:
    found = find_spec("triton") is not None
    if not found:
        logging.getLogger(__name__).warning(
            "Triton is not installed: CUDA tables are solved by PyTorch operations, more slowly"
        )
    return found
