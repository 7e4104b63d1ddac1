"""What holds at one moment of a trace: entries, override lists, shares, locks, grants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from xenm2p.engine.locks import Lock
from xenm2p.engine.memory import Intervals
from xenm2p.engine.replay import NO_EVENT
from xenm2p.engine.resuming import Numbering, resumed_trace
from xenm2p.engine.rules import Share
from xenm2p.engine.tables import Slots
from xenm2p.engine.vector import replay_to_end
from xenm2p.errors import UsageError
from xenm2p.kernels import KernelModel
from xenm2p.trace import I64, NO_REF, Events, Kind, Resumption, Trace


@dataclass(frozen=True, slots=True)
class Entry:
    """A p2m (index: pfn) or m2p (index: mfn) entry that is not as it began."""

    index: int
    began: int
    now: int


@dataclass(frozen=True, slots=True)
class Override:
    """A page on an override list: `place` 0 is the newest of its hash bucket.

    `mfn` is the page's private, which the search compares; `map_event` the map of the share
    that is live on the page, NO_EVENT where none is.
    """

    bucket: int
    place: int
    pfn: int
    mfn: int
    map_event: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant whose access has not ended."""

    event: int
    ref: int
    domid: int
    mfn: int
    task: int
    time: int


@dataclass(frozen=True, slots=True)
class State:
    """All that holds after event `event` (NO_EVENT: before the first), each by its number.

    p2m, m2p: entries that are not as they began, by index. overrides: by bucket, newest
    first. shares, locks, grants: those that are live or held, by their event. `time` is
    that of the event in ns.
    """

    event: int
    time: int
    p2m: list[Entry]
    m2p: list[Entry]
    overrides: list[Override]
    shares: list[Share]
    locks: list[Lock]
    grants: list[Grant]


def state_after(trace: Trace, model: KernelModel, event: int | None) -> State:
    """What holds after event `event`, or after the last one (None).

    Starts at the newest checkpoint before, where the trace has one. Raises UsageError
    where the trace has no such event, and what reading it raises.
    """
    last = (1 << 63) - 2 if event is None else event
    resumption = (
        Resumption(np.zeros(0, np.int64), Events.from_columns(0), 0, trace.chunks())
        if trace.resume is None else trace.resume(last))
    seen = _Seen(resumed_trace(trace, resumption, last + 1), len(resumption.numbers))
    tables, observer = replay_to_end(seen.trace(), model)
    reached = resumption.first_event + seen.later - 1
    if event is not None and reached < event:
        raise UsageError(f"no event {event}: the trace has {reached + 1}")
    numbering = Numbering(resumption.numbers, resumption.first_event)

    def number(virtual: int) -> int:
        return int(numbering.of(np.array([virtual]))[0])

    machine, held = observer.machine, observer.watch.held
    overrides = [
        Override(bucket, place, pfn, machine.pages[pfn].private_mfn,
                 number(machine.shares[pfn].map_event) if pfn in machine.shares else NO_EVENT)
        for bucket, pages in sorted(machine.overrides.items())
        for place, pfn in enumerate(pages)
    ]
    shares = [replace(share, map_event=number(share.map_event))
              for share in machine.shares.values()]
    locks = [replace(lock, event=number(lock.event)) for lock in held.values()]
    grants = [replace(grant, event=number(grant.event)) for grant in seen.grants.values()]
    return State(
        reached, seen.time,
        _changed(tables.pages, "pfn", "p2m", tables.initial_p2m),
        _changed(tables.frames, "mfn", "m2p", tables.initial_m2p),
        overrides, sorted(shares, key=lambda share: share.map_event),
        sorted(locks, key=lambda lock: lock.event),
        sorted(grants, key=lambda grant: grant.event))


def _changed(slots: Slots, index: str, entry: str, initial: Intervals) -> list[Entry]:
    """The touched entries that are not as they began, by index."""
    indices = slots.column[index][1:slots.used]
    now = slots.column[entry][1:slots.used]
    began = initial.entries(indices)
    rows = np.flatnonzero(now != began)
    rows = rows[np.argsort(indices[rows])]
    columns = (indices[rows], began[rows], now[rows])
    return [Entry(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


class _Seen:
    """Watches the events on their way to the engine: how many they are, and live grants."""

    def __init__(self, source: Trace, earlier: int):
        self._source = source
        self._earlier = earlier
        self._count = 0
        self.time = 0
        self.grants: dict[int, Grant] = {}

    @property
    def later(self) -> int:
        """How many events came that are not kept ones of before."""
        return self._count - self._earlier

    def trace(self) -> Trace:
        """The trace, watched."""
        return replace(self._source, chunks_of=self._chunks)

    def _chunks(self) -> Iterator[Events]:
        for events in self._source.chunks():
            self._see(events)
            yield events

    def _see(self, events: Events) -> None:
        rows = np.flatnonzero((events.kind == Kind.GRANT) | (events.kind == Kind.END_GRANT))
        rows = rows[events.ref[rows] != np.uint32(NO_REF)]
        if len(rows):
            self._see_grants(events, rows)
        self._count += len(events)
        if len(events):
            self.time = int(events.time[-1])

    def _see_grants(self, events: Events, rows: I64) -> None:
        # The last event of each reference decides.
        _, from_end = np.unique(events.ref[rows][::-1], return_index=True)
        last = events.rows(rows[len(rows) - 1 - from_end])
        numbers = self._count + rows[len(rows) - 1 - from_end]
        columns = (last.kind, numbers, last.ref, last.domid, last.mfn, last.task, last.time)
        for kind, *grant in zip(*(column.tolist() for column in columns), strict=True):
            if kind == Kind.GRANT:
                self.grants[grant[1]] = Grant(*grant)
            else:
                self.grants.pop(grant[1], None)
