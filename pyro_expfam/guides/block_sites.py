"""The names of a block's sites in a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pyro_expfam.models import ExpFamPCA
from pyro_expfam.models.annotations import coefficient_site, latent_site


class BlockSites(NamedTuple):
    """The names of the sites of one call of a block.

    A block names its sites. Handlers of the model may change the names: under
    ``pyro.contrib.autoname.scope`` a site ``z`` becomes ``first/z``.

    Attributes:
        block: the block.
        latents: the name of the site of its latents.
        coefficients: the names of the sites of loading, intercept and hyperparameters that have a
            prior, by attribute of the block.
    """

    block: ExpFamPCA
    latents: str
    coefficients: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name of the block in the model, such as ``genes``; empty where it is the model."""
        prefix, _, suffix = self.latents.rpartition("z")
        return prefix.rstrip("./") + suffix

    def site_name(self, attribute: str) -> str:
        """The name in the model of a site of the block, such as ``loading`` or ``y``."""
        prefix, _, suffix = self.latents.rpartition("z")
        return self.coefficients.get(attribute, prefix + attribute + suffix)


def find_blocks(trace: Any) -> list[BlockSites]:
    """The calls of blocks in the trace of a model, in their order."""
    found: list[BlockSites] = []
    coefficients: dict[Any, dict[str, str]] = {}
    for name, site in trace.iter_stochastic_nodes():
        latents, coefficient = latent_site(site), coefficient_site(site)
        if latents is not None:
            # A block that is called again may sample its coefficients again. The last ones before
            # the latents belong to this call.
            block: Any = latents.block
            found.append(BlockSites(block, name, dict(coefficients.get(block, {}))))
        elif coefficient is not None:
            coefficients.setdefault(coefficient.block, {})[coefficient.attribute] = name
    return found
