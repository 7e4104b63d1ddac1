"""Replay of synthetic .xm2p traces, summary and findings, on one core.

Each case runs in a process of its own, so that its memory is its own. `vector` replays
the whole trace from the file; its peer is the plain dict-based replay one would write in
Python, which here is `reference`, on the first events of the same trace in memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xenm2p.engine import reference, vector
from xenm2p.engine.replay import Options, Segment
from xenm2p.findings.judge import findings_by_source
from xenm2p.formats.binary import read_binary, write_binary
from xenm2p.formats.workloads import WORKLOADS, generate
from xenm2p.kernels import MODELS, KernelModel
from xenm2p.trace import Events, Trace

Replay = Callable[[Trace, KernelModel, Options], Iterator[Segment]]


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: a trace file under one model."""

    workload: str
    model: str
    path: str
    prefix: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU seconds of one replay, the events of it, its findings and the peak memory."""

    seconds: float
    events: int
    findings: int
    peak_bytes: int


def main(arguments: Sequence[str] = ()) -> list[dict[str, str]]:
    """Measure every asked-for workload under every asked-for model."""
    asked = _parse(arguments)
    rows = []
    # A new process for each case: spawn, and one task a child.
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        context.Pool(processes=1, maxtasksperchild=1) as pool,
    ):
        for workload in asked.workload or list(WORKLOADS):
            path = Path(folder) / f"{workload}.xm2p"
            write_seconds = pool.apply(_write, (workload, path, asked))
            for model in asked.model or list(MODELS):
                case = Case(workload, model, str(path), asked.prefix, asked.repeat)
                fast = pool.apply(_measure_vector, (case,))
                slow = pool.apply(_measure_reference, (case,))
                rows.append(_row(case, fast, slow))
                if not asked.quiet:
                    print(f"{workload} {model}: done", file=sys.stderr)
            size = path.stat().st_size / asked.events
            if not asked.quiet:
                print(f"{workload}: {size:.1f} bytes an event, generated and written in "
                      f"{write_seconds:.1f} s", file=sys.stderr)
            path.unlink()
    return rows


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks replay")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--prefix", type=int, default=100_000,
                        help="events that the reference replays")
    parser.add_argument("--in-flight", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=65536)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2, help="the fastest counts")
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS))
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args(arguments)


def _write(workload: str, path: Path, asked: argparse.Namespace) -> float:
    begin = time.process_time()
    trace = generate(workload, events=asked.events, seed=asked.seed,
                     in_flight=asked.in_flight, frames=asked.frames)
    with path.open("wb") as file:
        write_binary(trace, file)
    return time.process_time() - begin


def _measure_vector(case: Case) -> Measured:
    return _fastest(case, lambda: _timed(vector.replay, read_binary(case.path, case.path), case))


def _measure_reference(case: Case) -> Measured:
    def measure() -> Measured:
        first = _first_events(read_binary(case.path, case.path), case.prefix)
        return _timed(reference.replay, first, case)

    return _fastest(case, measure)


def _fastest(case: Case, measure: Callable[[], Measured]) -> Measured:
    return min((measure() for _ in range(case.repeat)), key=lambda found: found.seconds)


def _timed(replay: Replay, trace: Trace, case: Case) -> Measured:
    model = MODELS[case.model]
    events = findings = 0
    begin = time.process_time()
    for segment in replay(trace, model, Options(details=False)):
        events += len(segment.events)
        findings += sum(map(len, findings_by_source(segment, model)))
    return Measured(time.process_time() - begin, events, findings, _peak_bytes())


def _first_events(trace: Trace, count: int) -> Trace:
    parts: list[Events] = []
    missing = count
    for chunk in trace.chunks():
        parts.append(chunk.rows(slice(0, missing)))
        missing -= len(parts[-1])
        if missing <= 0:
            break
    return Trace.of_events(Events.concat(parts), kernel=trace.kernel, domain=trace.domain,
                           memory=trace.memory, m2p=trace.m2p, tasks=trace.tasks)


def _peak_bytes() -> int:
    # Not getrusage: its maximum is inherited from the parent across fork and exec.
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))


def _row(case: Case, fast: Measured, slow: Measured) -> dict[str, str]:
    fast_ns = fast.seconds * 1e9 / max(fast.events, 1)
    slow_ns = slow.seconds * 1e9 / max(slow.events, 1)
    return {
        "workload": case.workload,
        "model": case.model,
        "events": f"{fast.events:,}",
        "findings": f"{fast.findings:,}",
        "Mevents/s": f"{1e3 / fast_ns:.1f}",
        "ns/event": f"{fast_ns:.1f}",
        "peak MB": f"{fast.peak_bytes / 1e6:.0f}",
        "reference ns/event": f"{slow_ns:.0f}",
        "vector/reference": f"{slow_ns / fast_ns:.0f}x",
    }
