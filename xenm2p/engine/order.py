"""Sorting of numbers that are small: several columns, and the row, packed into one key.

An index sort (argsort, lexsort) is several times slower than to sort numbers that carry
their row in the low bits, and 32 bits sort in half the time of 64.
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
    """Positions by value, then position: pos (n,), and the values less the least, (n,)."""

    pos: Rows
    above: NDArray[Any]
    least: np.generic

    def values(self) -> Rows:
        """The values in their order, int64."""
        values: Rows = self.above.astype(np.int64)
        values += np.int64(self.least)
        return values


def sort_with_position(values: NDArray[Any], pos: Rows | None = None) -> Sorted | None:
    """Order `values` (n,) and with equal ones by `pos` (n,), None: 0 to n - 1.

    None where values and positions do not fit into one number of 64 bits.
    """
    count = len(values)
    if not count:
        return Sorted(np.zeros(0, np.int64), values, values.dtype.type(0))
    key: NDArray[Any]
    least = values.min()
    span = int(values.max()) - int(least)
    last = count - 1 if pos is None else int(pos.max())
    if span >> 16 == 0 and last >> 16 == 0:
        width = 16
        key = (values - least).astype(np.uint32)
    elif span >> 47 == 0 and last >> 17 == 0:
        width = 17
        key = (values - least).astype(np.uint64)
    else:
        return None
    wide = key.dtype
    key <<= wide.type(width)
    key |= np.arange(count, dtype=wide) if pos is None else pos.astype(wide)
    key.sort()
    order = (key & wide.type((1 << width) - 1)).astype(np.int64)
    key >>= wide.type(width)
    return Sorted(order, key, least)


def order_of(*columns: NDArray[Any]) -> Rows:
    """The rows' order by the first of integer `columns` (n,), then the next, then the row."""
    count = len(columns[0])
    if not count:
        return np.zeros(0, np.int64)
    width = row_width = (count - 1).bit_length()
    spans = [(int(column.min()), int(column.max())) for column in columns]
    width += sum((most - least).bit_length() for least, most in spans)
    if width > 64:
        return np.lexsort(columns[::-1])
    wide = np.dtype(np.uint32 if width <= 32 else np.uint64)
    key = np.zeros(count, wide)
    for column, (least, most) in zip(columns, spans, strict=True):
        key <<= wide.type((most - least).bit_length())
        key |= (column - column.dtype.type(least)).astype(wide)
    key <<= wide.type(row_width)
    key |= np.arange(count, dtype=wide)
    key.sort()
    key &= wide.type((1 << row_width) - 1)
    return key.astype(np.int64)


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
