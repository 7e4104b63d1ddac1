"""ftrace text, last step: what was sighted -> the events of a trace, in the order of the lines.

A page of a map call whose hypercall failed becomes a `map` with that status and the frame
``invalid``: the op holds no frame then. Where no call was captured at all, a FOREIGN write is
the `map`, and the next write of its page the `unmap`; each is then also a `p2m_write`, so
that writes are counted alike in all captures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xenm2p.formats.ftrace_calls import CallTable
from xenm2p.formats.ftrace_lines import Mask
from xenm2p.formats.ftrace_ops import STATUS_UNKNOWN, USER_UNKNOWN
from xenm2p.formats.ftrace_writes import (
    Matches,
    Sightings,
    failed_pages,
    is_foreign_entry,
)
from xenm2p.trace import (
    COLUMNS,
    FOREIGN,
    I64,
    INVALID,
    MAX_FRAME,
    NO_CALL,
    U64,
    Column,
    Events,
    Kind,
    Runs,
)

# What a page is in memory that was foreign before the capture, nobody knows with which frame.
UNKNOWN_FRAME = FOREIGN | MAX_FRAME
_GENERAL_ERROR = -1  # GNTST_general_error
# Grant flags: the low two bits say what is granted; 1 is GTF_permit_access.
_GTF_TYPE, _GTF_PERMIT_ACCESS = 3, 1
# Order of events that come of one line
_FIRST, _SECOND, _LAST = 0, 1, 2


@dataclass(slots=True)
class Timeline:
    """Collects events of all kinds; `events` puts them in the order of their lines."""

    parts: list[tuple[I64, Events]]

    def add(self, kind: Kind, place: I64, turn: int, **columns: Column) -> None:
        """Events of one kind, at the lines `place`; `turn` orders those of one line."""
        count = len(place)
        kinds = np.full(count, kind, np.uint8)
        self.parts.append((place * 4 + turn,
                           Events.from_columns(count, kind=kinds, **columns)))

    def events(self) -> Events:
        """All events so far."""
        keys = np.concatenate([np.zeros(0, np.int64), *(key for key, _ in self.parts)])
        order = np.argsort(keys, kind="stable")
        return Events.concat([part for _, part in self.parts]).rows(order)


def _seen(rows: Sightings | CallTable, where: Mask | I64 | slice) -> dict[str, Column]:
    return {"time": rows.time[where], "cpu": rows.cpu[where], "task": rows.task[where]}


def add_grants(line: Timeline, grants: Sightings, ends: Sightings) -> None:
    """`grant` and `end_grant` events."""
    ref, domid, frame, flags = grants.values
    # An update of the grant table may also offer a transfer, or take the entry back.
    is_access = (flags == np.uint64(INVALID)) | (
        (flags & np.uint64(_GTF_TYPE)) == _GTF_PERMIT_ACCESS)
    line.add(Kind.GRANT, grants.place[is_access], _LAST, ref=ref[is_access].astype(np.uint32),
             domid=domid[is_access].astype(np.uint16), mfn=frame[is_access],
             **_seen(grants, is_access))
    line.add(Kind.END_GRANT, ends.place, _LAST, ref=ends.values[0].astype(np.uint32),
             **_seen(ends, slice(None)))


def add_locks(line: Timeline, kind: Kind, seen: Sightings, pfn: U64, known: Mask) -> None:
    """`lock_page` or `unlock_page` events of the pages that are known."""
    line.add(kind, seen.place[known], _LAST, pfn=pfn[known], **_seen(seen, known))


def add_writes(line: Timeline, writes: Sightings, call: I64, explained: Mask) -> None:
    """`p2m_write` events where a call explains the write, `set_p2m` elsewhere."""
    pfn, entry = writes.values
    for kind, which in ((Kind.P2M_WRITE, explained), (Kind.SET_P2M, ~explained)):
        line.add(kind, writes.place[which], _LAST, pfn=pfn[which], mfn=entry[which],
                 call=call[which], **_seen(writes, which))


@dataclass(frozen=True, slots=True)
class CallEvents:
    """What `add_calls` could not tell: pages whose map or unmap has no event."""

    without_page: int
    without_write: int


def add_calls(line: Timeline, calls: CallTable, writes: Sightings, found: Matches,
              refs_unmap: bool) -> CallEvents:
    """`map` and `unmap` events of all calls.

    A page of which all is known has its event at the line of the call; one whose frame or
    number only its write shows has it at that write. `refs_unmap`: calls seen before
    their unmap hypercall only stand for the unmap, nothing better being probed.
    """
    call, has_writes = calls.page_call, len(writes) > 0
    is_map, is_refs = calls.is_map[call], calls.is_refs[call]
    failed, written = failed_pages(calls), found.page_write >= 0
    entry = writes.values[1][found.page_write] if has_writes else calls.mfn.copy()
    status = np.where(calls.status == STATUS_UNKNOWN, 0, calls.status)
    passed_over = ~written & _before_a_written_page(call, written)
    frame_known = (calls.mfn != np.uint64(INVALID)) & (
        (calls.mfn != 0) | (calls.status != STATUS_UNKNOWN))
    # A probe may have fetched the first page's status only: a page that the call did not
    # make foreign, though later ones of it were, was refused.
    refused = is_map & ~is_refs & (calls.status == STATUS_UNKNOWN) & passed_over
    status = np.where(refused, _GENERAL_ERROR, status)
    firm_map = found.placed & is_map & ~is_refs & (frame_known | failed)
    firm_unmap = found.placed & ~is_map & (~is_refs | refs_unmap)
    by_write = found.placed & written & ~firm_map & ~firm_unmap
    frame = np.where(frame_known, calls.mfn, entry & np.uint64(~FOREIGN & INVALID))
    frame = np.where(status != 0, np.uint64(INVALID), frame)
    user = np.maximum(calls.user, 0)

    def columns(page: Mask | I64, of: I64) -> dict[str, Column]:
        return {"ref": calls.ref[page], "handle": calls.handle[page],
                "status": status[page].astype(np.int16), "user": user[of], "call": of}

    for kind, pages in ((Kind.MAP, firm_map), (Kind.UNMAP, firm_unmap)):
        of = call[pages]
        more = {"mfn": frame[pages]} if kind == Kind.MAP else {}
        line.add(kind, calls.place[of], _FIRST, pfn=found.pfn[pages], domid=calls.domid[pages],
                 **more, **columns(pages, of), **_seen(calls, of))
    for kind in (Kind.MAP, Kind.UNMAP):
        pages = by_write & (is_map == (kind == Kind.MAP))
        of, at = call[pages], found.page_write[pages]
        more = {"mfn": frame[pages]} if kind == Kind.MAP else {}
        line.add(kind, writes.place[at], _FIRST, pfn=found.pfn[pages],
                 domid=calls.domid[pages], **more, **columns(pages, of), **_seen(writes, at))
    _add_beyond(line, calls, writes, found, user)
    lost = int(found.room_left.sum() + (failed & ~found.placed).sum())
    is_firm = firm_map | firm_unmap
    return CallEvents(lost, int((is_firm & (status == 0) & ~written).sum()) if has_writes else 0)


def _add_beyond(line: Timeline, calls: CallTable, writes: Sightings, found: Matches,
                user: I64) -> None:
    """Pages that a call did not show, each at its write."""
    shared_domid = _shared_domid(calls)
    for kind in (Kind.MAP, Kind.UNMAP):
        at = np.flatnonzero(found.is_beyond)
        at = at[calls.is_map[found.write_call[at]] == (kind == Kind.MAP)]
        of, page = found.write_call[at], found.write_page[at]
        more: dict[str, Column] = {}
        if len(calls.page):
            for name, known in (("ref", calls.ref), ("handle", calls.handle)):
                more[name] = np.where(page >= 0, known[page], COLUMNS[name].absent)
        if kind == Kind.MAP:
            more["mfn"] = writes.values[1][at] & np.uint64(~FOREIGN & INVALID)
            more["domid"] = shared_domid[of]
        line.add(kind, writes.place[at], _FIRST, pfn=writes.values[0][at], user=user[of],
                 call=of, **more, **_seen(writes, at))


def _before_a_written_page(call: I64, written: Mask) -> Mask:
    """Which pages have a written one behind them in their call; calls' pages are together."""
    rows = np.arange(len(call))
    last_written = np.full(len(call) and int(call[-1]) + 1, -1, np.int64)
    np.maximum.at(last_written, call[written], rows[written])
    before: Mask = rows < last_written[call]
    return before


