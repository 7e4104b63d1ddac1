"""Selection: which rows are shown. It never changes what is replayed.

A row belongs to the selection when it overlaps the window of events, names one of the
frames, and when one of the events it was made of has the attributes asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.replay import NO_EVENT, Fact, Segment
from xenm2p.engine.waits import Wait
from xenm2p.findings.collisions import LOCK_COLLISION, LOCK_CYCLE
from xenm2p.findings.lifetime import LEAKED_SHARE
from xenm2p.findings.rule import Findings
from xenm2p.trace import FRAME_MASK, I64, INVALID, KINDS, NO_DOMID, NO_REF, U64, Trace

Mask = NDArray[np.bool_]
Span = tuple[int, int]  # first and last, both in


@dataclass(frozen=True, slots=True)
class Point:
    """One end of a window: an event number, or a time in nanoseconds."""

    value: int
    is_time: bool


@dataclass(slots=True)
class Selection:
    """What the user asked to see; empty tuples and None ask for everything.

    `pfns` and `mfns` are spans of frame numbers, `tasks` task names, `kinds` names of
    event kinds. Give every segment, in order, to `observe`; then ask for masks.
    """

    first: Point | None = None
    last: Point | None = None
    pfns: tuple[Span, ...] = ()
    mfns: tuple[Span, ...] = ()
    domids: tuple[int, ...] = ()
    refs: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    # The window in event numbers as far as it is known, and which of the events seen so
    # far have the attributes: one bit an event, kept only when attributes are asked for.
    _begin: int | None = field(default=None, init=False)
    _end: int | None = field(default=None, init=False)
    _bits: list[NDArray[np.uint8]] = field(default_factory=list, init=False)
    _starts: list[int] = field(default_factory=list, init=False)

    @property
    def everything(self) -> bool:
        """Whether nothing is filtered out."""
        return not (self.by_window or self.by_attribute or self.pfns or self.mfns)

    @property
    def by_window(self) -> bool:
        """Whether only a window of events is asked for."""
        return self.first is not None or self.last is not None

    @property
    def by_attribute(self) -> bool:
        """Whether rows are chosen by their events' domid, ref, task, cpu or kind."""
        return bool(self.domids or self.refs or self.tasks or self.cpus or self.kinds)

    def observe(self, segment: Segment, trace: Trace) -> None:
        """Learn the events of the next segment."""
        self._find_window(segment)
        if self.by_attribute and len(segment.events):
            self._starts.append(segment.first_event)
            self._bits.append(np.packbits(self._have_attributes(segment, trace)))

    @property
    def is_over(self) -> bool:
        """Whether the window has ended within what was observed."""
        return self._end is not None

    def _find_window(self, segment: Segment) -> None:
        """Move the ends of the window; where time steps back, the first crossing counts."""
        if self._begin is None:
            self._begin = _first_at(segment, self.first, after=False)
        if self._end is None and self.last is not None:
            beyond = _first_at(segment, self.last, after=True)
            self._end = None if beyond is None else beyond - 1

    def _have_attributes(self, segment: Segment, trace: Trace) -> Mask:
        events = segment.events
        chosen: Mask = np.ones(len(events), dtype=bool)
        if self.domids:
            chosen &= np.isin(events.domid, self.domids) & (events.domid != NO_DOMID)
        if self.refs:
            # The ref column of `lost` carries a count.
            chosen &= np.isin(events.ref, self.refs) & (events.ref != NO_REF)
            chosen &= events.kind != KINDS["lost"].kind
        if self.cpus:
            chosen &= np.isin(events.cpu, self.cpus)
        if self.kinds:
            chosen &= np.isin(events.kind, [KINDS[name].kind for name in self.kinds])
        if self.tasks:
            chosen &= np.isin(
                events.task, [i for i, name in enumerate(trace.tasks) if name in self.tasks])
        return chosen

    def overlaps(self, first: I64, last: I64) -> Mask:
        """Rows that were so from event `first` to event `last` (NO_EVENT: open) in the window."""
        shown: Mask = np.ones(len(first), dtype=bool)
        if self.by_window:
            if self._begin is None:  # the window has not begun
                return np.zeros(len(first), dtype=bool)
            shown &= (last == NO_EVENT) | (last >= self._begin)
            if self._end is not None:
                shown &= first <= self._end
        return shown

    def made_of(self, *events: I64) -> Mask:
        """Rows of which one of the `events` columns has the attributes asked for."""
        if not self.by_attribute:
            return np.ones(len(events[0]), dtype=bool)
        shown = self._lookup(events[0])
        for column in events[1:]:
            shown |= self._lookup(column)
        return shown

    def _lookup(self, events: I64) -> Mask:
        chosen: Mask = np.zeros(len(events), dtype=bool)
        if not self._starts:
            return chosen
        piece = np.searchsorted(np.array(self._starts), events, side="right") - 1
        for index in np.unique(piece[events >= 0]):
            rows = (piece == index) & (events != NO_EVENT)
            at = events[rows] - self._starts[index]
            chosen[rows] = (self._bits[index][at >> 3] >> (7 - (at & 7)).astype(np.uint8)) & 1
        return chosen

    def frames(self, pfns: tuple[U64, ...], mfns: tuple[U64, ...]) -> Mask:
        """Rows of which one of the `pfns` and one of the `mfns` columns was asked for."""
        shown: Mask = np.ones(len(pfns[0]), dtype=bool)
        if self.pfns:
            shown &= np.logical_or.reduce([_within(column, self.pfns) for column in pfns])
        if self.mfns:
            shown &= np.logical_or.reduce([_within(column, self.mfns) for column in mfns])
        return shown

    def events(self, segment: Segment) -> Mask:
        """Events to show: those that name a frame, change its entry or resolve it."""
        numbers = np.arange(len(segment.events), dtype=np.int64) + segment.first_event
        shown = self.overlaps(numbers, numbers) & self.made_of(numbers)
        if self.pfns:
            shown &= (_within(segment.events.pfn, self.pfns)
                      | _rows_of(segment, segment.transitions.event,
                                 _within(segment.transitions.pfn, self.pfns)))
        if self.mfns:
            changes = segment.transitions
            changed = _within(changes.old, self.mfns) | _within(changes.new, self.mfns)
            shown &= (_within(segment.events.mfn, self.mfns)
                      | _rows_of(segment, changes.event, changed)
                      | _rows_of(segment, segment.resolutions.event,
                                 _within(segment.resolutions.mfn, self.mfns)))
        return shown

    def transitions(self, segment: Segment) -> Mask:
        """p2m changes to show."""
        rows = segment.transitions
        return (self.overlaps(rows.event, rows.event) & self.made_of(rows.event)
                & self.frames((rows.pfn,), (rows.old, rows.new)))

    def collisions(self, segment: Segment) -> Mask:
        """Collision windows to show; by page: the locked page or the backend page."""
        rows = segment.collisions
        return (self.overlaps(rows.first_event, rows.last_event)
                & self.made_of(rows.first_event, rows.last_event, rows.map_event,
                               rows.lock_event, rows.dio_event)
                & self.frames((rows.pfn, rows.backend_pfn), (rows.mfn,)))

    def findings(self, rows: Findings) -> Mask:
        """Findings to show; a leaked share is one to the end of the trace."""
        last = np.where(rows.rule == LOCK_COLLISION, rows.last_event, rows.event)
        last[rows.rule == LEAKED_SHARE] = NO_EVENT
        # These keep the backend page in `old`, see Findings, and XM101 its dio in `value`.
        on_backend = np.isin(rows.rule, (LOCK_COLLISION, LOCK_CYCLE, Fact.GUP_FAST_HAZARD,
                                        Fact.LOCAL_ALIAS))
        backend = np.where(on_backend, rows.old, np.uint64(INVALID))
        dio = np.where(rows.rule == LOCK_COLLISION, rows.value, NO_EVENT)
        shown = (self.overlaps(rows.event, last)
                 & self.made_of(rows.event, rows.other, rows.lock_event, rows.last_event, dio)
                 & self.frames((rows.pfn, backend), (rows.mfn,)))
        for row in np.flatnonzero(rows.rule == LOCK_CYCLE):
            shown[row] = self._cycle(rows.rows(slice(row, row + 1)))
        return shown

    def _cycle(self, row: Findings) -> bool:
        """Whether to show a cycle of waits: by any of them."""
        waits = np.array(row.cycle[0], np.uint64)
        pfn, mfn, backend = (waits[:, Wait._fields.index(name)]
                             for name in ("pfn", "mfn", "backend_pfn"))
        return bool(self.overlaps(row.event, row.event)[0] and self.made_of(row.maps[0]).any()
                    and (self.frames((pfn, backend), (mfn,))).any())

    def shares(self, segment: Segment) -> Mask:
        """Shares to show."""
        rows = segment.shares
        return (self.overlaps(rows.map_event, rows.end_event)
                & self.made_of(rows.map_event, rows.end_event)
                & self.frames((rows.pfn,), (rows.mfn,)))

    def locks(self, segment: Segment) -> Mask:
        """Page locks to show; a lock has no machine frame, so `mfns` hides all of them."""
        rows = segment.locks
        no_frame = np.full(len(rows), INVALID, dtype=np.uint64)
        return (self.overlaps(rows.lock_event, rows.unlock_event)
                & self.made_of(rows.lock_event, rows.unlock_event)
                & self.frames((rows.pfn,), (no_frame,)))


def _first_at(segment: Segment, point: Point | None, *, after: bool) -> int | None:
    """The first event at `point` or later (`after`: later than it), None: not in here."""
    start, length = segment.first_event, len(segment.events)
    if point is None:
        return start
    if not point.is_time:
        number = point.value + after
        return max(number, start) if number < start + length else None
    reached = segment.events.time > point.value if after else segment.events.time >= point.value
    return start + int(reached.argmax()) if reached.any() else None


def _within(entries: U64, spans: tuple[Span, ...]) -> Mask:
    """Entries whose frame, without its F and I bits, lies in one of the spans."""
    frame = entries & np.uint64(FRAME_MASK)
    inside: Mask = np.zeros(len(entries), dtype=bool)
    for first, last in spans:
        inside |= (frame >= np.uint64(first)) & (frame <= np.uint64(last))
    inside &= entries != np.uint64(INVALID)
    return inside


def _rows_of(segment: Segment, events: I64, chosen: Mask) -> Mask:
    """The segment's events that have a chosen row in a table with an `events` column."""
    mask = np.zeros(len(segment.events), dtype=bool)
    mask[events[chosen] - segment.first_event] = True
    return mask
