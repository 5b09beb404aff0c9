"""Compiled kernels for CPUs, by Numba: checking, solving and gradients.

Each kernel loads a block of rows into the lanes of the processor's vectors and steps through the
features with all lanes at once. Nothing of size rows x features is written.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.deq.activation import Activation, activation_of, evidence_activation_of
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Family
from pyro_expfam.families.kinds import Kind

LARGEST_LATENT_DIM, LARGEST_NUM_FEATURES = 64, 100_000
"""The largest sizes that the kernels take. An entry costs the same with 200 and 20,000 features.
Information matrices of 64 latents for all rows in flight fill a megabyte of the second cache."""

WORTH_COMPILING = 1 << 20
"""The fewest entries of a mixed table for its kernel, which is compiled for each mix of laws.

The first time takes half a minute, which a smaller table does not give back. The result is kept on
disk.
"""

WORTH_AN_EVIDENCE = 1 << 15
"""The fewest entries of a table for the kernels of the evidence. There a fit of the evidence takes
half the time of PyTorch operations. Compilation takes ten seconds for one law on an idle processor,
and minutes on a busy one, once on a machine."""

MOST_LATENTS_OF_SECOND_ORDER, MOST_TRIPLES = 16, 1 << 24
"""The largest number of latents for the kernel of the second order, and of features times distinct
products of three loadings. Tensors over 16 latents for all rows in flight fill a megabyte."""

WORTH_ONE_PASS = 1 << 14
"""The fewest entries of a table for the kernel of the sums of a joint fit, whose call costs as much
as operations of PyTorch on a few thousand entries."""

MOST_LATENTS_OF_RESIDUALS = 16
"""The largest number of latents for the kernel that multiplies residuals of Gaussian rows by the
loading. It takes a fifth of the time of PyTorch's product with 5 latents, and twice it with 32."""

MOST_PRODUCTS = 1 << 28
"""The most products of two coefficients for that kernel, each thread of which sums half of them."""

WIDEST_CUT_POINTS = 100.0
"""The largest distance between the first and the last cut point of a column of ordered answers. The
odds at all cut points, from the middle between these two, are then numbers of float32."""

COMPILED = (
    "exponential",
    "logistic",
    "continuous_bernoulli",
    "softmax",
    "negative_binomial",
    "gamma",
    "probit",
    "complementary_log_log",
    "ordinal",
)
"""Activations that the kernels have."""


WITH_EVIDENCE = (
    "exponential",
    "logistic",
    "negative_binomial",
    "gamma",
    "identity",
    "continuous_bernoulli",
    "ordinal",
    "probit",
    "complementary_log_log",
    "softmax",
    "beta",
    "ising",
    "tweedie",
    "zero_truncated_poisson",
    "zero_inflated_poisson",
    "zero_inflated_negative_binomial",
    "normal_effect",
    "poisson_softplus",
    "negative_binomial_softplus",
    "gamma_softplus",
    "tweedie_softplus",
    "gaussian_softplus",
    "gaussian_log",
)
"""Activations that the kernels of the evidence have."""


def has_kernels(problem: LatentProblem) -> bool:
    """Whether kernels can compute with a problem, and are the faster way."""
    return _is_small(problem) and _has_activation(problem) and numba_is_installed()


def _is_small(problem: LatentProblem) -> bool:
    """Whether a problem is one table on the processor under a loading with few latents."""
    return (
        type(problem.map) is Dense
        and problem.map.device.type == "cpu"
        and problem.latent_dim <= LARGEST_LATENT_DIM
        and not problem.batch_shape
    )


@cache
def numba_is_installed() -> bool:
    """Whether anything can be compiled."""
    return find_spec("numba") is not None


def has_evidence(problem: LatentProblem) -> bool:
    """Whether there is a kernel for the evidence of a problem, and it is worth its compilation.

    It has all laws of :data:`WITH_EVIDENCE`, also side by side.
    """
    return (
        problem.num_rows * problem.num_features >= WORTH_AN_EVIDENCE
        and _is_small(problem)
        and all(_has_evidence_of(kind) for kind in problem.kinds)
        and numba_is_installed()
    )


def has_search(problem: LatentProblem) -> bool:
    """Whether the kernel of searches finds latents of a problem, and is worth its compilation.

    It has the laws of the evidence with one linear predictor for each observation, unless all are
    real numbers, whose latents have a closed form.
    """
    laws = [evidence_activation_of(kind.family) for kind in problem.kinds]
    return (
        problem.term is None
        and problem.family.self_concordance != 0
        and all(law is not None and law.name != "softmax" for law in laws)
        and has_evidence(problem)
    )


def _has_evidence_of(kind: Kind) -> bool:
    activation = evidence_activation_of(kind.family)
    others = () if activation is None else (activation.power, activation.zeros)
    if not all(_is_by_feature(x, kind.width) for x in others):
        return False
    return _has_kernel(kind.family, activation, WITH_EVIDENCE, kind.width)


