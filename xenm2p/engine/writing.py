"""p2m writes seen on the machine, compared with what the model has (XM501, XM306)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.engine.order import Mask, head_rows, last_before, order_of, tail_rows
from xenm2p.engine.overrides import Sharing
from xenm2p.engine.pairs import Pairs, is_kind
from xenm2p.engine.replay import NO_EVENT, Fact, Result
from xenm2p.engine.tables import Slot, foreign
from xenm2p.engine.work import Work
from xenm2p.trace import FOREIGN, INVALID, U64, Kind


@dataclass(frozen=True, slots=True)
class Touched:
    """The pages that a model's transition or a write touches in a chunk.

    `page` (t,) slots, `pos` the last of these events of each; `waits` says that it is a
    transition that no write has followed: `old` and `new` give it.
    """

    page: Slot
    pos: Slot
    waits: Mask
    old: U64
    new: U64


@dataclass(frozen=True, slots=True)
class Written:
    """What the writes of a chunk came to.

    `foreign` and `invalid` count them, `agreed` are the rows of `Work.pairs` that agree;
    `touched` is None where writes are not judged.
    """

    foreign: int
    invalid: int
    agreed: Slot
    touched: Touched | None


@dataclass(frozen=True, slots=True)
class Marks:
    """When frontend entries are marked (+1) and un-marked (-1): page slot, position, sorted."""

    page: Slot
    pos: Slot
    frame: U64
    step: Slot

    def at(self, work: Work, page: Slot, pos: Slot) -> Mask:
        """Whether each page slot is marked before each position.

        What overwrites a mark ends it as well.
        """
        column, pairs = work.tables.pages.column, work.pairs
        marked: Slot = (foreign(column["p2m"].take(page)) & (
            column["map_event"].take(page) == NO_EVENT)).astype(np.int64)
        its_page, its_pos, step = self.page, self.pos, self.step
        if work.was_marked is not None:
            over = np.flatnonzero(work.was_marked.take(pairs.pos))
            its_page = np.concatenate([its_page, pairs.slot.take(over)])
            its_pos = np.concatenate([its_pos, pairs.pos.take(over)])
            step = np.concatenate([step, np.full(len(over), -1)])
            order = order_of(its_page, its_pos)
            its_page, its_pos, step = (each.take(order) for each in (its_page, its_pos, step))
        if len(its_page):
            total = np.concatenate([[0], np.cumsum(step)])
            key = its_page << 17 | its_pos
            marked += total.take(np.searchsorted(key, page << 17 | pos))
            marked -= total.take(np.searchsorted(key, page << 17))
        return marked > 0


def marks_of(work: Work, shared: Sharing | None) -> Marks:
    """The marks that a chunk sets and clears."""
    none = np.zeros(0, np.int64)
    if shared is None or not work.model.marks_frontend:
        return Marks(none, none, none.astype(np.uint64), none)
    cleared_pos, cleared_frame = shared.all_cleared()
    pos = np.concatenate([shared.set_pos, cleared_pos])
    frame = np.concatenate([shared.set_frame, cleared_frame])
    step = np.repeat([1, -1], [len(shared.set_pos), len(cleared_pos)])
    page = work.frontends(frame, pos)
    order = order_of(page, pos)
    mfn = work.tables.frames.column["mfn"].take(frame.take(order))
    return Marks(page.take(order), pos.take(order), mfn, step.take(order))


def compare_writes(work: Work, shared: Sharing | None, lost: Slot) -> Written:
    """Compare the p2m_write events with the model's entries.

    `lost` are the positions of the chunk's `lost` events.
    """
    pairs, chunk, observer = work.pairs, work.chunk, work.observer
    rows = np.flatnonzero(is_kind(work.kind, Kind.P2M_WRITE))
    judge = observer.options.judge_writes
    slot = pairs.slot.take(rows)
    marks = marks_of(work, shared)
    written = chunk.mfn.take(pairs.pos.take(rows))
    is_foreign = foreign(written)
    _failed_maps_kept(work, rows, is_foreign)
    entry = _entries_before(work, rows)
    if work.model.marks_frontend:
        marked = marks.at(work, slot, pairs.pos.take(rows)) & ~pairs.before.take(rows)
        entry[marked] |= np.uint64(FOREIGN)
    agrees = entry == written
    counts = int(np.count_nonzero(is_foreign)), int(np.count_nonzero(written == INVALID))
    if not judge:
        return Written(*counts, rows[agrees], None)
    differs = rows[~agrees]
    work.facts.add(
        Fact.MODEL_MISMATCH, pairs.pos.take(differs), event=work.events(differs),
        pfn=work.pfns(differs), old=entry[~agrees], new=written[~agrees], value=0)
    return Written(*counts, rows[agrees], _never_written(work, rows, marks, lost))


def _failed_maps_kept(work: Work, rows: Slot, is_foreign: Mask) -> None:
    """XM306: FOREIGN writes, of the write `rows`, to pages whose last map had failed."""
    pairs, chunk, kind = work.pairs, work.chunk, work.kind
    column = work.tables.pages.column["failed_map"]
    is_failed = pairs.failed_maps(chunk)
    if not is_failed.any() and not (column.take(pairs.pages) != NO_EVENT).any():
        return
    asking = rows[is_foreign]
    decides = kind <= int(Kind.UNMAP)
    decides[asking] = True
    starts = np.repeat(pairs.heads, np.diff(pairs.heads, append=len(pairs)))
    last = last_before(decides, starts).take(asking)
    carried = column.take(pairs.slot.take(asking))
    other = np.where(last >= 0, work.events(last), carried)
    kept = np.where(last >= 0, is_failed.take(last, mode="wrap"), carried != NO_EVENT)
    at = pairs.pos.take(asking[kept])
    work.facts.add(Fact.FAILED_MAP_KEPT, at, event=at + work.first, pfn=chunk.pfn.take(at),
                   new=chunk.mfn.take(at), other=other[kept])


def _entries_before(work: Work, rows: Slot) -> U64:
    """The model's p2m entries before `rows`, a frontend's mark aside."""
    live = work.pairs.held.take(rows)
    return np.where(live, work.owned("mfn", rows) | np.uint64(FOREIGN), work.bases(rows))


def _never_written(work: Work, writes: Slot, marks: Marks, lost: Slot) -> Touched:
    """Note transitions that the next one of the page overtook before they were written.

    A loss between the two excuses the machine.
    """
    pairs, chunk = work.pairs, work.chunk
    unwritten = work.tables.pages.column["unwritten"]
    rows = np.flatnonzero(
        (pairs.is_map | pairs.is_unmap) & (pairs.result == int(Result.OK)))
    old = _entries_before(work, rows)
    if work.was_marked is not None:
        old |= np.where(work.was_marked.take(pairs.pos.take(rows)), np.uint64(FOREIGN),
                        np.uint64(0))
    left = work.bases(rows) if work.model.overrides else np.full(len(rows), INVALID, np.uint64)
    mapped = chunk.mfn.take(pairs.pos.take(rows)) | np.uint64(FOREIGN)
    new = np.where(pairs.is_map.take(rows), mapped, left)
    rows, old, new = rows[old != new], old[old != new], new[old != new]
    slot, pos, old, new, is_write = _with_writes(pairs, rows, old, new, writes)
    if len(marks.page):
        bit = np.where(marks.step > 0, np.uint64(0), np.uint64(FOREIGN))
        slot, pos = np.concatenate([slot, marks.page]), np.concatenate([pos, marks.pos])
        order = order_of(slot, pos)
        slot, pos = slot.take(order), pos.take(order)
        old = np.concatenate([old, marks.frame | bit]).take(order)
        new = np.concatenate([new, marks.frame | (bit ^ np.uint64(FOREIGN))]).take(order)
        is_write = np.concatenate(
            [is_write, np.zeros(len(marks.page), np.bool_)]).take(order)
    if not work.observer.writes_seen:  # judged from the first write on
        kept = is_write | (pos > (pos[is_write].min() if len(writes) else len(chunk)))
        slot, pos, old, new, is_write = (
            slot[kept], pos[kept], old[kept], new[kept], is_write[kept])
    epoch = np.searchsorted(lost, pos)
    is_head = head_rows(slot)
    follows = ~is_head[1:] & (epoch[1:] == epoch[:-1]) & ~is_write[1:] & ~is_write[:-1]
    before = np.flatnonzero(follows)
    pfn = work.tables.pages.column["pfn"]
    work.facts.add(
        Fact.MODEL_MISMATCH, pos.take(before + 1), event=pos.take(before) + work.first,
        pfn=pfn.take(slot.take(before)), old=old.take(before), new=new.take(before),
        other=pos.take(before + 1) + work.first, value=1)
    carried = np.flatnonzero(
        is_head & ~is_write & (epoch == 0) & (unwritten.take(slot) != NO_EVENT))
    at, page = pos.take(carried), slot.take(carried)
    column = work.tables.pages.column
    work.facts.add(
        Fact.MODEL_MISMATCH, at, event=unwritten.take(page), pfn=pfn.take(page),
        old=column["unwritten_old"].take(page), new=column["unwritten_new"].take(page),
        other=at + work.first, value=1)
    last = np.flatnonzero(tail_rows(slot))
    waits = ~is_write.take(last) & (epoch.take(last) == len(lost))
    return Touched(slot.take(last), pos.take(last), waits, old.take(last), new.take(last))


def _with_writes(
    pairs: Pairs, rows: Slot, old: U64, new: U64, writes: Slot
) -> tuple[Slot, Slot, U64, U64, Mask]:
    """Rows of transitions and of writes, as the pairs have them: by page, then position.

    Gives slot, position, old and new entry (0 for a write) and whether it is a write.
    """
    is_write = np.zeros(len(pairs), np.bool_)
    is_write[writes] = True
    either = is_write.copy()
    either[rows] = True
    both = np.flatnonzero(either)
    is_write = is_write.take(both)
    entries = np.zeros((2, len(both)), np.uint64)
    entries[:, ~is_write] = old, new
    return pairs.slot.take(both), pairs.pos.take(both), entries[0], entries[1], is_write


def store_writes(work: Work, written: Written, lost: Slot) -> None:
    """Remember which pages a write has anchored, and which wait for one."""
    pairs, chunk, column = work.pairs, work.chunk, work.tables.pages.column
    if is_kind(chunk.kind, Kind.P2M_WRITE).any():
        work.observer.writes_seen = True
    column["anchored"][pairs.slot.take(written.agreed)] = work.events(written.agreed)
    touched = written.touched
    if touched is None:
        return
    if len(lost):
        column["unwritten"][: work.tables.pages.used] = NO_EVENT
    column["unwritten"][touched.page[~touched.waits]] = NO_EVENT
    slot, at = touched.page[touched.waits], touched.pos[touched.waits]
    column["unwritten"][slot] = at + work.first
    column["unwritten_old"][slot] = touched.old[touched.waits]
    column["unwritten_new"][slot] = touched.new[touched.waits]
    column["unwritten_task"][slot] = chunk.task.take(at)
    column["unwritten_call"][slot] = chunk.call.take(at)
