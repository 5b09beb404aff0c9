"""Links: how the mean of an observation follows from its linear predictor.

A link is a small immutable value, which a family takes as ``link``.

Example:
    >>> import torch
    >>> from pyro_expfam import families, links
    >>> family = families.Bernoulli(link=links.Probit())
    >>> family.expected_y(torch.tensor([0.0, 1.0]))
    tensor([0.5000, 0.8413])
"""

from pyro_expfam.links.functions import Mean, NaturalParameter
from pyro_expfam.links.link import Link
from pyro_expfam.links.means import Identity, Log, Power, Reciprocal, ReLU, Softplus
from pyro_expfam.links.probabilities import ComplementaryLogLog, Logit, Probit

__all__ = [
    "ComplementaryLogLog",
    "Identity",
    "Link",
    "Log",
    "Logit",
    "Mean",
    "NaturalParameter",
    "Power",
    "Probit",
    "ReLU",
    "Reciprocal",
    "Softplus",
]
