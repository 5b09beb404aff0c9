"""Processes and settings that several test modules share."""

import pytest
import torch
from process_pool import ProcessPool


@pytest.fixture(scope="session")
def pool():
    pool = ProcessPool()
    yield pool
    pool.close()


@pytest.fixture
def double_precision():
    """Tensors are of double precision unless a test says otherwise."""
    torch.set_default_dtype(torch.float64)
