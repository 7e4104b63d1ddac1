"""p2m writes seen on the machine, compared with what the model has (XM501)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.engine.order import Mask, tail_rows
from xenm2p.engine.pairing import last_before
from xenm2p.engine.replay import NO_EVENT, Fact, Result
from xenm2p.engine.tables import Slot, foreign
from xenm2p.engine.work import Work
from xenm2p.trace import FOREIGN, INVALID, U64, Kind


@dataclass(frozen=True, slots=True)
class Written:
    """What the writes of a chunk came to: counts, the pages anchored and left unwritten.

    `last` are the rows of `Work.pairs` that decide, one a page, whether its last
    transition was written; `waits` says of each that it was not, and `old` and `new` give
    that transition. All empty where writes are not judged.
    """

    foreign: int
    invalid: int
    agreed: Slot
    last: Slot
    waits: Mask
    old: U64
    new: U64


def compare_writes(work: Work) -> Written | None:
    """Compare the p2m_write events with the model's entries.

    None where the comparison hangs on a frontend's mark or on a failed map of the page.
    """
    pairs, chunk, observer = work.pairs, work.chunk, work.observer
    column = work.tables.pages.column
    kind = work.kind
    is_write = kind == Kind.P2M_WRITE
    rows = np.flatnonzero(is_write)
    judge = observer.options.judge_writes
    slot = pairs.slot.take(rows)
    if work.model.marks_frontend and (
        judge or column["target"].take(slot).any()
    ):
        return None
    written = chunk.mfn.take(pairs.pos.take(rows))
    is_foreign = foreign(written)
    failed = pairs.slot[(kind == Kind.MAP) & (chunk.status.take(pairs.pos) != 0)]
    failed_before = column["failed_map"].take(slot) != NO_EVENT
    if (is_foreign & (failed_before | np.isin(slot, failed))).any():
        return None
    entry = _entries_before(work, rows)
    agrees = entry == written
    none, nothing = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    counts = int(np.count_nonzero(is_foreign)), int(np.count_nonzero(written == INVALID))
    if not judge:
        return Written(*counts, rows[agrees], none, np.zeros(0, np.bool_), nothing, nothing)
    differs = rows[~agrees]
    work.facts.add(
        Fact.MODEL_MISMATCH, pairs.pos.take(differs), event=work.events(differs),
        pfn=work.pfns(differs), old=entry[~agrees], new=written[~agrees], value=0)
    last, waits, old, new = _never_written(work, is_write)
    return Written(*counts, rows[agrees], last, waits, old, new)


def _entries_before(work: Work, rows: Slot) -> U64:
    """The model's p2m entries before `rows`; pages with a mark are not among them."""
    live = work.pairs.before.take(rows)
    return np.where(live, work.owned("mfn", rows) | np.uint64(FOREIGN), work.bases(rows))


def _never_written(work: Work, is_write: Mask) -> tuple[Slot, Mask, U64, U64]:
    """Note transitions that the next one of the page overtook before they were written."""
    pairs, chunk, column = work.pairs, work.chunk, work.tables.pages.column
    changed = (pairs.is_map | pairs.is_unmap) & (pairs.result == Result.OK)
    if not work.observer.writes_seen:  # from the first write on
        at = pairs.pos[is_write]
        changed &= pairs.pos > (at.min() if len(at) else len(chunk))
    rows = np.flatnonzero(changed)
    old = _entries_before(work, rows)
    left = work.bases(rows) if work.model.overrides else np.full(len(rows), INVALID, np.uint64)
    mapped = chunk.mfn.take(pairs.pos.take(rows)) | np.uint64(FOREIGN)
    new = np.where(pairs.is_map.take(rows), mapped, left)
    changed[rows[old == new]] = False
    rows, old, new = rows[old != new], old[old != new], new[old != new]
    starts = np.repeat(pairs.heads, np.diff(pairs.heads, append=len(pairs.slot)))
    before = last_before(changed | is_write, starts).take(rows)
    overtaken = np.flatnonzero((before >= 0) & changed.take(before, mode="wrap"))
    first = np.searchsorted(rows, before[overtaken])
    at = pairs.pos.take(rows[overtaken])
    work.facts.add(
        Fact.MODEL_MISMATCH, at, event=work.events(rows[first]), pfn=work.pfns(rows[first]),
        old=old[first], new=new[first], other=at + work.first, value=1)
    slot = pairs.slot.take(rows)
    carried = np.flatnonzero((before < 0) & (column["unwritten"].take(slot) != NO_EVENT))
    at, slot = pairs.pos.take(rows[carried]), slot[carried]
    work.facts.add(
        Fact.MODEL_MISMATCH, at, event=column["unwritten"].take(slot),
        pfn=column["pfn"].take(slot), old=column["unwritten_old"].take(slot),
        new=column["unwritten_new"].take(slot), other=at + work.first, value=1)
    relevant = np.flatnonzero(changed | is_write)
    page = pairs.slot.take(relevant)
    last = relevant[tail_rows(page)]
    waits = changed.take(last)
    place = np.searchsorted(rows, last[waits])
    return last, waits, old[place], new[place]


def store_writes(work: Work, written: Written) -> None:
    """Remember which pages a write has anchored, and which wait for one."""
    pairs, chunk, column = work.pairs, work.chunk, work.tables.pages.column
    if written.foreign or written.invalid or (chunk.kind == Kind.P2M_WRITE).any():
        work.observer.writes_seen = True
    column["anchored"][pairs.slot.take(written.agreed)] = work.events(written.agreed)
    done = written.last[~written.waits]
    column["unwritten"][pairs.slot.take(done)] = NO_EVENT
    waiting = written.last[written.waits]
    slot, at = pairs.slot.take(waiting), pairs.pos.take(waiting)
    column["unwritten"][slot] = at + work.first
    column["unwritten_old"][slot] = written.old
    column["unwritten_new"][slot] = written.new
    column["unwritten_task"][slot] = chunk.task.take(at)
    column["unwritten_call"][slot] = chunk.call.take(at)
