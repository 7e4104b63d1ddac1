"""Runs of events that one run has at one place and the other at another."""

from __future__ import annotations

import numpy as np

from xenm2p.compare.anchors import Pairs, common_unique, counted, hashed_runs
from xenm2p.compare.stories import Index, Stories, stir
from xenm2p.trace import U64

# Lengths of the runs that are looked for; WHOLE: all that is left between what is paired.
WHOLE = 0
# The less of an event is compared, the longer a run must be to be no accident; where little
# is left, a short one is none either.
_LENGTHS = {"context": (WHOLE, 32, 8), "spacing": (WHOLE, 32), "around": (WHOLE, 32),
            "shape": (WHOLE,), "token": (WHOLE,)}
_LENGTHS_OF_FEW = {"context": (WHOLE, 8, 1), "spacing": (WHOLE, 8, 2, 1),
                   "around": (WHOLE, 8, 2, 1),
                   "shape": (WHOLE, 8, 2, 1), "token": (WHOLE, 8, 2, 1)}
_SHORTEST_WHOLE = {"context": 8, "spacing": 32, "around": 32, "shape": 32, "token": 32}
_FEW = 64


def moved_pairs(
    partner: Index, stories_a: Stories, stories_b: Stories, level: str
) -> Pairs:
    """Pairs of unpaired events: runs that occur once among all that is left of each run.

    `partner` has for each event of A its partner in B, -1 for none. `level` says how alike
    they must be (`Stories.tokens`).
    """
    tokens_a, tokens_b = stories_a.tokens(level), stories_b.tokens(level)
    partner = partner.copy()
    known = partner >= 0
    left_a, left_b = unpaired(partner, len(stories_b))
    are_few = max(len(left_a), len(left_b)) <= _FEW
    for length in (_LENGTHS_OF_FEW if are_few else _LENGTHS)[level]:
        if not len(left_a) or not len(left_b):
            break
        if length == WHOLE:
            shortest = 1 if are_few else _SHORTEST_WHOLE[level]
            found = _whole_runs(tokens_a, left_a, tokens_b, left_b, shortest)
        else:
            found = _equal_runs(tokens_a, left_a, tokens_b, left_b, length)
        _take(partner, *found)
        left_a, left_b = unpaired(partner, len(stories_b))
    new = np.flatnonzero((partner >= 0) & ~known)
    return new, partner[new]


def unpaired(partner: Index, length_b: int) -> Pairs:
    """The events of A and those of B that have no partner."""
    is_taken = np.zeros(length_b, bool)
    is_taken[partner[partner >= 0]] = True
    return np.flatnonzero(partner < 0), np.flatnonzero(~is_taken)


def stretches(at: Index) -> Index:
    """For each of ascending numbers which run of consecutive ones it is in."""
    breaks = np.zeros(len(at), np.int64)
    breaks[1:] = at[1:] != at[:-1] + 1
    return np.cumsum(breaks)


def _whole_runs(
    tokens_a: U64, left_a: Index, tokens_b: U64, left_b: Index, shortest: int
) -> Pairs:
    (key_a, begin_a, count_a), (key_b, begin_b, _b) = (
        _hashed_stretches(tokens[left], left)
        for tokens, left in ((tokens_a, left_a), (tokens_b, left_b)))
    rows_a, rows_b = common_unique(
        key_a, np.arange(len(key_a)), key_b, np.arange(len(key_b)))
    is_long = count_a[rows_a] >= shortest
    rows_a, rows_b = rows_a[is_long], rows_b[is_long]
    return (counted(left_a[begin_a[rows_a]], count_a[rows_a]),
            counted(left_b[begin_b[rows_b]], count_a[rows_a]))


def _hashed_stretches(tokens: U64, at: Index) -> tuple[U64, Index, Index]:
    """A hash of each run of consecutive numbers, where it begins and its length."""
    group = stretches(at)
    begin = np.flatnonzero(np.diff(group, prepend=-1))
    length = np.diff(np.append(begin, len(at)))
    place = (np.arange(len(at)) - begin[group]).astype(np.uint64)
    total = np.add.reduceat(stir(stir(tokens) + stir(place)), begin)
    return stir(total + length.astype(np.uint64)), begin, length


def _equal_runs(
    tokens_a: U64, left_a: Index, tokens_b: U64, left_b: Index, length: int
) -> Pairs:
    # A run stays within one stretch, but may be in any: the stretch is no part of the hash.
    runs_a, runs_b = (
        hashed_runs(tokens[left], stretches(left), length, within_gap_only=False)
        for tokens, left in ((tokens_a, left_a), (tokens_b, left_b)))
    begin_a, begin_b = common_unique(*runs_a, *runs_b)
    count = np.full(len(begin_a), length)
    return counted(left_a[begin_a], count), counted(left_b[begin_b], count)


def _take(partner: Index, a: Index, b: Index) -> None:
    """Note these pairs; of those that would use an event twice, the first."""
    _, first = np.unique(a, return_index=True)
    a, b = a[first], b[first]
    _, first = np.unique(b, return_index=True)
    partner[a[first]] = b[first]
