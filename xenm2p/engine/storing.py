"""Write into the tables what a plain chunk has left behind."""

from __future__ import annotations

import numpy as np

from xenm2p.engine.listing import Listed
from xenm2p.engine.order import Mask, order_of, tail_rows
from xenm2p.engine.overrides import Sharing, frontend_entries
from xenm2p.engine.pairs import is_kind
from xenm2p.engine.replay import NO_EVENT, Result
from xenm2p.engine.tables import Slot, Tables, buckets_of, foreign
from xenm2p.engine.work import Work
from xenm2p.trace import FOREIGN, INVALID, NO_CPU, NO_TASK, Kind


def store(work: Work, shared: Sharing | None) -> None:
    """Bring pages, frames and the observer's memory to the end of the chunk."""
    if work.model.overrides:
        _subtract_ended(work)
    if shared is not None and work.owners is not None:
        _store_left_behind(work, shared)
    if shared is not None:
        work.tables.pages.column["aliased"][shared.bared_page] = True
    shares_of_io = work.owned("map_event", work.first_io)
    _store_pages(work, shared)
    _store_io(work, shares_of_io)
    _store_owners(work)
    if shared is not None:
        _store_frontends(work, shared)
    observer, chunk = work.observer, work.chunk
    calls = work.pairs.calls
    if calls is not None:
        failed = calls.failed(work.pairs.result == int(Result.EINVAL))
        observer.machine.failed_calls.update(
            {call: at + work.first for call, at in failed.items()})
    if len(chunk):
        observer.last_time = int(chunk.time[-1])
    _store_last(work)


def _store_last(work: Work) -> None:
    """The last event of each processor, and of each task once writes are judged."""
    chunk, observer = work.chunk, work.observer
    judges = observer.writes_seen and observer.options.judge_writes
    for column, absent in ((chunk.cpu, NO_CPU), (chunk.task, NO_TASK)):
        top = int(column.max()) if len(column) else absent
        if top == absent or (column is chunk.task and not judges):
            continue
        last = np.full(top + 2, NO_EVENT)
        last[column.astype(np.int64) + 1] = np.arange(len(column))
        for value in (np.flatnonzero(last[1:] != NO_EVENT)).tolist():
            at = int(last[value + 1])
            if column is chunk.cpu:
                observer.last_on_cpu[value] = at + work.first
            else:
                observer.last_of_task[value] = (at + work.first, int(chunk.call[at]))


def _last_ended(work: Work) -> tuple[Slot, Slot]:
    """The pages on which a share ended, and the last row of each that ended one."""
    pairs = work.pairs
    if not pairs.clean:
        pages = pairs.slot.take(work.ended)
        last = tail_rows(pages)
        return pages[last], work.ended[last]
    rows = pairs.tails - pairs.is_map.take(pairs.tails)
    has_ended = rows >= pairs.heads
    return pairs.pages[has_ended], rows[has_ended]


