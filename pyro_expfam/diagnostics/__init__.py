"""From a Pyro model and its guide to ArviZ."""

from pyro_expfam.diagnostics.conversion import to_arviz

__all__ = ["to_arviz"]
