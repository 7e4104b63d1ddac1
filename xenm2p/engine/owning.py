"""Frontend pages that change while their frames are in use: m2p changes, pages written.

What a page's own events make of its entry does not hang on the mark, since map saves the
entry without it: `sharing` puts the two together.
"""

from __future__ import annotations

import numpy as np

from xenm2p.engine.looking import Looks
from xenm2p.engine.order import Mask, distinct, order_of
from xenm2p.engine.overrides import Left, Sharing, Writes
from xenm2p.engine.pairing import is_kind
from xenm2p.engine.replay import NO_EVENT, Fact, Result
from xenm2p.engine.tables import Slot
from xenm2p.engine.work import Owners, Work
from xenm2p.trace import FOREIGN, INVALID, U64, Kind


def owners_of(work: Work) -> Owners | None:
    """The set_m2p events of a chunk; None if one is of no frame."""
    chunk, tables = work.chunk, work.tables
    pos = np.flatnonzero(is_kind(chunk.kind, Kind.SET_M2P))
    mfn = chunk.mfn.take(pos)
    if (mfn == np.uint64(INVALID)).any():
        return None
    page = tables.page_slots(chunk.pfn.take(pos))
    tables.pages.column["target"][page[page > 0]] = True
    frame = tables.frame_slots(mfn)
    order = order_of(frame, pos)
    return Owners(frame[order], pos[order], page[order])


def written_frontends(work: Work, asks: Looks) -> Writes | None:
    """The events that map, unmap, write or change the frontend page of an active frame.

    None where that would have to be followed under a model without a list, and where a
    frame is mapped at its own frontend page.
    """
    tables, chunk, owners = work.tables, work.chunk, work.owners
    if work.model.overrides:
        _ = work.begun_frame  # may make new targets
    column = tables.pages.column
    touched = work.pairs.pages
    if not work.pairs.clean:
        is_acted = np.zeros(tables.pages.used, np.bool_)
        is_acted[work.pairs.slots_of(_acting(work))] = True
        touched = touched.compress(is_acted.take(touched))
    touched = touched[column["target"].take(touched)]
    if not len(touched) and owners is None:
        return Writes()
    active = [asks.frame]
    if work.model.overrides:
        stuck = np.flatnonzero(tables.frames.column["stuck"][: tables.frames.used])
        active += [work.begun_frame, column["frame"][tables.live()], stuck]
    frames = distinct(np.concatenate(active))
    length = len(chunk)
    frame, page = frames, tables.frames.column["page"].take(frames)
    begin, end = np.full(len(frame), -1), np.full(len(frame), length)
    changes = Writes()
    if owners is not None:
        is_active = np.isin(owners.frame, frames)
        moved, at, to = (part[is_active] for part in (owners.frame, owners.pos, owners.page))
        frame, page = np.concatenate([frame, moved]), np.concatenate([page, to])
        begin = np.concatenate([begin, at])
        order = order_of(frame, begin)
        frame, page, begin = frame[order], page[order], begin[order]
        end = np.append(np.where(frame[1:] == frame[:-1], begin[1:], length), length)
        entry, is_mapped = _entries_at(work, to, at)
        mfn = tables.frames.column["mfn"].take(moved)
        marked = entry == (mfn | np.uint64(FOREIGN))
        if (marked & (is_mapped | (not work.model.marks_frontend))).any():
            return None  # a frame mapped at its own frontend page, or a mark of nobody
        plain = marked | (entry == mfn)
        every = np.ones(len(at), np.bool_)
        changes = Writes(at, moved, to, plain, every, every, marked)
    writes = _acts_on(work, touched, frame, page, begin, end)
    if writes is None or (not len(writes.pos) and not len(changes.pos)):
        return writes
    if not work.model.overrides:
        return None
    return Writes(*(np.concatenate([getattr(writes, name), getattr(changes, name)])
                    for name in (
                        "pos", "frame", "page", "plain", "takes", "moves", "marked")))


def _acting(work: Work) -> Slot:
    """The rows that map, unmap or write a page, whether or not it comes off."""
    if work.pairs.clean:
        return np.arange(len(work.pairs))
    return np.flatnonzero(work.kind <= int(Kind.SET_P2M))


def _by_slot(work: Work, rows: Slot) -> tuple[Slot, Slot]:
    """`rows` by page slot and position, and these as one number each."""
    key = (work.pairs.slot.take(rows) << 17) | work.pairs.pos.take(rows)
    order = order_of(key)
    return rows.take(order), key.take(order)


def _entries_after(work: Work, rows: Slot) -> tuple[U64, Mask]:
    """The p2m entry of the page after each row, its mark aside, and whether the row wrote it."""
    pairs, chunk = work.pairs, work.chunk
    at = pairs.pos.take(rows)
    mfn = chunk.mfn.take(at)
    left = work.bases(rows) if work.model.overrides else np.full(len(rows), INVALID, np.uint64)
    entry = np.where(pairs.is_unmap.take(rows), left, mfn | np.uint64(FOREIGN))
    is_set = chunk.kind.take(at) == Kind.SET_P2M
    entry[is_set] = mfn[is_set]
    return entry, is_set | (pairs.result.take(rows) == Result.OK)


def _entries_at(work: Work, page: Slot, pos: Slot) -> tuple[U64, Mask]:
    """The p2m entries of pages at positions, and whether a share is live there.

    A mark shows on pages that had it before the chunk and are not written in it before.
    """
    pairs, column = work.pairs, work.tables.pages.column
    before, was_mapped = column["p2m"].take(page), column["map_event"].take(page) != NO_EVENT
    rows = _acting(work)
    rows = rows[_entries_after(work, rows)[1]]
    rows, key = _by_slot(work, rows)
    entry, _ = _entries_after(work, rows)
    if not len(rows):
        return before, was_mapped
    row = np.searchsorted(key, (page << 17) | pos) - 1
    here = (row >= 0) & (pairs.slot.take(rows).take(row, mode="wrap") == page)
    is_map = pairs.is_map.take(rows).take(row, mode="wrap")
    return (np.where(here, entry.take(row, mode="wrap"), before),
            np.where(here, is_map, was_mapped))


