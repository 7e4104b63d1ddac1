"""Fixtures for formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.formats.capture_machine import build


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder that stands for a machine to capture on; see capture_machine.py."""
    return build(tmp_path)
