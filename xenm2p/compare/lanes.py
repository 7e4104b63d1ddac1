"""Opening events in lanes: each kind in its own order, maps and grants by domain.

In what order maps come is the workload's doing; how they interleave with unmaps and grants
is that of the processors. So a lane may stay the same where the stream does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.compare.anchors import Matching, Pairs, longest_increasing
from xenm2p.compare.stories import LEVELS, RUNS, Index, Stories
from xenm2p.trace import NO_DOMID, Column, Events, Kind


@dataclass(frozen=True, slots=True)
class Side:
    """One run's events, their stories, and the domain the trace is of."""

    events: Events
    stories: Stories
    domain: int

    def __len__(self) -> int:
        return len(self.events)


@dataclass(frozen=True, slots=True)
class Lanes:
    """The opening events of two runs, lane after lane, -1 before the first of each.

    at_a, at_b: event numbers. marks_a, marks_b: where each lane's -1 stands.
    """

    a: Side
    b: Side
    at_a: Index
    marks_a: Index
    at_b: Index
    marks_b: Index

    @classmethod
    def of(cls, a: Side, b: Side) -> Lanes:
        """The lanes that both runs have."""
        renamed = dict(zip(_first_met(b), _first_met(a), strict=False))
        at_a, lane_a = _by_lane(a, {domid: domid for domid in _first_met(a)})
        at_b, lane_b = _by_lane(b, renamed)
        lanes = np.intersect1d(lane_a, lane_b)
        return cls(a, b, *_marked(at_a, lane_a, lanes), *_marked(at_b, lane_b, lanes))

    def pair(self, partner: Index, *, last: bool) -> None:
        """Note in `partner` which opening events belong together.

        Pairs that are there stay, unless they cross, or a lane fits better without them.
        `last`: also pair those that nothing but their place in the lane tells apart.
        """
        seed = self._known(partner)
        if not last:
            self._free(partner, self._badly_seeded(seed))
            seed = self._known(partner)
        free_a, free_b = self.at_a >= 0, self.at_b >= 0
        free_a[seed[0]] = free_b[seed[1]] = False
        partner[self.at_a[free_a]] = -1
        partner[np.isin(partner, self.at_b[free_b])] = -1
        found = self._match(seed, last=last)
        is_event = self.at_a[found.a] >= 0
        partner[self.at_a[found.a[is_event]]] = self.at_b[found.b[is_event]]

    def _match(self, seed: Pairs, *, last: bool) -> Matching:
        matching = Matching(np.sort(np.append(self.marks_a, seed[0])),
                            np.sort(np.append(self.marks_b, seed[1])),
                            len(self.at_a), len(self.at_b))
        for level in LEVELS:
            token_a, token_b = (
                np.where(at >= 0, side.stories.tokens(level)[at], np.uint64(0))
                for side, at in ((self.a, self.at_a), (self.b, self.at_b)))
            for run in RUNS if last or level != LEVELS[-1] else RUNS[:2]:
                matching.refine(token_a, token_b, run)
        if last:
            matching.exhaust(token_a, token_b)
        return matching

    def _known(self, partner: Index) -> Pairs:
        """The pairs there are, as places in the lanes, without those that cross."""
        place_b = np.full(len(self.b), -1, np.int64)
        is_event = self.at_b >= 0
        place_b[self.at_b[is_event]] = np.flatnonzero(is_event)
        known = np.flatnonzero((self.at_a >= 0) & (partner[self.at_a] >= 0))
        target = place_b[partner[self.at_a[known]]]
        known, target = known[target >= 0], target[target >= 0]
        kept = longest_increasing(target)
        return known[kept], target[kept]

    def _badly_seeded(self, seed: Pairs) -> Index:
        """The lanes that would pair better if the pairs there are were given up.

        That is: for every two pairs given up or changed, an event more finds a partner.
        """
        size_a, size_b = self._sizes(np.arange(len(self.at_a)), np.arange(len(self.at_b)))
        with_seed = self._match(seed, last=True)
        paired_with, _ = self._sizes(with_seed.a, with_seed.b)
        if (paired_with == np.minimum(size_a, size_b)).all():
            return np.zeros(0, np.int64)
        nothing = np.zeros(0, np.int64)
        without = self._match((nothing, nothing), last=True)
        paired_without, _ = self._sizes(without.a, without.b)
        kept = np.isin(seed[0] * len(self.at_b) + seed[1],
                       without.a * len(self.at_b) + without.b)
        changed, _ = self._sizes(seed[0][~kept], seed[1][~kept])
        gained = paired_without - paired_with
        return np.flatnonzero((gained > 0) & (2 * gained >= changed))

    def _sizes(self, *places: Index) -> list[Index]:
        """How many of the places, of A and then of B, are in each lane."""
        return [np.bincount(np.searchsorted(marks, place, side="right") - 1,
                            minlength=len(marks))
                for place, marks in zip(places, (self.marks_a, self.marks_b), strict=False)]

    def _free(self, partner: Index, lanes: Index) -> None:
        lane = np.searchsorted(self.marks_a, np.arange(len(self.at_a)), side="right") - 1
        freed = self.at_a[np.isin(lane, lanes)]
        partner[freed[freed >= 0]] = -1


def _by_lane(side: Side, renamed: dict[int, int]) -> Pairs:
    """The opening events ordered by lane, and the lane of each."""
    at = np.flatnonzero(side.stories.opener == np.arange(len(side)))
    codes = np.zeros(1 << 16, np.int64)
    codes[list(renamed)] = np.array(list(renamed.values()), np.int64) + 1
    kind = side.events.kind[at].astype(np.int64)
    has_domain = (kind == Kind.MAP) | (kind == Kind.GRANT)
    lane = kind << 20 | np.where(has_domain, codes[side.events.domid[at]], 0)
    order = np.argsort(lane, kind="stable")
    return at[order], lane[order]


def _first_met(side: Side) -> list[int]:
    """The other domains, in the order in which they are met."""
    domid: Column = side.events.domid
    domids, first = np.unique(domid[(domid != NO_DOMID) & (domid != side.domain)],
                              return_index=True)
    return [int(each) for each in domids[np.argsort(first)]]


def _marked(at: Index, lane: Index, lanes: Index) -> Pairs:
    """The events of `lanes` with a -1 before each lane, and where these stand."""
    chosen = np.isin(lane, lanes)
    at, lane = at[chosen], lane[chosen]
    begins = np.searchsorted(lane, lanes)
    return np.insert(at, begins, -1), begins + np.arange(len(lanes))
