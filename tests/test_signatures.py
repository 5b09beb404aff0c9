"""Arguments of a table are the same, in the same order, wherever a table goes in."""

import importlib
import inspect
import pkgutil
import re

import pytest

import pyro_expfam as pef

WITHOUT_COVARIATES = {
    # Functions of a loading and an intercept have no coefficients for covariates, which are a part
    # of their offset.
    "DEQLayer.forward",
    "DEQLayer.solution",
    "solve_latents",
    "log_evidence",
    "evidence.importance_evidence",
    "evidence.importance_latents",
    "evidence.posterior_covariance",
    "evidence.posterior_mean",
    "evidence.quadrature_evidence",
}
"""Public functions that take an offset and no covariates."""

ORDER = ("y", "offset", "mask", "weights", "covariates")


def public_functions():
    """The public functions, and the public methods of public classes, by name."""
    modules = {"": pef}
    for info in pkgutil.iter_modules(pef.__path__):
        if info.ispkg and not info.name.startswith("_"):
            modules[f"{info.name}."] = importlib.import_module(f"pyro_expfam.{info.name}")
    found, seen = {}, set()
    for prefix, module in modules.items():
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if id(value) in seen:
                continue
            seen.add(id(value))
            if inspect.isclass(value):
                members = inspect.getmembers(value, inspect.isfunction)
                # Scikit-learn makes requests for metadata, with arguments by the alphabet.
                own = [(k, x) for k, x in members if not re.fullmatch(r"set_\w+_request", k)]
                methods = {k: x for k, x in own if not k.startswith("_") or k == "__init__"}
                found |= {f"{prefix}{name}.{k}": x for k, x in methods.items()}
            elif inspect.isfunction(value):
                found[prefix + name] = value
    return found


FUNCTIONS = {
    name: tuple(inspect.signature(function).parameters)
    for name, function in public_functions().items()
}


def test_what_takes_an_offset_takes_covariates():
    lacking = {name for name, x in FUNCTIONS.items() if "offset" in x and "covariates" not in x}
    assert lacking == WITHOUT_COVARIATES


@pytest.mark.parametrize("name", sorted(k for k, x in FUNCTIONS.items() if "offset" in x))
def test_arguments_of_a_table_are_in_one_order(name):
    own = [x for x in FUNCTIONS[name] if x in ORDER]
    assert own == [x for x in ORDER if x in own]
