"""trace.dat: records of map and unmap calls -> the text that the reader of calls reads.

What a call's fields mean, which stale, which lent by the record before its hypercall, is
known to one reader, that of ftrace's text. So each call becomes the line that
``trace-cmd report -R`` prints of it, many at a time: numbers in hex with all their digits,
arrays as bytes, so that the lines of one event are all of one length.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from xenm2p.formats.ftrace_fields import Head
from xenm2p.formats.ftrace_lines import PADDING, Lines
from xenm2p.formats.tracedat_formats import EventFormat, Field
from xenm2p.trace import I64

_LINES_AT_ONCE = 1 << 13
_MOST_SLOTS = 1 << 16
Bytes = NDArray[np.uint8]

_HEX = np.frombuffer(b"".join(b"%02x" % n for n in range(256)), np.uint8).reshape(256, 2)
_OCTET = np.frombuffer(b"".join(b"%02x, " % n for n in range(256)), np.uint8).reshape(256, 4)


def texts(event: EventFormat, head: Head, raw: Bytes, slots: int | None = None) -> Bytes:
    """Lines of one head, (n, width) bytes, from (n, size) bytes of records.

    Arrays of ops and pages have as many of them as there are, or `slots` where these are
    fewer.
    """
    count = len(raw)
    parts = [_same(head.text, count)]
    fields = [(name, each) for name, each in event.fields.items()
              if each.is_number or (each.is_array and each.size)]
    for number, (name, each) in enumerate(fields):
        key = name.encode() if number == 0 else b" " + name.encode()
        if each.is_number:
            parts += [_same(key + b"=0x", count), _hex(raw, each)]
        else:
            size = each.size if slots is None else min(each.size, slots * _slot(name, head, each))
            octets = _OCTET[raw[:, each.offset : each.offset + size]].reshape(count, -1)
            parts += [_same(key + b"=ARRAY[", count), octets[:, :-2], _same(b"]", count)]
    return np.concatenate([*parts, _same(b"\n", count)], axis=1)


def _slot(name: str, head: Head, each: Field) -> int:
    """How many bytes of an array one page has; of an array that is not known all of it."""
    assert head.probe is not None
    words = {argument.name: argument.words for argument in head.probe.arguments}
    return 8 * words.get(name, 0) or each.size


def _by_slots(event: EventFormat, head: Head, raw: Bytes) -> Iterator[tuple[int | None, I64]]:
    """Rows of calls by how many slots of their arrays are to be read, rounded up.

    What is behind them is stale; most calls have few pages, and arrays are long.
    """
    assert head.probe is not None
    named = next((event.fields[name] for name in head.probe.names_of("count")
                  if name in event.fields), None)
    has_arrays = any(each.is_array for each in event.fields.values())
    if named is None or not named.is_number or not has_arrays:
        yield None, np.arange(len(raw))
        return
    octets = np.ascontiguousarray(raw[:, named.offset : named.end])
    count = octets.view(f"<u{named.size}")[:, 0].astype(np.uint64)
    slots = np.minimum(np.maximum(count, np.uint64(1)), np.uint64(_MOST_SLOTS))
    power = np.ceil(np.log2(slots.astype(np.float64))).astype(np.int64)
    for each in np.unique(power).tolist():
        yield 1 << each, np.flatnonzero(power == each)


def _same(text: bytes, count: int) -> Bytes:
    return np.broadcast_to(np.frombuffer(text, np.uint8), (count, len(text)))


def _hex(raw: Bytes, each: Field) -> Bytes:
    octets = raw[:, each.offset : each.end][:, ::-1]
    if each.is_signed:  # -1 of 32 bits is -1 of 64 bits
        fill = np.where(octets[:, :1] >= 128, np.uint8(255), np.uint8(0))
        octets = np.concatenate([np.repeat(fill, 8 - each.size, axis=1), octets], axis=1)
    return _HEX[octets].reshape(len(raw), -1)


def call_lines(groups: list[tuple[Head, EventFormat, I64, Bytes]], time: I64,
               cpu: NDArray[np.int16], task: NDArray[np.int32]) -> Iterator[
                   tuple[Lines, list[tuple[Head, I64]]]]:
    """Calls in blocks of lines, in the order of their ranks, with the rows of each head.

    `groups` are of one head each, with the ranks of their records among all events, whose
    times, cpus and tasks are given.
    """
    rank = np.concatenate([np.zeros(0, np.int64), *(ranks for _, _, ranks, _ in groups)])
    group = np.concatenate([np.zeros(0, np.int64), *(
        np.full(len(ranks), number) for number, (_, _, ranks, _) in enumerate(groups))])
    member = np.concatenate([np.zeros(0, np.int64), *(
        np.arange(len(ranks)) for _, _, ranks, _ in groups)])
    order = np.argsort(rank)
    for first in range(0, len(order), _LINES_AT_ONCE):
        some = order[first : first + _LINES_AT_ONCE]
        begin = np.zeros(len(some), np.int64)
        end = np.zeros(len(some), np.int64)
        pieces: list[bytes] = []
        heads: list[tuple[Head, I64]] = []
        at = 0
        for number in np.unique(group[some]).tolist():
            head, event, _, raw = groups[number]
            rows = np.flatnonzero(group[some] == number)
            records = raw[member[some[rows]]]
            for slots, which in _by_slots(event, head, records):
                lines = texts(event, head, records[which], slots)
                width = lines.shape[1]
                begin[rows[which]] = at + width * np.arange(len(which))
                end[rows[which]] = begin[rows[which]] + width - 1
                pieces.append(lines.tobytes())
                at += lines.size
                heads.append((head, rows[which]))
        text = b"".join(pieces) + bytes(PADDING)
        ranks = rank[some]
        yield Lines(text, np.frombuffer(text, np.uint8), 2 * ranks + 1, begin, end,
                    time[ranks], cpu[ranks], task[ranks]), heads
