"""The law of an observation, given a family and a linear predictor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, TypeAlias

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from pyro_expfam import families
from pyro_expfam.families import Family

Shape: TypeAlias = torch.Size | list[int] | tuple[int, ...]


def family_support(self: FamilyDistribution) -> constraints.Constraint:
    """The support of the family of a distribution."""
    return self.family.support


class FamilyDistribution(TorchDistribution):
    r"""The law of an observation of any family, by its linear predictor.

    It works for every :class:`~pyro_expfam.families.Family`, also one with a link and one that a
    user writes. Families of the package have classes of their own with more functions: see
    :func:`distribution`.

    Shapes: the batch shape is the shape of ``predictor``, broadcast with the tensors ``scale``,
    ``total_count``, ``size`` and ``shape`` of the package's families. Tensors of any other family
    must broadcast to ``predictor``. The event shape is empty.

    Args:
        family: the family.
        predictor: the linear predictor, a number or a tensor of any shape.
        validate_args: whether to check the predictor and the observations; by default the setting
            of :func:`pyro.enable_validation`.

    Raises:
        ValueError: with validation, if ``predictor`` is outside the domain of the family, or an
            observation is outside its support or has another shape.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions, families, links
        >>> family = families.Bernoulli(link=links.Probit())
        >>> law = distributions.FamilyDistribution(family, torch.zeros(2))
        >>> law.log_prob(torch.tensor([0.0, 1.0]))
        tensor([-0.6931, -0.6931])
    """

    _argument: ClassVar[str] = "predictor"
    """The name of the argument and attribute that holds the linear predictor."""

    _parameters: ClassVar[dict[str, str] | None] = None
    """The arguments that are parameters of the family, with the names that they have in the family.

    None if the family itself is an argument.
    """

    support = constraints.dependent_property(family_support, event_dim=0)

    def __init__(
        self, family: Family, predictor: Tensor | float, validate_args: bool | None = None
    ) -> None:
        # Not as_tensor, since it warns under a jit trace.
        eta = predictor if isinstance(predictor, Tensor) else torch.tensor(predictor)
        if not eta.is_floating_point():
            eta = eta.to(torch.get_default_dtype())
        family.check_known()
        for parameter in self._tensors_of(family):
            eta = eta.expand(torch.broadcast_shapes(eta.shape, parameter.shape))
        self.family = family
        setattr(self, self._argument, eta)
        super().__init__(eta.shape, validate_args=validate_args)

    def _tensors_of(self, family: Family) -> Iterable[Tensor]:
        """The tensors of a family that broadcast with the linear predictor."""
        is_known = self._parameters is not None or isinstance(family, families.Linked)
        return family.parameters.values() if is_known else ()

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The linear predictor lies in the domain of the family."""
        return {self._argument: self.family.predictor_domain}

    @classmethod
    def infer_shapes(cls, **arg_shapes: tuple[int, ...]) -> tuple[torch.Size, torch.Size]:
        """The batch and event shape that arguments of these shapes would give.

        Args:
            **arg_shapes: the shape of each argument, ``()`` for an argument that is not a tensor.
        """
        return torch.Size(broadcast_shape(*arg_shapes.values())), torch.Size()

    def expand(
        self, batch_shape: Shape, _instance: FamilyDistribution | None = None
    ) -> FamilyDistribution:
        """This law with its batch dimensions expanded to ``batch_shape``, sharing memory."""
        new = type(self).__new__(type(self)) if _instance is None else _instance
        new.family = self.family
        eta = self._eta.expand(torch.Size(batch_shape))
        setattr(new, self._argument, eta)
        super(FamilyDistribution, new).__init__(eta.shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value``, in the shape of ``value`` broadcast with the batch."""
        return self.family.log_prob(self._checked(value), self._eta)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``, without a gradient."""
        with torch.no_grad():
            return self.family.sample(self._eta, torch.Size(sample_shape))

    @property
    def mean(self) -> Tensor:
        """The mean of an observation."""
        return self.family.expected_y(self._eta)

    @property
    def variance(self) -> Tensor:
        """The variance of an observation."""
        return self.family.variance_of_y(self._eta)

    def entropy(self) -> Tensor:
        """The entropy of an observation, in the batch shape.

        Raises:
            NotImplementedError: the family has no closed form.
        """
        return self.family.entropy(self._eta)

    def __repr__(self) -> str:
        """The class with its arguments; tensors of many elements are shown as their shape."""
        if self._parameters is None:
            arguments: dict[str, object] = {"family": self.family}
        else:
            arguments = {x: getattr(self.family, name) for x, name in self._parameters.items()}
        arguments[self._argument] = self._eta
        described = ", ".join(f"{name}: {_describe(value)}" for name, value in arguments.items())
        return f"{type(self).__name__}({described})"

    @property
    def _eta(self) -> Tensor:
        """The linear predictor, whatever its public name is."""
        return getattr(self, self._argument)

    def _checked(self, value: Tensor) -> Tensor:
        """An observation in the dtype of the law, inside of the support."""
        if isinstance(value, Tensor) and not value.is_floating_point():
            value = value.to(self._eta.dtype)
        if self._validate_args:
            self._validate_sample(value)
        return value

    def _validate_sample(self, value: Tensor) -> None:
        try:
            super()._validate_sample(value)
        except ValueError as error:
            if not isinstance(value, Tensor) or not _broadcastable(value.shape, self.batch_shape):
                raise
            raise ValueError(self._outside_support(value)) from error

    def _outside_support(self, value: Tensor) -> str:
        outside = (~self.support.check(value)).broadcast_to(
            torch.broadcast_shapes(value.shape, self.batch_shape)
        )
        index = tuple(outside.nonzero()[0].tolist())
        return (
            f"value must be within the support of {self!r}, but {int(outside.sum())} of its "
            f"{outside.numel()} elements are not: the first is "
            f"{value.broadcast_to(outside.shape)[index].item()} at {index}"
        )

    def _parameter(self, name: str) -> Tensor:
        """A parameter of the family, in the batch shape."""
        value = getattr(self.family, name)
        if not isinstance(value, Tensor):
            value = self._eta.new_full((), value)
        return value.to(self._eta).expand(self.batch_shape)

    def _enumerated(self, values: Tensor, expand: bool) -> Tensor:
        values = values.to(self._eta).view((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values

    def _draw_options(self, sample_shape: Shape) -> dict[str, Any]:
        return {
            "size": self._extended_shape(sample_shape),
            "dtype": self._eta.dtype,
            "device": self._eta.device,
        }


@register_kl(FamilyDistribution, FamilyDistribution)
def _kl_same_family(p: FamilyDistribution, q: FamilyDistribution) -> Tensor:
    if p.family != q.family:
        raise NotImplementedError(
            f"the divergence needs one family, got {p.family!r} and {q.family!r}"
        )
    return p.family.kl_divergence(p._eta, q._eta)


def _broadcastable(shape: torch.Size, other: torch.Size) -> bool:
    try:
        torch.broadcast_shapes(shape, other)
    except RuntimeError:
        return False
    return True


def _describe(value: object) -> object:
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value.shape
    return value
