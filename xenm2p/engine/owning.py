"""Frontend pages that change while their frames are in use: m2p changes, pages written.

What a page's own events make of its entry does not hang on the mark, since map saves the
entry without it: `sharing` puts the two together.
"""

from __future__ import annotations

import numpy as np

from xenm2p.engine.acting import Acts
from xenm2p.engine.looking import Looks
from xenm2p.engine.order import order_of
from xenm2p.engine.overrides import Left, Sharing, Writes
from xenm2p.engine.pairs import is_kind
from xenm2p.engine.replay import NO_EVENT, Fact, Result
from xenm2p.engine.resolving import io_alias_rows
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

    None where that would have to be followed under a model without a list, where a frame is
    mapped at its own frontend page, and where such a page has a share that lost its entry.
    """
    tables, chunk, owners = work.tables, work.chunk, work.owners
    if work.model.overrides:
        _ = work.begun_frame  # may make new targets
    column = tables.pages.column
    touched = work.pairs.pages
    is_written = column["target"].take(touched)
    if not work.pairs.clean and len(touched):
        is_written &= np.logical_or.reduceat(work.kind <= int(Kind.SET_P2M), work.pairs.heads)
    touched = touched.compress(is_written)
    if not len(touched) and owners is None and not len(work.pairs.overwritten):
        return Writes()
    active = [asks.frame]
    if work.model.overrides:
        stuck = np.flatnonzero(tables.frames.column["stuck"][: tables.frames.used])
        active += [work.begun_frame, column["frame"][tables.live()], stuck]
    is_active = np.zeros(tables.frames.used, np.bool_)
    is_active[np.concatenate(active)] = True
    frames = np.flatnonzero(is_active)
    acts = Acts.of(work)
    length = len(chunk)
    frame, page = frames, tables.frames.column["page"].take(frames)
    begin, end = np.full(len(frame), -1), np.full(len(frame), length)
    changes = Writes()
    if owners is not None:
        kept = is_active.take(owners.frame)
        moved, at, to = (part[kept] for part in (owners.frame, owners.pos, owners.page))
        frame, page = np.concatenate([frame, moved]), np.concatenate([page, to])
        begin = np.concatenate([begin, at])
        order = order_of(frame, begin)
        frame, page, begin = frame[order], page[order], begin[order]
        end = np.append(np.where(frame[1:] == frame[:-1], begin[1:], length), length)
        entry, is_mapped = acts.entries_at(work, to, at)
        mfn = tables.frames.column["mfn"].take(moved)
        marked = entry == (mfn | np.uint64(FOREIGN))
        if (marked & (is_mapped | (not work.model.marks_frontend))).any():
            return None  # a frame mapped at its own frontend page, or a mark of nobody
        plain = marked | (entry == mfn)
        every = np.ones(len(at), np.bool_)
        changes = Writes(at, moved, to, plain, every, every, marked)
    if np.isin(work.pairs.overwritten, page).any():
        return None  # the entry may be marked under a live share
    writes = _acts_on(work, acts, touched, frame, page, begin, end)
    if writes is None or (not len(writes.pos) and not len(changes.pos)):
        return writes
    if not work.model.overrides:
        return None
    return Writes(*(np.concatenate([getattr(writes, name), getattr(changes, name)])
                    for name in (
                        "pos", "frame", "page", "plain", "takes", "moves", "marked")))


def _acts_on(
    work: Work, acts: Acts, touched: Slot, frame: Slot, page: Slot, begin: Slot, end: Slot
) -> Writes | None:
    """The acting rows on `page` after `begin` and before `end`, for each frame."""
    is_touched = np.zeros(work.tables.pages.used, np.bool_)
    is_touched[touched] = True
    kept = np.flatnonzero(is_touched.take(page))
    if not len(kept):
        return Writes()
    frame, page, begin, end = (each.take(kept) for each in (frame, page, begin, end))
    low = acts.from_pos(page, np.maximum(begin, 0))
    count = acts.from_pos(page, end) - low
    which = np.repeat(np.arange(len(frame)), count)
    at = np.arange(len(which)) - np.repeat(np.cumsum(count) - count - low, count)
    entry, wrote, of = acts.entry.take(at), acts.wrote.take(at), frame.take(which)
    mfn = work.tables.frames.column["mfn"].take(of)
    if (wrote & (entry == (mfn | np.uint64(FOREIGN)))).any():
        return None
    no = np.zeros(len(at), np.bool_)
    pos = work.pairs.pos.take(acts.row.take(at))
    return Writes(pos, of, page.take(which), entry == mfn, wrote, no, no)


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
    acts, newly = Acts.of(work), []
    pages, since = np.array([(mark.page, mark.pos + 1) for mark in left]).T
    for mark, at in zip(left, acts.from_pos(pages, since).tolist(), strict=True):
        row = acts.row[at] if at < len(acts.row) else -1
        if row < 0 or pairs.slot[row] != mark.page:
            continue
        pos = int(pairs.pos[row])
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
                           np.isin(work.begun, shared.alias_pos) & shares.user[old:]])
    seen[shares.rows_of(work, io_alias_rows(work))] = True
    found, at = [], []
    for pos_, frame_ in sorted(zip(shared.bare_pos.tolist(), shared.bare_frame.tolist(),
                                   strict=True)):
        fresh = (frames == frame_) & ~seen
        fresh &= (shares.since < pos_) & (shares.end > pos_)
        named = work.frontends(np.array([frame_]), np.array([pos_ + 1]))
        fresh &= shares.pfn != column["pfn"][named]  # its own page is no alias
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
