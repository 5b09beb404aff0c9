"""What every link has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints


class Link(ABC):
    r"""How the mean of an observation follows from its linear predictor :math:`\eta`.

    A link in the sense of generalised linear models is the function :math:`g` with
    :math:`g(\mu) = \eta`. Its inverse is :meth:`mean`. Under a family of bits, and under a family
    of counts with a known total, :math:`\mu` is the probability of one success. Under every other
    family it is the mean of an observation.

    A link is a small immutable value. Its functions act elementwise, keep the dtype and device of
    their argument, and are differentiable to every order.

    To write a link of your own as a class, override :meth:`mean` and :meth:`predictor`. Override
    :meth:`log_mean` or :meth:`log_odds` too where the default, the logarithm of the mean, loses
    accuracy. A function alone is enough for :class:`~pyro_expfam.links.Mean` and
    :class:`~pyro_expfam.links.NaturalParameter`.

    Source: McCullagh and Nelder (1989), section 2.2.
    """

    domain: ClassVar[constraints.Constraint] = constraints.real
    """The linear predictors at which the link has a mean."""

    is_smooth: ClassVar[bool] = True
    """Whether the mean has derivatives of every order everywhere."""

    weak_loading_scale: ClassVar[float] = 1.0
    """The standard deviation of the weakly informative prior of a loading under this link."""

    weak_intercept_scale: ClassVar[float] = 10.0
    """The standard deviation of the weakly informative prior of an intercept under this link.

    The default, 10, suits linear predictors that are a logarithm, a logit or a normal quantile.
    """

    @abstractmethod
    def mean(self, eta: Tensor) -> Tensor:
        """The mean at linear predictor ``eta``."""

    def predictor(self, mean: Tensor) -> Tensor:
        """The linear predictor of a mean, the function ``g``.

        At and beyond the boundary of the means it is infinite, with the sign of the boundary.

        Raises:
            NotImplementedError: the link has no closed form.
        """
        raise NotImplementedError(f"{self} has no closed form of its inverse")

    def log_mean(self, eta: Tensor) -> Tensor:
        """The log of the mean, for families whose natural parameter it is."""
        return torch.log(self.mean(eta))

    def log_odds(self, eta: Tensor) -> Tensor:
        """The log odds of the mean, for families whose natural parameter they are."""
        mean = self.mean(eta)
        return torch.log(mean) - torch.log1p(-mean)
