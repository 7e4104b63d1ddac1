"""What the steps of the vector engine know of one chunk, and the rows that they collect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.observe import Observer
from xenm2p.engine.order import Mask, order_of
from xenm2p.engine.pairs import OF_TABLE, Pairs, differing_rows, is_constant, is_kind
from xenm2p.engine.replay import NO_EVENT, Fact, Facts, Result
from xenm2p.engine.tables import Slot, Tables
from xenm2p.kernels import KernelModel
from xenm2p.trace import FOREIGN, INVALID, NO_HANDLE, U64, Events, Kind


@dataclass(slots=True)
class FactRows:
    """Facts in the making: parts with the position that decides each row."""

    parts: list[tuple[Slot, Facts]] = field(default_factory=list)

    def add(
        self, fact: Fact, decided: Slot, *, event: Slot, pfn: U64, mfn: U64 | int = INVALID,
        old: U64 | int = INVALID, new: U64 | int = INVALID, other: Slot | int = NO_EVENT,
        value: NDArray[Any] | int = -1, unknown: Mask | int = 0,
    ) -> None:
        """Add one fact a row of `decided`, (r,) positions."""
        size = len(decided)
        if not size:
            return

        def column(given: object, dtype: str) -> NDArray[np.generic]:
            values = np.asarray(given, dtype)
            # One value for all rows needs no memory.
            return values if values.ndim else np.ndarray((size,), dtype, values, strides=(0,))

        self.parts.append((decided, Facts(
            column(int(fact), "i2"), column(event, "i8"), column(pfn, "u8"),  # type: ignore[arg-type]
            column(mfn, "u8"), column(old, "u8"), column(new, "u8"),  # type: ignore[arg-type]
            column(other, "i8"), column(value, "i8"), column(unknown, "u1"),  # type: ignore[arg-type]
        )))

    def table(self) -> tuple[Slot, Facts]:
        """All facts with their deciding positions, ordered by these, then fact, pfn, other."""
        if not self.parts:
            return np.zeros(0, np.int64), Facts.of([])
        decided, facts = self.parts[0]
        if len(self.parts) == 1 and (decided[1:] > decided[:-1]).all():
            return decided, facts
        facts = Facts.concat([part for _, part in self.parts])
        decided = np.concatenate([positions for positions, _ in self.parts])
        order = order_of(decided, facts.fact)
        at, fact = decided.take(order), facts.fact.take(order)
        if ((at[1:] == at[:-1]) & (fact[1:] == fact[:-1])).any():
            order = np.lexsort((facts.other, facts.pfn, facts.fact, decided))
        return decided.take(order), facts.rows(order)


@dataclass(frozen=True, slots=True)
class Owners:
    """The m2p entries that a chunk writes: frame, position and page slot, (w,), sorted."""

    frame: Slot
    pos: Slot
    page: Slot


@dataclass(slots=True)
class Work:
    """One chunk being replayed.

    `begun` (b,) are the positions of the maps that began a share, by time, `begun_mfn`
    their frames; `old` (o,) the rows of `pairs` that ended a share from before the chunk.
    `result` (n,) is by position. `first_io` (k,) are the rows of the first direct I/O on each
    share without kmap_ops, `io_aliases` says which of them reach a frontend page. What not
    every chunk needs is made when first asked for.
    """

    tables: Tables
    observer: Observer
    model: KernelModel
    chunk: Events
    first: int
    pairs: Pairs
    result: NDArray[np.uint8]
    begun: Slot
    begun_mfn: U64
    old: Slot
    _ended: Slot | None = None
    _end: Slot | None = None
    _begun_frame: Slot | None = None
    _kind: NDArray[np.uint8] | None = None
    _shares: SharesAtWork | None = None
    facts: FactRows = field(default_factory=FactRows)
    owners: Owners | None = None
    first_io: Slot = field(default_factory=lambda: np.zeros(0, np.int64))
    io_aliases: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))
    was_marked: Mask | None = None  # (n,): the event's page had a frontend's mark before

    @property
    def ended(self) -> Slot:
        """The rows of `pairs` that ended a share, (e,)."""
        if self._ended is None:
            self._ended = np.flatnonzero(self.pairs.is_unmap)
        return self._ended

    @property
    def end(self) -> Slot:
        """By position of a map that began a share the position that ended it, n if none did.

        (n,); meaningless at other positions.
        """
        if self._end is None:
            pairs, length = self.pairs, len(self.chunk)
            if pairs.clean:  # the page's next event, whatever it is, ends the share
                self._end = np.empty(length, np.int64)
                ends = np.empty_like(pairs.pos)
                ends[:-1] = pairs.pos[1:]
                ends[pairs.tails] = length
                self._end[pairs.pos] = ends
            else:
                self._end = np.full(length, length)
                owner = pairs.owner.take(self.ended)
                here = owner >= 0
                self._end[pairs.pos.take(owner[here])] = pairs.pos.take(self.ended[here])
        return self._end

    @property
    def kind(self) -> NDArray[np.uint8]:
        """The kinds of the rows of `pairs`."""
        if self._kind is None:
            self._kind = self.chunk.kind.take(self.pairs.pos)
        return self._kind

    @property
    def shares(self) -> SharesAtWork:
        """The shares that live at some moment of the chunk; to be asked before it is stored."""
        if self._shares is None:
            self._shares = shares_at_work(self)
        return self._shares

    @property
    def begun_frame(self) -> Slot:
        """The frame slots of `begun_mfn`."""
        if self._begun_frame is None:
            self._begun_frame = self.tables.frame_slots(self.begun_mfn)
        return self._begun_frame

    def frontends(self, frame: Slot, pos: Slot) -> Slot:
        """The page slots that m2p names for frames at positions."""
        page = self.tables.frames.column["page"].take(frame)
        if self.owners is None or not len(self.owners.pos):
            return page.astype(np.int64)
        owners = self.owners
        row = np.searchsorted((owners.frame << 17) | owners.pos, (frame << 17) | pos) - 1
        here = (row >= 0) & (owners.frame.take(row, mode="wrap") == frame)
        return np.where(here, owners.page.take(row, mode="wrap"), page)

    def owned(self, name: str, rows: Slot | None = None) -> NDArray[Any]:
        """Column `name` of the live share of each row (of `rows`), from events or table."""
        pairs, chunk = self.pairs, self.chunk
        if rows is None:
            owner = pairs.owner
        elif pairs.clean and len(rows) < len(pairs) >> 4:
            owner = np.where(pairs.head.take(rows), OF_TABLE, rows - 1)
        else:
            owner = pairs.owner.take(rows)
        at = pairs.pos.take(owner, mode="wrap")
        table = self.tables.pages.column[name]
        if name == "map_event":
            values = at + self.first
        elif name == "first_time":
            values = chunk.time.take(at)
        else:
            values = getattr(chunk, name).take(at).astype(table.dtype, copy=False)
        old = np.flatnonzero(owner == OF_TABLE)
        values[old] = table.take(pairs.slots_of(old if rows is None else rows.take(old)))
        return values

    def bases(self, rows: Slot) -> U64:
        """The entry that the page of each of `rows` holds without a share."""
        if not self.pairs.clean:
            return self.pairs.base.take(rows)
        base = self.pairs.base.take(np.searchsorted(self.pairs.heads, rows, side="right") - 1)
        if not self.model.overrides:  # clear_foreign_p2m_mapping has left nothing, 4.0 on
            base[~self.pairs.head.take(rows)] = INVALID
        return base

    def pfns(self, rows: Slot) -> U64:
        """The page numbers of `rows`."""
        return self.chunk.pfn.take(self.pairs.pos.take(rows))

    def events(self, rows: Slot) -> Slot:
        """The event numbers of `rows`."""
        return self.pairs.pos.take(rows) + self.first


def begin(
    tables: Tables, observer: Observer, chunk: Events, first: int, pairs: Pairs,
    rows: Slot | None,
) -> Work | None:
    """Set out the shares that begin and end in the chunk; None if a frame is invalid."""
    length, ended = len(chunk), None
    maps = is_kind(chunk.kind, Kind.MAP)
    if pairs.clean:
        result = np.full(length, Result.OK, np.uint8)
        if rows is not None:
            result = (chunk.kind <= int(Kind.UNMAP)).view(np.uint8)
        old = pairs.heads[pairs.live]
    else:
        result = np.zeros(length, np.uint8)
        result[pairs.pos] = pairs.result
        done = pairs.result == Result.OK
        maps &= result == Result.OK
        replaced = pairs.is_map & pairs.before
        ended = np.flatnonzero(done & (pairs.is_unmap | replaced))
        old = ended[pairs.owner.take(ended) == OF_TABLE]
    begun = np.flatnonzero(maps)
    mfn = chunk.mfn.take(begun)
    if len(mfn) and mfn.max() == np.uint64(INVALID):
        return None
    return Work(tables, observer, observer.machine.model, chunk, first, pairs, result,
                begun, mfn, old, ended)


def page_facts(work: Work) -> None:
    """Facts that show on one page: XM205, XM301 to XM305, XM403."""
    pairs, chunk, facts = work.pairs, work.chunk, work.facts
    if not pairs.clean:
        _ill_formed(work)
    _not_ballooned(work)
    if pairs.clean:
        differs = differing_rows(work.tables, chunk, pairs, "user")
    else:
        judged = pairs.is_unmap & pairs.before & (
            (pairs.result == Result.OK) | (pairs.result == Result.SKIP_KMAP))
        user = chunk.user.take(pairs.pos).view(np.bool_)
        differs = np.flatnonzero(judged & (user != work.owned("user")))
    if len(differs):
        facts.add(Fact.KMAP_MISMATCH, pairs.pos.take(differs), event=work.events(differs),
                  pfn=work.pfns(differs), mfn=work.owned("mfn", differs),
                  other=work.owned("map_event", differs))
    _handles(work)


def _handles(work: Work) -> None:
    pairs, facts = work.pairs, work.facts
    column = work.chunk.handle
    if is_constant(column) and column[0] == np.uint32(NO_HANDLE):
        return
    if pairs.clean:
        rows = differing_rows(work.tables, work.chunk, pairs, "handle")
    else:
        rows = np.flatnonzero(pairs.is_unmap & (pairs.result != Result.ABORTED))
    if not len(rows):
        return
    handle, owned = column.take(pairs.pos.take(rows)), work.owned("handle", rows)
    known = (owned == handle) | (owned == np.uint32(NO_HANDLE))
    known &= pairs.before.take(rows)
    wrong = (handle != np.uint32(NO_HANDLE)) & ~known
    rows, handle = rows[wrong], handle[wrong]
    if not len(rows):
        return
    live = pairs.before.take(rows)
    other = np.where(live, work.owned("map_event", rows), NO_EVENT)
    twice = ~live & (last_handles(work, rows) == handle)
    facts.add(Fact.HANDLE, pairs.pos.take(rows), event=work.events(rows), pfn=work.pfns(rows),
              other=other, value=handle, old=twice.astype(np.uint64))


def last_handles(work: Work, rows: Slot) -> NDArray[np.uint32]:
    """The handle of the share that ended last on the page before each of `rows`."""
    pairs = work.pairs
    before = np.searchsorted(work.ended, rows) - 1
    last = work.ended.take(np.maximum(before, 0)) if len(work.ended) else np.zeros(len(rows), int)
    here = (before >= 0) & (pairs.slot.take(last) == pairs.slot.take(rows))
    values = work.tables.pages.column["last_handle"].take(pairs.slot.take(rows))
    values[here] = work.owned("handle", last[here])
    return values


def _not_ballooned(work: Work) -> None:
    pairs = work.pairs
    if pairs.clean:
        holding = np.flatnonzero(pairs.base != np.uint64(INVALID))
        if not len(holding):
            return
        stop = np.append(pairs.heads, len(pairs.pos))
        spans = [np.arange(stop[page], stop[page + 1]) for page in holding.tolist()]
        rows = np.concatenate(spans)
        rows = rows[pairs.is_map.take(rows)]
        if not work.model.overrides:  # after the first unmap the page holds nothing
            rows = rows[pairs.head.take(rows)]
    else:
        rows = np.flatnonzero(
            pairs.is_map & (pairs.result == Result.OK) & ~pairs.held
            & (pairs.base != np.uint64(INVALID)))
    if work.was_marked is not None:
        rows = rows[~work.was_marked.take(pairs.pos.take(rows))]
    work.facts.add(Fact.NOT_BALLOONED, pairs.pos.take(rows), event=work.events(rows),
                   pfn=work.pfns(rows), mfn=work.chunk.mfn.take(pairs.pos.take(rows)),
                   old=work.bases(rows))


def _ill_formed(work: Work) -> None:
    pairs, chunk, facts, result = work.pairs, work.chunk, work.facts, work.pairs.result
    double = np.flatnonzero(pairs.is_map & pairs.before)
    if len(double):
        at, other = pairs.pos.take(double), work.owned("map_event", double)
        facts.add(Fact.DOUBLE_MAP, at, event=at + work.first, pfn=chunk.pfn.take(at),
                  mfn=chunk.mfn.take(at), other=other)
    skipped = np.flatnonzero(result == Result.SKIP_LIST)
    if len(skipped):
        at, is_map = pairs.pos.take(skipped), pairs.is_map.take(skipped)
        facts.add(Fact.LIST_CORRUPTION, at, event=at + work.first, pfn=chunk.pfn.take(at),
                  mfn=np.where(is_map, chunk.mfn.take(at), np.uint64(INVALID)),
                  other=np.where(pairs.before.take(skipped), work.owned("map_event", skipped),
                                 NO_EVENT))
    failed = np.flatnonzero(result == Result.EINVAL)
    facts.add(Fact.UNMAP_NOT_FOREIGN, pairs.pos.take(failed), event=work.events(failed),
              pfn=work.pfns(failed), old=pairs.base.take(failed))
    aborted = np.flatnonzero(result == Result.ABORTED)
    if pairs.calls is None:
        return
    ended_by = pairs.calls.ended_by(result == Result.EINVAL).take(aborted)
    old = np.where(pairs.held.take(aborted),
                   work.owned("mfn", aborted) | np.uint64(FOREIGN), pairs.base.take(aborted))
    facts.add(Fact.ABORTED_CALL, pairs.pos.take(aborted), event=work.events(aborted),
              pfn=work.pfns(aborted), old=old, other=ended_by + work.first)


@dataclass(frozen=True, slots=True)
class SharesAtWork:
    """Every share that lives at some moment of the chunk: first the older ones, begin -1.

    `old` are the page slots of the older ones. `since` is the position from which the share
    resolves, the chunk's length where it does not.
    """

    old: Slot
    event: Slot
    begin: Slot
    end: Slot
    pfn: U64
    mfn: U64
    ref: NDArray[np.uint32]
    domid: NDArray[np.uint16]
    user: Mask
    since: Slot

    def rows_of(self, work: Work, rows: Slot) -> Slot:
        """The shares that are live at `rows` of the pairs, as rows of these."""
        owner, slot = work.pairs.owner.take(rows), work.pairs.slots_of(rows)
        begun = np.searchsorted(work.begun, work.pairs.pos.take(owner, mode="wrap"))
        return np.where(owner == OF_TABLE, np.searchsorted(self.old, slot),
                        len(self.old) + begun)


def shares_at_work(work: Work) -> SharesAtWork:
    """The shares that are live at the start of the chunk or begin in it."""
    column, chunk, length = work.tables.pages.column, work.chunk, len(work.chunk)
    live = work.tables.live()
    end_of = np.full(work.tables.pages.used, length)
    end_of[work.pairs.slot.take(work.old)] = work.pairs.pos.take(work.old)
    begun = work.begun

    def both(name: str) -> NDArray[Any]:
        new = getattr(chunk, name).take(begun)
        return np.concatenate([column[name][live], new.astype(column[name].dtype, copy=False)])

    user = both("user")
    begin = np.concatenate([np.full(len(live), -1), begun])
    resolves = user.copy()
    resolves[: len(live)] = column["resolvable"][live]
    made = SharesAtWork(
        live, np.concatenate([column["map_event"][live], begun + work.first]),
        begin, np.concatenate([end_of[live], work.end.take(begun)]),
        both("pfn"), both("mfn"), both("ref"), both("domid"), user,
        np.where(resolves, begin, length),
    )
    made.since[made.rows_of(work, work.first_io)] = work.pairs.pos.take(work.first_io)
    return made
