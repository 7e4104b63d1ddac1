"""Which events of one run are which of another, in near-linear time.

Stories (shares, locks, grants) are matched first, each kind of opening event in its own
order: that order is the workload's, while how the kinds interleave is the processors'.
What follows an opening event goes where the opening event went. What is left is matched by
where it stands. Then the longest run of pairs in the same order is what stayed; the other
pairs have moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.compare.anchors import (
    Matching,
    Pairs,
    common_unique,
    equal_pairs,
    longest_increasing,
)
from xenm2p.compare.ends import common_ends, one_move, place_of_gap
from xenm2p.compare.lanes import Lanes, Side
from xenm2p.compare.moves import moved_pairs
from xenm2p.compare.stories import LEVELS, RUNS, STRICT, Index, Mask, Stories, stir
from xenm2p.trace import I64, U64, Events, Trace

_FOLLOWERS = 8  # events alike in one story that are tried in all pairings
# Both ends of the streams stay as they are found when so little is left between.
_SMALL_MIDDLE = 1 << 10


@dataclass(frozen=True, slots=True)
class Run:
    """One of the two runs: its events, and the trace they are of.

    `numbers` are the events' numbers in the trace where some are left out, else None.
    """

    trace: Trace
    events: Events
    numbers: I64 | None = None

    def __len__(self) -> int:
        return len(self.events)

    def number(self, row: int) -> int:
        """The number in the trace of the event at `row`."""
        return row if self.numbers is None else int(self.numbers[row])


@dataclass(frozen=True, slots=True)
class Alignment:
    """Pairs of events, ascending in A; `moved` are those in another order in B.

    What is in no pair is in one run only.
    """

    a: Index
    b: Index
    moved: Mask

    @classmethod
    def of_pairs(cls, pairs: Pairs) -> Alignment:
        """Find what stayed in order."""
        a, b = pairs
        moved = np.ones(len(a), bool)
        moved[longest_increasing(b)] = False
        return cls(a, b, moved)


def align(a: Run, b: Run) -> Alignment:
    """Align two runs. Time is near-linear, memory some 300 bytes an event of both."""
    first, last = common_ends(a.events, a.trace.domain, b.events, b.trace.domain)
    shorter = min(len(a), len(b))
    if first + last >= shorter:
        pairs = _one_gap(a.events, b.events, first, last)
        return Alignment(*pairs, np.zeros(shorter, bool))
    if (moved := one_move(a.events, b.events, first, last)) is not None:
        return Alignment.of_pairs(moved)
    middle = max(len(a), len(b)) - first - last
    if middle > min(_SMALL_MIDDLE, shorter // 2):
        first = last = 0
    return _align_stories(a, b, first, last)


def _one_gap(a: Events, b: Events, first: int, last: int) -> Pairs:
    """The pairs where one run is the other but for one stretch, or is the same."""
    if len(a) < len(b):
        pairs_b, pairs_a = _one_gap(b, a, first, last)
        return pairs_a, pairs_b
    begin, end = len(b) - last, min(first, len(b))
    place = end if len(a) == len(b) else place_of_gap(a, b, begin, end)
    in_b = np.arange(len(b))
    return in_b + (in_b >= place) * (len(a) - len(b)), in_b


def _align_stories(a: Run, b: Run, first: int, last: int) -> Alignment:
    stories_a, stories_b = Stories.of(a.events), Stories.of(b.events)
    partner = np.full(len(a), -1, np.int64)
    partner[:first] = np.arange(first)
    if last:
        partner[len(a) - last:] = np.arange(len(b) - last, len(b))
    lanes = Lanes.of(Side(a.events, stories_a, a.trace.domain),
                     Side(b.events, stories_b, b.trace.domain))
    _pair_between(partner, stories_a, stories_b, STRICT)
    lanes.pair(partner, last=False)
    _part_stories(partner, stories_a, stories_b)
    _pair_followers(partner, stories_a, stories_b)
    _pair_between(partner, stories_a, stories_b, LEVELS[1:])
    lanes.pair(partner, last=True)
    _pair_followers(partner, stories_a, stories_b)
    _pair_moved(partner, stories_a, stories_b)
    _pair_between(partner, stories_a, stories_b, ("kind",))
    _pair_followers(partner, stories_a, stories_b)
    return Alignment.of_pairs(_pairs(partner))


def _pairs(partner: Index) -> Pairs:
    in_a = np.flatnonzero(partner >= 0)
    return in_a, partner[in_a]


def _pair_followers(partner: Index, stories_a: Stories, stories_b: Stories) -> None:
    """Pair the events of paired stories, those alike in one story in the best order."""
    follows_a = np.flatnonzero((partner[stories_a.opener] >= 0) & (partner < 0))
    is_taken = np.zeros(len(stories_b), bool)
    is_taken[partner[partner >= 0]] = True
    opener_of = np.full(len(stories_b), -1, np.int64)
    paired = np.flatnonzero(partner >= 0)
    opener_of[partner[paired]] = paired
    in_a = opener_of[stories_b.opener]
    follows_b = np.flatnonzero((in_a >= 0) & ~is_taken)
    key_a = stir(stories_a.opener[follows_a].astype(np.uint64)) + stories_a.token[follows_a]
    key_b = stir(in_a[follows_b].astype(np.uint64)) + stories_b.token[follows_b]
    rank_a, rank_b = _ranks(key_a), _ranks(key_b)
    at_a, at_b = common_unique(stir(key_a + stir(rank_a)), follows_a,
                               stir(key_b + stir(rank_b)), follows_b)
    partner[at_a] = at_b
    _reconsider(partner, (key_a, follows_a), (key_b, follows_b))


def _ranks(key: U64) -> U64:
    """How many equal keys stand before each."""
    order = np.argsort(key, kind="stable")
    begins = np.ones(len(key), bool)
    begins[1:] = key[order][1:] != key[order][:-1]
    place = np.arange(len(key))
    rank = np.zeros(len(key), np.uint64)
    rank[order] = (place - np.maximum.accumulate(np.where(begins, place, 0))).astype(np.uint64)
    return rank


def _reconsider(partner: Index, side_a: tuple[U64, Index], side_b: tuple[U64, Index]) -> None:
    """Pair anew what is alike in one story but of which the runs have not equally many.

    Of these the ones that are in the order of all the others belong together.
    """
    (key_a, at_a), (key_b, at_b) = side_a, side_b
    keys, count_a = np.unique(key_a, return_counts=True)
    keys_b, count_b = np.unique(key_b, return_counts=True)
    common, in_a, in_b = np.intersect1d(keys, keys_b, assume_unique=True, return_indices=True)
    few = (count_a[in_a] <= _FOLLOWERS) & (count_b[in_b] <= _FOLLOWERS)
    unsure = common[few & (count_a[in_a] != count_b[in_b])]
    if not len(unsure):
        return
    chosen_a, chosen_b = np.isin(key_a, unsure), np.isin(key_b, unsure)
    at_a, at_b = at_a[chosen_a], at_b[chosen_b]
    tried = equal_pairs(key_a[chosen_a], key_b[chosen_b], np.zeros(len(at_a), np.int64))
    before = partner[at_a].copy()
    partner[at_a] = -1
    sure_a, sure_b = _pairs(partner)
    all_a = np.concatenate([sure_a, at_a[tried[0]]])
    all_b = np.concatenate([sure_b, at_b[tried[1]]])
    order = np.lexsort((-all_b, all_a))
    in_order = order[longest_increasing(all_b[order])]
    in_order = in_order[in_order >= len(sure_a)]
    partner[all_a[in_order]] = all_b[in_order]
    # The others keep what they had, where that is free.
    keeps = (partner[at_a] < 0) & ~np.isin(before, partner[partner >= 0])
    partner[at_a[keeps]] = before[keeps]


def _pair_between(
    partner: Index, stories_a: Stories, stories_b: Stories, levels: tuple[str, ...]
) -> None:
    """Pair what is left between the pairs that are in order, by what it is."""
    in_a, in_b = _pairs(partner)
    kept = longest_increasing(in_b)
    is_taken = np.zeros(len(stories_b), bool)
    is_taken[in_b] = True
    # What has moved is no part of the gaps.
    in_gaps_a, in_gaps_b = partner < 0, ~is_taken
    in_gaps_a[in_a[kept]] = in_gaps_b[in_b[kept]] = True
    rest_a, rest_b = np.flatnonzero(in_gaps_a), np.flatnonzero(in_gaps_b)
    matching = Matching(np.searchsorted(rest_a, in_a[kept]), np.searchsorted(rest_b, in_b[kept]),
                        len(rest_a), len(rest_b))
    for level in levels:
        token_a, token_b = stories_a.tokens(level)[rest_a], stories_b.tokens(level)[rest_b]
        for run in RUNS if level != "kind" else (1,):
            matching.refine(token_a, token_b, run)
    if levels[-1] == LEVELS[-1]:
        matching.exhaust(token_a, token_b)
    partner[rest_a[matching.a]] = rest_b[matching.b]


def _part_stories(partner: Index, stories_a: Stories, stories_b: Stories) -> None:
    """Give up pairs of events whose stories both belong to others."""
    in_a, in_b = _pairs(partner)
    has_opener = np.zeros(len(stories_b), bool)
    has_opener[in_b] = True
    open_a, open_b = stories_a.opener[in_a], stories_b.opener[in_b]
    is_wrong = (partner[open_a] >= 0) & (partner[open_a] != open_b) & has_opener[open_b]
    partner[in_a[is_wrong]] = -1


def _pair_moved(partner: Index, stories_a: Stories, stories_b: Stories) -> None:
    """Pair what is missing at one place and there at another, and what follows it."""
    for level in LEVELS:
        a, b = moved_pairs(partner, stories_a, stories_b, level)
        partner[a] = b
        _pair_followers(partner, stories_a, stories_b)
