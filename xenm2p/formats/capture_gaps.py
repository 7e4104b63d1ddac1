"""What a capture lacks: losses that leave no mark but show in the writes.

A p2m write that does not follow from the one before of its page proves that an event between
them is missing. clear_foreign_p2m_mapping and m2p_remove_override write only over an entry
that is FOREIGN, so that two INVALID writes of calls running are proof; and pages that are
mapped anew were ballooned out before (arch/x86/xen/p2m.c warns otherwise), so that two
FOREIGN ones are. A map or unmap without a write, where nearly all others have one, lost it;
a write that only a map or unmap makes, and of which none is known, lost that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.formats.ftrace_writes import is_foreign_entry
from xenm2p.trace import I64, INVALID, NO_CALL, Events, Kind

_FEW = 0.1  # of all maps, or unmaps


@dataclass(frozen=True, slots=True)
class Gaps:
    """Events with their unmarked losses, in how many places, and how many writes are odd."""

    events: Events
    places: int
    writes: int


def with_proven_losses(events: Events, *, lacks_calls: bool = False) -> Gaps:
    """The events with a `lost` (no count, no cpu) before each call that proves one.

    `lacks_calls`: maps, unmaps or pages of theirs are known not to be in the capture. Where
    it has no p2m writes either, one `lost` stands before the first call that shows it.
    The events are in their order and have their call numbers. Memory is a few times that
    of the events' p2m writes.
    """
    at, writes = _proofs(events)
    is_write = (events.kind == Kind.P2M_WRITE) | (events.kind == Kind.SET_P2M)
    if lacks_calls and not is_write.any():
        at = _contradictions(events)[:1]
    if not len(at):
        return Gaps(events, 0, writes)
    lost = Events.from_columns(len(at), kind=np.full(len(at), Kind.LOST, np.uint8),
                               time=events.time[at])
    # A loss stands before the event of its own number.
    number = np.concatenate([at * 2, np.arange(len(events)) * 2 + 1])
    together = Events.concat([lost, events]).rows(np.argsort(number, kind="stable"))
    return Gaps(together, len(at), writes)


def _proofs(events: Events) -> tuple[I64, int]:
    """The events before which something is proven to be missing; how many writes are odd."""
    rows = np.flatnonzero((events.kind == Kind.P2M_WRITE) | (events.kind == Kind.SET_P2M))
    order = rows[np.lexsort((rows, events.pfn[rows]))]
    before, after = order[:-1], order[1:]
    same_page = events.pfn[before] == events.pfn[after]
    before, after = before[same_page], after[same_page]
    by_calls = (events.kind[before] == Kind.P2M_WRITE) & (events.kind[after] == Kind.P2M_WRITE)
    ends = events.mfn == np.uint64(INVALID)
    foreign = is_foreign_entry(events.mfn)
    # Without calls the reader has taken the second of two as unmap and map.
    maps_twice = foreign[before] & foreign[after] & (events.call[after] != NO_CALL)
    is_odd = (by_calls & ends[before] & ends[after]) | maps_twice
    at = _first_of_call(events, before[is_odd], after[is_odd])
    # Writes that only a map makes, and those over a mapped page that only its unmap does.
    is_orphan = (events.kind == Kind.SET_P2M) & foreign
    is_orphan[after] |= (events.kind[after] == Kind.SET_P2M) & foreign[before]
    orphans = np.flatnonzero(is_orphan)
    if len(orphans) >= _FEW * len(rows):  # the calls were not probed
        orphans = orphans[:0]
    at = np.concatenate([at, orphans, _about_unwritten(events)])
    return np.unique(at), int(is_odd.sum())


def _contradictions(events: Events) -> I64:
    """Where calls begin that map a mapped page, or unmap an unmapped one; ascending."""
    rows = np.flatnonzero((events.kind <= Kind.UNMAP) & (events.status == 0))
    order = rows[np.lexsort((rows, events.pfn[rows]))]
    before, after = order[:-1], order[1:]
    is_odd = (events.pfn[before] == events.pfn[after]) & (
        events.kind[before] == events.kind[after])
    return np.sort(_first_of_call(events, before[is_odd], after[is_odd]))


def _about_unwritten(events: Events) -> I64:
    """Where calls end of which a page has no write, though others of their kind have.

    Where such a map is over a share that lives, also where its call begins.
    """
    of_page = np.flatnonzero((events.kind <= Kind.UNMAP) | (events.kind == Kind.P2M_WRITE)
                             | (events.kind == Kind.SET_P2M))
    order = of_page[np.lexsort((of_page, events.pfn[of_page]))]
    before, after = order[:-1], order[1:]
    is_written = np.zeros(len(events), np.bool_)
    is_written[before] = (events.pfn[before] == events.pfn[after]) & (
        events.kind[after] == Kind.P2M_WRITE)
    share = np.full(len(events), -1, np.int64)
    # The write of a map stands between it and the unmap.
    calls = order[events.kind[order] <= Kind.UNMAP]
    first, second = calls[:-1], calls[1:]
    is_live = (events.pfn[first] == events.pfn[second]) & (
        events.kind[first] == Kind.MAP) & (events.status[first] == 0)
    share[second] = np.where(is_live, first, -1)
    missing = [np.zeros(0, np.int64)]
    for does in ((events.kind == Kind.MAP) & (events.status == 0),
                 (events.kind == Kind.UNMAP) & (events.status == 0) & (share >= 0)):
        lacks = np.flatnonzero(does & ~is_written)
        if len(lacks) < _FEW * does.sum():
            missing.append(lacks)
    lacking = np.concatenate(missing)
    lacking = lacking[events.call[lacking] != NO_CALL]
    over = lacking[(events.kind[lacking] == Kind.MAP) & (share[lacking] >= 0)]
    return np.concatenate([_ends_of_calls(events, lacking),
                           _first_of_call(events, share[over], over)])


def _ends_of_calls(events: Events, rows: I64) -> I64:
    """The events behind the calls of `rows`, but for each task's last call: it may be cut."""
    if not len(rows):  # as in most captures, which may be large
        return rows
    in_call = np.flatnonzero(events.call != NO_CALL)
    calls, back = np.unique(events.call[in_call], return_inverse=True)
    last = np.zeros(len(calls), np.int64)
    np.maximum.at(last, back, in_call)
    ends = last[np.searchsorted(calls, events.call[rows])]
    tasks, back = np.unique(events.task, return_inverse=True)
    last_of_task = np.zeros(len(tasks), np.int64)
    np.maximum.at(last_of_task, back, np.arange(len(events)))
    goes_on = last_of_task[np.searchsorted(tasks, events.task[rows])] > ends
    behind: I64 = ends[goes_on] + 1
    return behind


def _first_of_call(events: Events, before: I64, after: I64) -> I64:
    """Where the call of each write `after` begins, but behind the write `before`."""
    if not len(after):
        return after
    first = after.copy()
    for kind in (Kind.MAP, Kind.UNMAP):  # of a write that no call is known of
        maps = np.flatnonzero(events.kind == kind)
        is_before = after - 1
        is_its_map = np.isin(is_before, maps) & (events.pfn[is_before] == events.pfn[after])
        first[is_its_map] = is_before[is_its_map]
    in_call = np.flatnonzero(events.call != NO_CALL)
    calls, first_rows = np.unique(events.call[in_call], return_index=True)
    has_call = events.call[after] != NO_CALL
    found = np.searchsorted(calls, events.call[after[has_call]])
    first[has_call] = in_call[first_rows[found]]
    return np.maximum(first, before + 1)
