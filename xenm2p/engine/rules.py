"""The kernel's rules, one event at a time, as plainly as the kernel's own functions say them.

The functions carry the kernel's names: arch/x86/xen/p2m.c (m2p_add_override,
m2p_remove_override, m2p_find_override, set_foreign_p2m_mapping,
clear_foreign_p2m_mapping), arch/x86/include/asm/xen/page.h (mfn_to_pfn).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xenm2p.engine.memory import entry_in
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


@dataclass(slots=True)
class Machine:
    """The tables of one domain under one kernel model."""

    model: KernelModel
    initial_p2m: list[tuple[int, int, int]]
    initial_m2p: list[tuple[int, int, int]]
    p2m: dict[int, int] = field(default_factory=dict)
    m2p: dict[int, int] = field(default_factory=dict)
    pages: dict[int, Page] = field(default_factory=dict)
    overrides: dict[int, list[int]] = field(default_factory=dict)  # bucket -> newest first
    shares: dict[int, Share] = field(default_factory=dict)  # by backend pfn
    failed_calls: dict[int, int] = field(default_factory=dict)  # call -> failing unmap

    def get_phys_to_machine(self, pfn: int) -> int:
        """p2m[pfn]."""
        if pfn not in self.p2m:
            self.p2m[pfn] = entry_in(self.initial_p2m, pfn)
        return self.p2m[pfn]

    def machine_to_phys(self, mfn: int) -> int:
        """m2p[mfn]."""
        if mfn not in self.m2p:
            self.m2p[mfn] = entry_in(self.initial_m2p, mfn)
        return self.m2p[mfn]

    def page(self, pfn: int) -> Page:
        """The struct page of a pfn."""
        return self.pages.setdefault(pfn, Page())


@dataclass(slots=True)
class Outcome:
    """What one event did: net p2m changes as pfn -> (old, new, side), in order."""

    result: Result = Result.NONE
    warnings: int = 0
    changes: dict[int, tuple[int, int, Side]] = field(default_factory=dict)
    ended: Share | None = None
    failed_unmap: int = NO_EVENT  # for an aborted unmap: the one that ended the call


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
    old = machine.get_phys_to_machine(pfn)
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
    page = machine.page(event.pfn)
    old = machine.get_phys_to_machine(event.pfn)
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
            frontend = machine.machine_to_phys(mfn)
            if frontend != INVALID and machine.get_phys_to_machine(frontend) == mfn:
                set_phys_to_machine(machine, frontend, mfn | FOREIGN, Side.FRONTEND, outcome)
    outcome.ended = machine.shares.get(event.pfn)
    machine.shares[event.pfn] = Share(
        event.number, mfn, event.pfn, event.domid, event.ref, event.handle, event.user,
        event.time, listed=lists, resolvable=event.user,
    )


def unmap_page(machine: Machine, event: Event, outcome: Outcome) -> None:
    """m2p_remove_override, clear_foreign_p2m_mapping: one backend page unmapped."""
    model = machine.model
    if model.failed_unmap_ends_call and event.call in machine.failed_calls:
        outcome.result = Result.ABORTED
        outcome.failed_unmap = machine.failed_calls[event.call]
        return
    page = machine.page(event.pfn)
    entry = machine.get_phys_to_machine(event.pfn)
    if not is_foreign(entry):
        outcome.result = Result.EINVAL
        if event.call != NO_CALL:
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
            frontend = machine.machine_to_phys(mfn)
            if (
                frontend != INVALID
                and machine.get_phys_to_machine(frontend) == mfn | FOREIGN
                and m2p_find_override(machine, mfn) is None
            ):
                set_phys_to_machine(machine, frontend, mfn, Side.FRONTEND, outcome)
    outcome.ended = machine.shares.pop(event.pfn, None) or Share(
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
    pfn = machine.machine_to_phys(mfn)
    if pfn != INVALID and machine.get_phys_to_machine(pfn) == mfn:
        return pfn, None
    if machine.model.overrides:
        found = m2p_find_override(machine, mfn)
        if found is not None:
            return found, found
    if mfn != INVALID and machine.get_phys_to_machine(mfn) == mfn | IDENTITY:
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
