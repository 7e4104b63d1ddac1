"""bpftrace's records of map and unmap calls -> the table of calls, as ftrace text gives it.

A call is one record, followed by one a page, which name it by its number. A number is used
again after some time: a page is of the last call before it that has its number.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xenm2p.formats.bpftrace_lines import Rows
from xenm2p.formats.ftrace_calls import CallTable, table_of
from xenm2p.formats.ftrace_ops import (
    CONTAINS_PTE,
    COUNT_LIMIT,
    COUNT_UNKNOWN,
    MAP_ROLES,
    STATUS_UNKNOWN,
    USER_UNKNOWN,
)
from xenm2p.formats.probes import Role
from xenm2p.trace import I64, INVALID, NO_DOMID, NO_HANDLE, NO_REF, U64

_REFS_ROLES = (Role.MAP_REFS, Role.UNMAP_REFS)
OVERRIDE_ROLES = (Role.ADD_OVERRIDE, Role.REMOVE_OVERRIDE)


# What stands for a field that a record does not have, where that is not INVALID
ABSENT: dict[str, int] = {"page": 0, "domid": NO_DOMID, "ref": NO_REF, "handle": NO_HANDLE,
                          "status": STATUS_UNKNOWN % (1 << 16)}


def call_table(calls: Mapping[Role, Rows], pages: Mapping[Role, Rows]) -> CallTable:
    """All calls, in the order of their places; records have all that they need.

    A call that shows before its hypercall and after it is taken from after it, where all
    is known.
    """
    parts: list[tuple[I64, U64]] = [(np.zeros((9, 0), np.int64), np.zeros((7, 0), np.uint64))]
    for role in sorted(calls.keys() | pages.keys()):
        done = {Role.MAP_REFS: Role.MAP, Role.UNMAP_REFS: Role.UNMAP}.get(role)
        if done is not None and (done in calls or done in pages):
            continue
        if role in OVERRIDE_ROLES:
            parts.append(_overrides(role, calls[role]))
        else:
            parts.append(_calls(role, calls.get(role), pages.get(role)))
    first_of = np.cumsum([0, *(part.shape[1] for part, _ in parts)])
    for (_, numbers), first in zip(parts, first_of.tolist(), strict=False):
        numbers[0] += np.uint64(first)
    return table_of(np.concatenate([part for part, _ in parts], axis=1),
                    np.concatenate([part for _, part in parts], axis=1))


def _head(rows: Rows, where: I64 | slice, role: Role, count: I64, user: I64) -> I64:
    """The numbers of calls that are seen in `rows`."""
    place = rows.place[where]
    ones = np.ones(len(place), np.int64)
    return np.stack([
        place, rows.time[where], rows.cpu[where].astype(np.int64),
        rows.task[where].astype(np.int64), ones * (role in MAP_ROLES),
        ones * (role in _REFS_ROLES), count, user, place])


def _column(rows: Rows, key: str) -> U64:
    absent = np.uint64(ABSENT.get(key, INVALID))
    return rows.numbers.get(key, np.full(len(rows.place), absent, np.uint64))


def _user(kmap: U64) -> I64:
    known = kmap != np.uint64(INVALID)
    return np.where(known, (kmap != 0).astype(np.int64), USER_UNKNOWN)


def _overrides(role: Role, rows: Rows) -> tuple[I64, U64]:
    """One page on or off the override list is a call of its own; fields are checked."""
    length = len(rows.place)
    pages = np.stack([
        np.arange(length, dtype=np.uint64), _column(rows, "page"), _column(rows, "mfn"),
        *(np.full(length, absent, np.uint64) for absent in (NO_DOMID, NO_REF, NO_HANDLE, 0))])
    return _head(rows, slice(None), role, np.ones(length, np.int64),
                 _user(_column(rows, "kmap_op"))), pages


def _calls(role: Role, calls: Rows | None, pages: Rows | None) -> tuple[I64, U64]:
    """Calls and their pages; pages of a call that was lost make a call of unknown size."""
    heads, number = np.zeros((9, 0), np.int64), np.zeros(0, np.uint64)
    if calls is not None:
        number = _column(calls, "call")
        heads = _head(calls, slice(None), role, _column(calls, "count").astype(np.int64),
                      _user(_column(calls, "kmap")))
    if pages is None:
        return heads, np.zeros((7, 0), np.uint64)
    of_page, index = _column(pages, "call"), _column(pages, "index")
    call = _latest(number, heads[0], of_page, pages.place)
    alone = np.flatnonzero(call < 0)
    if len(alone):
        first = alone[np.unique(of_page[alone], return_index=True)[1]]
        flags = _column(pages, "flags")[first]
        user = np.where(flags == np.uint64(INVALID), flags, flags & np.uint64(CONTAINS_PTE))
        heads = np.concatenate([heads, _head(
            pages, first, role, np.full(len(first), COUNT_UNKNOWN), _user(user))], axis=1)
        call[alone] = len(number) + np.searchsorted(of_page[first], of_page[alone])
    size = np.where(heads[6] == COUNT_UNKNOWN, COUNT_LIMIT, heads[6])
    order = np.lexsort((index, call))
    order = order[index[order].astype(np.int64) < size[call[order]]]
    return heads, _page_numbers(role, pages, order, call[order])


def _latest(number: U64, place: I64, of_page: U64, page_place: I64) -> I64:
    """The last call before each page that has the page's number, or -1."""
    numbers = np.concatenate([number, of_page])
    order = np.lexsort((np.concatenate([place, page_place]), numbers))
    last = np.maximum.accumulate(np.where(order < len(number), np.arange(len(order)), -1))
    governor = order[np.maximum(last, 0)]
    same = (last >= 0) & (numbers[governor] == numbers[order])
    found = np.full(len(order), -1, np.int64)
    found[order] = np.where(same, governor, -1)
    return found[len(number):]


def _page_numbers(role: Role, pages: Rows, order: I64, call: I64) -> U64:
    """The numbers of pages; before its hypercall an op holds no answer yet."""
    is_done, is_map = role not in _REFS_ROLES, role in MAP_ROLES

    def column(key: str, shown: bool) -> U64:
        return _column(pages, key)[order] if shown else np.full(
            len(order), ABSENT.get(key, INVALID), np.uint64)

    address = column("dev_bus_addr", is_done and is_map)
    status = column("status", is_done).astype(np.uint16).view(np.int16)
    return np.stack([
        call.astype(np.uint64), column("page", True),
        np.where(address == np.uint64(INVALID), address, address >> np.uint64(12)),
        column("domid", is_map), column("ref", is_map), column("handle", is_done or not is_map),
        status.astype(np.int64).view(np.uint64)])
