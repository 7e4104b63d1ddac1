"""Shares and grants from before a trace, out of a grant-table dump, as its first events.

The dump tells which frames the domain has mapped, by which grants, and how often; the p2m
(`Trace.memory`, from a dump of its own) at which pages. Together they are the maps that
happened before the trace. Without the p2m there are only the grants.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xenm2p.formats.capture_sight import SHARES, now_seen
from xenm2p.formats.ftrace_events import UNKNOWN_FRAME, known_in
from xenm2p.formats.ftrace_writes import is_foreign_entry
from xenm2p.formats.grantdump import GrantDump
from xenm2p.trace import (
    FOREIGN,
    INVALID,
    NO_DOMID,
    NO_REF,
    U64,
    Events,
    Kind,
    Runs,
    Trace,
)


def with_initial_grants(trace: Trace, dump: GrantDump) -> Trace:
    """The trace with a `grant` and a `map` before its first event for what was live then.

    A page that the trace maps first, or a reference that it grants first, was not: a dump
    from within the capture may be given. The pages' p2m is INVALID before the maps. Handles
    are not known, nor in which order the maps were made (here: that of the references).
    One pass over the trace, which must be one that can be read again.
    """
    seen = _first_seen(trace, _foreign_pages(trace))
    maps, left = _maps(trace, dump, seen)
    is_ours = dump.granter == trace.domain
    granted = dump.rows(is_ours & ~np.isin(dump.ref, seen.granted_first))
    count = len(granted)
    grants = Events.from_columns(
        count, kind=np.full(count, Kind.GRANT), ref=granted.ref, domid=granted.mapper,
        mfn=granted.mfn, time=np.full(count, seen.first_time))
    first = Events.concat([grants, maps])
    notes = [f"{len(maps)} shares and {count} grants were live before the capture, as the "
             f"grant dump says: they are its first {len(first)} events", *left] if len(
                 first) else ["nothing in the grant dump was live before the capture: it is from "
                              "another time, or of another domain"]
    ballooned = Runs(maps.pfn, np.full(len(maps), INVALID, np.uint64),
                     np.ones(len(maps), np.uint64))
    memory = Runs(*(np.concatenate([getattr(trace.memory, name), getattr(ballooned, name)])
                    for name in ("start", "value", "count")))
    chunks_of = trace.chunks_of

    def chunks() -> Iterator[Events]:
        yield first
        yield from chunks_of()

    return Trace(
        chunks_of=chunks if len(first) else chunks_of, kernel=trace.kernel,
        domain=trace.domain, origin=trace.origin, memory=memory, m2p=trace.m2p,
        tasks=trace.tasks, once=trace.once,
        notes=_with_notes(trace.notes, notes, bool(len(maps))),
        length=None if trace.length is None else trace.length + len(first))


def _with_notes(known: list[str], more: list[str], has_shares: bool) -> list[str]:
    """All notes; the first, which says what was seen, stays the first."""
    known = now_seen(known, SHARES) if has_shares else known
    return [*known[:1], *more, *known[1:]]


def _foreign_pages(trace: Trace) -> U64:
    """Pages that are FOREIGN before the first event, with a frame that is known; sorted."""
    memory = trace.memory
    runs = np.flatnonzero(is_foreign_entry(memory.value) & (
        memory.value != np.uint64(UNKNOWN_FRAME)))
    pages = [memory.start[run] + np.arange(int(memory.count[run]), dtype=np.uint64)
             for run in runs.tolist()]
    pfn = np.unique(np.concatenate([np.zeros(0, np.uint64), *pages]))
    _, entry = known_in(memory, pfn)
    return pfn[is_foreign_entry(entry)]


@dataclass(slots=True)
class _Seen:
    """What the trace itself shows first: pages that were live before, refs that were not."""

    live: U64
    granted_first: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    first_time: int = 0


def _first_seen(trace: Trace, pages: U64) -> _Seen:
    seen = _Seen(pages)
    known_refs = np.zeros(0, np.uint32)
    unseen, is_first = pages, True
    for events in trace.chunks():
        if is_first:
            seen.first_time, is_first = int(events.time[0]), False
        touches = ((events.kind == Kind.MAP) & (events.status == 0)) | (
            events.kind == Kind.UNMAP) | (events.kind == Kind.SET_P2M)
        rows = np.flatnonzero(touches)
        rows = rows[np.isin(events.pfn[rows], unseen)]
        touched, first = np.unique(events.pfn[rows], return_index=True)
        mapped = touched[events.kind[rows[first]] == Kind.MAP]
        seen.live = np.setdiff1d(seen.live, mapped, assume_unique=True)
        unseen = np.setdiff1d(unseen, touched, assume_unique=True)
        rows = np.flatnonzero((events.kind == Kind.GRANT) | (events.kind == Kind.END_GRANT))
        refs, first = np.unique(events.ref[rows], return_index=True)
        is_new = ~np.isin(refs, known_refs)
        is_grant = events.kind[rows[first]] == Kind.GRANT
        seen.granted_first = np.concatenate([seen.granted_first, refs[is_new & is_grant]])
        known_refs = np.concatenate([known_refs, refs[is_new]])
    return seen


def _maps(trace: Trace, dump: GrantDump, seen: _Seen) -> tuple[Events, list[str]]:
    """`map` events of the shares that were live, and notes on what does not fit."""
    _, entry = known_in(trace.memory, seen.live)
    pages_of: dict[int, list[int]] = defaultdict(list)
    for pfn, frame in zip(seen.live.tolist(), (entry & np.uint64(~FOREIGN & INVALID)).tolist(),
                          strict=True):
        pages_of[frame].append(pfn)
    ours = dump.rows(np.flatnonzero(dump.mapper == trace.domain))
    entries_of: dict[int, list[int]] = defaultdict(list)
    for row, frame in enumerate(ours.mfn.tolist()):
        entries_of[frame].append(row)
    rows: list[tuple[int, int, int, int, int]] = []
    without_page = odd = 0
    for frame, entries in entries_of.items():
        pages = pages_of.pop(frame, [])
        pins = int(ours.pins[entries].sum())
        without_page += len(entries) * (not pages)
        if pages and pins not in (len(pages), 2 * len(pages)):
            odd += len(pages)
            continue
        granters = set(ours.granter[entries].tolist())
        domid = granters.pop() if len(granters) == 1 else NO_DOMID
        ref = int(ours.ref[entries[0]]) if len(entries) == 1 else NO_REF
        # gntdev maps each page twice: for the process, and for the kernel (kmap_ops).
        rows += [(pfn, frame, pins == 2 * len(pages), domid, ref) for pfn in pages]
    notes = []
    if without_page and not len(seen.live):
        notes.append(f"at which pages {without_page} grants are mapped is not known without a "
                     "p2m dump (--memory)")
    elif without_page:
        notes.append(f"{without_page} grants of the dump are at no FOREIGN page: rings, which "
                     "the p2m does not show")
    if pages_of:
        pages_left = sum(map(len, pages_of.values()))
        notes.append(f"{pages_left} FOREIGN pages are of no grant in the dump: the two were "
                     "taken at different times, or only one was before the capture")
    if odd:
        notes.append(f"{odd} FOREIGN pages are of frames that the grant dump has mapped more or "
                     "less often: left as they are")
    columns = np.array(rows, np.uint64).reshape(len(rows), 5)
    return Events.from_columns(
        len(rows), kind=np.full(len(rows), Kind.MAP), pfn=columns[:, 0], mfn=columns[:, 1],
        user=columns[:, 2], domid=columns[:, 3], ref=columns[:, 4],
        time=np.full(len(rows), seen.first_time)), notes


