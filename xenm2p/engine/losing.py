"""Losses in a chunk: what they make unsure until a p2m_write agrees with the model (XM502)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.engine.observe import Observer
from xenm2p.engine.order import Mask, order_of
from xenm2p.engine.pairs import is_kind
from xenm2p.engine.replay import NO_EVENT, Fact
from xenm2p.engine.tables import Slot
from xenm2p.engine.work import Work
from xenm2p.engine.writing import Written
from xenm2p.trace import INVALID, NO_REF, Events, Kind


@dataclass(frozen=True, slots=True)
class Losses:
    """The `lost` events of a chunk, pos (l,), and the number of the one before it."""

    pos: Slot
    before: int

    def __bool__(self) -> bool:
        """Whether anything is unsure at some moment of the chunk."""
        return self.before != NO_EVENT or len(self.pos) > 0

    def last_at(self, pos: Slot, first: int) -> Slot:
        """The event number of the last loss before each of `pos`, NO_EVENT where none was."""
        row = np.searchsorted(self.pos, pos) - 1
        if not len(self.pos):
            return np.full(len(pos), self.before)
        return np.where(row >= 0, self.pos.take(row, mode="wrap") + first, self.before)


def losses_of(chunk: Events, observer: Observer) -> Losses:
    """The losses that a chunk has, or comes after."""
    return Losses(np.flatnonzero(is_kind(chunk.kind, Kind.LOST)), observer.last_loss)


def lost_facts(work: Work, losses: Losses) -> int:
    """XM502 for each `lost` event; gives how many events were lost, where that is known."""
    chunk, last_on_cpu = work.chunk, work.observer.last_on_cpu
    pos = losses.pos
    if not len(pos):
        return 0
    count = chunk.ref.take(pos).astype(np.int64)
    known = count != NO_REF
    cpu = chunk.cpu.take(pos)
    other = np.full(len(pos), NO_EVENT)
    for each in sorted(set(cpu.tolist())):
        asking = np.flatnonzero(cpu == each)
        seen = np.flatnonzero(chunk.cpu == each) if each >= 0 else np.zeros(0, np.int64)
        row = np.searchsorted(seen, pos.take(asking)) - 1
        before = last_on_cpu.get(each, NO_EVENT)
        other[asking] = before
        here = row >= 0
        other[asking[here]] = seen.take(row[here]) + work.first
    work.facts.add(Fact.LOST_EVENTS, pos, event=pos + work.first,
                   pfn=np.full(len(pos), INVALID, np.uint64), value=np.where(known, count, -1),
                   other=other)
    return int(count[known].sum())


def unsure_at(
    work: Work, losses: Losses, written: Written | None, page: Slot, pos: Slot
) -> Mask:
    """Whether a loss makes what the model has of each page slot unsure at each position."""
    loss = losses.last_at(pos, work.first)
    anchored = work.tables.pages.column["anchored"].take(page)
    if written is not None and len(written.agreed):
        pairs = work.pairs
        slot, at = pairs.slot.take(written.agreed), pairs.pos.take(written.agreed)
        order = order_of(slot, at)
        slot, at = slot.take(order), at.take(order)
        row = np.searchsorted((slot << 17) | at, (page << 17) | pos) - 1
        here = (row >= 0) & (slot.take(row, mode="wrap") == page)
        anchored = np.where(here, at.take(row, mode="wrap") + work.first, anchored)
    unsure: Mask = (loss != NO_EVENT) & (anchored < loss)
    return unsure
