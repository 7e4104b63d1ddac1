"""`xenm2p diff` of two long traces: events aligned, and GNU diff on their text beside it.

Of each workload B is a copy of A with every number renamed and time stretched, ten
stretches of 300 events left out and ten of 500 put in. GNU diff gets one line an event
without the numbers; it cannot know which unmap belongs to which map.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.bench_replay import _peak_bytes
from tests.compare.renamed import renamed, replace_columns
from xenm2p.compare.alignment import Run, align
from xenm2p.compare.stories import event_tokens
from xenm2p.compare.stretches import Op, stretches_of
from xenm2p.formats.workloads import WORKLOADS, generate
from xenm2p.trace import INVALID, NO_HANDLE, NO_REF, Events, Trace

EDITS, LEFT_OUT, PUT_IN = 10, 300, 500
ELSEWHERE = 1 << 24  # pages, frames, refs and handles of what is put in


def main(arguments: Sequence[str] = ()) -> list[dict[str, str]]:
    """Measure every asked-for workload in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks diff")
    parser.add_argument("--events", type=int, default=1_000_000, help="of each of both traces")
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS))
    asked = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes=1, maxtasksperchild=1) as pool:
        return [pool.apply(_measure, (workload, asked.events))
                for workload in asked.workload or list(WORKLOADS)]


def _measure(workload: str, events: int) -> dict[str, str]:
    a, b = _pair(workload, events)
    begin = time.process_time()
    alignment = align(a, b)
    stretches = stretches_of(a, b, alignment)
    seconds = time.process_time() - begin
    count = np.bincount(stretches.op, weights=stretches.count, minlength=len(Op)).astype(int)
    peer_seconds, only_a, only_b = _gnu_diff(a.events, b.events)
    return {
        "workload": workload, "events": f"{len(a) + len(b):,}", "s": f"{seconds:.1f}",
        "missing": f"{count[Op.MISSING]:,}", "inserted": f"{count[Op.INSERTED]:,}",
        "moved": f"{count[Op.MOVED] + count[Op.INTERLEAVED]:,}",
        "true": f"{EDITS * LEFT_OUT:,} / {EDITS * PUT_IN:,} / 0",
        "peak MB": f"{_peak_bytes() / 1e6:.0f}",
        "GNU diff s": f"{peer_seconds:.1f}", "its -": f"{only_a:,}", "its +": f"{only_b:,}",
    }


def _pair(workload: str, count: int) -> tuple[Run, Run]:
    def made(events: int, seed: int) -> Events:
        return generate(workload, events=events, seed=seed, in_flight=1000,
                        frames=65536).events()

    whole = made(count, 5)
    more = _elsewhere(made(2 * EDITS * PUT_IN, 9))
    parts, last = [], 0
    for edit in range(2 * EDITS):
        at = (edit + 1) * count // (2 * EDITS + 2)
        parts.append(whole.rows(slice(last, at)))
        last = at + LEFT_OUT * (edit % 2)
        if not edit % 2:
            parts.append(more.rows(slice(edit * PUT_IN, (edit + 1) * PUT_IN)))
    edited = Events.concat([*parts, whole.rows(slice(last, None))])
    copy = replace_columns(renamed(edited, 1), domid=edited.domid)
    traces = [Trace.of_events(events) for events in (whole, copy)]
    return Run(traces[0], whole), Run(traces[1], copy)


def _elsewhere(events: Events) -> Events:
    frames = {
        name: np.where(column == np.uint64(INVALID), column, column + np.uint64(ELSEWHERE))
        for name, column in (("pfn", events.pfn), ("mfn", events.mfn))}
    numbers = {
        name: np.where(column == absent, column, column + np.uint32(ELSEWHERE))
        for name, column, absent in (("ref", events.ref, NO_REF),
                                     ("handle", events.handle, NO_HANDLE))}
    return replace_columns(events, **frames, **numbers)


def _gnu_diff(a: Events, b: Events) -> tuple[float, int, int]:
    """Seconds, and how many lines it takes out and puts in."""
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for name, events in (("a", a), ("b", b)):
            path = Path(folder) / name
            path.write_text("\n".join(map(str, event_tokens(events).tolist())) + "\n")
            names.append(str(path))
        begin = time.monotonic()
        done = subprocess.run(["diff", "--speed-large-files", *names], capture_output=True,
                              text=True, check=False)
        seconds = time.monotonic() - begin
    marks = [line[:1] for line in done.stdout.splitlines()]
    return seconds, marks.count("<"), marks.count(">")
