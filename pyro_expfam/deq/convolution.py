"""Convolutions as linear maps: latents are a small image, features a larger one."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_expfam.deq.limits import check_size
from pyro_expfam.deq.linear_map import LinearMap
from pyro_expfam.deq.transposed_convolution import convolution, transposed_convolution
from pyro_expfam.families import Family

DENSE_LATENTS = 64
"""Up to this many latents the matrix of a convolution is formed, and everything is exact."""


PLACES = {1: ("kernel_place",), 2: ("kernel_row", "kernel_column")}
"""The names of the places in a kernel, by its number of dimensions."""


@dataclass(frozen=True)
class Convolution:
    """The sizes of a convolution; its numbers are a kernel.

    A row of latents is an image of ``in_channels`` channels, and a row of features is one of
    ``out_channels`` channels. Both are kept flat, channel by channel: a table is ``(N, d)`` and
    latents are ``(N, l)``.

    Attributes:
        in_channels: channels of the latents.
        out_channels: channels of the features.
        kernel_size: the size of the kernel, one number or one per dimension.
        stride: the step of the kernel, one number or one per dimension.
        padding: zeros around the larger image, one number or one per dimension.
        latent_shape: channels and sizes of the latents, such as ``(8, 14, 14)``.
        dense_latents: up to this many latents the matrix of the map is formed, and information and
            evidence are exact. Beyond, everything is found without a matrix.
    """

    in_channels: int
    out_channels: int
    kernel_size: Any
    stride: Any = 1
    padding: Any = 0
    latent_shape: Any = None
    dense_latents: int = DENSE_LATENTS

    rank: ClassVar[int]
    """The number of dimensions of an image."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels"):
            self._set(name, check_size(name, getattr(self, name)))
        for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0)):
            self._set(name, _per_dim(name, getattr(self, name), self.rank, least))
        (dense_latents,) = _per_dim("dense_latents", self.dense_latents, 1, 0)
        self._set("dense_latents", dense_latents)
        self._set("latent_shape", self._checked_latent_shape())
        if min(self.feature_shape) < 1:
            raise ValueError(
                f"kernel_size must fit on latents of shape {self.latent_shape} with padding "
                f"{self.padding}, got {self.kernel_size}, which leaves features of shape "
                f"{self.feature_shape}"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _checked_latent_shape(self) -> tuple[int, ...]:
        names = ("channels", "height", "width") if self.rank == 2 else ("channels", "length")
        shape = self.latent_shape
        if not isinstance(shape, Sequence) or len(shape) != self.rank + 1:
            raise ValueError(f"latent_shape must be ({', '.join(names)}), got {shape!r}")
        shape = tuple(check_size("latent_shape", size) for size in shape)
        if shape[0] != self.in_channels:
            raise ValueError(
                f"latent_shape must begin with the {self.in_channels} channels of in_channels, got "
                f"{shape}"
            )
        return shape

    @property
    @abstractmethod
    def feature_shape(self) -> tuple[int, ...]:
        """Channels and sizes of the features, such as ``(1, 28, 28)``."""

    @property
    @abstractmethod
    def kernel_shape(self) -> tuple[int, ...]:
        """The shape of the kernel, which is the shape of the weight of PyTorch's module."""

    @property
    @abstractmethod
    def kernel_dims(self) -> tuple[str, ...]:
        """The names of the dimensions of the kernel."""

    @property
    def latent_dim(self) -> int:
        """The number of latents ``l`` per row."""
        return math.prod(self.latent_shape)

    @property
    def num_features(self) -> int:
        """The number of features ``d`` per row."""
        return math.prod(self.feature_shape)

    def map(self, kernel: Tensor) -> ConvolutionMap:
        """The linear map by a kernel, ``(..., *kernel_shape)``."""
        shape = self.kernel_shape
        if tuple(kernel.shape[-len(shape) :]) != shape:
            raise ValueError(f"kernel must have shape (..., {shape}), got {tuple(kernel.shape)}")
        batch = kernel.shape[: kernel.dim() - len(shape)]
        return ConvolutionMap(self, kernel.reshape(*batch, shape[0], -1))

    def unflatten(self, features: Tensor) -> Tensor:
        """Features ``(..., d)`` as images ``(..., channels, *sizes)``."""
        return features.unflatten(-1, self.feature_shape)

    def unflatten_latents(self, z: Tensor) -> Tensor:
        """Latents ``(..., l)`` as images ``(..., channels, *sizes)``."""
        return z.unflatten(-1, self.latent_shape)

    @abstractmethod
    def forward(self, z: Tensor, kernel: Tensor) -> Tensor:
        """Images of latents ``(N, *latent_shape)`` to images of features."""

    @abstractmethod
    def adjoint(self, features: Tensor, kernel: Tensor) -> Tensor:
        """Images of features ``(N, *feature_shape)`` to images of latents, by the transpose."""


@dataclass(frozen=True)
class _Downward(Convolution):
    """A convolution: features are a smaller image than latents, or one of the same size."""

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Channels and sizes of the features."""
        sizes = zip(self.latent_shape[1:], self.kernel_size, self.stride, self.padding, strict=True)
        return (self.out_channels, *((n + 2 * p - k) // s + 1 for n, k, s, p in sizes))

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """``(out_channels, in_channels, *kernel_size)``."""
        return (self.out_channels, self.in_channels, *self.kernel_size)

    @property
    def kernel_dims(self) -> tuple[str, ...]:
        """The names of the dimensions of the kernel."""
        return ("channel_out", "channel_in", *PLACES[self.rank])

    def forward(self, z: Tensor, kernel: Tensor) -> Tensor:
        """The convolution."""
        return convolution(z, kernel, self.stride, self.padding)

    def adjoint(self, features: Tensor, kernel: Tensor) -> Tensor:
        """The transposed convolution."""
        sizes = zip(self.latent_shape[1:], self.kernel_size, self.stride, self.padding, strict=True)
        # Pixels at the end that no step of the kernel reaches.
        beyond = [(n + 2 * p - k) % s for n, k, s, p in sizes]
        return transposed_convolution(features, kernel, self.stride, self.padding, beyond)


@dataclass(frozen=True)
class _Upward(Convolution):
    """A transposed convolution: features are a larger image than latents.

    Attributes:
        output_padding: pixels more at the end of the features, which the size of the larger image
            wants where the stride does not divide it.
    """

    output_padding: Any = 0

    def __post_init__(self) -> None:
        found = _per_dim("output_padding", self.output_padding, self.rank, 0)
        self._set("output_padding", found)
        super().__post_init__()
        if any(more >= step for more, step in zip(found, self.stride, strict=True)):
            raise ValueError(f"output_padding must be below stride {self.stride}, got {found}")

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Channels and sizes of the features."""
        sizes = zip(
            self.latent_shape[1:],
            self.kernel_size,
            self.stride,
            self.padding,
            self.output_padding,
            strict=True,
        )
        return (self.out_channels, *((n - 1) * s - 2 * p + k + o for n, k, s, p, o in sizes))

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """``(in_channels, out_channels, *kernel_size)``."""
        return (self.in_channels, self.out_channels, *self.kernel_size)

    @property
    def kernel_dims(self) -> tuple[str, ...]:
        """The names of the dimensions of the kernel."""
        return ("channel_in", "channel_out", *PLACES[self.rank])

    def forward(self, z: Tensor, kernel: Tensor) -> Tensor:
        """The transposed convolution."""
        return transposed_convolution(z, kernel, self.stride, self.padding, self.output_padding)

    def adjoint(self, features: Tensor, kernel: Tensor) -> Tensor:
        """The convolution."""
        return convolution(features, kernel, self.stride, self.padding)


@dataclass(frozen=True)
class Conv1d(_Downward):
    """A convolution of sequences of latents, as :class:`torch.nn.Conv1d` without its bias.

    Args:
        in_channels: channels of the latents.
        out_channels: channels of the features.
        kernel_size: the size of the kernel.
        stride: the step of the kernel.
        padding: zeros at both ends of the latents.
        latent_shape: channels and length of the latents.
        dense_latents: up to this many latents the matrix of the map is formed.

    Raises:
        ValueError: if a size does not fit; the message names the argument.

    Example:
        >>> import pyro_expfam as pef
        >>> pef.linear.Conv1d(2, 1, 3, latent_shape=(2, 10)).feature_shape
        (1, 8)
    """

    rank = 1


@dataclass(frozen=True)
class Conv2d(_Downward):
    """A convolution of images of latents, as :class:`torch.nn.Conv2d` without its bias.

    Args:
        in_channels: channels of the latents.
        out_channels: channels of the features.
        kernel_size: the size of the kernel, one number or two.
        stride: the step of the kernel, one number or two.
        padding: zeros around the latents, one number or two.
        latent_shape: channels, height and width of the latents.
        dense_latents: up to this many latents the matrix of the map is formed.

    Raises:
        ValueError: if a size does not fit; the message names the argument.

    Example:
        >>> import pyro_expfam as pef
        >>> pef.linear.Conv2d(4, 1, 3, padding=1, latent_shape=(4, 8, 8)).feature_shape
        (1, 8, 8)
    """

    rank = 2


@dataclass(frozen=True)
class ConvTranspose1d(_Upward):
    """A transposed convolution of sequences, as :class:`torch.nn.ConvTranspose1d` without its bias.

    Args:
        in_channels: channels of the latents.
        out_channels: channels of the features.
        kernel_size: the size of the kernel.
        stride: the step of the kernel over the features.
        padding: what is cut off at both ends of the features.
        latent_shape: channels and length of the latents.
        dense_latents: up to this many latents the matrix of the map is formed.
        output_padding: features more at the end, fewer than ``stride``.

    Raises:
        ValueError: if a size does not fit; the message names the argument.

    Example:
        >>> import pyro_expfam as pef
        >>> up = pef.linear.ConvTranspose1d(2, 1, 4, stride=2, padding=1, latent_shape=(2, 5))
        >>> up.feature_shape
        (1, 10)
    """

    rank = 1


@dataclass(frozen=True)
class ConvTranspose2d(_Upward):
    """A transposed convolution of images, as :class:`torch.nn.ConvTranspose2d` without its bias.

    Args:
        in_channels: channels of the latents.
        out_channels: channels of the features.
        kernel_size: the size of the kernel, one number or two.
        stride: the step of the kernel over the features, one number or two.
        padding: what is cut off around the features, one number or two.
        latent_shape: channels, height and width of the latents.
        dense_latents: up to this many latents the matrix of the map is formed.
        output_padding: rows and columns more at the end of the features, fewer than ``stride``.

    Raises:
        ValueError: if a size does not fit; the message names the argument.

    Example:
        >>> import pyro_expfam as pef
        >>> up = pef.linear.ConvTranspose2d(8, 1, 4, stride=2, padding=1, latent_shape=(8, 14, 14))
        >>> up.feature_shape, up.num_features, up.latent_dim
        ((1, 28, 28), 784, 1568)
    """

    rank = 2


@dataclass(frozen=True, eq=False)
class ConvolutionMap(LinearMap):
    """A map by a convolution with a kernel.

    Linear predictors, transposes, squares and the gradient of the kernel are convolutions. The
    matrix is formed, by the images of unit vectors, if there are few latents.

    Args:
        convolution: the sizes.
        kernel: the kernel as a matrix, its first dimension by all others, ``(..., a, b)``.

    Example:
        >>> import torch
        >>> from pyro_expfam.deq import linear
        >>> pair = linear.ConvTranspose1d(1, 1, 2, stride=2, latent_shape=(1, 2))
        >>> pair.map(torch.tensor([[[1.0, -1.0]]]))(torch.tensor([[3.0, 4.0]]))
        tensor([[ 3., -3.,  4., -4.]])
    """

    convolution: Convolution
    kernel: Tensor

    @property
    def fields(self) -> dict[str, Tensor]:
        """The kernel, by its name."""
        return {"kernel": self.kernel}

    def with_fields(self, fields: Mapping[str, Tensor]) -> ConvolutionMap:
        """The map by another kernel, if there is one."""
        return replace(self, kernel=fields["kernel"]) if fields else self

    @property
    def has_matrix(self) -> bool:
        """Whether there are so few latents that the matrix is formed."""
        return self.latent_dim <= self.convolution.dense_latents

    @property
    def loading(self) -> Tensor:
        """The matrix of the map, ``(..., d, l)``, if there are few latents.

        Raises:
            TypeError: if there are more latents than ``dense_latents`` of the convolution.
        """
        if not self.has_matrix:
            raise TypeError(
                "linear_map must have a matrix here, got a convolution with "
                f"{self.latent_dim:,} latents, more than its dense_latents="
                f"{self.convolution.dense_latents}, up to which the matrix is formed"
            )
        eye = torch.eye(self.latent_dim, dtype=self.dtype, device=self.device)
        return self(eye).mT

    @property
    def num_features(self) -> int:
        """The number of linear predictors ``d`` per row."""
        return self.convolution.num_features

    @property
    def latent_dim(self) -> int:
        """The number of latents ``l`` per row."""
        return self.convolution.latent_dim

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the kernel."""
        return self.kernel.dtype

    @property
    def device(self) -> torch.device:
        """The device of the kernel."""
        return self.kernel.device

    def __call__(self, z: Tensor) -> Tensor:
        """The linear predictors of latents ``(..., N, l)``."""
        return self._by_table(self._forward, z, self.kernel)

    def transpose(self, entries: Tensor) -> Tensor:
        """The transposed convolution of entries ``(..., N, d)``, as ``(..., N, l)``."""
        return self._by_table(self._adjoint, entries, self.kernel)

    def gram_diagonal(self, entries: Tensor) -> Tensor:
        """The diagonals of :meth:`gram`, by the convolution with the squared kernel."""
        return self._by_table(self._adjoint, entries, self.kernel.square())

    def largest_norm(self) -> Tensor:
        """The largest norm of a row of the matrix, by the squared kernel."""
        ones = torch.ones(1, self.latent_dim, dtype=self.dtype, device=self.device)
        squares = self._by_table(self._forward, ones, self.kernel.square())
        return squares.squeeze(-2).amax(-1).sqrt()

    def plus(self, b: Tensor, z: Tensor, out: Tensor) -> Tensor:
        """Linear predictors of latents ``(N, l)`` with intercept ``(d,)``, in memory ``out``."""
        return torch.add(self(z), b, out=out)

    def pullback(self, to_predictor: Tensor, z: Tensor) -> dict[str, Tensor]:
        """The gradient of the kernel, given the gradient of the map's value at ``z``."""

        def of_table(to_predictor: Tensor, z: Tensor, kernel: Tensor) -> Tensor:
            pull_back = torch.func.vjp(lambda kernel: self._forward(z, kernel), kernel)[1]
            found: Tensor = pull_back(to_predictor)[0]
            return found

        shape = (*to_predictor.shape[:-1], z.shape[-1])
        return {"kernel": _by_table(of_table, (to_predictor, z.expand(shape), self.kernel))}

    def _by_table(
        self, function: Callable[[Tensor, Tensor], Tensor], rows: Tensor, kernel: Tensor
    ) -> Tensor:
        if kernel.dim() == 2 and rows.dim() == 2:
            return function(rows, kernel)
        if kernel.dim() == 2:
            return function(rows.reshape(-1, rows.shape[-1]), kernel).unflatten(0, rows.shape[:-1])
        return _by_table(function, (rows, kernel))

    def _forward(self, z: Tensor, kernel: Tensor) -> Tensor:
        images = z.reshape(-1, *self.convolution.latent_shape)
        return self.convolution.forward(images, self._weight(kernel)).flatten(1)

    def _adjoint(self, entries: Tensor, kernel: Tensor) -> Tensor:
        images = entries.reshape(-1, *self.convolution.feature_shape)
        return self.convolution.adjoint(images, self._weight(kernel)).flatten(1)

    def _weight(self, kernel: Tensor) -> Tensor:
        return kernel.reshape(self.convolution.kernel_shape)


def _by_table(function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> Tensor:
    """A function of matrices, table by table of a batch whose dimensions broadcast."""
    batch = torch.broadcast_shapes(*(x.shape[:-2] for x in tensors))
    if not batch:
        return function(*(x.reshape(x.shape[-2:]) for x in tensors))
    tables = [x.expand(*batch, *x.shape[-2:]).flatten(0, -3).unbind(0) for x in tensors]
    found = torch.stack([function(*table) for table in zip(*tables, strict=True)])
    return found.unflatten(0, batch)


def _per_dim(name: str, value: Any, rank: int, least: int) -> tuple[int, ...]:
    """A number per dimension of an image, from one number or one per dimension."""
    numbers = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    whole = all(
        isinstance(x, Integral) and not isinstance(x, bool) and int(x) >= least for x in numbers
    )
    if len(numbers) != rank or not whole:
        wanted = f"a whole number of at least {least}"
        if rank > 1:
            wanted += f", or {rank} of them"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return tuple(int(x) for x in numbers)


def sizes_of(
    linear_map: Any, family: Family, num_features: int | None, latent_dim: int | None
) -> tuple[int, int]:
    """The features and latents of a convolution.

    Raises:
        TypeError: if it is no convolution.
        ValueError: if other sizes are given, or columns of the family have several linear
            predictors, whose places a convolution does not know.
    """
    if not isinstance(linear_map, Convolution):
        raise TypeError(
            "linear_map must be a convolution such as pyro_expfam.linear.ConvTranspose2d, got "
            f"{type(linear_map).__name__}: for a dense loading take num_features and latent_dim"
        )
    found = (linear_map.num_features, linear_map.latent_dim)
    for name, given, own in zip(
        ("num_features", "latent_dim"), (num_features, latent_dim), found, strict=True
    ):
        if given not in (None, own):
            raise ValueError(
                f"{name} must be {own}, which linear_map says, or left out, got {given!r}"
            )
    if family.is_coupled:
        raise ValueError(
            f"family must have one linear predictor per column under a linear_map, got {family}"
        )
    return found
