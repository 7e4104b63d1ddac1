"""What is seen of a replay, one event at a time: rows of all tables but the rules' own.

The meaning of each fact is written at `replay.Facts`; this module says it in code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.locks import LockWatch
from xenm2p.engine.replay import (
    NO_EVENT,
    NO_TIME,
    Collisions,
    Counts,
    Cycles,
    Ending,
    Fact,
    Facts,
    Locks,
    Options,
    Resolutions,
    Result,
    Segment,
    Shares,
    Side,
    Transitions,
)
from xenm2p.engine.rules import (
    Event,
    Machine,
    Outcome,
    Share,
    frames_affected,
    mfn_to_pfn,
    resolve,
)
from xenm2p.trace import (
    FOREIGN,
    INVALID,
    NO_CALL,
    NO_DOMID,
    NO_HANDLE,
    NO_REF,
    Events,
    Kind,
    is_foreign,
    strip_bits,
)


@dataclass(frozen=True, slots=True)
class Unwritten:
    """A model transition that the machine has not yet been seen to write."""

    event: Event
    old: int
    new: int


@dataclass(slots=True)
class Rows:
    """The rows of the segment that is being made."""

    resolutions: list[tuple[Any, ...]] = field(default_factory=list)
    transitions: list[tuple[Any, ...]] = field(default_factory=list)
    shares: list[tuple[Any, ...]] = field(default_factory=list)
    facts: list[tuple[Any, ...]] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: {f.name: 0 for f in fields(Counts)})


@dataclass(slots=True)
class Observer:
    """Watches a machine and collects rows, with the little memory that this needs."""

    machine: Machine
    domain: int
    options: Options
    rows: Rows = field(default_factory=Rows)
    watch: LockWatch = field(init=False)
    now: list[tuple[Any, ...]] = field(default_factory=list)  # facts of this event
    last_handle: dict[int, int] = field(default_factory=dict)  # of a page's ended share
    failed_map: dict[int, int] = field(default_factory=dict)  # pfn -> event
    writes_seen: bool = False
    unwritten: dict[int, Unwritten] = field(default_factory=dict)  # by pfn
    last_of_task: dict[int, tuple[int, int]] = field(default_factory=dict)  # number, call
    last_on_cpu: dict[int, int] = field(default_factory=dict)
    last_loss: int = NO_EVENT
    anchored: dict[int, int] = field(default_factory=dict)  # pfn -> p2m_write that agreed
    last_time: int = NO_TIME

    def __post_init__(self) -> None:
        self.watch = LockWatch(self.options.assume_dio)

    def unsure(self, pfn: int) -> bool:
        """Whether a loss makes what the model has of this page unsure."""
        return self.last_loss != NO_EVENT and self.anchored.get(pfn, NO_EVENT) < self.last_loss

    def fact(
        self, fact: Fact, event: int, pfn: int, *, mfn: int = INVALID, old: int = INVALID,
        new: int = INVALID, other: int = NO_EVENT, value: int = -1, unsure: bool = False,
    ) -> None:
        """Note one observation, which is `unsure` or is so for what it says of page `pfn`."""
        unsure = unsure or (fact != Fact.LOST_EVENTS and self.unsure(pfn))
        self.now.append((fact, event, pfn, mfn, old, new, other, value, unsure))

    def observe(self, event: Event, outcome: Outcome) -> None:
        """See what `event` did; the machine is already past it."""
        self.now = []
        self.rows.counts["events"] += 1
        if event.kind == Kind.MAP:
            self._map(event, outcome)
        elif event.kind == Kind.UNMAP:
            self._unmap(event, outcome)
        elif event.kind == Kind.P2M_WRITE:
            self._p2m_write(event)
        elif event.kind == Kind.LOOKUP:
            self._lookup(event, event.mfn, hazard_page=None)
        elif event.kind == Kind.GUP_FAST:
            self._gup_fast(event)
        elif event.kind in (Kind.DIO_READ, Kind.DIO_WRITE):
            self._direct_io(event)
        elif event.kind == Kind.END_GRANT:
            self._end_grant(event)
        elif event.kind == Kind.LOST:
            self._lost(event)
        self._changes(event, outcome)
        frames = frames_affected(self.machine, event, outcome)
        shares = [share for mfn in frames for share in self.machine.shares_of(mfn)]
        self._aliases(event, shares)
        self._locks(event, outcome, shares)
        if event.task >= 0:
            self.last_of_task[event.task] = (event.number, event.call)
        if event.cpu >= 0:
            self.last_on_cpu[event.cpu] = event.number
        self.last_time = event.time
        self.now.sort(key=lambda row: (row[0], row[2], row[6]))
        self.rows.facts += self.now

    # -- map and unmap ---------------------------------------------------------------

    def _map(self, event: Event, outcome: Outcome) -> None:
        if outcome.result == Result.NONE:
            self.rows.counts["failed_maps"] += 1
            self.failed_map[event.pfn] = event.number
            return
        self.failed_map.pop(event.pfn, None)
        skipped = outcome.result == Result.SKIP_LIST
        live = self.machine.shares.get(event.pfn) if skipped else outcome.ended
        other = live.map_event if live else NO_EVENT
        if live:
            self.fact(Fact.DOUBLE_MAP, event.number, event.pfn, mfn=event.mfn, other=other)
        if skipped:
            self.fact(Fact.LIST_CORRUPTION, event.number, event.pfn, mfn=event.mfn, other=other)
            return
        self.rows.counts["maps"] += 1
        old = outcome.changes[event.pfn][0] if event.pfn in outcome.changes else INVALID
        if old != INVALID and not is_foreign(old):
            self.fact(Fact.NOT_BALLOONED, event.number, event.pfn, mfn=event.mfn, old=old)
        share = self.machine.shares[event.pfn]
        if share.listed:
            others = [s for s in self._overrides(share.mfn) if s is not share]
            if len(others) == 1:
                self.fact(Fact.MULTI_ALIAS, event.number, event.pfn, mfn=share.mfn,
                          other=others[0].map_event)
        if outcome.ended:
            self._share_ended(event, outcome.ended, Ending.REPLACED)

    def _unmap(self, event: Event, outcome: Outcome) -> None:
        machine, result = self.machine, outcome.result
        self.failed_map.pop(event.pfn, None)
        if result == Result.ABORTED:
            self.fact(Fact.ABORTED_CALL, event.number, event.pfn, other=outcome.failed_unmap,
                      old=machine.p2m[event.pfn])
            return
        live = machine.shares.get(event.pfn)
        if result == Result.OK and outcome.ended and outcome.ended.map_event != NO_EVENT:
            live = outcome.ended
        other = live.map_event if live else NO_EVENT
        if result == Result.EINVAL:
            self.fact(Fact.UNMAP_NOT_FOREIGN, event.number, event.pfn,
                      old=machine.p2m[event.pfn])
        if result == Result.SKIP_LIST:
            self.fact(Fact.LIST_CORRUPTION, event.number, event.pfn, other=other)
        if live and live.user != event.user and result in (Result.OK, Result.SKIP_KMAP):
            self.fact(Fact.KMAP_MISMATCH, event.number, event.pfn, mfn=live.mfn, other=other)
        if event.handle != NO_HANDLE and not (
            live and live.handle in (NO_HANDLE, event.handle)
        ):
            twice = live is None and self.last_handle.get(event.pfn) == event.handle
            self.fact(Fact.HANDLE, event.number, event.pfn, other=other, value=event.handle,
                      old=int(twice))
        if result == Result.OK:
            assert outcome.ended is not None
            self.rows.counts["unmaps"] += 1
            self._share_ended(event, outcome.ended, Ending.UNMAP)

    def _share_ended(self, event: Event, share: Share, ending: Ending) -> None:
        self.rows.shares.append(_share_row(share, event.number, event.time, ending))
        self.last_handle[share.pfn] = share.handle
        if ending == Ending.UNMAP:
            for window in self.watch.in_flight(share):
                # The lock that keeps the I/O in flight may have been released unseen.
                self.fact(Fact.UNMAP_IN_FLIGHT, event.number, share.pfn, mfn=share.mfn,
                          other=window.dio_event, unsure=window.lock.event < self.last_loss)
        if self.machine.shares_of(share.mfn):
            return
        frontend = self.machine.m2p[share.mfn]
        if frontend == INVALID:
            return
        entry = self.machine.p2m[frontend]
        if is_foreign(entry) and entry == share.mfn | FOREIGN:
            self.fact(Fact.STUCK_FOREIGN, event.number, frontend, mfn=share.mfn,
                      other=share.map_event)

    def _overrides(self, mfn: int) -> list[Share]:
        return [share for share in self.machine.shares_of(mfn) if share.listed]

    # -- what mfn_to_pfn answers -------------------------------------------------------

    def _lookup(self, event: Event, mfn: int, hazard_page: int | None) -> None:
        """Report mfn_to_pfn(mfn); a hazard where an override hides the frontend page."""
        frontend, marked, answer, found = self._frontend_of(mfn)
        override = self.machine.shares.get(found) if found is not None else None
        self.rows.resolutions.append((
            event.number, mfn, INVALID if answer is None else answer, frontend, marked,
            override.map_event if override else NO_EVENT))
        if marked and found is not None and found != frontend and hazard_page in (None, frontend):
            self.fact(Fact.GUP_FAST_HAZARD, event.number, frontend, mfn=mfn, old=found,
                      other=override.map_event if override else NO_EVENT)

    def _frontend_of(self, mfn: int) -> tuple[int, bool, int | None, int | None]:
        """The frame's local frontend page, its mark, and mfn_to_pfn's answer and override."""
        machine = self.machine
        frontend, marked = machine.m2p[mfn], False
        if frontend != INVALID:
            entry = machine.p2m[frontend]
            marked = is_foreign(entry) and entry == mfn | FOREIGN
            if not marked and entry != mfn:
                frontend = INVALID
        return frontend, marked, *mfn_to_pfn(machine, mfn)

    def _gup_fast(self, event: Event) -> None:
        """get_user_pages_fast(page) ends in pte_pfn, that is mfn_to_pfn of the page's frame."""
        frame = strip_bits(self.machine.p2m[event.pfn])
        self._lookup(event, frame, hazard_page=event.pfn)

    def _direct_io(self, event: Event) -> None:
        share = self.machine.shares.get(event.pfn)
        if share is None:
            self.rows.resolutions.append(
                (event.number, INVALID, INVALID, INVALID, False, NO_EVENT))
            return
        share.resolvable = True
        frontend, marked, _, found = self._frontend_of(share.mfn)
        answer = resolve(self.machine, share)
        override = self.machine.shares.get(found) if found is not None else None
        self.rows.resolutions.append((
            event.number, share.mfn, INVALID if answer is None else answer, frontend, marked,
            override.map_event if override else NO_EVENT))

    def _aliases(self, event: Event, shares: list[Share]) -> None:
        if not self.machine.model.overrides:
            return
        for share in shares:
            if not share.resolvable or share.aliased:
                continue
            frontend = self.machine.m2p[share.mfn]
            if frontend not in (INVALID, share.pfn) and resolve(self.machine, share) == frontend:
                entry = self.machine.p2m[frontend]
                if entry == share.mfn:
                    share.aliased = True
                    self.fact(Fact.LOCAL_ALIAS, event.number, frontend, mfn=share.mfn,
                              old=share.pfn, other=share.map_event)

    # -- the machine's own writes, and losses -------------------------------------------

    def _changes(self, event: Event, outcome: Outcome) -> None:
        counts = self.rows.counts
        for pfn, (old, new, side) in outcome.changes.items():
            if self.options.details:
                self.rows.transitions.append((event.number, pfn, old, new, side))
            turned = is_foreign(new) - is_foreign(old)
            if turned:
                name = "set" if turned > 0 else "cleared"
                counts[f"foreign_{name}"] += 1
                counts[f"frontend_{name}"] += side == Side.FRONTEND
            if side != Side.BACKEND and turned < 0:
                self._early_clear(event, pfn, old, new)
            if side != Side.WRITE and self.writes_seen:
                before = self.unwritten.get(pfn)
                if before:
                    self._never_written(pfn, before, event.number)
                self.unwritten[pfn] = Unwritten(event, old, new)

    def _early_clear(self, event: Event, pfn: int, old: int, new: int) -> None:
        mfn = old & ~FOREIGN
        overrides = self._overrides(mfn)
        if overrides and self.machine.m2p[mfn] == pfn:
            self.fact(Fact.EARLY_CLEAR, event.number, pfn, mfn=mfn, old=old, new=new,
                      other=max(share.map_event for share in overrides))

    def _never_written(self, pfn: int, change: Unwritten, decided: int) -> None:
        if self.options.judge_writes:
            self.fact(Fact.MODEL_MISMATCH, change.event.number, pfn, old=change.old,
                      new=change.new, other=decided, value=1)

    def _p2m_write(self, event: Event) -> None:
        counts = self.rows.counts
        counts["writes_foreign"] += is_foreign(event.mfn)
        counts["writes_invalid"] += event.mfn == INVALID
        entry = self.machine.p2m[event.pfn]
        if is_foreign(event.mfn) and event.pfn in self.failed_map:
            self.fact(Fact.FAILED_MAP_KEPT, event.number, event.pfn, new=event.mfn,
                      other=self.failed_map.pop(event.pfn))
        if entry == event.mfn:
            counts["writes_agreed"] += 1
            self.anchored[event.pfn] = event.number
        elif self.options.judge_writes:
            self.fact(Fact.MODEL_MISMATCH, event.number, event.pfn, old=entry, new=event.mfn,
                      value=0)
        self.unwritten.pop(event.pfn, None)
        self.writes_seen = True

    def _lost(self, event: Event) -> None:
        known = event.ref != NO_REF
        self.rows.counts["lost"] += event.ref if known else 0
        self.fact(Fact.LOST_EVENTS, event.number, INVALID, value=event.ref if known else -1,
                  other=self.last_on_cpu.get(event.cpu, NO_EVENT))
        self.last_loss = event.number
        self.unwritten.clear()

    def _end_grant(self, event: Event) -> None:
        """gnttab_end_foreign_access: "g.e. still in use"."""
        if event.ref == NO_REF or event.ref not in self.machine.by_ref:
            return
        of_grant = [
            share for share in self.machine.by_ref[event.ref].values()
            if share.domid in (NO_DOMID, self.domain)
        ]
        if of_grant:
            newest = max(of_grant, key=lambda share: share.map_event)
            self.fact(Fact.ENDED_IN_USE, event.number, newest.pfn, mfn=newest.mfn,
                      other=newest.map_event, value=len(of_grant))

    # -- locks ---------------------------------------------------------------------------

    def _locks(self, event: Event, outcome: Outcome, shares: list[Share]) -> None:
        watch, released = self.watch, None
        if event.kind == Kind.LOCK_PAGE:
            self.rows.counts["locks"] += 1
            released = watch.lock_page(event)
        elif event.kind == Kind.UNLOCK_PAGE:
            released = watch.unlock_page(event)
        watch.update(self.machine, event.number, shares, outcome.ended)
        if event.kind == Kind.DIO_READ:
            watch.dio_read(event)
        is_dio = event.kind in (Kind.DIO_READ, Kind.DIO_WRITE)
        if is_dio and watch.held and event.pfn in self.machine.shares:
            share = self.machine.shares[event.pfn]
            frontend = self._frontend_of(share.mfn)[0]
            watch.direct_io(self.machine, event, share, frontend, self.last_loss)
        decided = [(w, False) for w in watch.released(released)] if released else []
        if outcome.ended:
            decided = [(w, True) for w in watch.share_ended(outcome.ended)]
        for window, outlives in decided:
            unsure = self.unsure(window.share.pfn) or window.lock.event < self.last_loss
            watch.decide(window, lock_outlives_share=outlives, unsure=unsure)

    # -- segments ------------------------------------------------------------------------

    def finish(self) -> None:
        """The trace ends: decide what is open."""
        self.now = []
        for pfn, change in sorted(self.unwritten.items()):
            last, call = self.last_of_task.get(change.event.task, (NO_EVENT, NO_CALL))
            same_call = change.event.call == call != NO_CALL
            if last > change.event.number and not same_call:
                self._never_written(pfn, change, NO_EVENT)
        live = sorted(self.machine.shares.values(), key=lambda share: share.map_event)
        for share in live:
            for window in self.watch.share_ended(share):
                unsure = self.unsure(share.pfn) or window.lock.event < self.last_loss
                self.watch.decide(window, lock_outlives_share=True, unsure=unsure)
            self.rows.shares.append(_share_row(share, NO_EVENT, NO_TIME, Ending.LIVE))
            self.fact(Fact.LEAKED_SHARE, share.map_event, share.pfn, mfn=share.mfn,
                      value=self.last_time - share.first_time)
        self.watch.finish()
        self.now.sort(key=lambda row: (row[0], row[1], row[2]))
        self.rows.facts += self.now

    def segment(
        self, first: int, events: Events, result: NDArray[np.uint8],
        warnings: NDArray[np.uint8], *, last: bool = False,
    ) -> Segment:
        """The rows gathered since the last segment."""
        rows, watch = self.rows, self.watch
        details = self.options.details
        made = Segment(
            first, events, result, warnings,
            Resolutions.of(rows.resolutions),
            Transitions.of(rows.transitions),
            Shares.of(rows.shares if details or last else []),
            Locks.of(watch.lock_rows if details else []),
            Collisions.of(watch.collision_rows),
            Facts.of(rows.facts),
            Counts(**rows.counts),
            Cycles.of(watch.cycle_rows),
        )
        self.rows = Rows()
        watch.lock_rows, watch.collision_rows, watch.cycle_rows = [], [], []
        return made

    def closing_segment(self, number: int) -> Segment:
        """The segment that closes what is open after the last event."""
        nothing = np.zeros(0, np.uint8)
        return self.segment(number, Events.from_columns(0), nothing, nothing, last=True)


def _share_row(share: Share, event: int, time: int, ending: Ending) -> tuple[Any, ...]:
    return (share.map_event, event, share.mfn, share.pfn, share.domid, share.ref,
            share.handle, share.user, share.first_time, time, ending)