def has_joint_sums(coefficients: Tensor, num_rows: int, latent_dim: int) -> bool:
    """Whether there is a kernel for the sums of a joint fit, and it is the faster way.

    Args:
        coefficients: of the linear predictors, ``(d, l + 1 + p)``.
        num_rows: the rows of the table.
        latent_dim: the number of latents ``l``.
    """
    num_features, size = coefficients.shape
    return (
        coefficients.device.type == "cpu"
        and latent_dim <= LARGEST_LATENT_DIM
        and num_features * size**2 <= MOST_PRODUCTS
        and num_rows * num_features >= WORTH_ONE_PASS
        and numba_is_installed()
    )


def has_law_terms(problem: LatentProblem, num_rows: int) -> bool:
    """Whether functions of laws form the terms of the entries of a joint fit, and are worth it.

    PyTorch is as fast for a table of bits, counts or real numbers.

    Args:
        problem: some of the rows.
        num_rows: the rows of the table.
    """
    laws = [evidence_activation_of(kind.family) for kind in problem.kinds]
    activation = activation_of(problem.family)
    return (
        num_rows * problem.num_features >= WORTH_AN_EVIDENCE
        and problem.map.device.type == "cpu"
        and problem.stored is None
        and not problem.batch_shape
        and all(law is not None and law.name != "softmax" for law in laws)
        and not (activation is not None and has_terms(activation))
        and all(map(_has_evidence_of, problem.kinds))
        and numba_is_installed()
    )


def has_terms(activation: Activation) -> bool:
    """Whether this kernel forms the terms of entries itself.

    It does for bits, counts of one total, counts and real numbers. Other laws hand it their terms.
    """
    return (
        activation.name in ("exponential", "logistic", "identity")
        and activation.shift == 0
        and not isinstance(activation.size, Tensor)
    )


def has_residual_products(problem: LatentProblem) -> bool:
    """Whether there is a kernel for products of residuals, and it is the faster way.

    It has real numbers, whose natural parameters are means.
    """
    laws = (activation_of(kind.family) for kind in problem.kinds)
    return (
        _is_small(problem)
        and problem.latent_dim <= MOST_LATENTS_OF_RESIDUALS
        and problem.num_features <= LARGEST_NUM_FEATURES
        and problem.num_rows * problem.num_features >= WORTH_ONE_PASS
        and problem.y.dtype == problem.b.dtype
        and all(law is not None and law.name == "identity" for law in laws)
        and numba_is_installed()
    )


def has_inverses(matrices: Tensor) -> bool:
    """Whether there is a kernel that inverts matrices ``(n, k, k)``, and it is the faster way."""
    return (
        matrices.device.type == "cpu"
        and matrices.is_contiguous()
        and matrices.shape[-1] <= LARGEST_LATENT_DIM
        and matrices.numel() >= WORTH_ONE_PASS
        and numba_is_installed()
    )


def has_second_order(problem: LatentProblem) -> bool:
    """Whether there is a kernel for the second order of the evidence too.

    Real numbers have no second order.
    """
    size = problem.latent_dim
    triples = problem.num_features * (size * (size + 1) * (size + 2) // 6)
    is_small = size <= MOST_LATENTS_OF_SECOND_ORDER and triples <= MOST_TRIPLES
    return is_small and problem.family.self_concordance != 0 and has_evidence(problem)


def _has_activation(problem: LatentProblem) -> bool:
    if problem.family.num_columns is None:
        activation = activation_of(problem.family)
        return _has_kernel(problem.family, activation, COMPILED, problem.num_features)
    # Kernels for several laws take steps that are certain to decrease the objective.
    is_large = problem.num_rows * problem.num_features >= WORTH_COMPILING
    return is_large and all(
        kind.family.self_concordance is not None
        and _has_kernel(
            kind.family, activation_of(kind.family), (*COMPILED, "identity"), kind.width
        )
        for kind in problem.kinds
    )


def _has_kernel(
    family: Family, activation: Activation | None, compiled: tuple[str, ...], num_features: int
) -> bool:
    if activation is None or activation.name not in compiled:
        return False
    if num_features > LARGEST_NUM_FEATURES:
        return False
    if activation.name == "ordinal":
        return _has_close_cut_points(family, num_features)
    return _is_by_feature(activation.size, num_features)


def _is_by_feature(size: float | Tensor, num_features: int) -> bool:
    """Whether there is a size per feature or one for all, rather than one per entry."""
    if not isinstance(size, Tensor) or size.numel() == 1:
        return True
    return size.numel() == size.shape[-1] == num_features


def _has_close_cut_points(family: Any, num_features: int) -> bool:
    """Whether cut points are the same for all rows, and odds at them are numbers of float32."""
    cuts = family.cut_points(torch.zeros((), dtype=torch.float64))
    is_shared = cuts.numel() == cuts.shape[-1]
    if not is_shared and cuts.numel() != cuts.shape[-1] * cuts.shape[-2]:
        return False
    if not is_shared and cuts.shape[-2] != num_features:
        return False
    return bool((cuts[..., -1] - cuts[..., 0] <= WIDEST_CUT_POINTS).all())
