"""What is kept from one call to the next, when a call runs in ``torch.inference_mode()``.

Tensors made in an inference mode can never take part in a gradient, nor be written to outside of
it. So nothing that is made in one is kept, and what comes from one is copied where it enters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Makes tensors that may be kept, without gradients where an inference mode was on."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    # It switches gradients on, too.
    with torch.inference_mode(False), torch.no_grad():
        yield


def out_of_inference_mode(value: Any) -> Any:
    """An argument as it is, or a copy if it is a tensor that was made in an inference mode."""
    if not isinstance(value, Tensor) or not value.is_inference():
        return value
    return value if torch.is_inference_mode_enabled() else value.clone()
