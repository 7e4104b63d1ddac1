"""The program as a user runs it: `xenm2p` in this process, `program` as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from xenm2p.cli.app import cli

# A page of the domain's own, locked by mount, is shared with a backend in the same domain
# and read into by direct I/O. Linux 3.4 deadlocks, 3.5 does not.
DEADLOCK = """\
format: xenm2p-trace
version: 1
kernel: "3.4.5"
domain: 0
memory:
- {pfn: 0x1000, mfn: 0x50000, count: 256}
- {pfn: 0x8000, count: 64}
events:
- {time: 1000, kind: lock_page, pfn: 0x1010, task: mount-1042}
- {time: 2000, kind: map, mfn: 0x50010, pfn: 0x8000, user: true, domid: 0, ref: 8, handle: 3}
- {time: 3000, kind: dio_read, pfn: 0x8000, task: qemu-77, cpu: 1}
- {time: 4000, kind: unmap, pfn: 0x8000, user: true, handle: 3}
- {time: 5000, kind: unlock_page, pfn: 0x1010, task: mount-1042}
"""
LOSSY = DEADLOCK + "- {time: 6000, kind: lost, cpu: 1, count: 12}\n"


@dataclass(frozen=True)
class Outcome:
    """How a run ended and what it said where."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def xenm2p() -> Run:
    """Run the command line in this process; any traceback fails the test."""
    def run(*arguments: object, stdin: str | bytes = "") -> Outcome:
        result = CliRunner().invoke(cli, [str(word) for word in arguments], input=stdin,
                                    prog_name="xenm2p")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


PROGRAM = [sys.executable, "-m", "xenm2p"]


@pytest.fixture
def program() -> Run:
    """Run the command line as its own process."""
    def run(*arguments: object, stdin: str = "") -> Outcome:
        done = subprocess.run([*PROGRAM, *map(str, arguments)], input=stdin,
                              capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def deadlock(tmp_path: Path) -> Path:
    """The trace DEADLOCK in a file."""
    path = tmp_path / "deadlock.yaml"
    path.write_text(DEADLOCK)
    return path


@pytest.fixture
def lossy(tmp_path: Path) -> Path:
    """The trace LOSSY in a file."""
    path = tmp_path / "lossy.yaml"
    path.write_text(LOSSY)
    return path
