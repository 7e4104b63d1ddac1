"""Sorting of numbers that are small: digit by digit, 16 bits at a time.

numpy sorts 16-bit keys by counting them (argsort, kind="stable"), several times faster than
it compares wider ones; and frames, pages and positions of a chunk mostly fit into one or
two such digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A position in a chunk, or its length, in this many bits.
POS_BITS = 17

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sorted:
    """Rows by value, equal ones as they stood: row (n,), and the values less the least, (n,)."""

    row: Rows
    above: NDArray[Any]
    least: np.generic

    def values(self) -> Rows:
        """The values in their order, int64."""
        values: Rows = self.above.astype(np.int64)
        values += np.int64(self.least)
        return values


def sort_rows(values: NDArray[Any]) -> Sorted:
    """Order integer `values`, (n,); equal ones stay in the order in which they stand."""
    if not len(values):
        return Sorted(np.zeros(0, np.int64), values, values.dtype.type(0))
    least = values.min()
    width = (int(values.max()) - int(least)).bit_length()
    above: NDArray[Any] = values - least
    if width <= 16:
        above = above.astype(np.uint16)
    row = _by_digits(above, width)
    return Sorted(row, above.take(row), least)


def order_of(*columns: NDArray[Any]) -> Rows:
    """The rows' order by the first of integer `columns` (n,), then the next, then the row."""
    count = len(columns[0])
    if not count:
        return np.zeros(0, np.int64)
    spans = [(int(column.min()), int(column.max())) for column in columns]
    width = sum((most - least).bit_length() for least, most in spans)
    if width > 64:
        return np.lexsort(columns[::-1])
    key = np.zeros(count, np.uint64)
    for column, (least, most) in zip(columns, spans, strict=True):
        key <<= np.uint64((most - least).bit_length())
        key |= (column - column.dtype.type(least)).astype(np.uint64)
    return _by_digits(key, width)


def _by_digits(values: NDArray[Any], width: int) -> Rows:
    """The order of unsigned `values` (n,) of `width` bits, the lowest digit first."""
    order: Rows = np.argsort(values.astype(np.uint16), kind="stable")
    for shift in range(16, width, 16):
        digit = (values >> values.dtype.type(shift)).astype(np.uint16)
        order = order.take(np.argsort(digit.take(order), kind="stable"))
    return order


def head_rows(values: NDArray[Any]) -> Mask:
    """Which rows of sorted `values` are the first of theirs."""
    head = np.empty(len(values), np.bool_)
    head[:1] = True
    np.not_equal(values[1:], values[:-1], out=head[1:])
    return head


def tail_rows(values: NDArray[Any]) -> Mask:
    """Which rows of sorted `values` are the last of theirs."""
    tail = np.empty(len(values), np.bool_)
    tail[-1:] = True
    np.not_equal(values[1:], values[:-1], out=tail[:-1])
    return tail


def last_before(where: Mask, starts: Rows) -> Rows:
    """For each row the last row before it, on its page, that is in `where`; else -1."""
    rows = np.where(where, np.arange(len(where)), -1)
    np.maximum.accumulate(rows, out=rows)
    last = np.empty_like(rows)
    last[:1] = -1
    last[1:] = rows[:-1]
    last[last < starts] = -1
    return last


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """The different `values`, sorted.

    Not np.unique: since 2.3 it hashes, which for frames takes ten times as long.
    """
    ordered = np.sort(values)
    return ordered.compress(head_rows(ordered))


def newest_live(
    group: Rows, event: Rows, end: Rows, asked_group: Rows, asked_pos: Rows, first: int
) -> Rows:
    """The row of the newest share that lives in each asked group at each asked position.

    Of shares, (s,), `event` are the map events, which rise within a group, and `end` the
    positions that end them in the chunk, which begins at event `first`. Asked, (q,), is
    only where a share lives.
    """
    order = order_of(group)
    group, end = group.take(order), end.take(order)
    # Those from before the chunk, of which only the order counts, stand at its beginning.
    begin = np.maximum(event.take(order) - first, -1) + 1
    at = np.searchsorted((group << POS_BITS + 1) | begin,
                         (asked_group << POS_BITS + 1) | asked_pos + 1, side="right") - 1
    dead = np.arange(len(at))
    while True:
        dead = dead.compress(end.take(at.take(dead)) <= asked_pos.take(dead))
        if not len(dead):
            break
        at[dead] -= 1
    rows: Rows = order.take(at)
    return rows
