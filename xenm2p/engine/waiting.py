"""The waits that begin and end in a chunk, with numpy, and the cycles they close (XM102).

Nothing is walked event by event unless some task both waits and is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from xenm2p.engine.locking import Held
from xenm2p.engine.looking import Looks
from xenm2p.engine.losing import Losses
from xenm2p.engine.order import Mask, order_of
from xenm2p.engine.pairs import is_kind
from xenm2p.engine.replay import Cycles
from xenm2p.engine.tables import Slot
from xenm2p.engine.waits import Wait, WaitGraph, cycle_rows
from xenm2p.engine.work import Work
from xenm2p.trace import INVALID, U64, Kind


@dataclass(frozen=True, slots=True)
class Begun:
    """Waits that begin in a chunk, by time: (w,) rows, `closes` the position that ends each.

    `lock` and `share` are rows of `Held` and of the shares at work.
    """

    pos: Slot
    closes: Slot
    waiter: Slot
    holder: Slot
    for_io: Mask
    lock: Slot
    share: Slot

    def rows(self, where: Slot | Mask) -> Begun:
        """Those at `where`."""
        return Begun(self.pos[where], self.closes[where], self.waiter[where],
                     self.holder[where], self.for_io[where], self.lock[where],
                     self.share[where])


def close_cycles(work: Work, looks: Looks, held: Held, losses: Losses) -> Cycles:
    """The cycles that the chunk's direct I/O closes; its open waits are remembered."""
    graph, length = work.observer.watch.waits, len(work.chunk)
    if not len(held.slot):
        graph.keep(lambda wait: False)
        return Cycles.of([])
    old = graph.waits()
    begun = _begun(work, looks, held, old)
    if not len(begun.pos) and not len(old):
        return Cycles.of([])
    closes = dict(zip(old, _ends_of(work, held, old).tolist(), strict=True))
    # Only who waits and is waited for can be in a cycle.
    both = _wait_in_turn(begun.waiter, begun.holder, old)
    may_close = both.take(begun.waiter) & both.take(begun.holder)
    rows: list[tuple[int, ...]] = []
    if may_close.any():
        rows = _walk(work, held, losses, begun.rows(may_close), closes)
    graph.keep(lambda wait: closes[wait] == length)
    graph.extend(_waits(work, held, begun.rows(begun.closes == length)))
    return Cycles.of(rows)


def _walk(
    work: Work, held: Held, losses: Losses, begun: Begun, closes: dict[Wait, int]
) -> list[tuple[int, ...]]:
    """Rows of the cycles that `begun` close, one event after the other.

    `closes` are the positions at which the waits from before the chunk end.
    """
    graph = WaitGraph()
    graph.extend(closes)
    closes_at = closes | dict(zip(_waits(work, held, begun), begun.closes.tolist(),
                                  strict=True))
    losses_at = losses.last_at(begun.pos, work.first).tolist()
    rows = []
    waits = zip(begun.pos.tolist(), _waits(work, held, begun), losses_at, strict=True)
    for pos, of_event in groupby(waits, lambda row: row[0]):
        _, new, last_losses = zip(*of_event, strict=True)
        alive = {wait for wait in graph.waits() if closes_at[wait] > pos}
        graph.keep(alive.__contains__)
        cycle = graph.add(new)
        if cycle:
            rows += cycle_rows(pos + work.first, cycle, last_losses[0])
    return rows


def _wait_in_turn(waiters: Slot, holders: Slot, old: list[Wait]) -> Mask:
    """By task which are among both the waiters and the holders, those of `old` included."""
    waits = np.append(waiters, np.array([wait.waiter for wait in old], np.int64))
    holds = np.append(holders, np.array([wait.holder for wait in old], np.int64))
    is_in = np.zeros((2, max(waits.max(initial=0), holds.max(initial=0)) + 1), np.bool_)
    is_in[0, waits[waits >= 0]] = is_in[1, holds[holds >= 0]] = True
    both: Mask = is_in[0] & is_in[1]
    return both


