"""Laws of the rows of a table whose log densities at the root of a guide are known already."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_expfam.deq.observations import Observations
from pyro_expfam.models.annotations import Answer


def likelihood_at_root(
    answer: Answer,
    z: Tensor,
    W: Tensor,
    b: Tensor,
    observed: Observations,
    law: Callable[[], Any],
) -> Any:
    """The law of the rows of a table, with the log density that a guide has found; or None.

    None where there is no such number, or the latents, the loading or the intercept of the run are
    others.

    Args:
        answer: the answer of the guide to the table.
        z: the latents of the run.
        W: the loading of the run.
        b: the intercept.
        observed: the checked table.
        law: makes the law by linear predictors.
    """
    if answer.log_likelihood is None or answer.problem is None:
        return None
    problem = answer.problem
    if not _is_same(z, answer.root) or problem.map.fields.get("W") is not W or problem.b is not b:
        return None
    return LawAtRoot(observed.y, answer.log_likelihood, law)


def prior_at_root(answer: Answer, law: Any) -> Any:
    """The prior law of the latents, with the log density at the root that a guide has found.

    Args:
        answer: the answer of the guide to the same problem.
        law: the law.
    """
    if answer.log_prior is None:
        return law
    return LawAtRoot(answer.root, answer.log_prior, lambda: law.expand(answer.root.shape[:-1]))


def _is_same(z: Tensor, root: Tensor) -> bool:
    """Whether latents are the root, or a view of all of it."""
    return z is root or (
        z.data_ptr() == root.data_ptr()
        and z.shape == root.shape
        and z.stride() == root.stride()
        and z.requires_grad == root.requires_grad
    )


class LawAtRoot(dist.TorchDistribution):
    """The law of rows, with a known log density of one value.

    Args:
        value: the value, ``(N, d)``.
        log_density: the log densities of its rows, ``(N,)``.
        law: makes the law itself, for everything else that is asked.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, value: Tensor, log_density: Tensor, law: Callable[[], Any]) -> None:
        self._value, self._log_density, self._make_law = value, log_density, law
        super().__init__(log_density.shape, value.shape[-1:], validate_args=False)

    @cached_property
    def law(self) -> Any:
        """The law itself."""
        return self._make_law()

    def log_prob(self, value: Tensor) -> Tensor:
        """The log densities of rows."""
        return self._log_density if value is self._value else self.law.log_prob(value)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The law with other batch dimensions."""
        return self if tuple(batch_shape) == self.batch_shape else self.law.expand(batch_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Any:  # noqa: B008
        """Draws of rows."""
        return self.law.sample(sample_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Any:  # noqa: B008
        """Draws of rows with gradients, where the law has them."""
        return self.law.rsample(sample_shape)

    @property
    def support(self) -> Any:
        """The support of rows."""
        return self.law.support

    @property
    def mean(self) -> Any:
        """The means of entries."""
        return self.law.mean

    @property
    def variance(self) -> Any:
        """The variances of entries."""
        return self.law.variance

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.law, name)
