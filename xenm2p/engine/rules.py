"""The kernel's rules, one event at a time, as plainly as the kernel's own functions say them.

The functions carry the kernel's names: arch/x86/xen/p2m.c (m2p_add_override,
m2p_remove_override, m2p_find_override, set_foreign_p2m_mapping,
clear_foreign_p2m_mapping), arch/x86/include/asm/xen/page.h (mfn_to_pfn).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from xenm2p.engine.replay import NO_EVENT, NO_TIME, Result, Side, Warn
from xenm2p.kernels import KernelModel, bucket_of
from xenm2p.trace import (
    FOREIGN,
    IDENTITY,
    INVALID,
    MAX_FRAME,
    NO_CALL,
    Kind,
    is_foreign,
    strip_bits,
)


@dataclass(slots=True)
class Page:
    """What struct page holds of a backend page, beside its p2m entry."""

    private: bool = False  # PG_private
    private_mfn: int = 0  # page->private
    index: int = 0  # page->index: the p2m entry that unmap restores
    bucket: int | None = None  # the override list it is on
    map_user: bool = False  # whether its map had kmap_ops


@dataclass(slots=True, eq=False)
class Share:
    """One live mapping of a frame."""

    map_event: int
    mfn: int
    pfn: int
    domid: int
    ref: int
    handle: int
    user: bool
    first_time: int
    listed: bool = False  # its map put the page on the override list
    resolvable: bool = False  # user, or direct I/O was seen on it
    aliased: bool = False  # it resolved to the frontend page once


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the trace, as Python integers, with its number."""

    number: int
    time: int
    kind: int
    pfn: int
    mfn: int
    user: bool
    domid: int
    ref: int
    handle: int
    status: int
    call: int
    cpu: int
    task: int


class Entries(dict[int, int]):
    """A p2m or m2p table: what was written to it, over what it held at first."""

    def __init__(self, initial: Callable[[int], int]):
        super().__init__()
        self.initial = initial

    def __missing__(self, index: int) -> int:
        entry = self[index] = self.initial(index)
        return entry


@dataclass(slots=True)
class Machine:
    """The tables of one domain under one kernel model, and the shares that live in them."""

    model: KernelModel
    p2m: Entries
    m2p: Entries
    pages: dict[int, Page] = field(default_factory=lambda: defaultdict(Page))
    overrides: dict[int, list[int]] = field(default_factory=dict)  # bucket -> newest first
    failed_calls: dict[int, int] = field(default_factory=dict)  # call -> failing unmap
    shares: dict[int, Share] = field(default_factory=dict)  # by backend pfn
    by_frame: dict[int, dict[int, Share]] = field(default_factory=lambda: defaultdict(dict))
    by_ref: dict[int, dict[int, Share]] = field(default_factory=lambda: defaultdict(dict))

    def begin_share(self, share: Share) -> Share | None:
        """Enter a share; gives the one that was live on its page."""
        before = self.end_share(share.pfn)
        self.shares[share.pfn] = share
        self.by_frame[share.mfn][share.pfn] = share
        self.by_ref[share.ref][share.pfn] = share
        return before

    def end_share(self, pfn: int) -> Share | None:
        """Take out the share that is live on a page, if one is."""
        share = self.shares.pop(pfn, None)
        if share is not None:
            for index, key in ((self.by_frame, share.mfn), (self.by_ref, share.ref)):
                del index[key][pfn]
                if not index[key]:
                    del index[key]
        return share

    def shares_of(self, mfn: int) -> list[Share]:
        """The live shares of a frame."""
        return list(self.by_frame[mfn].values()) if mfn in self.by_frame else []


@dataclass(slots=True)
class Outcome:
    """What one event did: net p2m changes as pfn -> (old, new, side), in order."""

    result: Result = Result.NONE
    warnings: int = 0
    changes: dict[int, tuple[int, int, Side]] = field(default_factory=dict)
    ended: Share | None = None
    failed_unmap: int = NO_EVENT  # for an aborted unmap: the one that ended the call
    private_before: int = 0  # page->private before the event