def _store_pages(work: Work, shared: Sharing | None) -> None:
    pairs, tables, chunk = work.pairs, work.tables, work.chunk
    if not len(pairs):
        return
    column = tables.pages.column
    if pairs.listed is not None:
        was_listed = [column[name].take(pairs.pages) for name in ("bucket", "listed_at")]
    ended_pages, ended = _last_ended(work)
    column["last_handle"][ended_pages] = work.owned("handle", ended)
    tails = pairs.tails
    if pairs.clean:
        is_mapped = pairs.is_map.take(tails)
        is_unmapped = ~is_mapped
        row = tails[is_mapped]
        base_mapped, base_unmapped = pairs.base[is_mapped], pairs.base[is_unmapped]
    else:
        done = pairs.result == int(Result.OK)
        tail_begun = _last_in(pairs.is_map & done, pairs.heads, tails)
        tail_over = _last_in(pairs.is_unmap & done, pairs.heads, tails)
        is_mapped = tail_begun > tail_over
        is_unmapped = tail_over > tail_begun
        row = tail_begun[is_mapped]
        base_mapped, base_unmapped = pairs.base.take(row), pairs.base.take(tail_over[is_unmapped])
    pos = pairs.pos.take(row)
    slot, gone = pairs.pages[is_mapped], pairs.pages[is_unmapped]
    mfn = chunk.mfn.take(pos)
    for name in ("domid", "ref", "handle"):
        column[name][slot] = getattr(chunk, name).take(pos)
    user = chunk.user.take(pos) != 0
    column["map_event"][slot] = pos + work.first
    column["mfn"][slot] = mfn
    column["user"][slot] = column["resolvable"][slot] = column["map_user"][slot] = user
    column["first_time"][slot] = chunk.time.take(pos)
    column["p2m"][slot] = mfn | np.uint64(FOREIGN)
    column["map_event"][gone] = NO_EVENT
    column["p2m"][gone] = INVALID
    column["aliased"][slot] = False
    column["listed"][slot] = False
    if work.model.overrides:
        column["p2m"][gone] = base_unmapped
        column["index"][slot] = base_mapped
        column["index"][gone] = base_unmapped
        column["private"][slot] = True
        column["private"][gone] = False
        column["private_mfn"][slot] = mfn
        column["bucket"][gone] = -1
        listed = user if work.model.overrides_need_user else np.ones(len(slot), np.bool_)
        column["listed"][slot] = listed
        column["bucket"][slot] = np.where(listed, buckets_of(mfn), -1)
        column["listed_at"][slot] = pos + work.first
        column["frame"][slot] = frame = tables.frame_slots(mfn)
        np.add.at(tables.frames.column["listed"], frame, listed.astype(np.int32))
        if shared is not None and (len(shared.alias_pos) or len(shared.bared_pos)):
            is_alias = np.zeros(len(chunk), np.bool_)
            is_alias[shared.alias_pos] = True
            is_alias &= chunk.user != 0
            is_alias[shared.bared_pos] = True
            column["aliased"][slot] = is_alias.take(pos)
    if pairs.listed is not None:
        _store_listed(work, pairs.listed, *was_listed)
    if not pairs.clean:
        _store_writes(work)
    elif (column["failed_map"].take(pairs.pages) != NO_EVENT).any():
        column["failed_map"][pairs.pages] = NO_EVENT


def _store_io(work: Work, map_event: Slot) -> None:
    """Which shares without kmap_ops, of those map events, resolve since direct I/O on them."""
    column, slot = work.tables.pages.column, work.pairs.slots_of(work.first_io)
    lives = column["map_event"].take(slot) == map_event
    column["resolvable"][slot[lives]] = True
    if len(work.io_aliases):
        column["aliased"][slot[lives & work.io_aliases]] = True


def _store_listed(work: Work, listed: Listed, bucket: Slot, listed_at: Slot) -> None:
    """The override lists of pages that are on one without the share that put them there.

    `bucket` and `listed_at` (h,) are what the pages had before the chunk.
    """
    pairs, column = work.pairs, work.tables.pages.column
    pages, here = pairs.pages, listed.row >= 0
    pos = pairs.pos.take(listed.row, mode="wrap")
    bucket = np.where(here, buckets_of(work.chunk.mfn.take(pos)), bucket)
    column["bucket"][pages] = np.where(listed.after, bucket, -1)
    column["listed_at"][pages] = np.where(here, pos + work.first, listed_at)
    free = pages[listed.after & (column["map_event"].take(pages) == NO_EVENT)]
    column["private_mfn"][free] = INVALID  # set_page_private(page, INVALID_P2M_ENTRY)


def _last_in(where: Mask, heads: Slot, tails: Slot) -> Slot:
    """For each page the last of its rows in `where`, -1 if there is none."""
    rows = np.flatnonzero(where)
    at = np.searchsorted(rows, tails, side="right") - 1
    last = rows.take(np.maximum(at, 0)) if len(rows) else at
    return np.where((at >= 0) & (last >= heads), last, -1)


