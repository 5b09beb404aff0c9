"""The geometric family."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pyro_expfam.families.negative_binomial import NegativeBinomial
from pyro_expfam.links import Link


@dataclass(frozen=True, eq=False, repr=False)
class Geometric(NegativeBinomial):
    r"""Counts 0, 1, 2, ... of failures before the first success, by their log mean.

    .. math:: E[y] = e^\eta, \quad \operatorname{Var}[y] = e^\eta + e^{2 \eta}, \quad
              P(y) = q^y (1 - q), \quad q = e^\eta / (1 + e^\eta).

    It is the negative binomial family of size 1. The linear predictor is the log odds of a failure.

    Args:
        link: how the mean follows from the linear predictor. The default is
            :class:`~pyro_expfam.links.Log`.

    Source: Johnson, Kemp and Kotz (2005), *Univariate discrete distributions*, section 5.2.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import Geometric
        >>> family = Geometric()
        >>> family.log_prob(torch.tensor([0.0, 1.0, 2.0]), torch.tensor(0.0)).exp()
        tensor([0.5000, 0.2500, 0.1250])
    """

    size: float | Tensor | str | None = field(default=1.0, init=False)

    def __post_init__(self, link: Link | None) -> None:
        del link

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """No names: the law has no parameter."""
        return ()
