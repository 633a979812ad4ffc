"""Fixtures that several packages' tests share."""

from pathlib import Path

import pytest

from homegrown.artifacts import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")
