"""One chunk with numpy, where its pages and frames are plain; None where they are not.

The steps are pairing (by page), sharing (by frame), looking (what mfn_to_pfn answers), and
storing. Nothing is written to the tables before everything is known to be plain.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine import pairing, storing
from xenm2p.engine.granting import ended_in_use
from xenm2p.engine.locking import collide, lock_rows, store_locks
from xenm2p.engine.looking import Looks, look_up, questions
from xenm2p.engine.losing import Losses, losses_of, lost_facts, unsure_at
from xenm2p.engine.observe import Observer
from xenm2p.engine.order import distinct, order_of
from xenm2p.engine.overrides import Ends, Overrides, Sharing, Writes
from xenm2p.engine.owning import hot_facts, overwrite_left, owners_of, written_frontends
from xenm2p.engine.pairs import is_kind
from xenm2p.engine.replay import (
    Counts,
    Ending,
    Fact,
    Facts,
    Locks,
    Result,
    Segment,
    Shares,
    Side,
    Transitions,
    Warn,
)
from xenm2p.engine.resolving import first_io_facts, watched_frames
from xenm2p.engine.sharing import frontends_are_plain, share
from xenm2p.engine.sticking import ends_that_stick, stuck_facts
from xenm2p.engine.straying import strays_of
from xenm2p.engine.tables import Slot, Tables
from xenm2p.engine.waiting import close_cycles
from xenm2p.engine.work import Work, begin, page_facts
from xenm2p.engine.writing import Written, compare_writes, store_writes
from xenm2p.trace import FOREIGN, INVALID, U64, Events, Kind

# The kinds that concern a page.
_ON_PAGES = np.zeros(256, np.bool_)
_ON_PAGES[[Kind.MAP, Kind.UNMAP, Kind.SET_P2M, Kind.GUP_FAST, Kind.DIO_READ,
           Kind.DIO_WRITE, Kind.P2M_WRITE]] = True


def replay_plain(
    tables: Tables, observer: Observer, chunk: Events, first: int
) -> Segment | None:
    """Replay the events of `chunk`, numbered from `first`; None if not all is plain."""
    kinds = _count_kinds(chunk)
    if observer.watch.undecided:
        return None
    rows = None
    if kinds[Kind.MAP] + kinds[Kind.UNMAP] < len(chunk):
        rows = np.flatnonzero(_ON_PAGES.take(chunk.kind))
    failed = _failed_calls(observer, chunk, first)
    pairs = pairing.pair(tables, observer.machine.model, chunk, rows, failed)
    if pairs is None:
        return None
    work = begin(tables, observer, chunk, first, pairs, rows)
    if work is None:
        return None
    shared, losses = None, losses_of(chunk, observer)
    asks = questions(work)
    if asks is None:
        return None
    if kinds[Kind.SET_M2P]:
        work.owners = owners_of(work)
        if work.owners is None:
            return None
    writes = written_frontends(work, asks)
    if writes is None:
        return None
    if work.model.overrides:
        shared = _share(work, asks, writes)
        if shared is None or not overwrite_left(work, shared):
            return None
        if len(shared.over_pos):
            work.was_marked = np.zeros(len(chunk), np.bool_)
            work.was_marked[shared.over_pos] = True
    elif not _nothing_stuck(work):
        return None
    looks = look_up(work, asks, shared)
    if looks is None:
        return None
    first_io_facts(work, looks)
    written = None
    if kinds[Kind.P2M_WRITE] or (observer.writes_seen and observer.options.judge_writes):
        written = compare_writes(work, shared, losses.pos)
    collided = collide(work, shared, losses, written)
    if collided is None:
        return None
    page_facts(work)
    if kinds[Kind.END_GRANT]:
        ended_in_use(work)
    _frame_facts(work, shared)
    lost = lost_facts(work, losses)
    cycles = close_cycles(work, looks, collided.held, losses)
    decided, facts = work.facts.table()
    if losses:
        facts = _with_doubts(work, losses, written, decided, facts)
    details = observer.options.details
    segment = Segment(
        first, chunk, work.result, _warnings(work), looks.resolutions,
        _transitions(work, shared) if details else Transitions.of([]),
        _shares(work) if details else Shares.of([]),
        lock_rows(work, collided.held) if details else Locks.of([]),
        collided.collisions, facts, _counts(work, shared, written, kinds, lost), cycles,
    )
    if written is not None:
        store_writes(work, written, losses.pos)
    if len(losses.pos):
        observer.last_loss = int(losses.pos[-1]) + first
    storing.store(work, shared)
    store_locks(work, collided)
    return segment


def _failed_calls(observer: Observer, chunk: Events, first: int) -> dict[int, int]:
    """The calls that failed before the chunk and have unmaps in it: call -> position."""
    failed = observer.machine.failed_calls
    if not failed:
        return failed
    asked = distinct(chunk.call.compress(is_kind(chunk.kind, Kind.UNMAP)))
    return {call: failed[call] - first for call in asked.tolist() if call in failed}


def _count_kinds(chunk: Events) -> list[int]:
    """How many events of each kind there are. (bincount casts them all to int64 first.)"""
    kinds = [0] * len(Kind)
    missing = len(chunk)
    for kind in Kind:
        if missing:  # most chunks have nothing but the first two kinds
            kinds[kind] = int(np.count_nonzero(is_kind(chunk.kind, kind)))
            missing -= kinds[kind]
    return kinds


def _share(work: Work, asks: Looks, writes: Writes) -> Sharing | None:
    pairs, tables, chunk = work.pairs, work.tables, work.chunk
    pos = work.begun
    frame = work.begun_frame
    old, old_slot = work.old, pairs.slots_of(work.old)
    ends, strays = Ends(), strays_of(work)
    if work.model.overrides_need_user:
        listed = chunk.user.take(pos) != 0
        if not listed.all():
            pos, frame = pos[listed], frame[listed]
        kept = tables.pages.column["listed"].take(old_slot)
        old, old_slot = old[kept], old_slot[kept]
        ends = ends_that_stick(work, strays)
    column = tables.pages.column
    overrides = Overrides(
        pos, frame, work.end, column["frame"].take(old_slot).astype(np.int64),
        pairs.pos.take(old), column["map_event"].take(old_slot), asks.pos, asks.frame,
        writes, ends, watched_frames(work), strays,
    )
    shared = share(tables, work.model, overrides, work.first, len(chunk))
    if shared is not None:
        stuck_facts(work, shared, ends)
    return shared


def _nothing_stuck(work: Work) -> bool:
    """Without an override list: no frame whose share ends here is FOREIGN at its frontend."""
    tables = work.tables
    column, used = tables.pages.column, tables.pages.used
    if not tables.starts_foreign and not column["odd"][:used].any():
        return True
    frames = tables.frame_slots(work.owned("mfn", work.ended))
    return not _has_moved(work, frames) and frontends_are_plain(tables, work.model, frames)


def _has_moved(work: Work, frames: Slot) -> bool:
    """Whether m2p changes in the chunk for any of these frames."""
    return work.owners is not None and bool(np.isin(work.owners.frame, frames).any())


def _frame_facts(work: Work, shared: Sharing | None) -> None:
    """XM203 and XM204."""
    if shared is None:
        return
    chunk = work.chunk
    if len(shared.alias_pos):
        is_alias = np.zeros(len(chunk), np.bool_)
        is_alias[shared.alias_pos] = True
        is_alias &= chunk.user != 0
        chosen = is_alias.take(work.begun)  # these are by time
        pos, mfn, frame = (
            column.compress(chosen) for column in (work.begun, work.begun_mfn, work.begun_frame))
        page = work.frontends(frame, pos)
        event = pos + work.first
        work.facts.add(
            Fact.LOCAL_ALIAS, pos, event=event, mfn=mfn, old=chunk.pfn.take(pos), other=event,
            pfn=work.tables.pages.column["pfn"].take(page))
    pos = shared.multi_pos
    if shared.is_hot:
        hot_facts(work, shared)
    work.facts.add(Fact.MULTI_ALIAS, pos, event=pos + work.first, pfn=chunk.pfn.take(pos),
                   mfn=chunk.mfn.take(pos), other=shared.multi_other)


def _with_doubts(
    work: Work, losses: Losses, written: Written | None, decided: Slot, facts: Facts
) -> Facts:
    """The facts with `unknown` set where a loss makes them unsure."""
    unknown = unsure_at(work, losses, written, work.tables.pages.find(facts.pfn), decided)
    unknown &= facts.fact != int(Fact.LOST_EVENTS)
    return replace(facts, unknown=facts.unknown | unknown.astype(np.uint8))


def _warnings(work: Work) -> NDArray[np.uint8]:
    warnings = np.zeros(len(work.chunk), np.uint8)
    pairs = work.pairs
    if work.model.overrides:
        if pairs.listed is not None:
            rows = np.flatnonzero(pairs.is_map & pairs.before & (pairs.result == Result.OK))
            warnings[pairs.pos.take(rows)] = Warn.PAGE_PRIVATE
        return warnings
    if pairs.clean:
        held = pairs.heads[(pairs.base != np.uint64(INVALID))]
        rows = held[pairs.is_map.take(held)]
    else:
        rows = np.flatnonzero(
            pairs.is_map & (pairs.held | (pairs.base != np.uint64(INVALID))))
    warnings[pairs.pos.take(rows)] = Warn.NOT_BALLOONED
    return warnings


def _counts(
    work: Work, shared: Sharing | None, written: Written | None, kinds: list[int], lost: int
) -> Counts:
    pairs, result = work.pairs, work.result
    if pairs.clean:
        maps, unmaps = kinds[Kind.MAP], kinds[Kind.UNMAP]
        foreign_set, foreign_cleared = maps, unmaps
    else:
        done = result == Result.OK
        maps = len(work.begun)
        unmaps = int(np.count_nonzero(done)) - maps
        replaced = int(np.count_nonzero(pairs.is_map & pairs.held & (
            pairs.result == Result.OK)))
        overwritten = int(np.count_nonzero(is_kind(work.kind, Kind.SET_P2M) & pairs.held))
        foreign_set, foreign_cleared = maps - replaced, unmaps + overwritten
    sets = len(shared.set_pos) if shared else 0
    clears = shared.clears() if shared else 0
    if work.was_marked is not None:
        over = work.chunk.kind[work.was_marked]  # F to F is no turn, F to a frame is one
        foreign_set -= int(np.count_nonzero(over == Kind.MAP))
        foreign_cleared += int(np.count_nonzero(over == Kind.SET_P2M))
    status = work.chunk.status
    failed = 0
    if not pairs.clean and status.any():
        failed = int(np.count_nonzero((work.chunk.kind == Kind.MAP) & (status != 0)))
    return Counts(
        events=len(work.chunk), maps=maps, unmaps=unmaps, failed_maps=failed,
        foreign_set=foreign_set + sets, foreign_cleared=foreign_cleared + clears,
        frontend_set=sets, frontend_cleared=clears,
        writes_foreign=written.foreign if written else 0,
        writes_invalid=written.invalid if written else 0,
        writes_agreed=len(written.agreed) if written else 0,
        locks=kinds[Kind.LOCK_PAGE], lost=lost,
    )


def _transitions(work: Work, shared: Sharing | None) -> Transitions:
    """The p2m entries that changed: the event's own page, then its frontend."""
    pairs, chunk = work.pairs, work.chunk
    mapped = np.flatnonzero(pairs.is_map & (pairs.result == Result.OK))
    unmapped = np.flatnonzero(pairs.is_unmap & (pairs.result == Result.OK))
    bit = np.uint64(FOREIGN)
    held = _with_marks(work, mapped)
    if not pairs.clean:
        over = pairs.held.take(mapped)
        held = np.where(over, work.owned("mfn", mapped) | bit, held)
    left = work.bases(unmapped) if work.model.overrides else (
        np.full(len(unmapped), INVALID, np.uint64))
    parts = [
        (pairs.pos.take(mapped), work.pfns(mapped), held,
         chunk.mfn.take(pairs.pos.take(mapped)) | bit, Side.BACKEND),
        (pairs.pos.take(unmapped), work.pfns(unmapped), work.owned("mfn", unmapped) | bit,
         left, Side.BACKEND),
    ]
    written = np.flatnonzero(chunk.kind == Kind.SET_P2M)
    if len(written):
        rows = np.flatnonzero(is_kind(work.kind, Kind.SET_P2M))
        at, over = pairs.pos.take(rows), pairs.held.take(rows)
        held = np.where(over, work.owned("mfn", rows) | bit, _with_marks(work, rows))
        parts.append((at, chunk.pfn.take(at), held, chunk.mfn.take(at), Side.WRITE))
    if shared is not None:
        column = work.tables.frames.column
        for pos, frame, marked in ((shared.set_pos, shared.set_frame, True),
                                   (*shared.all_cleared(), False)):
            mfn = column["mfn"].take(frame)
            page = work.tables.pages.column["pfn"].take(work.frontends(frame, pos))
            old, new = (mfn, mfn | bit) if marked else (mfn | bit, mfn)
            parts.append((pos, page, old, new, Side.FRONTEND))
    pos, pfn, old, new = (np.concatenate([part[i] for part in parts]) for i in range(4))
    side = np.repeat(np.array([part[4] for part in parts], np.uint8),
                     [len(part[0]) for part in parts])
    order = order_of(pos, side)
    order = order[old[order] != new[order]]
    return Transitions(pos[order] + work.first, pfn[order], old[order], new[order], side[order])


def _with_marks(work: Work, rows: Slot) -> U64:
    """What the pages of `rows` hold without a share, with a frontend's mark."""
    base = work.bases(rows)
    if work.was_marked is None:
        return base
    return np.where(work.was_marked.take(work.pairs.pos.take(rows)),
                    base | np.uint64(FOREIGN), base)


def _shares(work: Work) -> Shares:
    """The shares that ended."""
    pairs = work.pairs
    rows = work.ended[order_of(pairs.pos.take(work.ended))]
    ending = np.where(pairs.is_map.take(rows), Ending.REPLACED, Ending.UNMAP).astype(np.uint8)
    return Shares(
        work.owned("map_event", rows), work.events(rows), work.owned("mfn", rows),
        work.pfns(rows), work.owned("domid", rows), work.owned("ref", rows),
        work.owned("handle", rows), work.owned("user", rows).astype(np.uint8),
        work.owned("first_time", rows), work.chunk.time.take(pairs.pos.take(rows)), ending,
    )
