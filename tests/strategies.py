"""Hypothesis strategies for events and traces.

Frames, tasks, refs, handles and calls come from small pools, so that events meet on the
same page, share, lock or call; now and then a huge but legal number comes instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from xenm2p.trace import (
    COLUMNS,
    FOREIGN,
    IDENTITY,
    INVALID,
    KINDS,
    MAX_FRAME,
    NO_DOMID,
    NO_HANDLE,
    NO_REF,
    Events,
    KindSpec,
    Runs,
    Trace,
)

FRONTEND_PAGES = [0x1000, 0x1001, 0x1002, 0x1003]
BACKEND_PAGES = [0x8000, 0x8001, 0x8002, 0x8003]
LOCAL_FRAMES = [0x50000, 0x50001, 0x50002, 0x50003]
FOREIGN_FRAMES = [0x90000, 0x90001]
TASK_NAMES = [
    "mount-1042",
    "kworker/0:1-23",
    "qemu system x86-7",
    "a, b: c #1",
    "it's \"quoted\"",
    "- {time: 1}",
    "größe-☃",
    "true",
    "0x10",
    "",
]
KERNELS = ["3.4.5", "3.10", "3.16.0", "4.4.0", "6.1.0-9-amd64", "local-foreign"]


def _pool(values: list[int], *huge: int) -> st.SearchStrategy[int]:
    """Mostly one of `values`, which shrink first; rarely one of the `huge`."""
    return st.sampled_from(values * 6 + list(huge))


pages = _pool(FRONTEND_PAGES + BACKEND_PAGES, 0, MAX_FRAME)
frames = _pool(LOCAL_FRAMES + FOREIGN_FRAMES, 0, MAX_FRAME)


def _entries(of: st.SearchStrategy[int]) -> st.SearchStrategy[int]:
    """p2m entries: plain frames, F:frame, I:frame and INVALID."""
    return st.one_of(
        of,
        st.just(INVALID),
        of.map(lambda frame: frame | FOREIGN),
        of.map(lambda frame: frame | IDENTITY),
    )


# What a column may hold where it is present. The `invalid` frame of a map, a lookup, a
# p2m entry or an m2p entry is a value, not an absence.
_VALUES: dict[str, st.SearchStrategy[int]] = {
    "pfn": pages,
    "mfn": frames,
    "user": st.sampled_from([0, 1]),
    "domid": _pool([0, 1, 0x7FF0], NO_DOMID - 1),
    "ref": _pool([8, 9, 10], 0, NO_REF - 1),
    "handle": _pool([0, 1, 2], NO_HANDLE - 1),
    "status": _pool([0, 0, 0, -1, -3], -(1 << 15), (1 << 15) - 1),
    "call": _pool([0, 1, 2], (1 << 63) - 1),
    "cpu": _pool([0, 1], (1 << 15) - 1),
    "count": _pool([1, 7], NO_REF - 1),
}
_VALUES_OF_KIND: dict[tuple[str, str], st.SearchStrategy[int]] = {
    ("map", "mfn"): frames | st.just(INVALID),
    ("lookup", "mfn"): frames | st.just(INVALID),
    ("set_m2p", "pfn"): pages | st.just(INVALID),
    ("set_p2m", "mfn"): _entries(frames),
    ("p2m_write", "mfn"): _entries(frames),
}


@st.composite
def _rows(draw: st.DrawFn, kinds: list[str], n_tasks: int) -> dict[str, int]:
    """One event as {column: value}, without its time; absent columns are left out."""
    spec: KindSpec = KINDS[draw(st.sampled_from(kinds))]
    row = {"kind": int(spec.kind)}
    for key, column in spec.keys.items():
        if key == "time":
            continue
        if key not in spec.needs and draw(st.booleans()):
            continue
        if key == "task":
            row[column] = draw(st.integers(0, n_tasks - 1))
        else:
            values = _VALUES_OF_KIND.get((spec.name, key), _VALUES[key])
            row[column] = draw(values)
    return row


def events_of_rows(rows: list[dict[str, int]]) -> Events:
    """Events from {column: value} rows; what a row does not name is absent."""
    columns: dict[str, Any] = {
        name: np.array([row.get(name, spec.absent) for row in rows], dtype=spec.dtype)
        for name, spec in COLUMNS.items()
    }
    return Events(**columns)


@st.composite
def events(
    draw: st.DrawFn,
    max_events: int = 40,
    kinds: list[str] | None = None,
    n_tasks: int = len(TASK_NAMES),
) -> Events:
    """Legal events of any of `kinds` (default: all), task indices below `n_tasks`.

    Times mostly stand still or grow; rarely one steps back, as clocks of two processors do.
    """
    names = list(KINDS) if kinds is None else kinds
    row = _rows(names, n_tasks)
    few = st.lists(row, max_size=max_events)
    many = st.lists(row, min_size=max_events // 2, max_size=max_events)
    rows = draw(few | many)
    time = draw(_pool([0, 1000], (1 << 63) - (1 << 50)))
    for row in rows:
        time = max(0, time + draw(_pool([0, 1, 1000], 1 << 40, -7)))
        row["time"] = time
    return events_of_rows(rows)


@st.composite
def _runs(
    draw: st.DrawFn, starts: st.SearchStrategy[int], values: st.SearchStrategy[int]
) -> Runs:
    rows = []
    for _ in range(draw(st.integers(0, 4))):
        start, value = draw(starts), draw(values)
        frame = 0 if value == INVALID else value & MAX_FRAME
        room = MAX_FRAME + 1 - max(start, frame)
        rows.append((start, value, min(room, draw(_pool([1, 2, 8, 256], 1 << 40)))))
    return Runs.of(rows)


_USUAL_MEMORY = Runs.of([(0x1000, 0x50000, 256), (0x8000, INVALID, 64)])
memory = st.just(_USUAL_MEMORY) | _runs(pages, _entries(frames))
m2p = _runs(frames, pages | st.just(INVALID))
origins = st.just("") | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@st.composite
def traces(draw: st.DrawFn, max_events: int = 40, kinds: list[str] | None = None) -> Trace:
    """Legal traces, in memory: header, memory and m2p rows, task names, events."""
    tasks = draw(st.permutations(TASK_NAMES))
    return Trace.of_events(
        draw(events(max_events, kinds)),
        kernel=draw(st.none() | st.sampled_from(KERNELS)),
        domain=draw(_pool([0, 1], NO_DOMID - 1)),
        origin=draw(origins),
        memory=draw(memory),
        m2p=draw(m2p),
        tasks=list(tasks),
    )
