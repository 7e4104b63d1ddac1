"""Page locks and collision windows, for the one-event-at-a-time engine.

A share collides while it resolves to a page other than its own whose lock is held
(Linux b9e0d95c041c, commit message). A window is one share meeting one held lock
without interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xenm2p.engine.replay import NO_EVENT, NO_TIME, Verdict
from xenm2p.engine.rules import Event, Machine, Share, resolve
from xenm2p.engine.waits import Wait, WaitGraph, cycle_rows
from xenm2p.trace import Kind


@dataclass(slots=True, eq=False)
class Lock:
    """One time a page lock was held."""

    event: int
    pfn: int
    task: int
    time: int


@dataclass(slots=True, eq=False)
class Window:
    """One collision window; `last_event` is NO_EVENT while it is open."""

    share: Share
    lock: Lock
    first_event: int
    last_event: int = NO_EVENT
    dio_event: int = NO_EVENT


@dataclass(slots=True)
class LockWatch:
    """The locks that are held, and the windows whose verdict is not yet decided."""

    assume_dio: bool
    held: dict[int, Lock] = field(default_factory=dict)  # by pfn
    open: dict[int, Window] = field(default_factory=dict)  # by backend pfn
    undecided: list[Window] = field(default_factory=list)
    lock_rows: list[tuple[int, ...]] = field(default_factory=list)
    collision_rows: list[tuple[int, ...]] = field(default_factory=list)
    waits: WaitGraph = field(default_factory=WaitGraph)
    cycle_rows: list[tuple[int, ...]] = field(default_factory=list)

    def lock_page(self, event: Event) -> Lock | None:
        """The page lock is taken; gives the lock held before, whose release was not seen."""
        before = self.held.get(event.pfn)
        if before is not None:
            self.lock_rows.append(_lock_row(before, NO_EVENT, NO_TIME))
        self.held[event.pfn] = Lock(event.number, event.pfn, event.task, event.time)
        return before

    def unlock_page(self, event: Event) -> Lock | None:
        """The page lock is released; None where it was not seen taken."""
        lock = self.held.pop(event.pfn, None)
        if lock is not None:
            self.lock_rows.append(_lock_row(lock, event.number, event.time))
        return lock

    def update(
        self, machine: Machine, number: int, shares: list[Share], ended: Share | None
    ) -> None:
        """Open and close windows after event `number` has taken effect.

        `shares` are the live ones that the event may have made resolve otherwise or meet
        another lock, `ended` the one that it ended.
        """
        for share in [*shares, ended] if ended else shares:
            window = self.open.get(share.pfn)
            if window is None or window.share is not share:
                continue
            if share is ended or self._met_by(machine, share) is not window.lock:
                window.last_event = number
                del self.open[share.pfn]
        if not self.held:
            return
        for share in shares:
            lock = self._met_by(machine, share)
            if lock is not None and share.pfn not in self.open:
                self.open[share.pfn] = Window(share, lock, number)
                self.undecided.append(self.open[share.pfn])

    def _met_by(self, machine: Machine, share: Share) -> Lock | None:
        pfn = resolve(machine, share)
        return None if pfn is None or pfn == share.pfn else self.held.get(pfn)

    def dio_read(self, event: Event) -> None:
        """Direct I/O reads into a share: it meets the lock of the share's open window."""
        window = self.open.get(event.pfn)
        if window is not None and window.dio_event == NO_EVENT:
            window.dio_event = event.number

    def direct_io(
        self, machine: Machine, event: Event, share: Share, frontend: int, last_loss: int
    ) -> None:
        """Direct I/O on a live share: who waits for whom from now on.

        `frontend` is the local frontend page of the share's frame, INVALID for none.
        """
        begun = []
        met = self._met_by(machine, share) if event.kind == Kind.DIO_READ else None
        if met is not None and met.event > share.map_event:
            begun.append((event.task, met.task, False, met))
        issued = self.held.get(frontend)
        if issued is not None and issued.event < share.map_event:
            begun.append((issued.task, event.task, True, issued))
        self._begin_waits(machine, [
            Wait(waiter, holder, for_io, lock.pfn, lock.event, share.mfn, share.pfn,
                 share.map_event, event.number)
            for waiter, holder, for_io, lock in begun if waiter >= 0 and holder >= 0],
            event.number, last_loss)

    def _begin_waits(
        self, machine: Machine, begun: Sequence[Wait], number: int, last_loss: int
    ) -> None:
        if not begun:
            return

        def is_alive(wait: Wait) -> bool:
            lock, share = self.held.get(wait.pfn), machine.shares.get(wait.backend_pfn)
            return (lock is not None and lock.event == wait.lock_event
                    and share is not None and share.map_event == wait.map_event)

        self.waits.keep(is_alive)
        cycle = self.waits.add(begun)
        if cycle:
            self.cycle_rows += cycle_rows(number, cycle, last_loss)

    def in_flight(self, share: Share) -> list[Window]:
        """The windows in which direct I/O on `share` still waits for the lock."""
        return [w for w in self.undecided if w.share is share and w.dio_event != NO_EVENT]

    def released(self, lock: Lock) -> list[Window]:
        """Take out the windows that the release of `lock` decides."""
        return self._take([w for w in self.undecided if w.lock is lock])

    def share_ended(self, share: Share) -> list[Window]:
        """Take out the windows that the end of `share` decides."""
        return self._take([w for w in self.undecided if w.share is share])

    def _take(self, windows: list[Window]) -> list[Window]:
        self.undecided = [w for w in self.undecided if w not in windows]
        return sorted(windows, key=lambda w: (w.first_event, w.share.pfn, w.lock.pfn))

    def decide(self, window: Window, *, lock_outlives_share: bool, unsure: bool) -> None:
        """Give the verdict, as `Verdict` and xenm2p-replay(1) have it."""
        was_read = window.dio_event != NO_EVENT or (self.assume_dio and window.share.user)
        spans = lock_outlives_share and window.lock.event < window.share.map_event
        if unsure:
            verdict = Verdict.UNKNOWN
        elif not was_read:
            verdict = Verdict.PRONE
        else:
            verdict = Verdict.DEADLOCK if spans else Verdict.CONTENTION
        self.collision_rows.append((
            verdict, window.first_event, window.last_event, window.lock.pfn,
            window.share.mfn, window.share.pfn, window.share.map_event, window.lock.event,
            window.lock.task, window.dio_event, spans,
        ))

    def finish(self) -> None:
        """The trace ends: rows for the locks that are still held."""
        for lock in sorted(self.held.values(), key=lambda lock: lock.event):
            self.lock_rows.append(_lock_row(lock, NO_EVENT, NO_TIME))


def _lock_row(lock: Lock, event: int, time: int) -> tuple[int, ...]:
    return (lock.event, event, lock.pfn, lock.task, lock.time, time)
