"""How the shares of two runs differ: how long they live, how many at once, in which order
they are released."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.compare.alignment import Alignment, Run
from xenm2p.compare.anchors import longest_increasing
from xenm2p.compare.stories import Index, Stories
from xenm2p.trace import I64, Events, Kind


@dataclass(frozen=True, slots=True)
class Shares:
    """The shares of one run by their successful maps, in order: rows of its events.

    `released` is the row of the unmap, -1 where none is seen; `life` the time between in
    ns (of those released).
    """

    mapped: Index
    released: Index
    life: I64

    @classmethod
    def of(cls, events: Events) -> Shares:
        """The shares: a map, and the first unmap of its page after it."""
        opener = Stories.of(events).opener
        unmaps = np.flatnonzero(events.kind == Kind.UNMAP)
        mapped = np.flatnonzero((events.kind == Kind.MAP) & (events.status == 0))
        released = np.full(len(events), -1, np.int64)
        released[opener[unmaps[::-1]]] = unmaps[::-1]
        released = released[mapped]
        ended = released >= 0
        life = events.time[released[ended]] - events.time[mapped[ended]]
        return cls(mapped, released, life)

    def most_at_once(self) -> int:
        """How many are live at once, at most."""
        changes = np.zeros(int(max(self.mapped.max(initial=0), self.released.max(initial=0))) + 2,
                           np.int64)
        np.add.at(changes, self.mapped, 1)
        np.add.at(changes, self.released[self.released >= 0], -1)
        return int(np.cumsum(changes).max(initial=0))

    def most_of_one_frame(self, events: Events) -> int:
        """How many shares of one frame are live at once, at most."""
        frame = events.mfn[self.mapped]
        ended = self.released >= 0
        frames = np.concatenate([frame, frame[ended]])
        at = np.concatenate([self.mapped, self.released[ended]])
        step = np.concatenate([np.ones(len(frame), np.int64), -np.ones(int(ended.sum()), int)])
        order = np.lexsort((at, frames))
        total = np.cumsum(step[order])
        begins = np.ones(len(order), bool)
        begins[1:] = frames[order][1:] != frames[order][:-1]
        before = np.where(begins, total - step[order], 0)
        base = before[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        return int((total - base).max(initial=0))


@dataclass(frozen=True, slots=True)
class SharePairs:
    """Shares that both runs have: rows of their maps and unmaps, in the order of A's maps.

    `reordered`: how many of those released in both are released in another order.
    """

    a: Shares
    b: Shares
    both: int
    reordered: int

    @classmethod
    def of(cls, a: Run, b: Run, alignment: Alignment) -> SharePairs:
        """The shares of two aligned runs."""
        shares_a, shares_b = Shares.of(a.events), Shares.of(b.events)
        partner = np.full(len(a), -1, np.int64)
        partner[alignment.a] = alignment.b
        released_b = np.full(len(b), -1, np.int64)
        is_share = np.zeros(len(b), bool)
        is_share[shares_b.mapped] = True
        released_b[shares_b.mapped] = shares_b.released
        target = partner[shares_a.mapped]
        both = (target >= 0) & is_share[target]
        ends_a, ends_b = shares_a.released[both], released_b[target[both]]
        ended = (ends_a >= 0) & (ends_b >= 0)
        order = np.argsort(ends_a[ended])
        in_b = ends_b[ended][order]
        return cls(shares_a, shares_b, int(both.sum()),
                   len(in_b) - len(longest_increasing(in_b)))