def _begun(work: Work, looks: Looks, held: Held, old: list[Wait]) -> Begun:
    """The waits of the chunk's direct I/O, besides the `old` ones.

    Where none of them can be in a cycle yet, only those that are not over with the chunk.
    """
    chunk, tables, shares = work.chunk, work.tables, work.shares
    answers = looks.resolutions
    at = answers.event - work.first
    kind = chunk.kind.take(at)
    rows = np.flatnonzero(is_kind(kind, Kind.DIO_READ) | is_kind(kind, Kind.DIO_WRITE))
    pos = at[rows]
    resolved = answers.resolved[rows]
    met = _lock_at(work, held, resolved, pos)
    met[~is_kind(kind[rows], Kind.DIO_READ) | (resolved == chunk.pfn.take(pos))] = -1
    frontend = answers.frontend[rows]
    doing_io = chunk.task.take(pos).astype(np.int64)
    if not (met >= 0).any() and not _wait_in_turn(held.task, doing_io, old).any():
        last = held.end == len(chunk)
        is_open = np.isin(tables.pages.find(frontend), held.slot[last])
        rows, pos, met, frontend = rows[is_open], pos[is_open], met[is_open], frontend[is_open]
    issued = _lock_at(work, held, frontend, pos)
    touches = np.flatnonzero((met >= 0) | (issued >= 0))
    if not len(touches) or not len(shares.event):
        none = np.zeros(0, np.int64)
        return Begun(none, none, none, none, none > 0, none, none)
    pos, met, issued = pos[touches], met[touches], issued[touches]
    share = _share_at(work, tables.pages.find(chunk.pfn.take(pos)), pos)
    began = shares.event.take(share, mode="wrap")
    task = chunk.task.take(pos).astype(np.int64)

    waits = (share >= 0) & (met >= 0) & (held.event.take(met, mode="wrap") > began)
    waited = (share >= 0) & (issued >= 0) & (held.event.take(issued, mode="wrap") < began)

    # The wait for a lock stands before the wait for I/O that the same event begins.
    which = np.concatenate([np.flatnonzero(waits), np.flatnonzero(waited)])
    for_io = np.arange(len(which)) >= np.count_nonzero(waits)
    lock = np.where(for_io, issued[which], met[which])
    owner = held.task.take(lock)
    begun = Begun(
        pos[which], np.minimum(held.end.take(lock), shares.end.take(share[which])),
        np.where(for_io, owner, task[which]), np.where(for_io, task[which], owner),
        for_io, lock, share[which])
    known = (begun.waiter >= 0) & (begun.holder >= 0) & (begun.waiter != begun.holder)
    begun = begun.rows(known)
    return begun.rows(np.lexsort((begun.for_io, begun.pos)))


def _share_at(work: Work, page: Slot, pos: Slot) -> Slot:
    """The row of the share that is live on each page slot at each position, -1 for none."""
    shares = work.shares
    slot = work.tables.pages.find(shares.pfn)
    key = (slot << 18) | (shares.begin + 1)
    order = order_of(slot, shares.begin)
    row = np.searchsorted(key[order], (page << 18) | (pos + 1)) - 1
    share = order.take(row, mode="wrap")
    is_there = (row >= 0) & (page > 0) & (slot[share] == page) & (shares.end[share] > pos)
    return np.where(is_there, share, -1)


def _lock_at(work: Work, held: Held, pfn: U64, pos: Slot) -> Slot:
    """The row of the lock that is held on each page at each position, -1 for none."""
    page = work.tables.pages.find(pfn)
    row = np.searchsorted((held.slot << 18) | (held.begin + 1), (page << 18) | (pos + 1)) - 1
    is_there = (row >= 0) & (pfn != np.uint64(INVALID))
    is_there &= (held.slot.take(row, mode="wrap") == page) & (
        held.end.take(row, mode="wrap") > pos)
    return np.where(is_there, row, -1)


def _ends_of(work: Work, held: Held, waits: list[Wait]) -> Slot:
    """The positions that end waits from before the chunk: of the lock or of the share.

    -1 where one of the two was over before.
    """
    return np.minimum(
        _found(held.event, held.end, np.array([wait.lock_event for wait in waits], np.int64)),
        _found(work.shares.event, work.shares.end,
               np.array([wait.map_event for wait in waits], np.int64)))


def _found(events: Slot, ends: Slot, asked: Slot) -> Slot:
    """`ends` of those `events` that are asked for, -1 for those that are not there."""
    if not len(events):
        return np.full(len(asked), -1)
    order = np.argsort(events)
    row = order.take(np.minimum(np.searchsorted(events[order], asked), len(order) - 1))
    return np.where(events[row] == asked, ends[row], -1)


def _waits(work: Work, held: Held, begun: Begun) -> list[Wait]:
    """Rows of `begun` as waits."""
    shares, lock, share = work.shares, begun.lock, begun.share
    pages = work.tables.pages.column["pfn"].take(held.slot[lock])
    columns = (begun.waiter, begun.holder, begun.for_io, pages, held.event[lock],
               shares.mfn[share], shares.pfn[share], shares.event[share],
               begun.pos + work.first)
    return [Wait(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
