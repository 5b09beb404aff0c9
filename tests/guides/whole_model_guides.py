"""Guides of the models of several tables, labels and priors."""

import pyro
import pytest
from pyro import poutine
from quick_cases import slow_unless
from whole_models import MODELS, Data

import pyro_expfam as pef

GUIDES = [pef.DEQMAPGuide, pef.LaplaceGuide]
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda kind: kind.__name__)
# What all models have in common is tested for each of them; other properties for every other one.
SOME, OTHERS = MODELS[::2], MODELS[1::2]
ZERO = 1e-8


def quickly(some):
    """A test of each model, which is slow where the model is none of some."""
    return pytest.mark.parametrize(
        "make", slow_unless(lambda make: make in some, MODELS), ids=lambda kind: kind.__name__
    )


def latents_of(values):
    return {name: x.detach() for name, x in values.items() if name.endswith(".z")}


def log_joint(model, args, values):
    """The log joint density of a model at values of all its latents."""
    trace = poutine.trace(poutine.condition(model, values)).get_trace(*args)
    return trace.log_prob_sum()


def made(make, guide_of=pef.DEQMAPGuide, **settings):
    pyro.set_rng_seed(1)
    model = make()
    return model, guide_of(model, **settings), Data().args
