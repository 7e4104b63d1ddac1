"""Page locks of a chunk, and the collision windows that they make.

On a plain chunk a share resolves to one page as long as it lives: to its frontend page if
it is an alias (before b9e0d95c041c), else to a backend page, which nobody locks. So a
window is where the life of an alias and of a lock on its frontend page overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.engine.losing import Losses, unsure_at
from xenm2p.engine.order import Mask, distinct, order_of, tail_rows
from xenm2p.engine.overrides import Sharing
from xenm2p.engine.pairs import is_kind
from xenm2p.engine.replay import NO_EVENT, NO_TIME, Collisions, Fact, Locks, Verdict
from xenm2p.engine.resolving import io_alias_rows
from xenm2p.engine.tables import Slot
from xenm2p.engine.work import Work
from xenm2p.engine.writing import Written
from xenm2p.trace import I64, Kind


@dataclass(frozen=True, slots=True)
class Held:
    """The times that page locks were held in a chunk, sorted by page slot, then time.

    `begin` is -1 for a lock from before the chunk, `end` the length of the chunk for one
    that is held after it; `released` says that an unlock_page ended it.
    """

    slot: Slot
    begin: Slot
    end: Slot
    event: Slot
    task: Slot
    time: I64
    released: Mask


@dataclass(frozen=True, slots=True)
class Collided:
    """What the locks of a chunk came to, for the tables and for the store.

    `page` are the page slots whose window state changes: `window_first` and `window_dio`
    hold it, NO_EVENT where no window is open after the chunk.
    """

    held: Held
    collisions: Collisions
    page: Slot
    window_first: Slot
    window_dio: Slot


def locks_held(work: Work) -> Held:
    """The locks that were held at some moment of the chunk."""
    chunk, tables, length = work.chunk, work.tables, len(work.chunk)
    pos = np.flatnonzero(
        is_kind(chunk.kind, Kind.LOCK_PAGE) | is_kind(chunk.kind, Kind.UNLOCK_PAGE))
    slot = tables.page_slots(chunk.pfn.take(pos))
    column = tables.pages.column
    before = np.flatnonzero(column["lock_event"][: tables.pages.used] != NO_EVENT)
    if not len(pos) and not len(before):
        none = np.zeros(0, np.int64)
        return Held(none, none, none, none, none, none, np.zeros(0, np.bool_))
    # A row a lock or unlock event, and one at -1 for each lock from before the chunk.
    row_slot = np.concatenate([before, slot])
    row_pos = np.concatenate([np.full(len(before), -1), pos])
    takes = np.concatenate([np.ones(len(before), np.bool_),
                            is_kind(chunk.kind.take(pos), Kind.LOCK_PAGE)])
    event = np.concatenate([column["lock_event"][before], pos + work.first])
    task = np.concatenate([column["lock_task"][before], chunk.task.take(pos)])
    time = np.concatenate([column["lock_time"][before], chunk.time.take(pos)])
    order = order_of(row_slot, row_pos)
    row_slot, row_pos, takes = row_slot[order], row_pos[order], takes[order]
    last = tail_rows(row_slot)
    end = np.append(row_pos[1:], np.full(min(1, len(row_pos)), length))
    end[last] = length
    released = np.append(~takes[1:], np.zeros(min(1, len(takes)), np.bool_)) & ~last
    kept = np.flatnonzero(takes)
    return Held(row_slot[kept], row_pos[kept], end[kept], event[order][kept],
                task[order][kept].astype(np.int64), time[order][kept], released[kept])


def collide(
    work: Work, shared: Sharing | None, losses: Losses, written: Written | None
) -> Collided | None:
    """The collision windows of a chunk.

    None where a backend page is locked, or a window is open that no alias explains.
    """
    tables, length = work.tables, len(work.chunk)
    column = tables.pages.column
    held = locks_held(work)
    none = np.zeros(0, np.int64)
    nothing = Collided(held, Collisions.of([]), none, none, none)
    if shared is None or not len(held.slot):
        return nothing  # nor is a window open, without a lock
    opened = np.flatnonzero(column["window_first"][: tables.pages.used] != NO_EVENT)
    if shared.is_hot:
        return None
    shares = work.shares
    is_locked = np.zeros(tables.pages.used, np.bool_)
    is_locked[held.slot] = True
    backend = tables.page_slots(shares.pfn)
    if is_locked.take(backend).any():
        return None
    frame = tables.frame_slots(shares.mfn)
    frontend = work.frontends(frame, np.maximum(shares.begin, 0))
    is_alias = column["p2m"].take(frontend) == shares.mfn
    is_alias[: len(shares.old)] &= column["resolvable"][shares.old]
    is_alias[len(shares.old):] = _new_aliases(work, shared) & shares.user[len(shares.old):]
    is_alias[shares.rows_of(work, io_alias_rows(work))] = True
    met = np.flatnonzero(is_alias & is_locked.take(frontend))
    if not np.isin(opened, backend[met]).all():
        return None
    if not len(met):
        return nothing
    begin, end, page = shares.since[met], shares.end[met], frontend[met]
    # The locks on a page come one after the other: those that end after the share begins
    # to resolve and begin before it ends.
    low = np.searchsorted((held.slot << 18) | held.end, (page << 18) | (begin + 1))
    high = np.searchsorted((held.slot << 18) | (held.begin + 1), (page << 18) | (end + 1))
    count = np.maximum(high - low, 0)
    which = np.repeat(np.arange(len(met)), count)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    lock = np.repeat(low, count) + nth
    share = met.take(which)
    opens = np.maximum(shares.since[share], held.begin[lock])
    closes = np.minimum(shares.end[share], held.end[lock])
    slot = backend[share]
    first_event = np.where(opens >= 0, opens + work.first, column["window_first"].take(slot))
    if (first_event == NO_EVENT).any():
        return None
    dio = _first_read(work, slot, opens, closes)
    known = (opens < 0) & (column["window_dio"].take(slot) != NO_EVENT)
    dio[known] = column["window_dio"].take(slot[known])
    by_end = closes < length
    outlived = by_end & (shares.end[share] <= held.end[lock])
    read = dio != NO_EVENT
    if work.observer.options.assume_dio:
        read |= shares.user[share]
    spans = outlived & (held.event[lock] < shares.event[share])
    verdict = np.where(spans & read, Verdict.DEADLOCK, Verdict.CONTENTION)
    verdict[~read] = Verdict.PRONE
    if losses:
        verdict[unsure_at(work, losses, written, slot, closes)] = Verdict.UNKNOWN
        verdict[held.event[lock] < losses.last_at(closes, work.first)] = Verdict.UNKNOWN
    done = np.flatnonzero(by_end)
    pfn = column["pfn"].take(held.slot[lock])
    order = order_of(closes[done], first_event[done], shares.pfn[share[done]], pfn[done])
    row = done[order]
    collisions = Collisions(
        verdict[row].astype(np.uint8), first_event[row], closes[row] + work.first, pfn[row],
        shares.mfn[share[row]], shares.pfn[share[row]], shares.event[share[row]],
        held.event[lock[row]], held.task[lock[row]].astype(np.int32), dio[row],
        spans[row].astype(np.uint8),
    )
    waiting = np.flatnonzero(outlived & (dio != NO_EVENT))
    is_unmap = is_kind(work.chunk.kind.take(closes[waiting]), Kind.UNMAP)
    waiting = waiting[is_unmap]  # not a map that replaces the share
    # The lock that keeps the I/O in flight may have been released unseen.
    unknown = held.event[lock[waiting]] < losses.last_at(closes[waiting], work.first)
    work.facts.add(
        Fact.UNMAP_IN_FLIGHT, closes[waiting], event=closes[waiting] + work.first,
        pfn=shares.pfn[share[waiting]], mfn=shares.mfn[share[waiting]], other=dio[waiting],
        unknown=unknown)
    still = np.flatnonzero(~by_end)
    pages = distinct(backend[met])
    window_first = np.full(len(pages), NO_EVENT)
    window_dio = np.full(len(pages), NO_EVENT)
    place = np.searchsorted(pages, slot[still])
    window_first[place], window_dio[place] = first_event[still], dio[still]
    return Collided(held, collisions, pages, window_first, window_dio)


def _new_aliases(work: Work, shared: Sharing) -> Mask:
    """Which of the shares begun in the chunk are aliases."""
    is_alias = np.zeros(len(work.chunk), np.bool_)
    is_alias[shared.alias_pos] = True
    return is_alias.take(work.begun)


def _first_read(work: Work, slot: Slot, opens: Slot, closes: Slot) -> Slot:
    """The first dio_read of each page from one position to another, NO_EVENT for none."""
    pairs = work.pairs
    rows = np.flatnonzero(is_kind(work.kind, Kind.DIO_READ))
    if not len(rows):
        return np.full(len(slot), NO_EVENT)
    key = np.sort((pairs.slot.take(rows) << 18) | (pairs.pos.take(rows) + 1))
    at = np.minimum(np.searchsorted(key, (slot << 18) | (opens + 1)), len(rows) - 1)
    page, pos = key[at] >> 18, (key[at] & ((1 << 18) - 1)) - 1
    found = (page == slot) & (pos >= opens) & (pos < closes)
    return np.where(found, pos + work.first, NO_EVENT)


def lock_rows(work: Work, held: Held) -> Locks:
    """The locks that were released, or seen taken again, in the chunk."""
    over = np.flatnonzero(held.end < len(work.chunk))
    over = over[order_of(held.end[over])]
    released, end = held.released[over], held.end[over]
    return Locks(
        held.event[over], np.where(released, end + work.first, NO_EVENT),
        work.tables.pages.column["pfn"].take(held.slot[over]),
        held.task[over].astype(np.int32), held.time[over],
        np.where(released, work.chunk.time.take(end), NO_TIME),
    )


def store_locks(work: Work, collided: Collided) -> None:
    """Remember the locks that are held and the windows that are open."""
    column, held = work.tables.pages.column, collided.held
    column["lock_event"][held.slot] = NO_EVENT
    still = np.flatnonzero(held.end == len(work.chunk))
    slot = held.slot[still]
    column["lock_event"][slot] = held.event[still]
    column["lock_task"][slot] = held.task[still]
    column["lock_time"][slot] = held.time[still]
    column["window_first"][collided.page] = collided.window_first
    column["window_dio"][collided.page] = collided.window_dio
