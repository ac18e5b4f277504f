"""Fixtures that every room of the tests shares."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real weights and pictures; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("CNNKIT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real weights and pictures at {folder}; set CNNKIT_TEST_DATA to their folder")
    return folder
