"""Where the kernels run: by Triton's interpreter, or on a device."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

# The tables of the layer's tests.
sys.path.append(str(Path(__file__).parents[1]))

HAS_DEVICE = torch.cuda.is_available()


@pytest.fixture(
    params=[
        pytest.param(
            "cpu", marks=pytest.mark.skipif(HAS_DEVICE, reason="kernels run on the device")
        ),
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not HAS_DEVICE, reason="needs a CUDA device"),
            ],
        ),
    ]
)
def device(request):
    """The device of a test's tensors; on a CPU the kernels are interpreted."""
    return request.param
