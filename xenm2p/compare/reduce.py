"""Reduce: the smallest sub-trace that still shows a finding.

First the events are cut to those that touch the finding's pages and frames (or, if that
loses it, what these touch in turn), then to a stretch of time, then one by one; then the
initial memory. Every step is checked by a replay, so that nothing is taken on trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from xenm2p.compare.closure import Reach, involved_events
from xenm2p.compare.minimise import minimal, shortest_prefix
from xenm2p.compare.surroundings import Row, memory_around, runs_of
from xenm2p.engine.replay import Segment
from xenm2p.findings.collisions import LOCK_COLLISION
from xenm2p.findings.judge import findings_of, proving_events
from xenm2p.findings.rule import Findings
from xenm2p.findings.wanted import Wanted
from xenm2p.kernels import KernelModel
from xenm2p.trace import I64, INVALID, U64, Events, Trace

# Replays a trace under a model; the options are the caller's.
Replay = Callable[[Trace, KernelModel], Iterator[Segment]]

# Above this many events the whole initial memory is given to a replay: to pick it apart
# would cost more.
_FEW = 2000
_GRADES = ("severity", "verdict", "unknown")
# What a finding is: equal in these columns is the same finding.
_SAME = ("rule", "severity", "verdict", "pfn", "mfn", "unknown")


@dataclass(frozen=True, slots=True)
class Target:
    """The finding that must stay: one row, and the events that proved it."""

    findings: Findings
    events: tuple[int, ...]

    @property
    def pages(self) -> U64:
        """The pages that it is about."""
        found = self.findings
        pages = [found.pfn, found.old] if found.rule[0] == LOCK_COLLISION else [found.pfn]
        return np.concatenate(pages)

    @property
    def known_pages(self) -> U64:
        """The pages that it is about, without absent ones."""
        known: U64 = self.pages[self.pages != np.uint64(INVALID)]
        return known

    @property
    def frames(self) -> U64:
        """The frame that it is about, none where it has none."""
        known: U64 = self.findings.mfn[self.findings.mfn != np.uint64(INVALID)]
        return known

    @property
    def proof(self) -> I64:
        """The events that prove it, ascending."""
        return np.array(self.events, np.int64)

    def in_(self, segments: Iterator[Segment], model: KernelModel, *, any_verdict: bool) -> bool:
        """Whether a replay has it; with `any_verdict` also where its verdict is another."""
        names = [name for name in _SAME if not any_verdict or name not in _GRADES]
        if self.findings.rule[0] == LOCK_COLLISION:
            names.append("old")  # the share's backend page
        for segment in segments:
            if not len(segment.facts) and not len(segment.collisions):
                continue
            found = findings_of(segment, model)
            is_same = np.ones(len(found), np.bool_)
            for name in names:
                is_same &= getattr(found, name) == getattr(self.findings, name)[0]
            if is_same.any():
                return True
        return False


@dataclass(slots=True)
class Reducer:
    """What every step of a reduction needs; `replays` counts the replays it took."""

    trace: Trace
    model: KernelModel
    target: Target
    not_under: Sequence[KernelModel]
    quick: Replay
    exact: Replay
    replays: int = 0
    _events: Events = field(default_factory=lambda: Events.from_columns(0))

    def holds(self, trace: Trace, target: Target | None = None) -> bool:
        """Whether the finding is there, and not under the other models."""
        target = target or self.target
        replay = self.exact if (trace.length or 0) <= _FEW else self.quick
        self.replays += 1
        if not target.in_(replay(trace, self.model), self.model, any_verdict=False):
            return False
        for model in self.not_under:
            self.replays += 1
            if target.in_(replay(trace, model), model, any_verdict=True):
                return False
        return True

    def sub_trace(self, events: Events, memory: Sequence[Row] | None = None) -> Trace:
        """The trace with these events, and with `memory` if given."""
        trace = self.trace
        runs = ((trace.memory, trace.m2p) if memory is None else runs_of(memory))
        return Trace.of_events(events, kernel=trace.kernel, domain=trace.domain,
                               origin=trace.origin, memory=runs[0], m2p=runs[1],
                               tasks=trace.tasks)

    def reduce(self) -> tuple[Trace, I64]:
        """The smallest sub-trace, and the event numbers that it keeps."""
        events, numbers = self._involved()
        events, numbers = self._stretch(events, numbers)
        memory = memory_around(self.trace, events) if len(events) <= _FEW else None
        if memory is not None and not self.holds(self.sub_trace(events, memory)):
            memory = None
        rows = self._fewest(events, range(len(events)), memory)
        kept = events.rows(np.array(rows, np.int64))
        if memory is None:
            memory = memory_around(self.trace, kept)
        if not self.holds(self.sub_trace(kept, memory)):
            return self.sub_trace(kept), numbers[rows]  # it needs more of the memory than that
        while True:
            memory = self._least_memory(kept, memory)
            fewer = self._fewest(events, rows, memory)
            if fewer == rows:
                return self.sub_trace(kept, memory), numbers[rows]
            rows = fewer
            kept = events.rows(np.array(rows, np.int64))

    def _involved(self) -> tuple[Events, I64]:
        """The events that touch what the finding is about; wider, where that is not enough."""
        for reach in Reach:
            found = involved_events(
                self.trace, reach, self.target.pages, self.target.findings.mfn,
                self.target.events)
            if self.holds(self.sub_trace(found[0])):
                return found
        raise AssertionError("the whole trace has the finding")

    def _stretch(self, events: Events, numbers: I64) -> tuple[Events, I64]:
        """The events from one to another: what comes after, then what comes before, is cut."""
        end = shortest_prefix(
            len(events), lambda n: self.holds(self.sub_trace(events.rows(slice(0, n)))))
        events, numbers = events.rows(slice(0, end)), numbers[:end]
        size = shortest_prefix(
            end, lambda n: self.holds(self.sub_trace(events.rows(slice(end - n, end)))))
        return events.rows(slice(end - size, end)), numbers[end - size:]

    def _least_memory(self, kept: Events, memory: Sequence[Row]) -> list[Row]:
        return minimal(memory, lambda some: self.holds(self.sub_trace(kept, some)))

    def _fewest(
        self, events: Events, rows: Sequence[int], memory: Sequence[Row] | None
    ) -> list[int]:
        return minimal(rows, lambda some: self.holds(
            self.sub_trace(events.rows(np.array(some, np.int64)), memory)))


def first_target(
    wanted: Wanted, segments: Iterator[Segment], model: KernelModel
) -> Target | None:
    """The first finding that is meant, None where there is none."""
    for segment in segments:
        if not len(segment.facts) and not len(segment.collisions):
            continue
        found = findings_of(segment, model)
        rows = wanted.rows(found)
        if len(rows):
            return Target(found.rows(rows[:1]), tuple(proving_events(found, int(rows[0]))))
    return None


def renumbered(trace: Trace, target: Target) -> tuple[Trace, Target]:
    """The trace with small pages, frames, refs, handles, calls and times, in order of use.

    Equal numbers stay equal and different ones different; F and I bits stay. Whether the
    finding is still there is for the caller to check: the override list hashes frames.
    """
    from xenm2p.compare.renumber import Renumbering

    numbers = Renumbering.of(trace)
    found = target.findings
    is_collision = found.rule[0] == LOCK_COLLISION
    moved = replace(
        found, pfn=numbers.pages(found.pfn), mfn=numbers.frames(found.mfn),
        old=numbers.pages(found.old) if is_collision else found.old)
    return numbers.trace(trace), Target(moved, ())
