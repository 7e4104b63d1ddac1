"""Small traces from dict rows, written as the YAML form writes events.

    trace_of([
        {"kind": "lock_page", "pfn": 0x1010, "task": "mount-1042"},
        {"kind": "map", "mfn": 0x50010, "pfn": 0x8000, "user": True},
    ])

A row's number is its event number. Keys are those of `trace.KINDS`; frames are numbers,
p2m entries also `foreign(frame)`, `identity(frame)` or `INVALID`. A row without `time`
comes 1000 ns after the row before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xenm2p.trace import COLUMNS, FOREIGN, IDENTITY, INVALID, KINDS, Events, Runs, Trace

# Pages 0x1000-0x10ff are the domain's own, 0x8000-0x803f are ballooned out for backends,
# and frames 0x90000-0x9000f belong to another domain.
MEMORY = [(0x1000, 0x50000, 256), (0x8000, INVALID, 64)]
M2P = [(0x90000, 0x200, 16)]


def foreign(frame: int) -> int:
    """The p2m entry F:frame."""
    return frame | FOREIGN


def identity(frame: int) -> int:
    """The p2m entry I:frame."""
    return frame | IDENTITY


def events_of(rows: list[dict[str, Any]], tasks: list[str]) -> Events:
    """The events of `rows`; names of tasks that are new go to the end of `tasks`.

    Raises KeyError for an unknown kind or key and for a key that the kind needs.
    """
    columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
    time = 0
    for row in rows:
        spec = KINDS[row["kind"]]
        time = row.get("time", time + 1000)
        cells = {"time": time, "kind": int(spec.kind)}
        for key in spec.needs.keys() - row.keys():
            raise KeyError(f"{spec.name} needs '{key}'")
        for key in row.keys() - {"kind", "time"}:
            value = row[key]
            if key == "task":
                if value not in tasks:
                    tasks.append(value)
                value = tasks.index(value)
            cells[spec.keys[key]] = value
        for name, column in columns.items():
            column.append(cells.get(name, COLUMNS[name].absent))
    return Events.from_columns(
        len(rows), **{name: np.array(column, COLUMNS[name].dtype)
                      for name, column in columns.items()})


def trace_of(
    rows: list[dict[str, Any]],
    *,
    memory: list[tuple[int, int, int]] = MEMORY,
    m2p: list[tuple[int, int, int]] = M2P,
    chunk: int | None = None,
    **header: Any,
) -> Trace:
    """A trace of `rows`, delivered in chunks of `chunk` events (default: one chunk)."""
    tasks: list[str] = []
    trace = Trace.of_events(
        events_of(rows, tasks), memory=Runs.of(memory), m2p=Runs.of(m2p), tasks=tasks,
        **header)
    return trace if chunk is None else in_chunks(trace, chunk)


def in_chunks(trace: Trace, chunk: int) -> Trace:
    """The same trace, delivered in chunks of `chunk` events."""
    events = trace.events()
    return Trace(
        chunks_of=lambda: (events.rows(slice(begin, begin + chunk))
                           for begin in range(0, len(events), chunk)),
        kernel=trace.kernel, domain=trace.domain, origin=trace.origin, memory=trace.memory,
        m2p=trace.m2p, tasks=trace.tasks, length=len(events))
