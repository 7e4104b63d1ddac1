"""Xen's grant tables as text: what `xl debug-keys g` leaves in `xl dmesg`.

    (XEN) gnttab_usage_print_all [ key 'g' pressed
    (XEN)       -------- active --------       -------- shared --------
    (XEN) [ref] localdom mfn      pin          localdom gmfn     flags
    (XEN) grant-table for remote d0 (v1)
    (XEN)   2 frames (64 max), 6 maptrack frames (1024 max)
    (XEN) [0x008]      0 0x137427 0x00000001          0 0x137427 0x19
    (XEN) gnttab_usage_print_all ] done

A table is that of the domain that grants ("remote"); its lines are the grants that somebody
has mapped, with who has (xen/common/grant_table.c: gnttab_usage_print). The dump has no
backend page and no handle, and no grant that nobody has mapped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from xenm2p.errors import InputError
from xenm2p.trace import I64, MAX_FRAME, NO_DOMID, NO_REF, U64

_LINE_LIMIT = 4096
_BEGIN = re.compile(rb"gnttab_usage_print_all \[ key '")
_END = re.compile(rb"gnttab_usage_print_all \] done")
_TABLE = re.compile(rb"grant-table for remote (?:d|domain: *)(\d{1,5})\b")
_ENTRY = re.compile(
    rb"\[ *(0x[0-9a-f]{1,8}|\d{1,10})\] +(\d{1,5}) 0x([0-9a-f]{1,16}) 0x([0-9a-f]{8}) +"
    rb"(\d{1,5}) 0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,4})$")
# Looks like an entry, so that one which is damaged is not passed over.
_ENTRY_LIKE = re.compile(rb"\[ *(?:0x[0-9a-f]+|\d+)\] +\S+ 0x")
# xen/common/grant_table.c: GNTPIN_hstw_shift, GNTPIN_hstr_shift, GNTPIN_cntr_width
_COUNTER = 0xFF
_READ_ONLY_SHIFT = 8


@dataclass(frozen=True, slots=True)
class GrantDump:
    """The active entries of all tables, in the order of the dump.

    granter: (n,) domain whose table it is. ref: the grant. mapper: domain that has it
    mapped. mfn: the frame. pins: how often it is mapped, for writing or reading; mappings
    by devices are not counted.
    """

    granter: NDArray[np.uint16]
    ref: NDArray[np.uint32]
    mapper: NDArray[np.uint16]
    mfn: U64
    pins: I64

    def __len__(self) -> int:
        return len(self.ref)

    def rows(self, where: NDArray[np.bool_] | I64) -> GrantDump:
        """The entries at `where`."""
        return GrantDump(self.granter[where], self.ref[where], self.mapper[where],
                         self.mfn[where], self.pins[where])


def looks_like_grant_dump(first_bytes: bytes) -> bool:
    """Whether a file that begins so is `xl dmesg` with a grant-table dump near its top."""
    return _BEGIN.search(first_bytes) is not None or _TABLE.search(first_bytes) is not None


def read_grant_dump(stream: BinaryIO, source: str) -> GrantDump:
    """Read the last dump in the output of `xl dmesg`; other lines are passed over.

    Raises InputError, naming the line, for a damaged entry, and where no dump is whole:
    the hypervisor's log is a ring, so that the beginning of a long one may be gone.
    """
    reader = _Reader(source)
    place = 0
    while line := stream.readline(_LINE_LIMIT):
        place += 1
        reader.take(line.rstrip(), place)
    return reader.result(place)


class _Reader:
    """Takes in lines; holds the last whole dump and the one that is being read."""

    def __init__(self, source: str):
        self._source = source
        self._rows: list[tuple[int, int, int, int, int]] | None = None
        self._domain: int | None = None
        self._whole: list[tuple[int, int, int, int, int]] | None = None
        self._no_beginning = 0  # line of the first sign of a dump that lacks it

    def take(self, text: bytes, place: int) -> None:
        """Take in one line."""
        if _BEGIN.search(text):
            self._rows, self._domain = [], None
            return
        if _END.search(text):
            if self._rows is not None:
                self._whole = self._rows
            self._no_beginning = 0 if self._rows is not None else self._no_beginning or place
            self._rows = None
            return
        table = _TABLE.search(text)
        entry = None if table else _ENTRY.search(text)
        if self._rows is None:
            if (table or entry) and not self._no_beginning:
                self._no_beginning = place
            return
        if table:
            self._domain = int(table[1])
        elif entry:
            self._rows.append(self._entry(entry, place))
        elif _ENTRY_LIKE.search(text):
            raise self._refused("not an entry of a grant table", place)

    def _entry(self, match: re.Match[bytes], place: int) -> tuple[int, int, int, int, int]:
        if self._domain is None:
            raise self._refused("an entry before any 'grant-table for remote'", place)
        base = 16 if match[1].startswith(b"0x") else 10
        ref, mapper, mfn, pin = (int(match[1], base), int(match[2]), int(match[3], 16),
                                 int(match[4], 16))
        if ref >= NO_REF or max(mapper, self._domain) > NO_DOMID or mfn > MAX_FRAME:
            raise self._refused("a number in it is too large", place)
        pins = (pin & _COUNTER) + (pin >> _READ_ONLY_SHIFT & _COUNTER)
        return self._domain, ref, mapper, mfn, pins

    def _refused(self, reason: str, place: int) -> InputError:
        return InputError(reason, source=self._source, place=place)

    def result(self, last_line: int) -> GrantDump:
        """The last whole dump."""
        if self._rows is not None:
            raise self._refused("the grant-table dump is cut short: it has no end", last_line)
        if self._no_beginning:
            raise self._refused(
                "the grant-table dump has no beginning: Xen's log ring wrapped (conring_size=); "
                "clear it with `xl dmesg -c` before `xl debug-keys g`", self._no_beginning)
        if self._whole is None:
            raise InputError("no grant-table dump (xl debug-keys g) in it", source=self._source)
        table = np.array(self._whole, np.int64).reshape(len(self._whole), 5)
        return GrantDump(table[:, 0].astype(np.uint16), table[:, 1].astype(np.uint32),
                         table[:, 2].astype(np.uint16), table[:, 3].astype(np.uint64),
                         table[:, 4])
