"""The laws of the kernels of the evidence: functions that they call by their address.

The kernels are compiled once for all laws, and each law only where it is met. A function takes
linear predictors, observations, the parameters of the feature with their number, and an array
``(6, lanes)``. It writes the loss and its first five derivatives in the linear predictor there.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import carray

from pyro_expfam.deq.cpu.beta_entries import beta
from pyro_expfam.deq.cpu.callbacks import address_of
from pyro_expfam.deq.cpu.compilation import whole_registers
from pyro_expfam.deq.cpu.entry_derivatives import (
    binomial,
    complementary_log_log,
    continuous_bernoulli,
    gamma,
    gaussian,
    ising,
    negative_binomial,
    ordinal,
    poisson,
    probit,
    tweedie,
    zero_inflated_poisson,
    zero_truncated_poisson,
)
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.link_derivatives import (
    by_link,
    into_log_softplus,
    into_power_of_e,
    into_softplus,
)
from pyro_expfam.deq.cpu.normal_effect_entries import with_normal_effect
from pyro_expfam.deq.cpu.zero_inflated_entries import inflate


def _of_ordinal(eta, y, parameters, found, count):
    whole_registers()
    x, observed, of_feature = carray(eta, LANES), carray(y, LANES), carray(parameters, count)
    to = carray(found, (6, LANES))
    ordinal(x, observed, of_feature, to[0], to[1], to[2], to[3], to[4], to[5])


def _of_continuous_bernoulli(eta, y, parameters, found, count):
    whole_registers()
    x, observed, to = carray(eta, LANES), carray(y, LANES), carray(found, (6, LANES))
    continuous_bernoulli(x, observed, to[0], to[1], to[2], to[3], to[4], to[5])


def _of_probit_link(eta, y, parameters, found, count):
    whole_registers()
    x, observed, total = carray(eta, LANES), carray(y, LANES), carray(parameters, 1)[0]
    to = carray(found, (6, LANES))
    probit(x, observed, total, to[0], to[1], to[2], to[3], to[4], to[5])


def _of_complementary_log_log(eta, y, parameters, found, count):
    whole_registers()
    x, observed, total = carray(eta, LANES), carray(y, LANES), carray(parameters, 1)[0]
    to = carray(found, (6, LANES))
    complementary_log_log(x, observed, total, to[0], to[1], to[2], to[3], to[4], to[5])


def _of_beta(eta, y, parameters, found, count):
    whole_registers()
    x, observed, of_feature = carray(eta, LANES), carray(y, LANES), carray(parameters, count)
    to = carray(found, (6, LANES))
    beta(x, observed, of_feature[0], of_feature[1], to[0], to[1], to[2], to[3], to[4], to[5])


def _of_negative_binomial(eta, y, parameters, found, count):
    whole_registers()
    x, observed, of_feature = carray(eta, LANES), carray(y, LANES), carray(parameters, count)
    to = carray(found, (6, LANES))
    negative_binomial(
        x, observed, of_feature[0], of_feature[1], to[0], to[1], to[2], to[3], to[4], to[5]
    )


def _of_zero_inflated_poisson(eta, y, parameters, found, count):
    whole_registers()
    x, observed, of_feature = carray(eta, LANES), carray(y, LANES), carray(parameters, count)
    to = carray(found, (6, LANES))
    zero_inflated_poisson(
        x, observed, of_feature[1], of_feature[2], to[0], to[1], to[2], to[3], to[4], to[5]
    )


def _of_zero_inflated_negative_binomial(eta, y, parameters, found, count):
    whole_registers()
    x, observed, of_feature = carray(eta, LANES), carray(y, LANES), carray(parameters, count)
    to = carray(found, (6, LANES))
    negative_binomial(
        x, observed, of_feature[1], of_feature[2], to[0], to[1], to[2], to[3], to[4], to[5]
    )
    inflate(observed, of_feature[3], of_feature[4], to[0], to[1], to[2], to[3], to[4], to[5])


def _of_normal_effect(eta, y, parameters, found, count):
    whole_registers()
    x, observed, scale = carray(eta, LANES), carray(y, LANES), carray(parameters, count)[0]
    to, derivatives = carray(found, (6, LANES)), np.empty((7, LANES))
    with_normal_effect(x, observed, scale, derivatives)
    for k in range(6):
        for r in range(LANES):
            to[k, r] = derivatives[k, r]


def _of_tweedie(eta, y, parameters, found, count):
    whole_registers()
    x, observed, of_feature = carray(eta, LANES), carray(y, LANES), carray(parameters, count)
    to = carray(found, (6, LANES))
    tweedie(x, observed, of_feature[0], of_feature[1], to[0], to[1], to[2], to[3], to[4], to[5])


def _of_zero_truncated_poisson(eta, y, parameters, found, count):
    whole_registers()
    x, observed, to = carray(eta, LANES), carray(y, LANES), carray(found, (6, LANES))
    zero_truncated_poisson(x, observed, to[0], to[1], to[2], to[3], to[4], to[5])


def _of_gamma(eta, y, parameters, found, count):
    whole_registers()
    x, observed, shape = carray(eta, LANES), carray(y, LANES), carray(parameters, count)[0]
    to = carray(found, (6, LANES))
    gamma(x, observed, shape, to[0], to[1], to[2], to[3], to[4], to[5])


def _of_ising(eta, y, parameters, found, count):
    whole_registers()
    x, observed, to = carray(eta, LANES), carray(y, LANES), carray(found, (6, LANES))
    ising(x, observed, to[0], to[1], to[2], to[3], to[4], to[5])


def _of_poisson_softplus(eta, y, parameters, found, count):
    whole_registers()
    x, observed, to = carray(eta, LANES), carray(y, LANES), carray(found, (6, LANES))
    own, slopes = np.empty(LANES), np.empty((5, LANES))
    into_log_softplus(x, own, slopes)
    poisson(own, observed, to[0], to[1], to[2], to[3], to[4], to[5])
    by_link(slopes, to)


def _of_negative_binomial_softplus(eta, y, parameters, found, count):
    whole_registers()
    x, observed, of_feature = carray(eta, LANES), carray(y, LANES), carray(parameters, count)
    to, own, slopes = carray(found, (6, LANES)), np.empty(LANES), np.empty((5, LANES))
    into_log_softplus(x, own, slopes)
    negative_binomial(
        own, observed, of_feature[0], of_feature[1], to[0], to[1], to[2], to[3], to[4], to[5]
    )
    by_link(slopes, to)


def _of_gamma_softplus(eta, y, parameters, found, count):
    whole_registers()
    x, observed, shape = carray(eta, LANES), carray(y, LANES), carray(parameters, count)[0]
    to, own, slopes = carray(found, (6, LANES)), np.empty(LANES), np.empty((5, LANES))
    into_log_softplus(x, own, slopes)
    gamma(own, observed, shape, to[0], to[1], to[2], to[3], to[4], to[5])
    by_link(slopes, to)


def _of_tweedie_softplus(eta, y, parameters, found, count):
    whole_registers()
    x, observed, of_feature = carray(eta, LANES), carray(y, LANES), carray(parameters, count)
    to, own, slopes = carray(found, (6, LANES)), np.empty(LANES), np.empty((5, LANES))
    into_log_softplus(x, own, slopes)
    tweedie(own, observed, of_feature[0], of_feature[1], to[0], to[1], to[2], to[3], to[4], to[5])
    by_link(slopes, to)


def _of_gaussian_softplus(eta, y, parameters, found, count):
    whole_registers()
    x, observed, scale = carray(eta, LANES), carray(y, LANES), carray(parameters, count)[0]
    to, own, slopes = carray(found, (6, LANES)), np.empty(LANES), np.empty((5, LANES))
    into_softplus(x, own, slopes)
    gaussian(own, observed, scale, to[0], to[1], to[2], to[3], to[4], to[5])
    by_link(slopes, to)


def _of_gaussian_log(eta, y, parameters, found, count):
    whole_registers()
    x, observed, scale = carray(eta, LANES), carray(y, LANES), carray(parameters, count)[0]
    to, own, slopes = carray(found, (6, LANES)), np.empty(LANES), np.empty((5, LANES))
    into_power_of_e(x, own, slopes)
    gaussian(own, observed, scale, to[0], to[1], to[2], to[3], to[4], to[5])
    by_link(slopes, to)


def _of_poisson(eta, y, parameters, found, count):
    whole_registers()
    x, observed, to = carray(eta, LANES), carray(y, LANES), carray(found, (6, LANES))
    poisson(x, observed, to[0], to[1], to[2], to[3], to[4], to[5])


def _of_binomial(eta, y, parameters, found, count):
    whole_registers()
    x, observed, total = carray(eta, LANES), carray(y, LANES), carray(parameters, count)[0]
    to = carray(found, (6, LANES))
    binomial(x, observed, total, to[0], to[1], to[2], to[3], to[4], to[5])


def _of_gaussian(eta, y, parameters, found, count):
    whole_registers()
    x, observed, to = carray(eta, LANES), carray(y, LANES), carray(found, (6, LANES))
    # Observations and linear predictors are in units of the scale.
    gaussian(x, observed, 1.0, to[0], to[1], to[2], to[3], to[4], to[5])


LAWS = {
    "continuous_bernoulli": _of_continuous_bernoulli,
    "ordinal": _of_ordinal,
    "probit": _of_probit_link,
    "complementary_log_log": _of_complementary_log_log,
    "beta": _of_beta,
    "negative_binomial": _of_negative_binomial,
    "gamma": _of_gamma,
    "ising": _of_ising,
    "tweedie": _of_tweedie,
    "zero_truncated_poisson": _of_zero_truncated_poisson,
    "normal_effect": _of_normal_effect,
    "zero_inflated_poisson": _of_zero_inflated_poisson,
    "zero_inflated_negative_binomial": _of_zero_inflated_negative_binomial,
    "poisson_softplus": _of_poisson_softplus,
    "negative_binomial_softplus": _of_negative_binomial_softplus,
    "gamma_softplus": _of_gamma_softplus,
    "tweedie_softplus": _of_tweedie_softplus,
    "gaussian_softplus": _of_gaussian_softplus,
    "gaussian_log": _of_gaussian_log,
}
"""The functions of laws, by the name of the activation."""

OF_KERNELS = {"exponential": _of_poisson, "logistic": _of_binomial, "identity": _of_gaussian}
"""The functions of laws that the kernels of the evidence have themselves."""


@cache
def law_at(name: str) -> int:
    """The address of the function of a law, or 0 for a law that the kernels have themselves."""
    return function_at(name) if name in LAWS else 0


@cache
def function_at(name: str) -> int:
    """The address of the function of any law."""
    return address_of({**LAWS, **OF_KERNELS}[name], 4)
