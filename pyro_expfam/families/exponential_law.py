"""The family of exponential laws, not to be taken for the exponential families."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pyro_expfam.families.gamma import Gamma
from pyro_expfam.links import Link


@dataclass(frozen=True, eq=False, repr=False)
class Exponential(Gamma):
    r"""Durations without memory, by their log mean.

    .. math:: E[y] = e^\eta, \quad \operatorname{Var}[y] = e^{2 \eta}, \quad
              p(y) = e^{-\eta} \exp(-y e^{-\eta}), \quad y > 0.

    It is the gamma family of shape 1.

    Args:
        link: how the mean follows from the linear predictor. The default is
            :class:`~pyro_expfam.links.Log`.

    Source: McCullagh and Nelder (1989), section 13.3.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import Exponential
        >>> family = Exponential()
        >>> eta = torch.tensor([0.0, 1.0])
        >>> family.expected_y(eta), family.log_prob(torch.tensor(1.0), eta)
        (tensor([1.0000, 2.7183]), tensor([-1.0000, -1.3679]))
    """

    shape: float | Tensor | str | None = field(default=1.0, init=False)

    def __post_init__(self, link: Link | None) -> None:
        del link

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """No names: the law has no parameter."""
        return ()
