"""Reduce: the smallest sub-trace that still shows a finding.

First the events are cut to those that touch the finding's pages and frames (or, if that
loses it, what these touch in turn), of these to a stretch of time around its proof, then one
by one; then the initial memory. Every step is checked by a replay, so that nothing is taken
on trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xenm2p.compare.closure import Reach, involved_events
from xenm2p.compare.minimise import minimal, shortest_prefix
from xenm2p.compare.surroundings import Row, memory_around, runs_of
from xenm2p.engine.replay import NO_EVENT, Fact, Result, Segment
from xenm2p.findings.collisions import LOCK_COLLISION, LOCK_CYCLE
from xenm2p.findings.judge import findings_of, proving_events, rule_of
from xenm2p.findings.rule import Findings
from xenm2p.findings.wanted import Wanted
from xenm2p.kernels import KernelModel
from xenm2p.trace import FRAME_MASK, I64, INVALID, U64, Events, Trace

# Replays a trace under a model; the options are the caller's.
Replay = Callable[[Trace, KernelModel], Iterator[Segment]]

# The columns of a finding that name events, without which it would be another: a replay of
# fewer events may well end a collision's window elsewhere.
EVENTS = ("event", "other", "lock_event")
# Rules whose `other` is no part of what they are about: the event that happened to decide
# it, or the last one that was seen before.
_DECIDED_BY_OTHER = (Fact.MODEL_MISMATCH, Fact.LOST_EVENTS)
# Rules whose `old` is a page.
_OLD_IS_PAGE = (LOCK_COLLISION, LOCK_CYCLE, Fact.GUP_FAST_HAZARD, Fact.LOCAL_ALIAS)

# Results of maps and unmaps that changed nothing.
_UNDONE = (Result.EINVAL, Result.SKIP_LIST, Result.SKIP_KMAP, Result.ABORTED)

# Above this many events the whole initial memory is given to a replay: to pick it apart
# would cost more.
_FEW = 2000
_MARGIN = 16  # events around the proof that are tried first
# What a finding is: equal in these columns is the same finding.
_SAME = ("rule", "severity", "verdict", "unknown", "pfn", "mfn", "old", "new", *EVENTS)
# What it is about under any model: entries and grades may differ.
_ABOUT = ("rule", "pfn", "mfn")


@dataclass(frozen=True, slots=True)
class Target:
    """The finding that must stay: one row, and the events that proved it."""

    findings: Findings
    events: tuple[int, ...]

    @classmethod
    def of(cls, findings: Findings, row: int) -> Target:
        """The finding in a row."""
        return cls(findings.rows(slice(row, row + 1)), tuple(proving_events(findings, row)))

    def __str__(self) -> str:
        """As a user asks for it: ``XM101@17``."""
        return f"{rule_of(self.findings, 0).id}@{int(self.findings.event[0])}"

    @property
    def pages(self) -> U64:
        """The pages that it is about."""
        found = self.findings
        if found.rule[0] == LOCK_CYCLE:
            waits = found.cycle[0]
            return np.array([page for wait in waits for page in (wait.pfn, wait.backend_pfn)],
                            np.uint64)
        pages = [found.pfn, found.old] if found.rule[0] == LOCK_COLLISION else [found.pfn]
        return np.concatenate(pages)

    @property
    def known_pages(self) -> U64:
        """The pages that it is about, without absent ones."""
        known: U64 = self.pages[self.pages != np.uint64(INVALID)]
        return known

    @property
    def frames(self) -> U64:
        """The frame that it is about, none where it has none; of a cycle all frames."""
        if self.findings.rule[0] == LOCK_CYCLE:
            return np.array([wait.mfn for wait in self.findings.cycle[0]], np.uint64)
        known: U64 = self.findings.mfn[self.findings.mfn != np.uint64(INVALID)]
        return known

    @property
    def all_frames(self) -> U64:
        """The frames that it is about, and those of the p2m entries that it tells."""
        told = [getattr(self.findings, name) for name in rule_of(self.findings, 0).entries]
        entries = np.concatenate([self.frames, *told])
        frames: U64 = entries[entries != np.uint64(INVALID)] & np.uint64(FRAME_MASK)
        return frames

    @property
    def proof(self) -> I64:
        """The events that prove it, ascending."""
        return np.array(self.events, np.int64)

    @property
    def same(self) -> tuple[str, ...]:
        """The columns in which another row is the same finding."""
        if self.findings.rule[0] in _DECIDED_BY_OTHER:
            return tuple(name for name in _SAME if name != "other")
        return _SAME

    @property
    def about(self) -> tuple[str, ...]:
        """The columns in which it is the same finding under another model."""
        is_collision = self.findings.rule[0] == LOCK_COLLISION
        return (*_ABOUT, "old") if is_collision else _ABOUT  # the share's backend page

    def among(self, numbers: I64) -> Target | None:
        """The finding in a trace that has only the events `numbers`, (e,) int64 ascending.

        None where an event is not there without which it would be another finding.
        """
        needed = {name: getattr(self.findings, name) for name in EVENTS if name in self.same}
        if self.findings.rule[0] == LOCK_CYCLE:
            needed["maps"] = self.findings.maps[0]  # all the events of its waits
        located: dict[str, Any] = {}
        for name, events in needed.items():
            is_event = events != NO_EVENT
            places = np.searchsorted(numbers, events[is_event])
            if not np.array_equal(numbers[np.minimum(places, len(numbers) - 1)]
                                  if len(numbers) else numbers, events[is_event]):
                return None
            located[name] = np.array(events)
            located[name][is_event] = places
        if "maps" in located:
            located["maps"] = _alone(located["maps"])
        return replace(self, findings=replace(self.findings, **located))

    def in_(self, segments: Iterator[Segment], model: KernelModel, names: Sequence[str]) -> bool:
        """Whether a replay has a finding that is equal in the columns `names`."""
        for segment in segments:
            if not segment.has_findings:
                continue
            found = findings_of(segment, model)
            is_same = np.ones(len(found), np.bool_)
            for name in names:
                is_same &= getattr(found, name) == getattr(self.findings, name)[0]
            if self.findings.rule[0] == LOCK_CYCLE and "event" in names:
                proof = self.findings.maps[0]
                is_same &= [np.array_equal(events, proof) for events in found.maps.tolist()]
            if is_same.any():
                return True
        return False


def _alone(events: I64) -> NDArray[np.object_]:
    """One row that holds several events."""
    row = np.empty(1, object)
    row[0] = events
    return row


@dataclass(frozen=True, slots=True)
class Part:
    """Some events of a trace and their numbers in it, (e,) int64 ascending."""

    events: Events
    numbers: I64

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, where: slice | I64) -> Part:
        """The part at `where`."""
        return Part(self.events.rows(where), self.numbers[where])


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
    _undone: I64 | None = None  # numbers of the events that did nothing, once asked for

    def holds(self, part: Part, memory: Sequence[Row] | None = None) -> bool:
        """Whether `part` has the finding, and not under the other models."""
        target = self.target.among(part.numbers)
        return target is not None and self.shows(self.sub_trace(part, memory), target)

    def shows(self, trace: Trace, target: Target) -> bool:
        """Whether `trace` has `target`, and not under the other models."""
        replay = self.exact if (trace.length or 0) <= _FEW else self.quick
        self.replays += 1
        if not target.in_(replay(trace, self.model), self.model, target.same):
            return False
        for model in self.not_under:
            self.replays += 1
            if target.in_(replay(trace, model), model, target.about):
                return False
        return True

    def sub_trace(self, part: Part, memory: Sequence[Row] | None = None) -> Trace:
        """The trace with these events, and with `memory` if given."""
        trace = self.trace
        runs = ((trace.memory, trace.m2p) if memory is None else runs_of(memory))
        return Trace.of_events(part.events, kernel=trace.kernel, domain=trace.domain,
                               origin=trace.origin, memory=runs[0], m2p=runs[1],
                               tasks=trace.tasks)

    def reduce(self) -> tuple[Trace, I64]:
        """The smallest sub-trace, and the event numbers that it keeps."""
        part = self._stretch(self._involved())
        memory = memory_around(self.trace, part.events) if len(part) <= _FEW else None
        if memory is not None and not self.holds(part, memory):
            memory = None
        kept = self._fewest(part, memory)
        if memory is None:
            memory = memory_around(self.trace, kept.events)
        if not self.holds(kept, memory):
            return self.sub_trace(kept), kept.numbers  # it needs more of the memory than that
        while True:
            memory = self._least_memory(kept, memory)
            fewer = self._fewest(kept, memory)
            if len(fewer) == len(kept):
                return self.sub_trace(kept, memory), kept.numbers
            kept = fewer

    def _involved(self) -> Part:
        """The events that touch what the finding is about; wider, where that is not enough."""
        for reach in Reach:
            part = Part(*involved_events(
                self.trace, reach, self.target.pages, self.target.all_frames,
                self.target.events))
            for stretch in self._around_proof(part):
                if self.holds(stretch):
                    return stretch
            # An unmap that was aborted as one before it failed is done where that one is gone.
            for stretch in self._around_proof(self._done(part)):
                if self.holds(stretch):
                    return stretch
        raise AssertionError("the whole trace has the finding")

    def _done(self, part: Part) -> Part:
        """The part without events that did nothing in the whole trace, but for the proof."""
        if self._undone is None:
            self.replays += 1
            undone = [np.flatnonzero(np.isin(segment.result, _UNDONE)) + segment.first_event
                      for segment in self.quick(self.trace, self.model)]
            self._undone = np.concatenate([np.zeros(0, np.int64), *undone])
        is_undone = np.isin(part.numbers, self._undone)
        is_undone &= ~np.isin(part.numbers, self.target.proof)
        return part.rows(np.flatnonzero(~is_undone))

    def _around_proof(self, part: Part) -> Iterator[Part]:
        """The proof alone, then ever longer stretches around it, the last of all events.

        Each is twice as long as the one before, so that all together cost little more than
        the last; mostly one of the first is enough.
        """
        proof = np.flatnonzero(np.isin(part.numbers, self.target.proof))
        yield part.rows(proof)
        first, last = int(proof[0]), int(proof[-1])
        margin = 0
        while True:
            begin, end = max(0, first - margin), last + 1 + margin
            yield part.rows(slice(begin, end))
            if begin == 0 and end >= len(part):
                return
            margin = max(_MARGIN, 2 * margin)

    def _stretch(self, part: Part) -> Part:
        """The events from one to another: what comes after, then what comes before, is cut."""
        end = shortest_prefix(len(part), lambda n: self.holds(part.rows(slice(0, n))))
        part = part.rows(slice(0, end))
        size = shortest_prefix(end, lambda n: self.holds(part.rows(slice(end - n, end))))
        return part.rows(slice(end - size, end))

    def _least_memory(self, kept: Part, memory: Sequence[Row]) -> list[Row]:
        return minimal(memory, lambda some: self.holds(kept, some))

    def _fewest(self, part: Part, memory: Sequence[Row] | None) -> Part:
        rows = minimal(range(len(part)), lambda some: self.holds(
            part.rows(np.array(some, np.int64)), memory))
        return part.rows(np.array(rows, np.int64))


def first_target(
    wanted: Wanted, segments: Iterator[Segment], model: KernelModel
) -> Target | None:
    """The first finding that is meant, None where there is none."""
    for segment in segments:
        if not segment.has_findings:
            continue
        found = findings_of(segment, model)
        rows = wanted.rows(found)
        if len(rows):
            return Target.of(found, int(rows[0]))
    return None


def renumbered(trace: Trace, target: Target) -> tuple[Trace, Target]:
    """The trace with small pages, frames, refs, handles, calls and times, in order of use.

    Equal numbers stay equal and different ones different; F and I bits stay. `target` is
    the finding in `trace`, as `Target.among` gives it. Whether it is still there is for the
    caller to check: the override list hashes frames.
    """
    from xenm2p.compare.renumber import Renumbering

    numbers = Renumbering.of(trace)
    found = target.findings
    rule = rule_of(found, 0)
    old, new = found.old, found.new
    if rule.number in _OLD_IS_PAGE:
        old = numbers.pages(old)
    elif "old" in rule.entries:
        old = numbers.frames(old)
    if "new" in rule.entries:
        new = numbers.frames(new)
    moved = replace(
        found, pfn=numbers.pages(found.pfn), mfn=numbers.frames(found.mfn), old=old, new=new)
    return numbers.trace(trace), Target(moved, ())