def unmaps_go_on(calls: CallTable, found: Matches) -> bool:
    """Whether an unmap call wrote pages after one that it did not write."""
    written = found.page_write >= 0
    passed_over = found.placed & ~written & _before_a_written_page(calls.page_call, written)
    return bool((passed_over & ~calls.is_map[calls.page_call]).any())


def _shared_domid(calls: CallTable) -> I64:
    """The domain of each call's pages where all that are shown have the same."""
    absent = COLUMNS["domid"].absent
    low = np.full(len(calls.place), 1 << 16, np.int64)
    high = np.full(len(calls.place), -1, np.int64)
    np.minimum.at(low, calls.page_call, calls.domid)
    np.maximum.at(high, calls.page_call, calls.domid)
    return np.where(low == high, low, absent)


def add_from_writes(line: Timeline, writes: Sightings, foreign_before: Mask, left: Mask,
                    *, maps: bool, unmaps: bool) -> Mask:
    """`map` and `unmap` events of a capture that has p2m writes and no calls, or of one sort.

    `foreign_before` says of each write whether its page, if this is its first write, is
    foreign already; `left` which writes may be of such an event; `maps` and `unmaps` which
    calls the capture lacks. Returns which writes are explained so.
    """
    pfn, entry = writes.values
    is_foreign = is_foreign_entry(entry)
    order = np.lexsort((writes.place, pfn))
    was_foreign = foreign_before.copy()
    same_page = pfn[order][1:] == pfn[order][:-1]
    was_foreign[order[1:]] = np.where(
        same_page, is_foreign[order[:-1]], foreign_before[order[1:]])
    is_map, is_unmap = is_foreign & left & maps, was_foreign & left & unmaps
    line.add(Kind.UNMAP, writes.place[is_unmap], _FIRST, pfn=pfn[is_unmap],
             **_seen(writes, is_unmap))
    line.add(Kind.MAP, writes.place[is_map], _SECOND, pfn=pfn[is_map],
             mfn=entry[is_map] & np.uint64(~FOREIGN & INVALID), **_seen(writes, is_map))
    return is_map | is_unmap