def step(machine: Machine, event: Event) -> Outcome:
    """Carry out one event on the tables."""
    outcome = Outcome()
    if event.kind == Kind.MAP:
        if event.status == 0:
            map_frame(machine, event, outcome)
    elif event.kind == Kind.UNMAP:
        unmap_page(machine, event, outcome)
    elif event.kind == Kind.SET_P2M:
        set_phys_to_machine(machine, event.pfn, event.mfn, Side.WRITE, outcome)
    elif event.kind == Kind.SET_M2P:
        machine.m2p[event.mfn] = event.pfn
    outcome.changes = net_changes(outcome.changes)
    return outcome


def set_phys_to_machine(
    machine: Machine, pfn: int, entry: int, side: Side, outcome: Outcome
) -> None:
    """Write one p2m entry and remember what it was before the event."""
    old = machine.p2m[pfn]
    if pfn in outcome.changes:
        old, _, side = outcome.changes[pfn]
    machine.p2m[pfn] = entry
    outcome.changes[pfn] = (old, entry, side)


def net_changes(changes: dict[int, tuple[int, int, Side]]) -> dict[int, tuple[int, int, Side]]:
    """The changes that remain when the event is over: its own page first, then by pfn."""
    own, others = [*changes][:1], sorted([*changes][1:])
    return {pfn: changes[pfn] for pfn in own + others if changes[pfn][0] != changes[pfn][1]}


def map_frame(machine: Machine, event: Event, outcome: Outcome) -> None:
    """m2p_add_override, set_foreign_p2m_mapping: one grant mapped at backend page pfn."""
    model = machine.model
    # dev_bus_addr >> PAGE_SHIFT, since 1429d46df4c5, has no more than 52 bits.
    mfn = event.mfn & MAX_FRAME if model.dev_bus_frame else event.mfn
    page = machine.pages[event.pfn]
    outcome.private_before = page.private_mfn
    old = machine.p2m[event.pfn]
    lists = model.overrides and (event.user or not model.overrides_need_user)
    if lists and page.bucket is not None:
        outcome.result = Result.SKIP_LIST  # list_add of an entry that is on a list
        return
    outcome.result = Result.OK
    if model.overrides:
        if page.private:
            outcome.warnings |= Warn.PAGE_PRIVATE
        page.private = True
        page.private_mfn = mfn
        page.index = strip_bits(old)
        page.map_user = event.user
    elif old != INVALID:
        outcome.warnings |= Warn.NOT_BALLOONED
    set_phys_to_machine(machine, event.pfn, mfn | FOREIGN, Side.BACKEND, outcome)
    if lists:
        page.bucket = bucket_of(mfn)
        machine.overrides.setdefault(page.bucket, []).insert(0, event.pfn)
        if model.marks_frontend:
            frontend = machine.m2p[mfn]
            if frontend != INVALID and machine.p2m[frontend] == mfn:
                set_phys_to_machine(machine, frontend, mfn | FOREIGN, Side.FRONTEND, outcome)
    outcome.ended = machine.begin_share(Share(
        event.number, mfn, event.pfn, event.domid, event.ref, event.handle, event.user,
        event.time, listed=lists, resolvable=event.user,
    ))


