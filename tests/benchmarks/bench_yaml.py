"""YAML traces: events a second of the fast path, the strict parser and PyYAML's own loader.

    python -m tests.benchmarks yaml [EVENTS]
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable

import numpy as np
import yaml

from xenm2p.formats.yaml import read_yaml, read_yaml_strictly, write_yaml
from xenm2p.trace import NO_DOMID, NO_HANDLE, NO_REF, Events, Kind, Trace, same_trace

TASKS = ["mount-1042", "kworker/0:1-23", "qemu-system-x86-7"]
KINDS = [Kind.MAP, Kind.MAP, Kind.UNMAP, Kind.UNMAP, Kind.LOOKUP, Kind.LOCK_PAGE,
         Kind.UNLOCK_PAGE, Kind.DIO_READ, Kind.SET_P2M, Kind.P2M_WRITE]


def workload(n_events: int) -> Trace:
    """Random events with the fields that a capture has."""
    chance = np.random.default_rng(1)
    kind = chance.choice(np.array(KINDS, dtype=np.uint8), n_events)
    is_call = np.isin(kind, [Kind.MAP, Kind.UNMAP])
    has_task = np.isin(kind, [Kind.LOCK_PAGE, Kind.UNLOCK_PAGE, Kind.DIO_READ])
    ref = chance.integers(8, 4096, n_events)
    events = Events.from_columns(
        n_events,
        time=10**12 + np.cumsum(chance.integers(0, 5000, n_events)),
        kind=kind,
        pfn=chance.integers(0x1000, 0x90000, n_events),
        mfn=chance.integers(0x1000, 0x90000, n_events),
        user=is_call & (chance.random(n_events) < 0.5),
        domid=np.where(is_call, 0, NO_DOMID),
        ref=np.where(is_call, ref, NO_REF),
        handle=np.where(is_call, ref - 8, NO_HANDLE),
        task=np.where(has_task, chance.integers(0, len(TASKS), n_events), -1),
    )
    return Trace.of_events(events, kernel="3.4.5", tasks=list(TASKS))


def _best_seconds(action: Callable[[], object], times: int) -> float:
    best = float("inf")
    for _ in range(times):
        begin = time.process_time()
        action()
        best = min(best, time.process_time() - begin)
    return best


def main(arguments: list[str]) -> list[dict[str, str]]:
    """Rows of the table; the ratio is to PyYAML's CSafeLoader on the same text."""
    n_events = int(arguments[0]) if arguments else 100_000
    trace = workload(n_events)
    out = io.BytesIO()
    writing = _best_seconds(lambda: write_yaml(trace, io.BytesIO()), 3)
    write_yaml(trace, out)
    data = out.getvalue()
    assert same_trace(read_yaml(data, "benchmark"), read_yaml_strictly(data, "benchmark"))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    seconds = {
        loader.__name__: _best_seconds(lambda: yaml.load(data, loader), 1),
        "strict parser": _best_seconds(lambda: read_yaml_strictly(data, "benchmark"), 1),
        "fast path": _best_seconds(lambda: read_yaml(data, "benchmark"), 5),
        "writer": writing,
    }
    loading = seconds[loader.__name__]
    return [
        {
            "what": what,
            "seconds": f"{taken:.3f}",
            "events/s": f"{n_events / taken:,.0f}",
            "MB/s": f"{len(data) / 1e6 / taken:.1f}",
            "ratio": f"{loading / taken:.1f}",
        }
        for what, taken in seconds.items()
    ]


if __name__ == "__main__":
    for row in main(sys.argv[1:]):
        print(row)
