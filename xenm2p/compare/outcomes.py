"""What two kernel models make of the same events: where their replays differ.

Both replays run in step, so that memory is bounded by a chunk of events and by the
collision windows that one replay has already closed and the other not yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from xenm2p.compare.rows import Index, RowMatch, match_rows
from xenm2p.engine.replay import Counts, Segment, Table
from xenm2p.findings import Findings, findings_of
from xenm2p.findings.collisions import LOCK_COLLISION
from xenm2p.findings.judge import ends_of_collisions
from xenm2p.kernels import KernelModel
from xenm2p.trace import Column, Events, Kind, Trace

# Columns of a finding that say which one it is, and those that say how it looks.
_WHICH = ("rule", "event", "pfn")
_WHICH_COLLISION = ("rule", "other", "lock_event", "pfn")
_HOW = ("severity", "mfn", "old", "new", "value", "unknown", "verdict", "last_event", "spans")

Mask = Callable[[Segment], Column]


@dataclass(frozen=True, slots=True)
class Step:
    """One chunk under both models, and the rows of it that differ.

    a, b: the chunk's segments, each as one. results: event numbers whose result or kernel
    warnings differ. transitions, resolutions: rows of the segments' tables; those in both
    differ in what they say. findings_a, findings_b: the findings to which `findings` refers.
    """

    a: Segment
    b: Segment
    results: Index
    transitions: RowMatch
    resolutions: RowMatch
    findings_a: Findings
    findings_b: Findings
    findings: RowMatch

    @property
    def first_event(self) -> int | None:
        """The first event after which the replays differ, None if they do not here."""
        found = [
            *self.results[:1].tolist(),
            *_first(self.a.transitions.event, self.transitions.only_a),
            *_first(self.b.transitions.event, self.transitions.only_b),
            *_first(self.a.transitions.event, self.transitions.both_a),
            *_first(self.a.resolutions.event, self.resolutions.only_a),
            *_first(self.b.resolutions.event, self.resolutions.only_b),
            *_first(self.a.resolutions.event, self.resolutions.both_a),
            *_first(self.findings_a.event, self.findings.only_a),
            *_first(self.findings_b.event, self.findings.only_b),
            *_first(self.findings_a.event, self.findings.both_a),
        ]
        return min(found, default=None)


def _first(events: Column, rows: Index) -> list[int]:
    return [int(events[rows].min())] if len(rows) else []


def two_of(trace: Trace) -> tuple[Trace, Trace]:
    """One trace for two readers who keep step: its events are read once.

    What one reader has had and the other not yet is held in memory.
    """
    from itertools import tee

    def shared(source: Iterator[Events]) -> Trace:
        return Trace(
            chunks_of=lambda: source, kernel=trace.kernel, domain=trace.domain,
            origin=trace.origin, memory=trace.memory, m2p=trace.m2p, tasks=trace.tasks,
            length=trace.length, once=True, notes=trace.notes)

    first, second = tee(trace.chunks())
    return shared(first), shared(second)


@dataclass(slots=True)
class Comparison:
    """The replays of one trace under two models, compared step by step.

    `shown_a` and `shown_b` choose which findings count, as masks of `Findings`.
    """

    model_a: KernelModel
    model_b: KernelModel
    _open_a: Findings
    _open_b: Findings

    @classmethod
    def of(cls, model_a: KernelModel, model_b: KernelModel) -> Comparison:
        """Nothing compared yet."""
        return cls(model_a, model_b, Findings.of([]), Findings.of([]))

    def steps(
        self, segments_a: Iterator[Segment], segments_b: Iterator[Segment]
    ) -> Iterator[Step]:
        """Compare two replays of the same events; what differs comes with its chunk."""
        for a, b in in_step(segments_a, segments_b):
            yield self._step(a, b)

    def _step(self, a: Segment, b: Segment) -> Step:
        unlike = (a.result != b.result) | (a.warnings != b.warnings)
        found_a = Findings.concat([self._open_a, findings_of(a, self.model_a)])
        found_b = Findings.concat([self._open_b, findings_of(b, self.model_b)])
        matched = _match_findings(found_a, found_b)
        waits_a = np.isin(matched.only_a, _unsure(found_a, len(self._open_a), a, b))
        waits_b = np.isin(matched.only_b, _unsure(found_b, len(self._open_b), b, a))
        self._open_a = found_a.rows(matched.only_a[waits_a])
        self._open_b = found_b.rows(matched.only_b[waits_b])
        findings = RowMatch(*_unlike_rows(found_a, found_b, matched, _HOW),
                            matched.only_a[~waits_a], matched.only_b[~waits_b])
        return Step(
            a, b, a.first_event + np.flatnonzero(unlike),
            _differing(a.transitions, b.transitions, ("event", "pfn"), ("old", "new")),
            _differing(a.resolutions, b.resolutions, ("event",), ("mfn", "resolved")),
            found_a, found_b, findings)


def _differing(
    a: Table, b: Table, which: tuple[str, ...], how: tuple[str, ...]
) -> RowMatch:
    """The rows of two tables that differ: only in one, or in both and unlike."""
    if len(a) == len(b) and all(
            np.array_equal(getattr(a, name), getattr(b, name)) for name in which + how):
        nothing = np.zeros(0, np.int64)
        return RowMatch(nothing, nothing, nothing, nothing)
    matched = match_rows(*([getattr(table, name) for name in which] for table in (a, b)))
    return RowMatch(*_unlike_rows(a, b, matched, how), matched.only_a, matched.only_b)


def _unlike_rows(
    a: Table, b: Table, matched: RowMatch, how: tuple[str, ...]
) -> tuple[Index, Index]:
    unlike = np.zeros(len(matched.both_a), bool)
    for name in how:
        unlike |= getattr(a, name)[matched.both_a] != getattr(b, name)[matched.both_b]
    return matched.both_a[unlike], matched.both_b[unlike]


def _match_findings(a: Findings, b: Findings) -> RowMatch:
    def keys(found: Findings) -> list[Column]:
        is_collision = found.rule == LOCK_COLLISION
        # One share meeting one lock; where the window begins may differ.
        return [
            found.rule, np.where(is_collision, found.other, found.event),
            np.where(is_collision, found.lock_event, 0), found.pfn]

    return match_rows(keys(a), keys(b))


def _unsure(found: Findings, before: int, mine: Segment, other: Segment) -> Index:
    """The collisions whose like the other replay may still come to.

    A window is closed by the end of its lock or of its share. Locks are the same in both
    replays; shares are, unless what should have ended one failed in the other replay.
    `before`: so many of the rows have waited already.
    """
    if not len(mine.events):
        return np.zeros(0, np.int64)  # the end of the trace closes all
    fresh = before + np.flatnonzero(found.rule[before:] == LOCK_COLLISION)
    closed_by = ends_of_collisions(mine) - mine.first_event
    ends_lock = np.isin(mine.events.kind[closed_by], (Kind.LOCK_PAGE, Kind.UNLOCK_PAGE))
    ends_both = ends_lock | (mine.result[closed_by] == other.result[closed_by])
    return np.concatenate([np.arange(before), fresh[~ends_both]])


def in_step(
    segments_a: Iterator[Segment], segments_b: Iterator[Segment]
) -> Iterator[tuple[Segment, Segment]]:
    """Segments of the two replays that cover the same events.

    Engines cut a chunk where its events ask for it, which under another model they do not;
    but each chunk ends a segment in both.
    """
    while True:
        a, b = next(segments_a, None), next(segments_b, None)
        if a is None or b is None:
            return
        parts_a, parts_b = [a], [b]
        while (end := _end(parts_a[-1])) != _end(parts_b[-1]):
            if end < _end(parts_b[-1]):
                parts_a.append(next(segments_a))
            else:
                parts_b.append(next(segments_b))
        yield joined(parts_a), joined(parts_b)


def _end(segment: Segment) -> int:
    return segment.first_event + len(segment.events)


def joined(parts: list[Segment]) -> Segment:
    """Segments that follow each other as one."""
    if len(parts) == 1:
        return parts[0]
    columns = {}
    for column in fields(Segment):
        values = [getattr(part, column.name) for part in parts]
        first = values[0]
        if column.name == "first_event":
            columns[column.name] = first
        elif isinstance(first, Counts):
            columns[column.name] = sum(values, Counts())
        elif isinstance(first, (Events, Table)):
            columns[column.name] = type(first).concat(values)
        else:
            columns[column.name] = np.concatenate(values)
    return Segment(**columns)