def _store_writes(work: Work) -> None:
    """What set_p2m wrote last, on pages that are not mapped since; and failed maps."""
    pairs, chunk = work.pairs, work.chunk
    column = work.tables.pages.column
    tails = pairs.tails
    kind = work.kind
    is_set = is_kind(kind, Kind.SET_P2M)
    if is_set.any():
        written = _last_in(is_set, pairs.heads, tails)
        done = _last_in(pairs.result == int(Result.OK), pairs.heads, tails)
        fresh = written > done
        column["p2m"][pairs.slot.take(written[fresh])] = chunk.mfn.take(
            pairs.pos.take(written[fresh]))
    failed = pairs.failed_maps(chunk)
    if failed.any() or (column["failed_map"].take(pairs.pages) >= 0).any():
        last_failed = _last_in(failed, pairs.heads, tails)
        kept = is_kind(kind, Kind.P2M_WRITE) & foreign(chunk.mfn.take(pairs.pos))
        last_act = _last_in((kind <= int(Kind.UNMAP)) & ~failed | kept, pairs.heads, tails)
        pages = pairs.pages
        column["failed_map"][pages[last_act > last_failed]] = NO_EVENT
        waits = last_failed > last_act
        column["failed_map"][pages[waits]] = work.events(last_failed[waits])


def _store_owners(work: Work) -> None:
    """The last m2p entry written for each frame."""
    rows = np.flatnonzero(is_kind(work.chunk.kind, Kind.SET_M2P))
    if len(rows):
        mfn = work.chunk.mfn.take(rows)
        order = order_of(mfn)
        last = order.compress(tail_rows(mfn.take(order)))
        work.tables.set_m2p(
            work.tables.frame_slots(mfn.take(last)), work.chunk.pfn.take(rows.take(last)))


def _store_left_behind(work: Work, shared: Sharing) -> None:
    """Un-marked entries of pages that m2p no longer names when the chunk is over."""
    pos, frame = shared.all_cleared()
    page = work.frontends(frame, pos)
    column = work.tables.pages.column
    column["p2m"][page] = work.tables.frames.column["mfn"].take(frame)
    column["left"][page] = False


def _store_frontends(work: Work, shared: Sharing) -> None:
    """The FOREIGN mark of the frontend entries, after what was written to their pages."""
    column, pages = work.tables.frames.column, work.tables.pages.column
    mfn = column["mfn"].take(shared.entry_frame)
    entry = np.where(shared.entry_marked, mfn | np.uint64(FOREIGN), mfn)
    page = column["page"].take(shared.entry_frame)
    pages["p2m"][page] = entry
    pages["left"][page] = pages["left"][shared.overwritten] = False
    overwritten = set(shared.overwritten)
    for mark in shared.left:
        if mark.back == shared.length and mark.page not in overwritten:
            pages["p2m"][mark.page] = column["mfn"][mark.frame] | np.uint64(FOREIGN)
            pages["left"][mark.page] = True
    may_stick = [np.flatnonzero(column["stuck"][: work.tables.frames.used]),
                 shared.entry_frame.compress(shared.entry_marked)]
    if work.owners is not None:
        may_stick.append(work.owners.frame)
    store_stuck(work.tables, np.concatenate(may_stick))


def store_stuck(tables: Tables, frames: Slot) -> None:
    """Say of `frames` whether they are marked without an override."""
    column = tables.frames.column
    marked = frontend_entries(tables, frames)[1]
    tables.pages.column["left"][column["page"].take(frames[marked])] = False
    column["stuck"][frames] = marked & (column["listed"].take(frames) == 0)


def _subtract_ended(work: Work) -> None:
    """Shares from before the chunk that ended, off the counts of their frames."""
    slot = work.pairs.slots_of(work.old)
    pages, frames = work.tables.pages.column, work.tables.frames.column
    frame = pages["frame"].take(slot)
    np.subtract.at(frames["listed"], frame, pages["listed"].take(slot).astype(np.int32))
