"""What a reader found in a capture -> Trace: the one way for all formats of captures.

A reader sorts events by what their probes mean (`Sighted`, `CallTable`); here p2m writes
are given their calls, what neighbours tell is filled in, the kernel is concluded, and what
the capture cannot show is said in `Trace.notes`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from xenm2p.formats.capture_gaps import with_proven_losses
from xenm2p.formats.capture_sight import sees
from xenm2p.formats.ftrace_calls import CallTable
from xenm2p.formats.ftrace_events import (
    CallEvents,
    Timeline,
    add_calls,
    add_from_writes,
    add_grants,
    add_locks,
    add_losses,
    add_writes,
    adopted_runs,
    finish,
    known_in,
    live_before,
    mapped_first,
    unmaps_go_on,
)
from xenm2p.formats.ftrace_kernel import Evidence, conclude
from xenm2p.formats.ftrace_lines import Mask
from xenm2p.formats.ftrace_losses import Loss
from xenm2p.formats.ftrace_sightings import Sighted
from xenm2p.formats.ftrace_writes import (
    Matches,
    Sightings,
    StructPages,
    find_struct_pages,
    is_foreign_entry,
    match_writes,
    without_inner,
)
from xenm2p.formats.probes import Role
from xenm2p.trace import INVALID, NO_CALL, Events, Kind, Runs, Trace

_NAMES_IN_NOTE = 8


@dataclass(slots=True)
class Capture:
    """What a reader found in a capture.

    `calls` and `seen` are its events, ordered by places, whole numbers; `losses` have
    places too. `tasks` are the names that events number, `idle` those of them that are
    pid 0. `roles` are those of the probes of calls; `header` comment lines that may name
    the kernel; `notes` what the reader has to say; `ignored` counts events of probes that
    have no use; `blank_arrays` counts calls whose arrays were printed as zeros, of which
    `blank_arrays_note` says by whom, and what keeps them.
    """

    origin: str
    tasks: list[str]
    idle: list[int]
    calls: CallTable
    seen: Sighted
    roles: set[Role]
    header: Sequence[str] = ()
    losses: Sequence[Loss] = ()
    notes: Sequence[str] = ()
    ignored: Counter[str] = field(default_factory=Counter)
    blank_arrays: int = 0
    blank_arrays_note: str = ""


def assemble(found: Capture, *, memory: Runs | None = None,
             vmemmap_base: int | None = None) -> Trace:
    """The trace of a capture, with notes on what the capture cannot show.

    `memory` is the p2m from a dump: `Trace.memory` then has its rows, after those of pages
    that were foreign before the capture began and of which the dump does not tell
    (``F:0xfffffffffffff``: foreign, frame unknown). `vmemmap_base` is where the kernel's
    struct pages begin; without it what the header of `xenm2p capture` says, else the
    default, or where that explains no write, the one that the writes of the capture's
    calls show.
    """
    return _Assembly(found, memory, vmemmap_base).trace()


@dataclass(slots=True)
class _Assembly:
    """Puts a trace together."""

    found: Capture
    memory: Runs | None
    vmemmap_base: int | None
    _lacks_calls: bool = False  # or pages of calls

    def trace(self) -> Trace:
        """The trace, with notes on what the capture cannot show."""
        notes: list[str] = []
        idle = self.found.idle
        writes = without_inner(self.found.seen.of(Role.P2M_WRITE, 2), idle, 2)
        line = Timeline([])
        lost = self._add_losses(line)
        evidence = self._evidence()
        at = self._struct_pages(writes, evidence, notes)
        if len(self.found.calls.place):
            returns, returns_map = self.found.seen.returned()
            found = match_writes(self.found.calls, returns, returns_map, writes, idle, at)
            explained = found.write_call >= 0
            refs_unmap = not self.found.roles & {Role.UNMAP, Role.REMOVE_OVERRIDE}
            self._call_notes(
                add_calls(line, self.found.calls, writes, found, refs_unmap), notes)
            self._weigh(evidence, found, writes)
            write_call = found.write_call
            left = ~explained & ~np.isin(writes.values[0], writes.values[0][found.is_mark])
        else:
            left = np.ones(len(writes), np.bool_)
            explained = ~left
            write_call = np.full(len(writes), NO_CALL, np.int64)
        explained |= self._add_lacking(line, writes, left, notes)
        add_writes(line, writes, write_call, explained)
        add_grants(line, without_inner(self.found.seen.of(Role.GRANT, 4), idle, 3),
                   without_inner(self.found.seen.of(Role.END_GRANT, 1), idle, 1))
        locks = self.found.seen.of(Role.LOCK, 1)
        add_locks(line, Kind.LOCK_PAGE, locks, locks.values[0], np.ones(len(locks), np.bool_))
        entering = self.found.seen.of(Role.LOCK_POINTER, 1)
        add_locks(line, Kind.LOCK_PAGE, entering, *at.pfns(entering.values[0]))
        unlocks = without_inner(self.found.seen.of(Role.UNLOCK, 1), idle, 1)
        add_locks(line, Kind.UNLOCK_PAGE, unlocks, *at.pfns(unlocks.values[0]))
        gaps = with_proven_losses(
            finish(line.events(), self.found.calls if len(self.found.calls.place) else None),
            lacks_calls=self._lacks_calls)
        events = gaps.events
        runs = self._memory(events, bool(len(writes)), notes)
        kernel, why = conclude(evidence)
        notes.append(f"kernel model {kernel or 'not known'}: {why}")
        if gaps.writes:
            notes.append(f"{gaps.writes} p2m writes do not follow from the one before of their "
                         "page: events between them are not in the capture")
        if gaps.places:
            notes.append(f"the p2m writes show that events are missing in {gaps.places} places "
                         "that the tracer did not mark")
        notes.insert(0, sees(events, has_memory=self.memory is not None))
        notes += [f"the kernel missed {count} hits of the probe {event}: nothing marks where"
                  for event, count in evidence.missed.items() if count]
        self._line_notes(lost, notes)
        return Trace.of_events(
            events, kernel=kernel, origin=self.found.origin,
            memory=runs, tasks=self.found.tasks, notes=notes)

    def _struct_pages(self, writes: Sightings, evidence: Evidence,
                      notes: list[str]) -> StructPages:
        given = evidence.vmemmap_base if self.vmemmap_base is None else self.vmemmap_base
        at = find_struct_pages(self.found.calls, writes, self.found.idle, given)
        usual = StructPages()
        if given is None and at.base != usual.base:
            notes.append(f"struct pages begin at 0x{at.base:x} here, as the p2m writes show, "
                         f"not at 0x{usual.base:x}")
        if at.size != usual.size:
            notes.append(f"a struct page has {at.size} bytes here, as the p2m writes show, "
                         f"not {usual.size}")
        return at

    def _add_lacking(self, line: Timeline, writes: Sightings, left: Mask,
                     notes: list[str]) -> Mask:
        """Maps, unmaps or both from the writes, where no such call is in the capture.

        Returns which writes are explained so.
        """
        is_map = self.found.calls.is_map
        lacking = [name for name, is_seen in (("map", is_map.any()), ("unmap", (~is_map).any()))
                   if not is_seen]
        self._lacks_calls = self._lacks_calls or bool(lacking)
        found = add_from_writes(line, writes, self._foreign_before(writes), left,
                                maps="map" in lacking, unmaps="unmap" in lacking)
        if len(lacking) == 2 and len(writes):
            notes.append("no map or unmap call was captured: FOREIGN writes are taken as "
                         "maps, the next write of their page as its unmap")
        elif found.any():
            notes.append(f"no {lacking[0]} call was captured: its pages are taken from the p2m "
                         "writes")
        return found

    def _add_losses(self, line: Timeline) -> int:
        """`lost` events, from the marks that tracers leave; returns how many there are."""
        rows = self.found.losses
        table = np.array(rows, np.int64).reshape(len(rows), 3)
        add_losses(line, table[:, 0], table[:, 1], table[:, 2])
        return len(rows)

    def _evidence(self) -> Evidence:
        evidence = Evidence(roles=self.found.roles)
        for text in self.found.header:
            evidence.header_line(text)
        for head in self.found.seen.functions:
            evidence.functions.update(re.findall(r"\((\w+)\+0x", head))
        return evidence

    def _weigh(self, evidence: Evidence, found: Matches, writes: Sightings) -> None:
        """What the writes of calls say about the kernel."""
        evidence.marks_frontend = bool(found.is_mark.any())
        of_page = (found.write_call >= 0) & ~found.is_mark
        is_unmap = ~self.found.calls.is_map[found.write_call[of_page]]
        entries = writes.values[1][of_page]
        evidence.restores_index = bool((is_unmap & (entries != np.uint64(INVALID))).any())
        evidence.goes_on = unmaps_go_on(self.found.calls, found)

    def _foreign_before(self, writes: Sightings) -> Mask:
        if self.memory is None:
            return np.zeros(len(writes), np.bool_)
        _, entry = known_in(self.memory, writes.values[0])
        return is_foreign_entry(entry)

    def _memory(self, events: Events, has_writes: bool, notes: list[str]) -> Runs:
        """The dump's rows, and before them pages that it lacks and that were live before."""
        live = live_before(events, has_writes)
        otherwise = live[:0]
        if self.memory is None:
            notes.append("no p2m dump was given (--memory): no frame is known to be local")
        else:
            is_known, entry = known_in(self.memory, live)
            if has_writes:  # that end the share, so that there was one
                otherwise = live[is_known & ~is_foreign_entry(entry)]
            live = live[~is_known]
        if len(otherwise):
            notes.append(f"{len(otherwise)} pages that the p2m dump has otherwise were foreign "
                         "before the capture, as their unmaps show: adopted, their frames "
                         "unknown; the dump is from another time")
        if len(live):
            notes.append(f"{len(live)} shares were live before the capture began, or were mapped "
                         "where events were lost: adopted, their frames unknown")
        adopted = adopted_runs(live)
        if self.memory is None:
            return adopted
        # A dump from within the capture has pages foreign that only it will map.
        later = mapped_first(events)
        later = later[is_foreign_entry(known_in(self.memory, later)[1])]
        if len(later):
            notes.append(f"{len(later)} pages that the p2m dump has foreign are mapped in the "
                         "capture first: the dump is from after that, they were ballooned out")
        ballooned = Runs(later, np.full(len(later), INVALID, np.uint64),
                         np.ones(len(later), np.uint64))
        parts = (adopted, self.memory, ballooned, adopted_runs(otherwise))
        return Runs(*(np.concatenate([getattr(runs, name) for runs in parts])
                      for name in ("start", "value", "count")))

    def _call_notes(self, left: CallEvents, notes: list[str]) -> None:
        self._lacks_calls = left.without_page > 0
        if self.found.blank_arrays:
            notes.append(
                f"{self.found.blank_arrays} calls have arrays of zeros only, as "
                f"{self.found.blank_arrays_note}: pages and frames are taken from the p2m "
                "writes, refs and handles are missing")
        if left.without_page:
            notes.append(f"{left.without_page} pages of calls are not in the capture: more than "
                         "the probes fetched, and no p2m write shows them")
        if left.without_write:
            notes.append(f"{left.without_write} pages of calls have no p2m write: the kernel "
                         "made none, or events were lost without a mark")

    def _line_notes(self, lost: int, notes: list[str]) -> None:
        if lost:
            notes.append(f"the tracer lost events in {lost} places")
        if self.found.seen.waits:
            notes.append(f"{self.found.seen.waits} tasks waited for a page lock: the wait is "
                         "no event")
        notes += self.found.notes
        ignored = self.found.ignored
        if ignored:
            most = [f"{name} {count}" for name, count in ignored.most_common(_NAMES_IN_NOTE)]
            others = len(ignored) - len(most)
            notes.append(f"{ignored.total()} events of other probes were left out: "
                         + ", ".join(most) + (f" and {others} more" if others else ""))
