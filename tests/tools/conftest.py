"""Checkouts in which dev.py is run."""

from pathlib import Path

import pytest
from helpers.dev_checkout import Checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose set-up is complete."""
    checkout = Checkout(tmp_path_factory.mktemp("ready"))
    result = checkout.run("benchmark", "probe")
    assert result.returncode == 0, result.stderr
    return checkout


@pytest.fixture
def complete(ready: Checkout, tmp_path: Path) -> Checkout:
    """A copy of it to be damaged."""
    return ready.copy(tmp_path)
