"""The events of a chunk that map, unmap or write a page, and the entries that they leave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.engine.order import POS_BITS, Mask
from xenm2p.engine.pairs import is_kind
from xenm2p.engine.replay import NO_EVENT, Result
from xenm2p.engine.tables import Slot
from xenm2p.engine.work import Work
from xenm2p.trace import FOREIGN, INVALID, U64, Kind


@dataclass(frozen=True, slots=True)
class Acts:
    """Rows that map, unmap or write a page, whether or not it comes off: (a,).

    By page, then position, which together are the `key`. `entry` is the page's p2m entry
    after the row, a frontend's mark aside, and `wrote` whether the row wrote it. `place`
    gives the first part of the key for each page slot, -1 where the chunk has no rows of it.
    """

    row: Slot
    key: Slot
    entry: U64
    wrote: Mask
    place: Slot

    @classmethod
    def of(cls, work: Work) -> Acts:
        """Those of a chunk."""
        pairs, chunk = work.pairs, work.chunk
        row = np.arange(len(pairs))
        if not pairs.clean:
            row = np.flatnonzero(work.kind <= int(Kind.SET_P2M))
        place = np.full(work.tables.pages.used, -1)
        place[pairs.pages] = np.arange(len(pairs.pages))
        pos = pairs.pos.take(row)
        key = (np.cumsum(pairs.head, dtype=np.int64).take(row) - 1) << POS_BITS
        key |= pos
        mfn = chunk.mfn.take(pos)
        left = work.bases(row) if work.model.overrides else np.full(len(row), INVALID, np.uint64)
        entry = np.where(pairs.is_unmap.take(row), left, mfn | np.uint64(FOREIGN))
        is_set = is_kind(chunk.kind.take(pos), Kind.SET_P2M)
        entry[is_set] = mfn[is_set]
        return cls(row, key, entry, is_set | (pairs.result.take(row) == int(Result.OK)), place)

    def from_pos(self, page: Slot, pos: Slot) -> Slot:
        """The place of the first row of each page slot at or after each position, all (q,).

        That of the next page, or (a,), where there is none.
        """
        found: Slot = np.searchsorted(self.key, self.place.take(page) << POS_BITS | pos)
        return found

    def entries_at(self, work: Work, page: Slot, pos: Slot) -> tuple[U64, Mask]:
        """The p2m entries of page slots at positions, and whether a share is live there.

        A mark shows on pages that had it before the chunk and are not written in it before.
        """
        column, place = work.tables.pages.column, self.place.take(page)
        before, was_mapped = column["p2m"].take(page), column["map_event"].take(page) != NO_EVENT
        wrote = np.flatnonzero(self.wrote)
        if not len(wrote):
            return before, was_mapped
        key = self.key.take(wrote)
        at = np.searchsorted(key, place << POS_BITS | pos) - 1
        here = (at >= 0) & (key.take(at, mode="wrap") >> POS_BITS == place)
        last = wrote.take(at, mode="wrap")
        return (np.where(here, self.entry.take(last), before),
                np.where(here, work.pairs.is_map.take(self.row.take(last)), was_mapped))
