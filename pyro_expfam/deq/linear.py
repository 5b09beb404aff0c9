"""Linear maps from latents to linear predictors, as models and layers take them."""

from pyro_expfam.deq.convolution import (
    Conv1d,
    Conv2d,
    Convolution,
    ConvolutionMap,
    ConvTranspose1d,
    ConvTranspose2d,
)
from pyro_expfam.deq.linear_map import Dense, LinearMap

__all__ = [
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Convolution",
    "ConvolutionMap",
    "Dense",
    "LinearMap",
]
