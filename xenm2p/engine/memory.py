"""The p2m and m2p before the first event, for frames asked one at a time or as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.engine.order import distinct
from xenm2p.trace import FOREIGN, IDENTITY, INVALID, U64, Runs, Trace


def p2m_rows(trace: Trace) -> list[tuple[int, int, int]]:
    """(pfn, entry, count) rows of the initial p2m; later rows win."""
    return trace.memory.tuples()


def m2p_rows(trace: Trace) -> list[tuple[int, int, int]]:
    """(mfn, pfn, count) rows of the initial m2p; later rows win.

    A memory row of plain frames names their owner too; F:, I: and invalid rows do not.
    """
    owned = [
        (entry, pfn, count)
        for pfn, entry, count in trace.memory.tuples()
        if entry != INVALID and not entry & (FOREIGN | IDENTITY)
    ]
    return owned + trace.m2p.tuples()


def entry_in(rows: list[tuple[int, int, int]], index: int) -> int:
    """The entry `index` of a table given as rows, INVALID where no row covers it."""
    for start, value, count in reversed(rows):
        if start <= index < start + count:
            return value if value == INVALID else value + index - start
    return INVALID


@dataclass(frozen=True, slots=True)
class Intervals:
    """Rows made disjoint and sorted, so that one binary search finds an entry.

    start (m,) uint64 ascending, value (m,) and step (m,): entry i of [start[k],
    start[k+1]) is value[k] + (i - start[k]) * step[k].
    """

    start: U64
    value: U64
    step: U64

    @classmethod
    def of(cls, rows: list[tuple[int, int, int]]) -> Intervals:
        """Cut overlapping rows at each other's borders, the latest row on top."""
        if not rows:
            zero = np.zeros(1, np.uint64)
            return cls(zero, zero + np.uint64(INVALID), zero)
        table = Runs.of(rows)
        end = table.start + table.count
        borders = distinct(np.concatenate([np.zeros(1, np.uint64), table.start, end]))
        # Paint from the first row to the last: what a later row covers, it overwrites.
        painter = np.full(len(borders), -1, np.int64)
        first = np.searchsorted(borders, table.start)
        last = np.searchsorted(borders, end)
        if np.all(table.start[1:] >= end[:-1]):  # disjoint and sorted, as dumps are
            painter[first] = np.arange(len(rows))
        else:
            for row, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
                painter[a:b] = row
        covered = painter >= 0
        row_of = np.where(covered, painter, 0)
        value = table.value[row_of]
        step = (covered & (value != np.uint64(INVALID))).astype(np.uint64)
        value = np.where(covered, value, np.uint64(INVALID))
        return cls(borders, value + (borders - table.start[row_of]) * step, step)

    def entries(self, index: U64) -> U64:
        """The entries at `index`, any shape, uint64."""
        k = np.searchsorted(self.start, index, side="right") - 1
        return self.value[k] + (index - self.start[k]) * self.step[k]
