"""Tables for the tests of the kernels."""

import torch
from random_tables import random_table

from pyro_expfam.deq import LatentProblem

FIELDS = {
    "nothing": {},
    "offset by row": {"offset": (-1, 1)},
    "offset by feature": {"offset": (1, -1)},
    "offset, mask": {"offset": (-1, -1), "mask": (-1, -1)},
    "weights by row": {"weights": (-1, 1)},
}
"""Offsets and weights by shape: -1 stands for all rows or all features."""

SIZES = [(1, 1, 1), (65, 5, 2), (33, 17, 5), (33, 33, 16), (9, 17, 17), (9, 18, 32)]
"""Rows, features and latents: ragged, and around the sizes of blocks."""


def kernel_problem(family, num_rows, num_features, latent_dim, fields, device) -> LatentProblem:
    """A random problem in single precision whose information the format can resolve."""
    table = random_table(
        family,
        num_rows,
        num_features,
        latent_dim,
        weight_scale=latent_dim**-0.5,
        dtype=torch.float32,
    )
    shape = (num_rows, num_features)
    given = {}
    for name, sizes in FIELDS[fields].items():
        size = tuple(whole if s == -1 else s for s, whole in zip(sizes, shape, strict=True))
        given[name] = 0.5 * torch.randn(size)
    if "mask" in given:
        given["weights"] = (given.pop("mask") < 0.4).float()
    elif "weights" in given:
        given["weights"] = given["weights"].abs()
    return to(table.problem(**given), device)


def to(problem: LatentProblem, device: str) -> LatentProblem:
    """The problem on a device."""
    return problem.with_fields({name: x.to(device) for name, x in problem.fields.items()})
