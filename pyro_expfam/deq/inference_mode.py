"""Keeping tensors from one call to the next if a call runs in ``torch.inference_mode()``.

A tensor made in an inference mode can never take part in a gradient, nor be written to outside of
it. Therefore tensors that are kept are made outside, and arguments made inside are copied where
they enter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Leaves an inference mode, so that tensors may be kept; gradients stay off if it was on."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    # Leaving the inference mode switches gradients on as well.
    with torch.inference_mode(False), torch.no_grad():
        yield


def out_of_inference_mode(value: Any) -> Any:
    """An argument as it is, or a copy of a tensor that was made in an inference mode."""
    if not isinstance(value, Tensor) or not value.is_inference():
        return value
    return value if torch.is_inference_mode_enabled() else value.clone()
