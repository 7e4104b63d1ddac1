"""trace.dat on the command line: found by content, losses and damage in the exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.formats.ftrace_text import set_p2m
from tests.formats.tracedat_files import Event, File

EVENTS = [Event(set_p2m(n, n), cpu=n % 2, time=1000 * n) for n in range(1, 900)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole trace.dat, under another name."""
    path = tmp_path / "capture"
    path.write_bytes(File(EVENTS).version6())
    return path


def test_check_and_info_name_the_format(xenm2p: Run, path: Path) -> None:
    for command in ("check", "info"):
        outcome = xenm2p(command, path)
        assert outcome.status == 0
        assert "trace.dat" in outcome.out
    assert xenm2p("check", "--strict", path).status == 0


def test_standard_input_is_read_like_a_file(xenm2p: Run, path: Path) -> None:
    outcome = xenm2p("export", "-t", "events", "-f", "csv", "-", stdin=path.read_bytes())
    assert outcome.out == xenm2p("export", "-t", "events", "-f", "csv", path).out
    assert outcome.out.count("\n") == 900


def test_a_cut_file_is_lossy(xenm2p: Run, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
    outcome = xenm2p("check", "--strict", path)
    assert outcome.status == 4
    assert "cpu 1's data ends at byte" in " ".join(outcome.out.split())
    assert xenm2p("check", path).status == 0
    assert xenm2p("replay", "--strict", path).status == 4


def test_a_damaged_file_is_one_line(xenm2p: Run, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])
    outcome = xenm2p("replay", path)
    assert (outcome.status, outcome.out) == (3, "")
    assert outcome.err.startswith(f"xenm2p: {path}:byte ")
    assert outcome.err.count("\n") == 1
