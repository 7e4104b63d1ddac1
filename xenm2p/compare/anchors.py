"""Which elements of two sequences belong together: unique runs first, then what is between.

The patience idea: what occurs once in both is an anchor; the longest set of anchors in the
same order stays, and each gap between two anchors is a smaller problem of the same sort.
All gaps are worked on at once, so that the whole is a few sorts however many there are.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from xenm2p.compare.stories import Index, Mask, stir
from xenm2p.trace import U64

_BASE = np.uint64(0x2545F4914F6CDD1D)
# Exhaustive matching of a gap: so many pairs of equal elements at most, in one and in all.
_GAP_PAIRS = 1 << 14
_ALL_PAIRS = 1 << 21
_STEPS = 64  # steps of all gaps at once before each is extended for itself

Pairs = tuple[Index, Index]  # element of A and element of B, ascending in A


@dataclass(slots=True)
class Matching:
    """A matching of two sequences that never crosses: `a[k]` with `b[k]`, both ascending."""

    a: Index
    b: Index
    length_a: int
    length_b: int

    def refine(self, token_a: U64, token_b: U64, run: int) -> None:
        """Match what is left: runs of `run` tokens, a power of 2, that a gap has once."""
        left_a, left_b, gap_a, gap_b = self._left()
        if not len(left_a) or not len(left_b):
            return
        found_a, found_b = common_unique(
            *hashed_runs(token_a[left_a], gap_a, run),
            *hashed_runs(token_b[left_b], gap_b, run))
        self._add(left_a[found_a], left_b[found_b])
        self._extend(token_a, token_b)

    def exhaust(self, token_a: U64, token_b: U64) -> None:
        """Match the longest common subsequence of each gap that is small enough for it."""
        left_a, left_b, gap_a, gap_b = self._left()
        if not len(left_a) or not len(left_b):
            return
        key_a = stir(token_a[left_a] + stir(gap_a.astype(np.uint64)))
        key_b = stir(token_b[left_b] + stir(gap_b.astype(np.uint64)))
        at_a, at_b = equal_pairs(key_a, key_b, gap_a)
        self._add(left_a[at_a], left_b[at_b])
        self._extend(token_a, token_b)

    def _left(self) -> tuple[Index, Index, Index, Index]:
        """The unmatched elements of gaps that have some on both sides, and their gaps."""
        left_a, gap_a = _unmatched(self.a, self.length_a)
        left_b, gap_b = _unmatched(self.b, self.length_b)
        gaps = len(self.a) + 1
        both = ((np.bincount(gap_a, minlength=gaps) > 0)
                & (np.bincount(gap_b, minlength=gaps) > 0))
        in_a, in_b = both[gap_a], both[gap_b]
        return left_a[in_a], left_b[in_b], gap_a[in_a], gap_b[in_b]

    def _add(self, more_a: Index, more_b: Index) -> None:
        """Take in the most of these pairs (ordered by A, then B descending) that do not cross."""
        kept = longest_increasing(more_b)
        self._join(more_a[kept], more_b[kept])

    def _join(self, more_a: Index, more_b: Index) -> None:
        if len(more_a):
            self.a = np.sort(np.concatenate([self.a, more_a]))
            self.b = np.sort(np.concatenate([self.b, more_b]))

    def _extend(self, token_a: U64, token_b: U64) -> None:
        """Extend every matched run forwards, then backwards, while the tokens are equal."""
        ends = np.append(self.a, self.length_a), np.append(self.b, self.length_b)
        starts = np.append(-1, self.a), np.append(-1, self.b)
        room = np.minimum(ends[0] - starts[0], ends[1] - starts[1]) - 1
        is_open = room > 0
        begin = starts[0][is_open] + 1, starts[1][is_open] + 1
        last = ends[0][is_open] - 1, ends[1][is_open] - 1
        room = room[is_open]
        forward = _alike(token_a, token_b, begin, room, 1)
        backward = _alike(token_a, token_b, last, room - forward, -1)
        more = [np.concatenate([counted(begin[side], forward),
                                counted(last[side] - backward + 1, backward)])
                for side in (0, 1)]
        self._join(more[0], more[1])


def _unmatched(matched: Index, length: int) -> Pairs:
    """The elements that are not matched, and after how many matched ones each stands."""
    is_matched = np.zeros(length, bool)
    is_matched[matched] = True
    left = np.flatnonzero(~is_matched)
    return left, np.cumsum(is_matched)[left]


def hashed_runs(
    tokens: U64, gap: Index, run: int, *, within_gap_only: bool = True
) -> tuple[U64, Index]:
    """Hashes of all runs of `run` tokens within one gap, and where each begins.

    `within_gap_only`: runs of different gaps have different hashes.
    """
    if len(tokens) < run:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    hashed, size, factor = stir(tokens), 1, _BASE
    while size < run:
        hashed = hashed[:-size] * factor + hashed[size:]
        with np.errstate(over="ignore"):
            factor = factor * factor
        size *= 2
    within = gap[: len(hashed)] == gap[run - 1:]
    at = np.flatnonzero(within)
    if not within_gap_only:
        return hashed[at], at
    return stir(hashed[at] + stir(gap[at].astype(np.uint64))), at


def common_unique(key_a: U64, at_a: Index, key_b: U64, at_b: Index) -> Pairs:
    """Where the keys that both have exactly once stand, ascending in A."""
    order_a, order_b = np.argsort(key_a, kind="stable"), np.argsort(key_b, kind="stable")
    sorted_a, sorted_b = key_a[order_a], key_b[order_b]
    once_a, once_b = _is_single(sorted_a), _is_single(sorted_b)
    _, in_a, in_b = np.intersect1d(
        sorted_a[once_a], sorted_b[once_b], assume_unique=True, return_indices=True)
    found_a = at_a[order_a[once_a][in_a]]
    found_b = at_b[order_b[once_b][in_b]]
    order = np.argsort(found_a)
    return found_a[order], found_b[order]


def _is_single(ascending: U64) -> Mask:
    """Which values of a sorted array occur once."""
    single = np.ones(len(ascending), bool)
    if len(ascending) > 1:
        repeats = ascending[1:] == ascending[:-1]
        single[1:] &= ~repeats
        single[:-1] &= ~repeats
    return single


def equal_pairs(key_a: U64, key_b: U64, gap_a: Index) -> Pairs:
    """All pairs of equal keys, in order of A and then of B descending.

    Gaps that would give too many are left out, the largest first.
    """
    order = np.argsort(key_b, kind="stable")
    ascending = key_b[order]
    first = np.searchsorted(ascending, key_a, side="left")
    count = np.searchsorted(ascending, key_a, side="right") - first
    per_gap = np.bincount(gap_a, weights=count).astype(np.int64)
    size = np.sort(per_gap)
    affordable = size[np.cumsum(size) <= _ALL_PAIRS]
    limit = min(_GAP_PAIRS, int(affordable[-1]) if len(affordable) else 0)
    count[per_gap[gap_a] > limit] = 0
    at_a = np.repeat(np.arange(len(key_a)), count)
    # Each element's equals, counted down from the last.
    step = np.arange(len(at_a)) - np.repeat(np.cumsum(count) - count, count)
    at_b = order[np.repeat(first + count - 1, count) - step]
    return at_a, at_b


def longest_increasing(values: Index) -> Index:
    """The indices of one longest strictly increasing subsequence, ascending."""
    if len(values) < 2 or bool((values[1:] > values[:-1]).all()):
        return np.arange(len(values))
    # Patience sorting: tails[k] is the smallest value that ends a subsequence of k + 1.
    tails: list[int] = []
    ends: list[int] = []
    before = [-1] * len(values)
    for index, value in enumerate(values.tolist()):
        if not tails or value > tails[-1]:
            place = len(tails)
            tails.append(value)
            ends.append(index)
        else:
            place = bisect_left(tails, value)
            tails[place] = value
            ends[place] = index
        if place:
            before[index] = ends[place - 1]
    chosen = np.empty(len(tails), np.int64)
    index = ends[-1]
    for place in range(len(tails) - 1, -1, -1):
        chosen[place] = index
        index = before[index]
    return chosen


def _alike(token_a: U64, token_b: U64, begin: Pairs, room: Index, step: int) -> Index:
    """How many tokens in a row are equal from each pair of places on, at most `room`."""
    length = np.zeros(len(room), np.int64)
    active = np.flatnonzero(room > 0)
    for _ in range(_STEPS):
        if not len(active):
            return length
        offset = length[active] * step
        equal = token_a[begin[0][active] + offset] == token_b[begin[1][active] + offset]
        active = active[equal]
        length[active] += 1
        active = active[length[active] < room[active]]
    for row in active.tolist():
        length[row] += _alike_from(
            token_a, token_b, int(begin[0][row] + length[row] * step),
            int(begin[1][row] + length[row] * step), int(room[row] - length[row]), step)
    return length


def _alike_from(token_a: U64, token_b: U64, a: int, b: int, room: int, step: int) -> int:
    done, piece = 0, _STEPS
    while done < room:
        size = min(piece, room - done)
        if step > 0:
            unlike = token_a[a + done:a + done + size] != token_b[b + done:b + done + size]
        else:
            low_a, low_b = a - done - size + 1, b - done - size + 1
            unlike = (token_a[low_a:low_a + size] != token_b[low_b:low_b + size])[::-1]
        if unlike.any():
            return done + int(unlike.argmax())
        done += size
        piece *= 2
    return done


def counted(begin: Index, count: Index) -> Index:
    """All numbers of the runs: begin[0], begin[0] + 1, ... (count[0] of them), begin[1], ..."""
    total = int(count.sum())
    return np.repeat(begin - (np.cumsum(count) - count), count) + np.arange(total)
