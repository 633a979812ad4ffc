from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from homegrown.util.parallel import process_pool


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def processes() -> Iterator[Executor]:
    """Two worker processes, started once."""
    with process_pool(2) as pool:
        yield pool