def _acts_on(
    work: Work, touched: Slot, frame: Slot, page: Slot, begin: Slot, end: Slot
) -> Writes | None:
    """The acting rows on `page` after `begin` and before `end`, for each frame."""
    pairs, tables = work.pairs, work.tables
    is_touched = np.zeros(tables.pages.used, np.bool_)
    is_touched[touched] = True
    kept = is_touched.take(page)
    frame, page, begin, end = frame[kept], page[kept], begin[kept], end[kept]
    if not len(frame):
        return Writes()
    is_touched[:] = False
    is_touched[page] = True
    rows = _acting(work)
    rows = rows[is_touched.take(pairs.slot.take(rows))]
    rows, key = _by_slot(work, rows)
    low = np.searchsorted(key, (page << 17) | np.maximum(begin, 0))
    count = np.searchsorted(key, (page << 17) | end) - low
    which = np.repeat(np.arange(len(frame)), count)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    row = rows.take(np.repeat(low, count) + nth)
    entry, wrote = _entries_after(work, row)
    of = frame.take(which)
    mfn = tables.frames.column["mfn"].take(of)
    if (wrote & (entry == (mfn | np.uint64(FOREIGN)))).any():
        return None
    no = np.zeros(len(row), np.bool_)
    return Writes(pairs.pos.take(row), of, page.take(which), entry == mfn, wrote, no, no)


def overwrite_left(work: Work, shared: Sharing) -> bool:
    """Let maps and writes of pages that m2p has left marked overwrite the marks.

    False where something else happens to such a page, or m2p comes back to it as well.
    """
    pairs, length = work.pairs, len(work.chunk)
    is_left = work.tables.pages.column["left"].take(pairs.pages)
    left = shared.left
    if is_left.any():
        left = left + [Left(page, 0, -1, length) for page in pairs.pages[is_left].tolist()]
    if not left:
        return True
    rows, key = _by_slot(work, _acting(work))
    newly = []
    for mark in left:
        at = int(np.searchsorted(key, mark.page << 17 | mark.pos + 1))
        if at == len(key) or key[at] >> 17 != mark.page:
            continue
        row, pos = rows[at], int(key[at]) & (1 << 17) - 1
        if pos > mark.back:
            continue  # a frontend page again, as `follow` has it
        writes = work.kind[row] == Kind.SET_P2M or (
            pairs.is_map[row] and pairs.result[row] == Result.OK)
        came_back = work.owners is not None and (work.owners.page == mark.page).any()
        if not writes or came_back:
            return False
        newly.append(pos)
        shared.overwritten.append(mark.page)
    shared.over_pos = np.concatenate([shared.over_pos, np.array(newly, np.int64)])
    shared.over_newest = np.concatenate([shared.over_newest, np.full(len(newly), NO_EVENT)])
    return True


def hot_facts(work: Work, shared: Sharing) -> None:
    """XM202, and XM203 of shares that live on when their frontend entry loses its mark."""
    chunk = work.chunk
    written = chunk.kind.take(shared.over_pos) == Kind.SET_P2M
    written &= shared.over_newest != NO_EVENT
    pos, newest = shared.over_pos[written], shared.over_newest[written]
    frame = work.tables.frame_slots(_marked_frames(work, pos))
    mfn = work.tables.frames.column["mfn"].take(frame)
    work.facts.add(
        Fact.EARLY_CLEAR, pos, event=pos + work.first, pfn=chunk.pfn.take(pos), mfn=mfn,
        old=mfn | np.uint64(FOREIGN), new=chunk.mfn.take(pos), other=newest)
    if not len(shared.bare_pos):
        return
    shares, column = work.shares, work.tables.pages.column
    frames = work.tables.frame_slots(shares.mfn)
    old = len(shares.old)
    seen = np.concatenate([column["aliased"][shares.old],
                           np.isin(work.begun, shared.alias_pos)])
    resolves = np.concatenate([column["resolvable"][shares.old], shares.user[old:]])
    found, at = [], []
    for pos_, frame_ in sorted(zip(shared.bare_pos.tolist(), shared.bare_frame.tolist(),
                                   strict=True)):
        fresh = (frames == frame_) & resolves & ~seen
        fresh &= (shares.begin < pos_) & (shares.end > pos_)
        members = np.flatnonzero(fresh)
        seen[members] = True
        found.append(members)
        at.append(np.full(len(members), pos_))
    share, decided = np.concatenate(found), np.concatenate(at)
    page = work.frontends(frames[share], decided + 1)  # the m2p change itself counts
    work.facts.add(
        Fact.LOCAL_ALIAS, decided, event=decided + work.first, pfn=column["pfn"].take(page),
        mfn=shares.mfn[share], old=shares.pfn[share], other=shares.event[share])
    shared.bared_pos = shares.begin[share[share >= old]]
    shared.bared_page = shares.old[share[share < old]]


def _marked_frames(work: Work, pos: Slot) -> U64:
    """The frames whose mark the set_p2m events at `pos` overwrite: what the pages hold."""
    rows = np.flatnonzero(is_kind(work.kind, Kind.SET_P2M))
    order = order_of(work.pairs.pos.take(rows))
    rows = rows[order]
    return work.bases(rows[np.searchsorted(work.pairs.pos.take(rows), pos)])
