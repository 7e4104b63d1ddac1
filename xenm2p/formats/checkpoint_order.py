"""Rows in the order of their pages or frames, for `checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xenm2p.trace import FOREIGN, I64, IDENTITY, INVALID, U64, Column, Runs, Trace

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Order:
    """Some rows sorted by a key, rows of one key in their own order.

    rows (m,): row numbers; is_first (m,): first of its key; before (m,): position of the
    row before (itself where it is the first); group (m,): index into keys (k,).
    """

    rows: I64
    is_first: Mask
    before: I64
    group: I64
    keys: U64

    @classmethod
    def of(cls, key: Column, which: Mask) -> Order:
        """The rows in the mask `which`, sorted by the column `key`."""
        rows = np.flatnonzero(which)
        rows = rows[stable_order(key[rows])]
        sorted_key = key[rows]
        is_first = np.ones(len(rows), np.bool_)
        is_first[1:] = sorted_key[1:] != sorted_key[:-1]
        position = np.arange(len(rows))
        return cls(rows, is_first, np.where(is_first, position, position - 1),
                   np.cumsum(is_first) - 1, sorted_key[is_first])

    def any(self, mask: Mask) -> Mask:
        """For each key whether any of its rows is in `mask` (m,)."""
        found = np.zeros(len(self.keys), np.bool_)
        found[self.group[mask]] = True
        return found

    def last_before(self, mask: Mask) -> I64:
        """For each row the row number of the last one before it of its key that is in
        `mask` (m,), -1 where there is none."""
        position = np.arange(len(self.rows))
        at = np.maximum.accumulate(np.where(mask, position, -1))
        at = np.concatenate([[-1], at[:-1]]) if len(at) else at
        start = np.flatnonzero(self.is_first)[self.group]
        return np.where(at >= start, self.rows[at], -1)


def stable_order(key: Column) -> I64:
    """The argsort of integers that leaves equal ones in order.

    numpy sorts 16-bit integers by radix, several times as fast as others; pages and frames
    of one trace mostly lie within 32 bits of each other, which is two such sorts.
    """
    if not len(key):
        return np.zeros(0, np.int64)
    least = key.min()
    spread = int(key.max()) - int(least)
    if spread >= 1 << 32:
        return np.argsort(key, kind="stable")
    offset = (key - least).astype(np.uint32)
    order: I64 = np.argsort(offset.astype(np.uint16), kind="stable")
    if spread >= 1 << 16:
        high = (offset >> np.uint32(16)).astype(np.uint16)
        order = order[np.argsort(high[order], kind="stable")]
    return order


def member(values: Column, known: Column) -> Mask:
    """For each of `values` whether it is among `known`."""
    if not len(known) or not len(values):
        return np.zeros(len(values), np.bool_)
    return np.isin(values, np.unique(known))


def last_of_each(key: Column) -> Mask:
    """For each entry whether no later one has its key."""
    order = stable_order(key)
    in_order = key[order]
    mask = np.zeros(len(key), np.bool_)
    mask[order[:-1][in_order[1:] != in_order[:-1]]] = True
    mask[order[-1:]] = True
    return mask


def any_between(
    key: Column, row: I64, wanted: Column, after: I64, before: I64, rows: int
) -> Mask:
    """For each of `wanted` whether a row of that key lies strictly between two rows.

    key, row (k,): the rows to look for, row ascending and below `rows`; wanted, after,
    before (m,): what is asked.
    """
    if not len(key) or not len(wanted):
        return np.zeros(len(wanted), np.bool_)
    keys, group = np.unique(key, return_inverse=True)
    span = np.int64(rows + 1)
    place = np.sort(group.astype(np.int64) * span + row)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    first = np.searchsorted(place, at * span + after, side="right")
    end = np.searchsorted(place, at * span + before, side="left")
    is_between: Mask = (keys[at] == wanted) & (end > first)
    return is_between


@dataclass(frozen=True, slots=True)
class Initial:
    """A table before the first event; later layers win, and later runs within a layer."""

    layers: tuple[Runs, ...]

    @classmethod
    def p2m(cls, trace: Trace) -> Initial:
        return cls((_sorted(trace.memory),))

    @classmethod
    def m2p(cls, trace: Trace) -> Initial:
        """Owners of frames: plain rows of memory give them too."""
        memory = trace.memory
        bits = np.uint64(FOREIGN | IDENTITY)  # INVALID has them
        plain = memory.value & bits == 0
        owned = Runs(memory.value[plain], memory.start[plain], memory.count[plain])
        return cls((_sorted(owned), _sorted(trace.m2p)))

    def entries(self, index: Column) -> U64:
        """The entries at `index` (n,) uint64, INVALID where no run covers it."""
        found = np.full(len(index), INVALID, np.uint64)
        for runs in self.layers:
            if len(runs) == 0:
                continue
            if _is_disjoint(runs):
                k = np.searchsorted(runs.start, index, side="right") - 1
                self._fill(found, index, runs, np.maximum(k, 0), k >= 0)
            else:
                for row in range(len(runs)):
                    self._fill(found, index, runs, np.full(len(index), row),
                               index >= runs.start[row])
        return found

    @staticmethod
    def _fill(found: U64, index: Column, runs: Runs, k: Any, starts: Mask) -> None:
        offset = index - runs.start[k]
        covered = starts & (offset < runs.count[k])
        value = runs.value[k]
        entry = np.where(value == np.uint64(INVALID), value, value + offset)
        found[covered] = entry[covered]


def _is_disjoint(runs: Runs) -> bool:
    return bool(np.all(runs.start[1:] >= runs.start[:-1] + runs.count[:-1]))


def _sorted(runs: Runs) -> Runs:
    """The runs by start where none overlaps, else as they are."""
    order = np.argsort(runs.start, kind="stable")
    in_order = Runs(runs.start[order], runs.value[order], runs.count[order])
    return in_order if _is_disjoint(in_order) else runs
