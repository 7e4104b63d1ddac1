"""Segments written by hand, for what no engine needs to be run for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xenm2p.engine.replay import (
    NO_EVENT,
    Collisions,
    Counts,
    Cycles,
    Facts,
    Locks,
    Resolutions,
    Segment,
    Shares,
    Transitions,
)
from xenm2p.trace import INVALID, NO_DOMID, NO_HANDLE, NO_REF, NO_TASK, Events

FACT = {"event": 0, "pfn": 0x8000, "mfn": INVALID, "old": INVALID, "new": INVALID,
        "other": NO_EVENT, "value": -1, "unknown": 0}
COLLISION = {"verdict": 0, "first_event": 0, "last_event": NO_EVENT, "pfn": 0x1010,
             "mfn": 0x50010, "backend_pfn": 0x8000, "map_event": 0, "lock_event": 0,
             "lock_task": NO_TASK, "dio_event": NO_EVENT, "lock_spans_share": 0}
WAIT = {"event": 0, "waiter": NO_TASK, "holder": NO_TASK, "for_io": 0, "pfn": 0x1010,
        "lock_event": 0, "mfn": 0x50010, "backend_pfn": 0x8000, "map_event": 0, "dio_event": 0,
        "unknown": 0}
SHARE = {"map_event": 0, "end_event": NO_EVENT, "mfn": 0x50010, "pfn": 0x8000,
         "domid": NO_DOMID, "ref": NO_REF, "handle": NO_HANDLE, "user": 1, "first_time": 0,
         "last_time": 0, "ending": 0}


def fact(number: int, **cells: int) -> tuple[int, ...]:
    """A row of `Facts`."""
    return number, *(FACT | cells).values()


def collision(**cells: int) -> tuple[int, ...]:
    """A row of `Collisions`."""
    return tuple((COLLISION | cells).values())


def share(**cells: int) -> tuple[int, ...]:
    """A row of `Shares`."""
    return tuple((SHARE | cells).values())


def wait(**cells: int) -> tuple[int, ...]:
    """A row of `Cycles`."""
    return tuple((WAIT | cells).values())


def segment_of(
    facts: Sequence[Any] = (), collisions: Sequence[Any] = (), shares: Sequence[Any] = (), *,
    cycles: Sequence[Any] = (), events: Events | None = None, first_event: int = 0,
    result: list[int] | None = None,
) -> Segment:
    """A segment with these rows; without `events`, the last one of a trace."""
    events = Events.from_columns(0) if events is None else events
    nothing = np.zeros(len(events), np.uint8)
    return Segment(
        first_event, events, nothing if result is None else np.array(result, np.uint8),
        nothing, Resolutions.of([]), Transitions.of([]), Shares.of(list(shares)),
        Locks.of([]), Collisions.of(list(collisions)), Facts.of(list(facts)), Counts(),
        Cycles.of(list(cycles)))
