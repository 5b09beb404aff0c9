"""Processes that several test modules share."""

import pytest
from process_pool import ProcessPool


@pytest.fixture(scope="session")
def pool():
    pool = ProcessPool()
    yield pool
    pool.close()
