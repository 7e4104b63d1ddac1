"""The page events of a chunk, paired: what `pairing` finds out, for the other steps to read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.aborting import UnmapCalls
from xenm2p.engine.listing import Listed
from xenm2p.engine.order import Mask
from xenm2p.engine.tables import Slot, Tables
from xenm2p.trace import U64, Events, Kind

OF_TABLE = -1  # owner: the share that was live on the page before the chunk


@dataclass(slots=True)
class Pairs:
    """The page events of a chunk in rows, sorted by page and then by position.

    pos (r,) position in the chunk; head (r,) first row of its page; heads (h,) their rows;
    pages (h,) the slots of the pages, in no order; live (h,) which of them had a share
    before the chunk, held_first (h,) whether the entry was still that share's; is_map,
    is_unmap (r,) the kind, of what is carried out or not; result (r,) uint8; before (r,)
    whether a share was live on the page before the row, held (r,) whether the entry was
    still that share's: not since a set_p2m; owner (r,) the row of the map of the share that
    was live then, OF_TABLE for one from before the chunk, and meaningless where `before` is
    False; base the entry the page held, or will hold, without the share: (h,) where `clean`,
    else (r,). `calls` are those of the unmaps, where one failed. `listed` is there where a
    page is or may come to be on a list without the share that put it there. overwritten (o,)
    are the slots of pages on which a share has lost its entry. `clean` says that every map
    and unmap succeeded and nothing else is among the rows, so that in each page's rows maps
    and unmaps take turns.
    """

    pos: Slot
    head: Mask
    heads: Slot
    pages: Slot
    live: Mask
    is_map: Mask
    is_unmap: Mask
    before: Mask
    base: U64
    clean: bool = True
    calls: UnmapCalls | None = None
    listed: Listed | None = None
    overwritten: Slot = field(default_factory=lambda: np.zeros(0, np.int64))
    held: Mask = field(init=False)
    held_first: Mask = field(init=False)
    result: NDArray[np.uint8] = field(init=False)
    _slot: Slot | None = None
    _owner: Slot | None = None

    def __len__(self) -> int:
        return len(self.pos)

    @property
    def slot(self) -> Slot:
        """The page slot of each row, (r,); made when first asked for."""
        if self._slot is None:
            self._slot = np.repeat(self.pages, np.diff(self.heads, append=len(self)))
        return self._slot

    def slots_of(self, rows: Slot) -> Slot:
        """The page slots of `rows`."""
        if self._slot is None and len(rows) < len(self) >> 4:
            return self.pages.take(np.searchsorted(self.heads, rows, side="right") - 1)
        return self.slot.take(rows)

    @property
    def owner(self) -> Slot:
        """See the class; made when first asked for."""
        if self._owner is None:  # clean: the row before
            self._owner = np.arange(-1, len(self) - 1)
            self._owner[self.heads] = OF_TABLE
        return self._owner

    @owner.setter
    def owner(self, rows: Slot) -> None:
        self._owner = rows

    def failed_maps(self, chunk: Events) -> Mask:
        """Which rows are maps whose hypercall failed, (r,)."""
        if not has_any(chunk.status):
            return np.zeros(len(self), np.bool_)
        failed: Mask = chunk.status.take(self.pos) != 0
        failed &= is_kind(chunk.kind.take(self.pos), Kind.MAP)
        return failed

    @property
    def tails(self) -> Slot:
        """The last row of each page, (h,)."""
        tails = np.empty_like(self.heads)
        tails[:-1] = self.heads[1:] - 1
        tails[-1:] = len(self) - 1
        return tails


def is_kind(kinds: NDArray[np.uint8], kind: Kind) -> Mask:
    """Which of `kinds` are `kind`.

    numpy takes the member of an enumeration for an int64 and casts the whole column to it;
    with a plain int the same comparison is ten times as fast.
    """
    found: Mask = kinds == int(kind)
    return found


def is_constant(column: NDArray[Any]) -> bool:
    """Whether a column is one value by its making; readers give such a column no memory."""
    return column.strides == (0,) and len(column) > 0


def has_any(column: NDArray[Any]) -> bool:
    """Whether a column has anything but 0."""
    return bool(column[0] if is_constant(column) else column.any())


def differing_rows(tables: Tables, chunk: Events, pairs: Pairs, name: str) -> Slot:
    """The unmaps of clean `pairs` that differ in a column from the share that they end."""
    column = getattr(chunk, name)
    first = pairs.heads[pairs.is_unmap.take(pairs.heads)]
    of_table = tables.pages.column[name].take(pairs.pages[pairs.is_unmap.take(pairs.heads)])
    if is_constant(column):
        constant: Slot = first[of_table != column[0]]
        return constant
    values = column.take(pairs.pos)
    differs = np.empty(len(pairs), np.bool_)
    np.not_equal(values[1:], values[:-1], out=differs[1:])
    differs &= pairs.is_unmap
    differs[first] = of_table != values.take(first)
    return np.flatnonzero(differs)


def users(chunk: Events, pos: Slot) -> Mask:
    """Which of the events at `pos` have kmap_ops."""
    return chunk.user.take(pos).view(np.bool_)


def owner_users(tables: Tables, chunk: Events, pairs: Pairs) -> Mask:
    """The `user` of each row's live share; meaningless where there is none."""
    return of_owner(pairs, users(chunk, pairs.pos), tables.pages.column["user"])


def of_owner(pairs: Pairs, sorted_column: NDArray, table: NDArray) -> NDArray:  # type: ignore[type-arg]
    """What each row's live share has in a column, given sorted as the rows and as table."""
    values = sorted_column.take(pairs.owner, mode="wrap")
    old = np.flatnonzero(pairs.owner == OF_TABLE)
    values[old] = table.take(pairs.slot.take(old))
    return values
