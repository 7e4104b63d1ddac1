"""Replays that start in the middle of a trace, and the numbers of their events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from xenm2p.engine.replay import NO_EVENT, Segment, Table
from xenm2p.trace import I64, Events, Resumption, Trace

# The columns of all tables that hold event numbers.
EVENT_COLUMNS = frozenset({
    "event", "map_event", "end_event", "lock_event", "unlock_event", "first_event",
    "last_event", "dio_event", "other"})


@dataclass(frozen=True, slots=True)
class Numbering:
    """From the events of a resumed replay, counted from 0, to their numbers in the trace.

    The first `len(earlier)` are those kept of the events before, (r,) int64; the next one
    has the number `first_event`.
    """

    earlier: I64
    first_event: int

    def of(self, events: I64) -> I64:
        """The numbers of `events`, any shape; NO_EVENT stays."""
        count = len(self.earlier)
        later = np.where(events == NO_EVENT, NO_EVENT, events + (self.first_event - count))
        if not count:
            return later
        is_earlier = (events >= 0) & (events < count)
        kept = self.earlier.take(np.where(is_earlier, events, 0))
        return np.where(is_earlier, kept, later)


def resumed_trace(trace: Trace, resumption: Resumption, end: int | None = None) -> Trace:
    """The trace that a resumed replay is made of: kept events, then the rest.

    Of the rest only events numbered below `end`, where it is given. It can be read once.
    """
    def chunks() -> Iterator[Events]:
        if len(resumption.rows):
            yield resumption.rows
        number = resumption.first_event
        for events in resumption.chunks:
            if end is not None and number + len(events) >= end:
                yield events.rows(slice(0, max(end - number, 0)))
                return
            number += len(events)
            yield events

    return Trace(chunks_of=chunks, kernel=trace.kernel, domain=trace.domain,
                 origin=trace.origin, memory=trace.memory, m2p=trace.m2p, tasks=trace.tasks,
                 once=True, notes=trace.notes)


def renumbered(segments: Iterator[Segment], resumption: Resumption) -> Iterator[Segment]:
    """The segments of a resumed replay from its first event on, numbered as in the trace."""
    numbering = Numbering(resumption.numbers, resumption.first_event)
    for segment in segments:
        if segment.first_event >= len(resumption.numbers):
            yield _renumbered_segment(segment, numbering)


def _renumbered_segment(segment: Segment, numbering: Numbering) -> Segment:
    tables = {
        field.name: _renumbered_table(table, numbering)
        for field in fields(segment)
        if isinstance(table := getattr(segment, field.name), Table) and len(table)
    }
    first = int(numbering.of(np.array([segment.first_event]))[0])
    return replace(segment, first_event=first, **tables)  # type: ignore[arg-type]


def _renumbered_table(table: Table, numbering: Numbering) -> Table:
    columns = {
        field.name: numbering.of(getattr(table, field.name))
        for field in fields(table) if field.name in EVENT_COLUMNS
    }
    return replace(table, **columns)
