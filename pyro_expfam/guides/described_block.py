"""A block as plain data, and a new block from it."""

from __future__ import annotations

from typing import Any

from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.guides.plain_data import NotPlainError, Plain, from_plain, to_plain
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.models.priors import GaussianPrior

SIZES = ("num_features", "latent_dim")

SCALES = {
    "loading_scale": "loading",
    "intercept_scale": "intercept",
    "coefficient_scale": "coefficients",
}
"""The coefficients by the name of the scale of their prior."""


def describe_block(block: Any, tensors: dict[str, Tensor]) -> Plain:
    """The arguments that make a block again, without what is trained.

    Args:
        block: the model of a guide.
        tensors: where tensors are put, by name.

    Raises:
        NotPlainError: if the model is no block alone, or something in it has no description.
    """
    if type(block) is not ExpFamPCA:
        raise NotPlainError(f"the model is a {type(block).__name__}, not an ExpFamPCA alone")
    settings: dict[str, Any] = {
        "family": block._known_family,
        "linear_map": block.linear_map,
        "num_features": block.num_features,
        "latent_dim": block.latent_dim,
        "parameter_scale": block.parameter_scale,
        "missing": block.missing,
    }
    of_latents = "latent_scale" if block._has_latent_scale else "latent_precision"
    scales = ["loading_scale", "intercept_scale"]
    if block.num_covariates:
        settings["num_covariates"] = block.num_covariates
        scales.append("coefficient_scale")
    if block.row_effect is not None:
        settings["row_effect"] = block.row_effect
        if block.row_effect == "random":
            scales.append("row_effect_scale")
    for name in (of_latents, *scales):
        settings[name] = _hyperparameter(block, name)
    learnt = {
        name: _learnt(block, f"family_{name}")
        for name in block._learnt_of_family
        if name not in block._known_family.to_learn(block.num_features)
    }
    plain = {name: to_plain(x, tensors, f"model.{name}") for name, x in settings.items()}
    return {**plain, "family_parameters": to_plain(learnt, tensors, "model.family_parameters")}


def described_block(plain: Plain, tensors: dict[str, Tensor]) -> ExpFamPCA:
    """A new block from its description."""
    settings = {name: from_plain(x, tensors) for name, x in plain.items()}
    learnt = settings.pop("family_parameters")
    if settings["linear_map"] is not None:
        for name in SIZES:
            del settings[name]
    return ExpFamPCA(
        **{name: _made(value, constraints.positive) for name, value in settings.items()},
        family_parameters={
            name: _made(value, settings["family"].constraint_of(name))
            for name, value in learnt.items()
        },
    )


LEARNT = "learnt"
"""Marks a number that SVI trains in a description."""


def _made(value: Any, constraint: constraints.Constraint) -> Any:
    if isinstance(value, tuple) and value and value[0] == LEARNT:
        return PyroParam(value[1], constraint=constraint)
    return value


def _hyperparameter(block: ExpFamPCA, name: str) -> Any:
    """A scale or precision: None, known numbers, or the start of numbers that SVI trains."""
    coefficient = SCALES.get(name)
    if coefficient is not None:
        if coefficient in block._pyro_params:
            return None
        if not isinstance(block._pyro_samples.get(coefficient), GaussianPrior):
            raise NotPlainError(f"{coefficient} has a prior of its own")
    if name in block._pyro_samples or "z" in block._pyro_samples:
        raise NotPlainError(f"{name if name in block._pyro_samples else 'z'} has a prior")
    return _learnt(block, name) if name in block._pyro_params else getattr(block, name)


def _learnt(block: ExpFamPCA, name: str) -> Any:
    constraint = block._pyro_params[name][0]
    usual: Any = constraints.positive
    if name.startswith("family_"):
        usual = block._known_family.constraint_of(name.removeprefix("family_"))
    if constraint != usual and type(constraint) is not type(usual):
        raise NotPlainError(f"{name} has the constraint {constraint}")
    return (LEARNT, getattr(block, name))