def unmap_page(machine: Machine, event: Event, outcome: Outcome) -> None:
    """m2p_remove_override, clear_foreign_p2m_mapping: one backend page unmapped."""
    model = machine.model
    if model.failed_unmap_ends_call and event.call in machine.failed_calls:
        outcome.result = Result.ABORTED
        outcome.failed_unmap = machine.failed_calls[event.call]
        return
    page = machine.pages[event.pfn]
    outcome.private_before = page.private_mfn
    entry = machine.p2m[event.pfn]
    if not is_foreign(entry):
        outcome.result = Result.EINVAL
        if model.failed_unmap_ends_call and event.call != NO_CALL:
            machine.failed_calls[event.call] = event.number
        return
    mfn = entry & ~FOREIGN
    lists = model.overrides and (event.user or not model.overrides_need_user)
    if lists and page.bucket is None:
        outcome.result = Result.SKIP_LIST  # list_del of an entry that is on no list
        return
    if model.derefs_kmap_op and event.user != page.map_user:
        outcome.result = Result.SKIP_KMAP
        return
    outcome.result = Result.OK
    restored = INVALID
    if model.overrides:
        if model.overrides_need_user:
            page.private_mfn = INVALID  # set_page_private(page, INVALID_P2M_ENTRY)
        if not page.private:
            outcome.warnings |= Warn.NOT_PAGE_PRIVATE
        page.private = False
        restored = page.index
    set_phys_to_machine(machine, event.pfn, restored, Side.BACKEND, outcome)
    if lists:
        assert page.bucket is not None
        machine.overrides[page.bucket].remove(event.pfn)
        page.bucket = None
        if model.marks_frontend:
            frontend = machine.m2p[mfn]
            if (
                frontend != INVALID
                and machine.p2m[frontend] == mfn | FOREIGN
                and m2p_find_override(machine, mfn) is None
            ):
                set_phys_to_machine(machine, frontend, mfn, Side.FRONTEND, outcome)
    outcome.ended = machine.end_share(event.pfn) or Share(
        NO_EVENT, mfn, event.pfn, event.domid, event.ref, event.handle, event.user,
        NO_TIME,
    )


def m2p_find_override(machine: Machine, mfn: int) -> int | None:
    """The newest page on the frame's override list whose private is the frame."""
    for pfn in machine.overrides.get(bucket_of(mfn), []):
        if machine.pages[pfn].private_mfn == mfn:
            return pfn
    return None


def mfn_to_pfn(machine: Machine, mfn: int) -> tuple[int | None, int | None]:
    """The page that mfn_to_pfn answers, and the page that the override search found."""
    pfn = machine.m2p[mfn]
    if pfn != INVALID and machine.p2m[pfn] == mfn:
        return pfn, None
    if machine.model.overrides:
        found = m2p_find_override(machine, mfn)
        if found is not None:
            return found, found
    if mfn != INVALID and machine.p2m[mfn] == mfn | IDENTITY:
        return mfn, None
    return None, None


def resolve(machine: Machine, share: Share) -> int | None:
    """The page that direct I/O on a share ends up with; None where it reaches none.

    Since 667a0a06c99d (4.0) the mapping carries its own pages. A share without kmap_ops
    is a kernel backend's, which holds the page itself, unless direct I/O was seen on it.
    """
    if not share.resolvable:
        return None
    if machine.model.vma_pages:
        return share.pfn
    return mfn_to_pfn(machine, share.mfn)[0]


def frames_affected(machine: Machine, event: Event, outcome: Outcome) -> set[int]:
    """The frames of which mfn_to_pfn may answer otherwise, or meet another lock, after `event`.

    The answer for a frame hangs on its m2p entry, on the entries that hold the frame, and
    on the listed pages whose private is the frame.
    """
    frames = {event.mfn, outcome.private_before}
    for old, new, _ in outcome.changes.values():
        frames |= {strip_bits(old), strip_bits(new)}
    if outcome.ended is not None:
        frames.add(outcome.ended.mfn)
    if event.kind in (Kind.LOCK_PAGE, Kind.UNLOCK_PAGE, Kind.DIO_READ, Kind.DIO_WRITE):
        frames |= {strip_bits(machine.p2m[event.pfn]), event.pfn}
        if event.pfn in machine.pages:
            frames.add(machine.pages[event.pfn].private_mfn)
        if event.pfn in machine.shares:
            frames.add(machine.shares[event.pfn].mfn)
    return frames