def add_losses(line: Timeline, place: I64, cpu: I64, count: I64) -> None:
    """`lost` events; their times come from their neighbours later."""
    line.add(Kind.LOST, place, _FIRST, cpu=cpu, ref=count)


def finish(events: Events, calls: CallTable | None) -> Events:
    """Fills in what only neighbours tell: times of losses, `user` of unmaps, call numbers."""
    lost = events.kind == Kind.LOST
    if lost.any() and not lost.all():
        timed = np.flatnonzero(~lost)
        following = np.searchsorted(timed, np.flatnonzero(lost))
        events.time[lost] = events.time[timed[np.minimum(following, len(timed) - 1)]]
    if calls is not None:
        _user_of_unmaps(events, calls)
        in_call = events.call != NO_CALL
        first_lines = calls.same_call[events.call[in_call]]
        events.call[in_call] = np.unique(first_lines, return_inverse=True)[1]
    return events


def _user_of_unmaps(events: Events, calls: CallTable) -> None:
    """An unmap whose kunmap_ops were not fetched is of the sort that its map was."""
    unknown = np.zeros(len(events), np.bool_)
    in_call = np.flatnonzero((events.kind == Kind.UNMAP) & (events.call != NO_CALL))
    unknown[in_call] = calls.user[events.call[in_call]] == USER_UNKNOWN
    if not unknown.any():
        return
    maps = np.flatnonzero((events.kind == Kind.MAP) & (events.status == 0))
    asks = np.flatnonzero(unknown)
    found = _previous(events.pfn, maps, asks)
    events.user[asks[found >= 0]] = events.user[found[found >= 0]]


def _previous(pfn: U64, known: I64, asking: I64) -> I64:
    """For each event in `asking` the last one in `known` before it of its page, or -1."""
    rows = np.concatenate([known, asking])
    order = np.lexsort((rows, pfn[rows]))
    position = np.where(order < len(known), np.arange(len(order)), -1)
    last = np.maximum.accumulate(position)
    same = (last >= 0) & (pfn[rows[order]] == pfn[rows[order[np.maximum(last, 0)]]])
    found = np.full(len(rows), -1, np.int64)
    found[order] = np.where(same, rows[order[np.maximum(last, 0)]], -1)
    return found[len(known):]


def first_touches(events: Events) -> I64:
    """The first event of each page that maps, unmaps or sets its entry, in their order."""
    touches = np.flatnonzero(
        ((events.kind == Kind.MAP) & (events.status == 0)) | (events.kind == Kind.UNMAP)
        | (events.kind == Kind.SET_P2M))
    _, first = np.unique(events.pfn[touches], return_index=True)
    return np.sort(touches[first])


def live_before(events: Events, has_writes: bool) -> U64:
    """Pages whose first event is an unmap that the machine did: they were foreign before."""
    rows = first_touches(events)
    rows = rows[(events.kind[rows] == Kind.UNMAP) & (events.status[rows] == 0)]
    if has_writes:
        is_write = events.kind == Kind.P2M_WRITE
        ended = np.unique(events.pfn[is_write & ~is_foreign_entry(events.mfn)])
        rows = rows[np.isin(events.pfn[rows], ended)]
    pages: U64 = events.pfn[rows]
    return pages


def mapped_first(events: Events) -> U64:
    """Pages whose first event is a map: they were not foreign before."""
    rows = first_touches(events)
    pages: U64 = events.pfn[rows[events.kind[rows] == Kind.MAP]]
    return pages


def adopted_runs(pfn: NDArray[np.uint64]) -> Runs:
    """Memory rows that say of pages: foreign, frame unknown."""
    return Runs(pfn, np.full(len(pfn), UNKNOWN_FRAME, np.uint64),
                np.ones(len(pfn), np.uint64))


def known_in(memory: Runs, pfn: U64) -> tuple[Mask, U64]:
    """Which pages memory rows tell of, and the entries they give; later rows win."""
    pages, inverse = np.unique(pfn, return_inverse=True)
    known = np.zeros(len(pages), np.bool_)
    entry = np.full(len(pages), INVALID, np.uint64)
    first = np.searchsorted(pages, memory.start)
    last = np.searchsorted(pages, memory.start + (memory.count - np.uint64(1)), side="right")
    for row in np.flatnonzero(first < last).tolist():
        of_run = slice(first[row], last[row])
        known[of_run] = True
        step = pages[of_run] - memory.start[row]
        value = memory.value[row]
        entry[of_run] = value if value == np.uint64(INVALID) else value + step
    return known[inverse], entry[inverse]
