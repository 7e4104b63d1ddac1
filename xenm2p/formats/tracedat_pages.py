"""trace.dat: pages of the kernel's ring buffer -> records.

kernel/trace/ring_buffer.c: struct buffer_data_page, struct ring_buffer_event. Each record
begins with a word: 5 bits of type or length, 27 of time since the record before. Where a
record begins only the one before it tells; so the n-th records of all pages are read side
by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xenm2p.trace import I64, NO_REF, U64

PAGE_HEADER = 16  # the time, and how many bytes of records follow
_COMMITTED = (1 << 27) - 1
_MISSED, _MISSED_STORED = 1 << 31, 1 << 30
_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31
_TIME_BITS = 27
_STAMP_BITS = 59  # those of a time stamp; the others are the last time's
_WORD = 4


@dataclass(frozen=True, slots=True)
class Records:
    """Records of pages, in their order; and the losses before the first record of a page.

    `begin` is the offset of a record's data in the pages, `size` how many bytes it has,
    `time` the clock's count. `loss_row` is the record before which events were lost, and
    `loss_events` how many, NO_REF where that is not known.
    """

    begin: I64
    size: I64
    time: U64
    loss_row: I64
    loss_events: I64


class DamagedPageError(Exception):
    """A page that cannot be read: `page`, `at` bytes into it, and why."""

    def __init__(self, page: int, at: int, reason: str):
        self.page, self.at, self.reason = page, at, reason
        super().__init__(reason)


def read_pages(pages: NDArray[np.uint8]) -> Records:
    """The records of (n, size) bytes. Raises DamagedPageError."""
    count, page_size = pages.shape
    words = pages.view("<u4")
    longs = pages[:, :PAGE_HEADER].copy().view("<u8")
    time = longs[:, 0].astype(np.uint64)
    committed = longs[:, 1].astype(np.int64)
    end = PAGE_HEADER + (committed & _COMMITTED)
    _check(end <= page_size, np.arange(count), np.full(count, 8),
           "it has more bytes of events than a page")
    at = np.full(count, PAGE_HEADER)
    active = np.flatnonzero(at < end)
    found: list[tuple[I64, I64, I64, U64]] = []
    while len(active):
        here, limit = at[active], end[active]
        _check(here + _WORD <= limit, active, here, "a record's first word ends after it")
        first = words[active, here // _WORD].astype(np.int64)
        kind, delta = first & 31, first >> 5
        has_word = (kind == 0) | (kind >= _PADDING)
        is_end = (kind == _PADDING) & (delta == 0)
        _check(~has_word | is_end | (here + 2 * _WORD <= limit), active, here,
               "a record's length ends after it")
        second = words[active, np.minimum(here // _WORD + 1, page_size // _WORD - 1)].astype(
            np.int64)
        is_data = kind < _PADDING
        begin = here + np.where(kind == 0, 2 * _WORD, _WORD)
        length = np.where(kind == 0, (second - _WORD + 3) & ~3, kind * _WORD)
        length = np.where(kind == _PADDING, second, length)
        length = np.where(kind >= _TIME_EXTEND, _WORD, length)
        length = np.where(is_end, limit - begin, length)
        _check(((kind != 0) | (second >= _WORD)) & (length >= 0) & (begin + length <= limit),
               active, here, "a record ends after it")
        time[active] = _times(time[active], kind, delta, second)
        found.append((active[is_data], begin[is_data], length[is_data],
                      time[active[is_data]]))
        at[active] = begin + length
        active = active[at[active] < limit]
    page = np.concatenate([np.zeros(0, np.int64), *(row[0] for row in found)])
    begin = np.concatenate([np.zeros(0, np.int64), *(row[1] for row in found)])
    size = np.concatenate([np.zeros(0, np.int64), *(row[2] for row in found)])
    times = np.concatenate([np.zeros(0, np.uint64), *(row[3] for row in found)])
    order = np.argsort(page * page_size + begin)
    has_missed = np.flatnonzero(committed & _MISSED)
    return Records((page * page_size + begin)[order], size[order], times[order],
                   np.searchsorted(page[order], has_missed),
                   _missed(pages, has_missed, committed, end))


def _times(time: U64, kind: I64, delta: I64, second: I64) -> U64:
    """The times after records of some kinds."""
    extended = (second.astype(np.uint64) << np.uint64(_TIME_BITS)) + delta.astype(np.uint64)
    high = np.uint64((1 << 64) - (1 << _STAMP_BITS))
    stamp = (extended & ~high) | (time & high)
    # The stamp's bits went over while the others had not: rb_fix_abs_ts
    stamp = np.where(((time & high) != 0) & (stamp < time),
                     stamp + np.uint64(1 << _STAMP_BITS), stamp)
    later = time + np.where(kind == _TIME_EXTEND, extended, delta.astype(np.uint64))
    return np.where(kind == _TIME_STAMP, stamp, later)


def _missed(pages: NDArray[np.uint8], which: I64, committed: I64, end: I64) -> I64:
    """How many events were lost before some pages, which is stored after their records."""
    counts = np.full(len(which), NO_REF, np.int64)
    for row, page in enumerate(which.tolist()):
        at = int(end[page])
        if committed[page] & _MISSED_STORED and at + 8 <= pages.shape[1]:
            stored = int.from_bytes(pages[page, at : at + 8].tobytes(), "little", signed=True)
            if stored > 0:
                counts[row] = min(stored, NO_REF - 1)
    return counts


def _check(good: NDArray[np.bool_], page: I64, at: I64, reason: str) -> None:
    if not good.all():
        row = int(good.argmin())
        raise DamagedPageError(int(page[row]), int(at[row]), reason)
