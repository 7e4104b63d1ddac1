"""ftrace text: the lines of many calls at once, where pages have fields of their own.

``count=1 kmap_ops=0x0 r0=793 h0=994 a0=0x4b596000 p0=0xffffea00023f1700 r1=0 ..``, or the
first page's as ``ref= handle= dev_bus_addr= pagep=``. Fields of pages beyond a call's count,
which are stale, are not looked at. It gives what `ftrace_ops.read_call` gives for each of
these lines; others are left to that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xenm2p.formats.ftrace_fields import Head, parse_numbers
from xenm2p.formats.ftrace_lines import Lines, Mask, has_bytes, windows
from xenm2p.formats.ftrace_op_arrays import CallArrays
from xenm2p.formats.ftrace_ops import (
    CONTAINS_PTE,
    MAP_ROLES,
    STATUS_UNKNOWN,
    USER_UNKNOWN,
    page_keys,
)
from xenm2p.formats.probes import Probe, Role
from xenm2p.trace import I64, INVALID, NO_DOMID, NO_HANDLE, NO_REF, U64

_PAGE_LIMIT = 64
_SCALAR = re.compile(rb"(\w+)=(?:-?\d+|0x[0-9a-f]+)")
_IDENTIFIES = frozenset({"page", "ref", "handle", "dev_bus_addr"})
_LOW_HALF = 0xFFFFFFFF
_LAST_FIELD = 64  # bytes that the last field of a line may take, with a blank before it


@dataclass(frozen=True, slots=True)
class _Plan:
    """The fields of a head's lines in order, as (name, page or -1, what it is)."""

    fields: tuple[tuple[bytes, int, str], ...]

    @classmethod
    def of(cls, line: bytes, probe: Probe) -> _Plan | None:
        """The plan, where all fields are numbers and pages come one after the other."""
        names = []
        for word in line.split():
            match = _SCALAR.fullmatch(word)
            if match is None:
                return None
            names.append(match[1].decode())
        meaning = dict.fromkeys(probe.names_of("count"), (-1, "count"))
        meaning |= dict.fromkeys(probe.names_of(probe.arguments[1].name), (-1, "user"))
        fields: list[tuple[bytes, int, str]] = []
        seen: set[tuple[int, str]] = set()
        pages = {key: (page, name) for page in range(_PAGE_LIMIT - 1, -1, -1)
                 for name, key in page_keys(page)}
        for name in names:
            page, what = meaning.get(name) or pages.get(name, (-1, ""))
            if (page, what) in seen and what:
                return None  # two names of one thing: which comes first is not told here
            seen.add((page, what))
            fields.append((name.encode(), page, what))
        order = [max(page, 0) for _, page, _ in fields]
        return cls(tuple(fields)) if (-1, "count") in seen and order == sorted(order) else None

    def pages(self) -> int:
        """How many pages have fields that tell which they are; all before them have too."""
        page = 0
        while any(at == page and what in _IDENTIFIES for _, at, what in self.fields):
            page += 1
        return page


def read_scalar_calls(lines: Lines, rows: I64, head: Head) -> tuple[CallArrays | None, I64]:
    """Calls of one head, and the rows to be read one at a time."""
    assert head.probe is not None
    data, ends = lines.data, lines.end[rows]
    at = lines.begin[rows] + len(head.text)
    plan = _Plan.of(lines.text[at[0] : ends[0]], head.probe)
    if plan is None:
        return None, rows
    # What a line is not read to the end of must end as the first one does.
    good = (at < ends) & _ends_with(lines, rows, plan.fields[-1][0])
    count = np.zeros(len(rows), np.uint64)
    general: dict[str, U64] = {}
    found: dict[tuple[int, str], U64] = {}
    among, last_page = np.arange(len(rows)), 0
    for name, page, what in plan.fields:
        if page > last_page:
            among, last_page = among[good[among] & (count[among] > page)], page
            if not len(among):
                break
        here = np.minimum(at[among], ends[among])
        fits = has_bytes(data, here, name + b"=")
        values, after, is_number = parse_numbers(data, here + len(name) + 1)
        good[among] &= fits & is_number & (after <= ends[among])
        at[among] = after + 1
        column = np.zeros(len(rows), np.uint64)
        column[among] = values
        if page >= 0:
            found[page, what] = column
        elif what == "count":
            count = column
        elif what:
            general[what] = column
    good &= count <= np.uint64(_PAGE_LIMIT)
    return _calls(rows[good], head.probe.role, count[good].astype(np.int64),
                  {key: column[good] for key, column in general.items()},
                  {key: column[good] for key, column in found.items()}, plan.pages()), rows[~good]


def _ends_with(lines: Lines, rows: I64, name: bytes) -> Mask:
    """Which lines have a field of this name as their last."""
    begin = np.maximum(lines.end[rows] - _LAST_FIELD, 0)
    blanks = windows(lines.data, _LAST_FIELD)[begin] == ord(" ")
    last = begin + _LAST_FIELD - blanks[:, ::-1].argmax(axis=1)
    has_name: Mask = blanks.any(axis=1) & has_bytes(lines.data, last, name + b"=")
    return has_name


def _calls(rows: I64, role: Role, count: I64, general: dict[str, U64],
           found: dict[tuple[int, str], U64], pages: int) -> CallArrays:
    """The calls of some lines from their numbers; see `ftrace_ops` for what they mean."""
    is_map, is_done = role in MAP_ROLES, role in (Role.MAP, Role.UNMAP)
    if "user" in general:
        user = (general["user"] != 0).astype(np.int64)
    elif is_map and (0, "flags") in found:
        user = ((found[0, "flags"] & np.uint64(CONTAINS_PTE)) != 0).astype(np.int64)
    else:
        user = np.full(len(rows), USER_UNKNOWN)
    shown: list[Mask] = []
    still = np.ones(len(rows), np.bool_)
    for page in range(pages):
        still = still & (count > page)
        if (page, "page") in found:
            still = still & (found[page, "page"] != 0)  # not fetched, nor are later ones
        shown.append(still)
    is_shown: NDArray[np.bool_] = np.array(shown, np.bool_).reshape(pages, len(rows)).T
    page_call, _ = np.nonzero(is_shown)

    def column(name: str, absent: int, of_sort: bool = True) -> U64:
        nothing = np.full(len(rows), absent % (1 << 64), np.uint64)
        columns = [found.get((page, name), nothing) if of_sort else nothing
                   for page in range(pages)]
        shown_ones: U64 = np.array(columns, np.uint64).reshape(pages, len(rows)).T[is_shown]
        return shown_ones

    address = column("dev_bus_addr", INVALID, is_map and is_done)
    has_address = np.array([(page, "dev_bus_addr") in found and is_map and is_done
                            for page in range(pages)], np.bool_)
    mfn = np.where(np.broadcast_to(has_address, is_shown.shape)[is_shown],
                   address >> np.uint64(12), np.uint64(INVALID))
    status = column("status", STATUS_UNKNOWN, is_done).astype(np.uint16).view(np.int16)
    handle = column("handle", NO_HANDLE, role is not Role.MAP_REFS) & np.uint64(_LOW_HALF)
    return CallArrays(
        is_map, rows, count, user, page_call, column("page", 0), mfn,
        (column("domid", NO_DOMID, is_map) & np.uint64(0xFFFF)).astype(np.int64),
        (column("ref", NO_REF, is_map) & np.uint64(_LOW_HALF)).astype(np.int64),
        handle.astype(np.int64), status.astype(np.int64), 0)
