"""ftrace text: the lines of many calls at once, where their arrays are printed in full.

``map_ops=0x.. kmap_ops=0x.. pages=0x.. count=2 op={0x..,0x..,..} page={0x..,0x..,..}``: the
numbers of all lines are read side by side, the n-th of each at a time. So are the bytes of
trace-cmd report -R, ``op=ARRAY[00, 00, cf, ..]``. It gives what `ftrace_ops.read_call` gives
for each of these lines; others are left to that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xenm2p.formats.ftrace_fields import HEX_VALUE, Head, parse_numbers
from xenm2p.formats.ftrace_lines import Bytes, Lines, Mask, has_bytes, windows
from xenm2p.formats.ftrace_ops import STATUS_UNKNOWN
from xenm2p.formats.probes import MAP_OP_WORDS, UNMAP_OP_WORDS, Role
from xenm2p.trace import I64, INVALID, NO_DOMID, NO_HANDLE, NO_REF, U64

# Lines of calls with more pages than this are read one at a time.
_COUNT_LIMIT = 64
_COMMA, _CLOSE = b",}"
_IN_ARRAY = np.zeros(256, np.bool_)
_IN_ARRAY[[_COMMA, _CLOSE]] = True
_RAW = re.compile(
    rb"(?P<scalars>(?:\w+=\S+ )+)op=ARRAY\[(?P<op>[0-9a-f, ]*)\]"
    rb" page=ARRAY\[(?P<page>[0-9a-f, ]*)\]")
_OCTET = 4  # signs that a byte takes: two digits, a comma, a blank
_RAW_WORD = 8 * _OCTET


@dataclass(frozen=True, slots=True)
class CallArrays:
    """Calls read at once: `rows` of the block's lines, and their pages in order.

    `page_call` is the call, an index into `rows`, of each page. `blank` counts calls of
    whose arrays nothing is left but zeros.
    """

    is_map: bool
    rows: I64
    count: I64
    user: I64
    page_call: I64
    page: U64
    mfn: U64
    domid: I64
    ref: I64
    handle: I64
    status: I64
    blank: int


@dataclass(frozen=True, slots=True)
class _Form:
    """How the lines of a head print their fields: scalars, then the arrays op and page.

    `raw` has the words of the two arrays where they are printed as bytes.
    """

    scalars: tuple[bytes, ...]
    raw: tuple[int, int] | None

    @classmethod
    def of(cls, line: bytes) -> _Form | None:
        """The form of a line, where it is that of our probes."""
        raw = _RAW.match(line)
        if raw is not None:
            names = tuple(word.partition(b"=")[0] for word in raw["scalars"].split())
            op, page = ((len(raw[name]) + 2) // _RAW_WORD for name in ("op", "page"))
            return cls(names, (op, page))
        words = line.split(b" ")
        names = tuple(word.partition(b"=")[0] for word in words)
        is_array = [b"={" in word for word in words]
        if is_array != [False] * (len(words) - 2) + [True, True] or (
                names[-2:] != (b"op", b"page")):
            return None
        return cls(names[:-2], None)


def _numbers(data: Bytes, at: I64, key: bytes, good: Mask) -> tuple[U64, I64]:
    """The number after ``key=`` at each offset, and the offsets after it and its blank."""
    good &= has_bytes(data, at, key + b"=")
    value, after, is_number = parse_numbers(data, at + len(key) + 1)
    good &= is_number
    return value, after + 1


def _array(data: Bytes, at: I64, key: bytes, wanted: I64, width: int, good: Mask) -> tuple[
        NDArray[np.uint64], I64]:
    """The first `wanted` groups of `width` numbers of the arrays that begin with `key`.

    Returns them as (arrays, groups, width), 0 where an array is shorter, and the offset of
    the sign after the last number read.
    """
    good &= has_bytes(data, at, key)
    at = at + len(key)
    groups = int(wanted.max(initial=0))
    numbers = np.zeros((len(at), groups, width), np.uint64)
    after = at.copy()
    begin = at.copy()
    rows = np.flatnonzero(good & (wanted > 0))
    for group in range(groups):
        for word in range(width):
            value, end, is_number = parse_numbers(data, begin[rows], _IN_ARRAY)
            good[rows] &= is_number
            numbers[rows, group, word] = value
            after[rows] = end
            begin[rows] = end + 1
            rows = rows[is_number & (data[end] == _COMMA)]
        rows = rows[wanted[rows] > group + 1]
        if not len(rows):
            break
    return numbers, after


def _raw_array(data: Bytes, at: I64, key: bytes, wanted: I64, width: int, words: int,
               good: Mask) -> tuple[NDArray[np.uint64], I64]:
    """As `_array`, of arrays of `words` words that are printed as bytes, low byte first.

    Returns the offset of the sign after the whole array.
    """
    good &= has_bytes(data, at, key)
    at = at + len(key)
    end = at + words * _RAW_WORD - 2
    good &= data[np.minimum(end, len(data) - 1)] == ord("]")
    groups = min(int(wanted[good].max(initial=0)), words // width)
    numbers = np.zeros((len(at), groups, width), np.uint64)
    for group in range(groups):
        rows = np.flatnonzero(good & (wanted > group))
        first = at[rows] + group * width * _RAW_WORD
        signs = windows(data, width * _RAW_WORD)[first].reshape(len(rows), width * 8, _OCTET)
        high, low = HEX_VALUE[signs[:, :, 0]], HEX_VALUE[signs[:, :, 1]]
        is_octet = (high < 16) & (low < 16)
        is_octet[:, :-1] &= (signs[:, :-1, 2] == _COMMA) & (signs[:, :-1, 3] == ord(" "))
        good[rows] &= is_octet.all(axis=1)
        numbers[rows, group] = (high << 4 | low).view("<u8")
    return numbers, end


def array_ends(lines: Lines) -> I64:
    """Where arrays end in a block."""
    return np.flatnonzero(lines.data == _CLOSE)


def read_calls(lines: Lines, rows: I64, head: Head, closing_of: Callable[[], I64]) -> tuple[
        CallArrays | None, I64]:
    """Calls of one head after their hypercall, and the rows to be read one at a time.

    `closing_of` gives `array_ends` of the block.
    """
    assert head.probe is not None
    is_map = head.probe.role is Role.MAP
    data, ends = lines.data, lines.end[rows]
    at = lines.begin[rows] + len(head.text)
    form = _Form.of(lines.text[at[0] : ends[0]])
    count_names = {name.encode() for name in head.probe.names_of("count")}
    kmap_names = {name.encode() for name in head.probe.names_of(head.probe.arguments[1].name)}
    if form is None or not count_names & set(form.scalars) or (
            not kmap_names & set(form.scalars)):
        return None, rows
    good = at < ends
    count = np.zeros(len(rows), np.uint64)
    user = np.zeros(len(rows), np.int64)
    for name in form.scalars:
        value, at = _numbers(data, np.minimum(at, ends), name, good)
        if name in count_names:
            count = value
        elif name in kmap_names:
            user = (value != 0).astype(np.int64)
    good &= count <= _COUNT_LIMIT
    wanted = np.where(good, count, 0).astype(np.int64)
    width = MAP_OP_WORDS if is_map else UNMAP_OP_WORDS
    at = np.minimum(at, ends)
    if form.raw is not None:
        op_words, page_words = form.raw
        # Lines of another length, which no probe has, are cut off by their end.
        good &= at + (op_words + page_words) * _RAW_WORD <= ends
        at = np.where(good, at, lines.begin[rows])
        ops, at = _raw_array(data, at, b"op=ARRAY[", wanted, width, op_words, good)
        pointers, at = _raw_array(data, np.minimum(at, ends), b"] page=ARRAY[", wanted, 1,
                                  page_words, good)
    else:
        closing = closing_of()
        ops, at = _array(data, at, b"op={", wanted, width, good)
        nth = np.searchsorted(closing, at)
        at = closing[np.minimum(nth, len(closing) - 1)] + 1 if len(closing) else at
        good &= (nth < len(closing)) & (at < ends)
        pointers, at = _array(data, np.minimum(at, ends), b" page={", wanted, 1, good)
    groups = max(ops.shape[1], pointers.shape[1])
    ops, pointers = _padded(ops, groups), _padded(pointers, groups)
    good &= at <= ends
    # A pointer may be missing only where all of the arrays is.
    good &= (wanted == 0) | (pointers[:, :1, 0] != 0).any(axis=1) | ~(
        ops.any(axis=(1, 2)) | pointers.any(axis=(1, 2)))
    return _calls(rows[good], count[good], user[good], ops[good], pointers[good, :, 0],
                  is_map), rows[~good]


def _padded(numbers: NDArray[np.uint64], groups: int) -> NDArray[np.uint64]:
    """(arrays, n, width) numbers with more groups of zeros."""
    return np.pad(numbers, ((0, 0), (0, groups - numbers.shape[1]), (0, 0)))


def _calls(rows: I64, count: U64, user: I64, ops: NDArray[np.uint64],
           pointers: NDArray[np.uint64], is_map: bool) -> CallArrays:
    """The calls of some lines from their numbers; see `ftrace_ops` for the ops' words."""
    in_call = np.arange(ops.shape[1]) < count[:, None].astype(np.int64)
    is_shown = in_call & (ops.any(axis=2) | (pointers != 0))
    page_call, _ = np.nonzero(is_shown)
    op, page = ops[is_shown], pointers[is_shown]
    has_op = op.any(axis=1)
    low_half = np.uint64(0xFFFFFFFF)
    if is_map:
        mfn, domid, ref = op[:, 3] >> 12, op[:, 2] & 0xFFFF, op[:, 1] >> 32
        handle, status = op[:, 2] >> 32, op[:, 2] >> 16
    else:
        mfn, domid, ref = (np.full(len(op), absent, np.uint64)
                           for absent in (INVALID, NO_DOMID, NO_REF))
        handle, status = op[:, 2] & low_half, op[:, 2] >> 32

    def column(values: NDArray[np.integer[Any]], absent: int) -> I64:
        return np.where(has_op, values.astype(np.int64), absent)

    return CallArrays(
        is_map, rows, count.astype(np.int64), user, page_call, page,
        np.where(has_op, mfn, np.uint64(INVALID)), column(domid, NO_DOMID), column(ref, NO_REF),
        column(handle, NO_HANDLE),
        column(status.astype(np.uint16).view(np.int16), STATUS_UNKNOWN),
        int((in_call.any(axis=1) & ~is_shown.any(axis=1)).sum()))
