"""The law of an observation of an exponential family, given its natural parameter."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pyro_expfam.distributions.law import FamilyDistribution
from pyro_expfam.families import ExponentialFamily


class ExponentialFamilyDistribution(FamilyDistribution):
    r"""The law :math:`p(y \mid r) = h(y) \exp(r\,T(y) - A(r))`, by ``r``.

    It works for every :class:`~pyro_expfam.families.ExponentialFamily`, also one that a user
    writes. Each family of the package has a class of its own with more functions: see
    :func:`distribution`.

    Shapes: the batch shape is the shape of ``natural_param``, broadcast with the tensor parameters
    ``scale`` and ``total_count`` of the package's families. Tensors of any other family must
    broadcast to ``natural_param``. The event shape is empty.

    Args:
        family: the exponential family, with a statistic ``T`` that is affine in ``y``.
        natural_param: the natural parameter ``r``, a number or a tensor of any shape.
        validate_args: whether to check the parameter and the observations; by default the setting
            of :func:`pyro.enable_validation`.

    Raises:
        ValueError: with validation, if ``natural_param`` is outside the natural domain of the
            family, or an observation is outside its support or has another shape.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions, families
        >>> law = distributions.ExponentialFamilyDistribution(families.Poisson(), torch.zeros(3))
        >>> law.mean
        tensor([1., 1., 1.])
        >>> law.log_prob(torch.tensor([0.0, 1.0, 2.0]))
        tensor([-1.0000, -1.0000, -1.6931])

    Source: equation (1) of Tsuchida and Ong, *When are equilibrium networks scoring
    algorithms?*; Wainwright and Jordan (2008), section 3.
    """

    _argument: ClassVar[str] = "natural_param"

    family: ExponentialFamily
    natural_param: Tensor

    def __init__(
        self,
        family: ExponentialFamily,
        natural_param: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(family, natural_param, validate_args)
