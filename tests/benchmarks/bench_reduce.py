"""Reduce: from a million events to those that show one finding.

    python -m tests.benchmarks reduce [--events N]

Its peer is to read the trace and replay it once, which every reduction begins with.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence

from xenm2p.compare.reduce import Reducer, first_target
from xenm2p.engine import reference, vector
from xenm2p.engine.replay import Options, Segment
from xenm2p.findings.wanted import Wanted
from xenm2p.formats.workloads import generate
from xenm2p.kernels import MODELS, KernelModel
from xenm2p.trace import Trace

CASES = (("locks", "override", "XM101"), ("multi-share", "local-foreign", "XM204"),
         ("ill-formed", "local-foreign", "XM305"), ("ill-formed", "p2m-only", "XM403"),
         ("ill-formed", "kmap-only", "XM205"))


def main(arguments: Sequence[str] = ()) -> list[dict[str, str]]:
    """Reduce the last finding of a rule in each case, which leaves the most to cut."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks reduce")
    parser.add_argument("--events", type=int, default=1_000_000)
    asked = parser.parse_args(arguments)
    return [_measured(asked.events, *case) for case in CASES]


def _measured(events: int, workload: str, name: str, finding: str) -> dict[str, str]:
    model = MODELS[name]
    made = generate(workload, events=events, seed=1, in_flight=1000, frames=65536)
    chunks = list(made.chunks())
    trace = Trace(chunks_of=lambda: iter(chunks), memory=made.memory, m2p=made.m2p,
                  tasks=made.tasks, length=events)
    begin = time.process_time()
    for _ in _quick(trace, model):
        pass
    replayed = time.process_time()
    target = first_target(Wanted.of(f"{finding}@{_last(trace, model, finding)}"),
                          _quick(trace, model), model)
    assert target is not None, "the workload has the finding"
    reducer = Reducer(trace, model, target, (), _quick, _exact)
    reduced, _ = reducer.reduce()
    seconds, once = time.process_time() - replayed, replayed - begin
    return {
        "workload": workload, "model": name, "finding": finding, "events": f"{events:,}",
        "kept": str(len(reduced.events())), "replays": str(reducer.replays),
        "seconds": f"{seconds:.2f}", "one replay": f"{once:.2f}",
        "reduce/replay": f"{seconds / once:.1f}x",
    }


def _last(trace: Trace, model: KernelModel, finding: str) -> int:
    from xenm2p.findings import findings_of

    wanted = Wanted.of(finding)
    last = 0
    for segment in _quick(trace, model):
        found = findings_of(segment, model)
        rows = wanted.rows(found)
        if len(rows):
            last = int(found.event[rows[-1]])
    return last


def _quick(trace: Trace, model: KernelModel) -> Iterator[Segment]:
    return vector.replay(trace, model, Options(details=False))


def _exact(trace: Trace, model: KernelModel) -> Iterator[Segment]:
    return reference.replay(trace, model, Options(details=False))
