"""What mfn_to_pfn answers in a chunk: lookups, get_user_pages_fast and direct I/O."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.engine.order import head_rows
from xenm2p.engine.overrides import Sharing
from xenm2p.engine.pairs import OF_TABLE, is_kind
from xenm2p.engine.replay import NO_EVENT, Fact, Resolutions
from xenm2p.engine.tables import Slot, buckets_of
from xenm2p.engine.work import Work
from xenm2p.kernels import bucket_of
from xenm2p.trace import FOREIGN, FRAME_MASK, IDENTITY, INVALID, U64, Kind


@dataclass(slots=True)
class Looks:
    """The questions of a chunk by time: pos (q,), frame slot and frame asked for.

    `own` is the backend page of direct I/O on a live share, else INVALID. `resolutions`
    is filled in by `look_up`.
    """

    pos: Slot
    frame: Slot
    mfn: U64
    own: U64
    resolutions: Resolutions


def questions(work: Work) -> Looks | None:
    """What the chunk asks.

    Leaves in `work.first_io` the first direct I/O of each share without kmap_ops. None where
    the override search may find a page for the invalid frame.
    """
    chunk, pairs = work.chunk, work.pairs
    asked = np.flatnonzero(is_kind(chunk.kind, Kind.LOOKUP))
    parts = [(asked, chunk.mfn.take(asked), np.full(len(asked), INVALID, np.uint64))]
    if not pairs.clean:
        kind = work.kind
        dio = np.flatnonzero(is_kind(kind, Kind.DIO_READ) | is_kind(kind, Kind.DIO_WRITE))
        live = pairs.before.take(dio)
        if work.model.overrides:
            work.first_io = _first_io(work, dio[live])
        mfn = np.where(live, work.owned("mfn", dio), np.uint64(INVALID))
        parts.append((pairs.pos.take(dio), mfn, np.where(live, work.pfns(dio), mfn)))
        gup = np.flatnonzero(is_kind(kind, Kind.GUP_FAST))
        base = work.bases(gup)
        frame = np.where(base == np.uint64(INVALID), base, base & np.uint64(FRAME_MASK))
        mfn = np.where(pairs.held.take(gup), work.owned("mfn", gup), frame)
        parts.append((pairs.pos.take(gup), mfn, np.full(len(gup), INVALID, np.uint64)))
    # Direct I/O asks for no frame where there is no share, and so gets no answer.
    asks_invalid = any((parts[i][1] == np.uint64(INVALID)).any() for i in (0, -1))
    if asks_invalid and _lists_invalid(work):
        return None
    if len(parts) == 1:
        pos, mfn, own = parts[0]
    else:  # in order of time: each position asks once
        own_at, mfn_at = np.empty(len(chunk), np.uint64), np.empty(len(chunk), np.uint64)
        is_asked = np.zeros(len(chunk), np.bool_)
        for where, frames, pages in parts:
            is_asked[where] = True
            mfn_at[where], own_at[where] = frames, pages
        pos = np.flatnonzero(is_asked)
        mfn, own = mfn_at.take(pos), own_at.take(pos)
    return Looks(pos, work.tables.frame_slots(mfn), mfn, own, Resolutions.of([]))


def _first_io(work: Work, rows: Slot) -> Slot:
    """The first of direct I/O `rows` of each share without kmap_ops that had none before.

    `rows` have a live share, and stand by page and position.
    """
    pairs, column = work.pairs, work.tables.pages.column
    rows = rows[~work.owned("user", rows).astype(np.bool_)]
    owner, slot = pairs.owner.take(rows), pairs.slot.take(rows)
    is_new = (owner != OF_TABLE) | ~column["resolvable"].take(slot)
    rows, owner, slot = rows[is_new], owner[is_new], slot[is_new]
    return rows[head_rows(np.where(owner == OF_TABLE, -1 - slot, owner))]


def _lists_invalid(work: Work) -> bool:
    """Whether the override search may find a page for the invalid frame."""
    column, used, pairs = work.tables.pages.column, work.tables.pages.used, work.pairs
    listed = column["bucket"][:used] == bucket_of(INVALID)
    if (listed & (column["private_mfn"][:used] == np.uint64(INVALID))).any():
        return True
    if pairs.listed is None:
        return False
    # A page that is on that list, or comes onto it, may be unmapped without leaving it.
    lists = np.concatenate([buckets_of(work.begun_mfn), column["bucket"].take(pairs.pages)])
    return bool((lists == bucket_of(INVALID)).any())


def look_up(work: Work, asks: Looks, shared: Sharing | None) -> Looks | None:
    """Answer the questions; None where an answer hangs on what is not plain."""
    if not len(asks.pos):
        return asks
    tables, chunk = work.tables, work.chunk
    frames, pages = tables.frames.column, tables.pages.column
    frontend = pages["pfn"].take(work.frontends(asks.frame, asks.pos))
    count = len(asks.pos)
    newest = np.full(count, NO_EVENT)
    if shared is not None:
        local, marked = shared.query_local, shared.query_marked
        newest = shared.query_newest
    else:
        entry = pages["p2m"].take(frames["page"].take(asks.frame))
        marked = (entry == (asks.mfn | np.uint64(FOREIGN))) & (asks.frame > 0)
        local = marked | ((entry == asks.mfn) & (asks.frame > 0))
    answer = np.full(count, INVALID, np.uint64)
    direct = local & ~marked
    answer[direct] = frontend[direct]
    found = ~direct & (newest != NO_EVENT)
    answer[found] = _page_of(work, asks.frame[found], newest[found])
    nothing = np.flatnonzero(~direct & ~found & (asks.mfn != np.uint64(INVALID)))
    if len(nothing):
        identity = _identity(work, asks.mfn[nothing])
        if identity is None:
            return None
        answer[nothing[identity]] = asks.mfn[nothing[identity]]
    newest = np.where(found, newest, NO_EVENT)
    kind = chunk.kind.take(asks.pos)
    shown = np.where(local, frontend, np.uint64(INVALID))
    hazard = marked & found & (answer != frontend)
    hazard &= is_kind(kind, Kind.LOOKUP) | (
        is_kind(kind, Kind.GUP_FAST) & (chunk.pfn.take(asks.pos) == frontend))
    at = np.flatnonzero(hazard)
    work.facts.add(Fact.GUP_FAST_HAZARD, asks.pos[at], event=asks.pos[at] + work.first,
                   pfn=frontend[at], mfn=asks.mfn[at], old=answer[at], other=newest[at])
    if work.model.vma_pages:
        answer = np.where(asks.own != np.uint64(INVALID), asks.own, answer)
    dio = is_kind(kind, Kind.DIO_READ) | is_kind(kind, Kind.DIO_WRITE)
    unshared = dio & (asks.own == np.uint64(INVALID))
    answer[unshared], newest[unshared] = INVALID, NO_EVENT
    asks.resolutions = Resolutions(
        asks.pos + work.first, asks.mfn, answer, shown, marked.astype(np.uint8), newest)
    return asks


def _page_of(work: Work, frame: Slot, map_event: Slot) -> U64:
    """The backend pages of shares by their frames and map events."""
    column = work.tables.pages.column
    at = map_event - work.first
    pfn = work.chunk.pfn.take(np.maximum(at, 0))
    old = np.flatnonzero(at < 0)
    if len(old):
        live = work.tables.live()
        # Mostly a frame has one share, and the way over the frame is the short one.
        of_frame = np.zeros(work.tables.frames.used, np.int64)
        of_frame[column["frame"].take(live)] = live
        slot = of_frame.take(frame.take(old))
        others = np.flatnonzero(column["map_event"].take(slot) != map_event.take(old))
        if len(others):
            events = column["map_event"].take(live)
            live = live.take(np.argsort(events))
            row = np.searchsorted(column["map_event"].take(live), map_event[old[others]])
            slot[others] = live.take(row)
        pfn[old] = column["pfn"].take(slot)
    return pfn


def _identity(work: Work, mfn: U64) -> Slot | None:
    """Which frames are identity mapped, p2m[mfn] == I(mfn); None where that may change."""
    tables, pairs = work.tables, work.pairs
    slots = tables.page_slots(mfn)
    entries = tables.pages.column["p2m"].take(slots)
    if np.isin(slots, pairs.pages).any():
        return None
    return np.flatnonzero(entries == (mfn | np.uint64(IDENTITY)))
