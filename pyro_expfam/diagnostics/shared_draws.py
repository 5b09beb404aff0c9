"""Draws that several processes have in common, each beside latents of rows of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_expfam.deq.processes import digest
from pyro_expfam.diagnostics.sites import is_deterministic, is_latent

DRAWS = "_draws"
"""The plate of many draws."""


class SharedDraws(Messenger):
    """Draws the sites that are in no plate of the model, the same in every process.

    All other sites are of rows, and are drawn from the generator of the process.

    Args:
        key: what tells runs apart, the same in every process.
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is not None or msg["is_observed"] or site_is_subsample(msg):
            return
        if is_deterministic(msg) or _plates(msg):
            return
        with torch.random.fork_rng():
            torch.manual_seed(digest(f"{self._key} {msg['name']}".encode()))
            msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])


def check_shared(sites: Iterable[Any]) -> None:
    """An error unless all latent sites are of rows, or in no plate.

    Raises:
        ValueError: if latent sites are in several plates, of which some may be common to processes.
    """
    plates = sorted({name for site in sites if is_latent(site) for name in _plates(site)})
    if len(plates) > 1:
        raise ValueError(
            "processes must be None for a model with latents in several plates, here "
            f"{', '.join(plates)}, since each process has rows of one of them alone: gather the "
            "rows in one process"
        )


def _plates(site: Any) -> list[str]:
    return [frame.name for frame in site["cond_indep_stack"] if frame.name != DRAWS]
