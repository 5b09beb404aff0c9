"""Links that are functions of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pyro_expfam.links.link import Link


@dataclass(frozen=True, repr=False)
class Mean(Link):
    r"""The mean is a function of one's own of the linear predictor, :math:`\mu = g^{-1}(\eta)`.

    Where the mean comes close to the boundary of its space, its logarithm or log odds lose digits.
    :class:`NaturalParameter` then is more accurate.

    Args:
        function: the mean of a tensor of linear predictors, elementwise and differentiable.
        inverse: the linear predictor of a tensor of means. Without it the function is inverted
            numerically, for which it must be monotone.

    Example:
        >>> import torch
        >>> Mean(torch.sinh).mean(torch.tensor([0.0, 1.0]))
        tensor([0.0000, 1.1752])
    """

    function: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor] | None = None

    def mean(self, eta: Tensor) -> Tensor:
        """The mean at linear predictor ``eta``."""
        return self.function(eta)

    def predictor(self, mean: Tensor) -> Tensor:
        """The linear predictor of a mean."""
        return super().predictor(mean) if self.inverse is None else self.inverse(mean)

    def __repr__(self) -> str:
        return f"Mean({_name(self.function)})"


@dataclass(frozen=True, repr=False)
class NaturalParameter(Link):
    r"""The natural parameter is a function ``R`` of one's own of the linear predictor.

    It is the link :math:`r = R(\eta)` of Tsuchida and Ong, and may be used to reach a bounded set
    of natural parameters, as :math:`R(\eta) = -\log(1 + e^{-\eta})` reaches the negative numbers.

    Args:
        function: the natural parameter of a tensor of linear predictors, elementwise,
            differentiable and monotone.

    Example:
        >>> import torch
        >>> from pyro_expfam import families
        >>> twice = NaturalParameter(lambda eta: 2 * eta)
        >>> families.Bernoulli(link=twice).expected_y(torch.tensor([0.0, 1.0]))
        tensor([0.5000, 0.8808])
    """

    function: Callable[[Tensor], Tensor]

    def mean(self, eta: Tensor) -> Tensor:
        """A mean needs the family: ask it for its ``expected_y``."""
        raise NotImplementedError(
            f"{self} has a mean under a family only: call the expected_y of the family"
        )

    def __repr__(self) -> str:
        return f"NaturalParameter({_name(self.function)})"


def _name(function: Callable[[Tensor], Tensor]) -> str:
    return getattr(function, "__name__", None) or repr(function)
