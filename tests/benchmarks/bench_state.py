"""What holds at any moment of an .xm2p file (`xenm2p state`), each moment a new process.

    python -m tests.benchmarks state [--events N] [--workload NAME]

The moments are spread over the file, some by event and some by time; beside them the start
of the program alone and the peak memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from xenm2p.formats.binary import read_binary, write_binary
from xenm2p.formats.workloads import WORKLOADS, generate


def main(arguments: Sequence[str]) -> list[dict[str, str]]:
    """Rows for each workload: the slowest of several moments."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks state")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--in-flight", type=int, default=512)
    parser.add_argument("--frames", type=int, default=65536)
    parser.add_argument("--moments", type=int, default=6)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS))
    parser.add_argument("--kernel", default="3.5")
    asked, _ = parser.parse_known_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for workload in asked.workload or ["same-domain", "multi-share", "locks"]:
            path = Path(folder) / f"{workload}.xm2p"
            with path.open("wb") as file:
                write_binary(generate(workload, events=asked.events, seed=1,
                                      in_flight=asked.in_flight, frames=asked.frames), file)
            rows.append(_measure(workload, path, asked))
            path.unlink()
    return rows


def _measure(workload: str, path: Path, asked: argparse.Namespace) -> dict[str, str]:
    dice = Random(1)
    numbers = [0, asked.events - 1, *(dice.randrange(asked.events) for _ in range(asked.moments))]
    first = last = 0
    for chunk in read_binary(path, str(path), columns=frozenset({"time"})).chunks():
        first, last = first or int(chunk.time[0]), int(chunk.time[-1])
    times = [f"{dice.randint(first, last)}ns" for _ in range(asked.moments)]
    command = [sys.executable, "-m", "xenm2p", "state", "-q", "-k", asked.kernel, str(path)]
    by_event = max(_seconds([*command, "--at", str(number)]) for number in numbers)
    by_time = max(_seconds([*command, "--at", moment]) for moment in times)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    return {
        "workload": workload,
        "events": f"{asked.events:,}",
        "MB": f"{path.stat().st_size / 1e6:.0f}",
        "slowest by event s": f"{by_event:.2f}",
        "slowest by time s": f"{by_time:.2f}",
        "start alone s": f"{_seconds([sys.executable, '-m', 'xenm2p', 'state', '--help']):.2f}",
        "peak MiB": str(peak),
    }


def _seconds(command: Sequence[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin
