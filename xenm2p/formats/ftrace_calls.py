"""ftrace text, fourth step: the two lines of each call become one call.

A call shows twice: as ``gnttab_map_refs`` before its hypercall, when handles, frames and
statuses are still to come, and as ``set_foreign_p2m_mapping`` after it. The second is the
event; the first only lends what the second's probe did not fetch. Where the second was not
probed the first stands for the call.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from xenm2p.formats.ftrace_fields import Head
from xenm2p.formats.ftrace_lending import kept, knows_all, lend_at_once, pages_of
from xenm2p.formats.ftrace_lines import Lines, lanes_of
from xenm2p.formats.ftrace_op_arrays import CallArrays, array_ends, read_calls
from xenm2p.formats.ftrace_op_scalars import read_scalar_calls
from xenm2p.formats.ftrace_ops import (
    COUNT_UNKNOWN,
    MAP_ROLES,
    USER_UNKNOWN,
    Call,
    lend,
    read_call,
)
from xenm2p.formats.probes import Role
from xenm2p.trace import I64, U64

_REFS_ROLES = frozenset({Role.MAP_REFS, Role.UNMAP_REFS})
_OVERRIDE_ROLES = frozenset({Role.ADD_OVERRIDE, Role.REMOVE_OVERRIDE})


@dataclass(frozen=True, slots=True)
class CallTable:
    """Calls in the order of their lines, and their pages.

    `is_refs` marks calls known from before their hypercall only; `same_call` is the
    place of the first line of the kernel's own call. `page_call` is the call, a row of
    this table, that a page is of.
    """

    place: I64
    time: I64
    cpu: NDArray[np.int16]
    task: NDArray[np.int32]
    is_map: NDArray[np.bool_]
    is_refs: NDArray[np.bool_]
    count: I64
    user: I64
    same_call: I64
    page_call: I64
    page: U64
    mfn: U64
    domid: I64
    ref: I64
    handle: I64
    status: I64


@dataclass(slots=True)
class _Line:
    """One line of a call; `lent` says that an override took its ref from it."""

    arguments: bytes
    head: Head
    place: int
    time: int
    cpu: int
    task: int
    lane: int
    lent: bool = False

    @property
    def role(self) -> Role:
        return role_of(self.head)

    @property
    def key(self) -> tuple[int, bool]:
        """Lines of one call are of one lane and one direction."""
        return self.lane, self.role in MAP_ROLES


@dataclass(frozen=True, slots=True)
class _Read:
    """Calls of one head that were read at once; `is_whole`: they need nothing lent."""

    calls: CallArrays
    head: Head
    is_whole: bool


@dataclass(frozen=True, slots=True)
class _Pairing:
    """Lines from before a hypercall and the calls, read at once, that they are of.

    Of each such line its `row`, its `call`, -1 for none, and whether it is `passed`, the
    next one of its lane being such a line too; of each call, in the order that they were
    read, the line `before` it, -1 for none, and whether one of an `earlier` block is its.
    """

    row: I64
    call: I64
    passed: NDArray[np.bool_]
    before: I64
    earlier: NDArray[np.bool_]


def _borrow(lines: Lines, refs: list[tuple[int, Head]], read: _Read, before: I64,
            earlier: NDArray[np.bool_]) -> tuple[CallArrays, NDArray[np.bool_]]:
    """The calls with what the lines before them lend, and which calls these are.

    The others are for `_one_line`, with their lines.
    """
    calls = read.calls
    keep = np.ones(len(calls.rows), np.bool_)
    if read.is_whole:
        return calls, keep
    needs = ~knows_all(calls)
    keep &= ~(needs & earlier)
    asking = np.flatnonzero(needs & keep & (before >= 0))
    by_head: dict[bytes, list[int]] = {}
    for call in asking.tolist():
        by_head.setdefault(refs[before[call]][1].text, []).append(call)
    for asks in by_head.values():
        head = refs[before[asks[0]]][1]
        rows = np.array([refs[before[call]][0] for call in asks], np.int64)
        lent, unread = read_scalar_calls(lines, rows, head)
        if lent is None:
            keep[asks] = False
            continue
        lender = np.full(len(calls.rows), -1)
        lender[asks] = np.searchsorted(lent.rows, rows)
        has_both = np.zeros(len(calls.rows), np.bool_)
        has_both[asks] = np.isin(rows, unread)
        lender[has_both] = -1
        has_both |= (lender >= 0) & (pages_of(calls) > 0) & (
            pages_of(lent)[np.maximum(lender, 0)] > 0 if len(lent.rows) else False)
        keep &= ~has_both
        if len(lent.rows):
            calls = lend_at_once(calls, lent, np.where(has_both, -1, lender))
    return kept(calls, keep), keep


@dataclass(slots=True)
class CallReader:
    """Pairs the two lines of each call as they come; see the module's text.

    `roles` are those seen; `blank_arrays` counts calls of whose arrays nothing is left but
    zeros.
    """

    source: str
    idle: list[int]
    roles: set[Role] = field(default_factory=set)
    blank_arrays: int = 0
    _size: int = 0
    _calls: list[I64] = field(default_factory=list)
    _pages: list[NDArray[np.uint64]] = field(default_factory=list)
    _new_calls: list[tuple[int, ...]] = field(default_factory=list)
    _new_pages: list[tuple[int, ...]] = field(default_factory=list)
    _pending: dict[tuple[int, bool], _Line] = field(default_factory=dict)
    _open: dict[tuple[int, bool], frozenset[int]] = field(default_factory=dict)

    def read(self, lines: Lines, groups: list[tuple[Head, I64]]) -> None:
        """Take in the call lines of a block, by head."""
        refs: list[tuple[int, Head]] = []
        slow: list[tuple[int, Head]] = []
        fast: list[_Read] = []
        closing = cache(lambda: array_ends(lines))
        self.roles |= {role_of(head) for head, _ in groups}
        for head, rows in groups:
            role = role_of(head)
            if role in (Role.MAP, Role.UNMAP) and not self.roles & _OVERRIDE_ROLES:
                calls, rows = read_calls(lines, rows, head, closing)
                fast += [_Read(calls, head, is_whole=True)] if calls else []
                if len(rows):
                    calls, rows = read_scalar_calls(lines, rows, head)
                    fast += [_Read(calls, head, is_whole=False)] if calls else []
            of_sort = refs if role in _REFS_ROLES else slow
            of_sort += [(row, head) for row in rows.tolist()]
        lane_of = lanes_of(lines.task, lines.cpu, self.idle)
        pairing = self._pair(lane_of, refs, fast, slow)
        is_left = pairing.call < 0
        begin = 0
        for read in fast:
            of_read = slice(begin, begin + len(read.calls.rows))
            begin = of_read.stop
            before, earlier = pairing.before[of_read], pairing.earlier[of_read]
            whole, keep = _borrow(lines, refs, read, before, earlier)
            is_left[before[~keep & (before >= 0)]] = True
            slow += [(row, read.head) for row in read.calls.rows[~keep].tolist()]
            first_place = lines.place[read.calls.rows]
            first_place[before >= 0] = lines.place[pairing.row[before[before >= 0]]]
            for call in np.flatnonzero(earlier & keep).tolist():
                key = int(lane_of[read.calls.rows[call]]), read.calls.is_map
                first_place[call] = self._pending.pop(key).place
            self._add_read(lines, whole, first_place[keep])
        left = [refs[line] for line in np.flatnonzero(is_left).tolist()]
        passed = set(pairing.row[pairing.passed].tolist())
        for row, head in sorted(slow + left, key=lambda line: line[0]):
            self._one_line(lines, row, head)
            if row in passed:
                lane = int(lane_of[row]), role_of(head) in MAP_ROLES
                self._release(self._pending.pop(lane))
        self._flush()

    def _pair(self, lane: I64, refs: list[tuple[int, Head]], fast: list[_Read],
              slow: list[tuple[int, Head]]) -> _Pairing:
        """Which line of `refs` is of which call that was read at once; `lane` of all rows."""
        one_by_one = refs + slow
        row = np.array([row for row, _ in one_by_one], np.int64)
        is_map = np.array([role_of(head) in MAP_ROLES for _, head in one_by_one], np.bool_)
        row = np.concatenate([row, *(read.calls.rows for read in fast)])
        is_map = np.concatenate([is_map, *(np.full(len(read.calls.rows), read.calls.is_map)
                                           for read in fast)])
        number = np.arange(len(row))
        is_refs, is_fast = number < len(refs), number >= len(one_by_one)
        order = np.lexsort((row, is_map, lane[row]))
        before, after = order[:-1], order[1:]
        follows = (lane[row[before]] == lane[row[after]]) & (is_map[before] == is_map[after])
        pairs = follows & is_refs[before] & is_fast[after]
        before_of, call_of = np.full(len(row), -1), np.full(len(row), -1)
        before_of[after[pairs]] = before[pairs]
        call_of[before[pairs]] = after[pairs]
        passed = np.zeros(len(row), np.bool_)
        passed[before[follows & is_refs[before] & is_refs[after]]] = True
        # Lines of an earlier block, for the first line of each lane in this one.
        earlier = np.zeros(len(row), np.bool_)
        begins = order[np.concatenate([[True], ~follows])[: len(order)]]
        for line in begins.tolist():
            key = int(lane[row[line]]), bool(is_map[line])
            earlier[line] = key in self._pending
            if earlier[line] and call_of[line] >= 0:
                self._release(self._pending.pop(key))
        self._flush()  # before calls read at once are added: all are numbered in that order
        return _Pairing(row[: len(refs)], call_of[: len(refs)], passed[: len(refs)],
                        before_of[is_fast], earlier[is_fast])

    def _add_read(self, lines: Lines, read: CallArrays, first_place: I64) -> None:
        rows = read.rows
        ones = np.ones(len(rows), np.int64)
        self._calls.append(np.stack([
            lines.place[rows], lines.time[rows], lines.cpu[rows], lines.task[rows],
            ones * read.is_map, ones * False, read.count, read.user, first_place]))
        self._pages.append(np.stack([
            column.astype(np.int64).view(np.uint64) for column in (
                read.page_call + self._size, read.page.view(np.int64), read.mfn.view(np.int64),
                read.domid, read.ref, read.handle, read.status)]))
        self._size += len(rows)
        self.blank_arrays += read.blank

    def _one_line(self, lines: Lines, row: int, head: Head) -> None:
        begin = int(lines.begin[row]) + len(head.text)
        task, cpu = int(lines.task[row]), int(lines.cpu[row])
        line = _Line(lines.text[begin : int(lines.end[row])], head, int(lines.place[row]),
                     int(lines.time[row]), cpu, task, -1 - cpu if task in self.idle else task)
        if line.role in _REFS_ROLES:
            self._release(self._pending.get(line.key))
            self._pending[line.key] = line
        elif line.role in _OVERRIDE_ROLES:
            self._override(line, self._pending.get(line.key))
        else:
            self._whole_call(line, self._pending.pop(line.key, None))

    def _whole_call(self, line: _Line, refs: _Line | None) -> None:
        call = self._read(line)
        if refs is not None:
            has_all = call.user != USER_UNKNOWN and call.count != COUNT_UNKNOWN and (
                call.count == 0 or (call.pages and call.pages[0].page))
            if not has_all:
                call = lend(call, self._read(refs))
        self._open[line.key] = frozenset(page.page for page in call.pages)
        self._add(line, call, refs.place if refs else line.place)

    def _override(self, line: _Line, refs: _Line | None) -> None:
        """One page of a call of the kernels before 4.0."""
        call = self._read(line)
        page = call.pages[0]
        if page.page in self._open.get(line.key, ()):
            return  # 3.15-3.19: part of a call whose pages are known
        if refs is not None:
            refs.lent = True
            before = self._read(refs)
            for known in before.pages:
                if known.page == page.page:
                    page = known._replace(mfn=page.mfn, status=0)
            user = before.user if call.user == USER_UNKNOWN else call.user
            call = replace(call, pages=[page], user=user)
        self._add(line, call, refs.place if refs else line.place)

    def _read(self, line: _Line) -> Call:
        return read_call(line.arguments, line.head, self.source, line.place)

    def _release(self, refs: _Line | None) -> None:
        """A call whose second line never came stands for itself."""
        if refs is not None and not refs.lent:
            self._add(refs, self._read(refs), refs.place)

    def _add(self, line: _Line, call: Call, same_call: int) -> None:
        self.blank_arrays += call.blank_arrays
        self._new_calls.append((
            line.place, line.time, line.cpu, line.task, line.role in MAP_ROLES,
            line.role in _REFS_ROLES, call.count, call.user, same_call))
        self._new_pages += [
            (self._size, page.page, page.mfn, page.domid, page.ref, page.handle,
             page.status % (1 << 64)) for page in call.pages]
        self._size += 1

    def _flush(self) -> None:
        """Move calls read one at a time into arrays, which are smaller."""
        self._calls.append(np.array(self._new_calls, np.int64).reshape(-1, 9).T)
        self._pages.append(np.array(self._new_pages, np.uint64).reshape(-1, 7).T)
        self._new_calls.clear()
        self._new_pages.clear()

    def table(self) -> CallTable:
        """All calls read, in the order of their lines."""
        for refs in self._pending.values():
            self._release(refs)
        self._pending.clear()
        self._flush()
        return table_of(np.concatenate(self._calls, axis=1),
                        np.concatenate(self._pages, axis=1))


def table_of(calls: I64, pages: U64) -> CallTable:
    """The table of (9, calls) and (7, pages) numbers, in the order of the calls' places.

    The rows are the columns of `CallTable`; those of pages begin with the call, a column
    of `calls`, and have statuses modulo 2**64.
    """
    order = np.argsort(calls[0], kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    page_call = rank[pages[0].astype(np.int64)]
    by_call = np.argsort(page_call, kind="stable")
    place, time, cpu, task, is_map, is_refs, count, user, same_call = calls[:, order]
    _, page, mfn, domid, ref, handle, status = pages[:, by_call]
    return CallTable(
        place, time, cpu.astype(np.int16), task.astype(np.int32), is_map != 0, is_refs != 0,
        count, user, same_call, page_call[by_call], page, mfn, domid.astype(np.int64),
        ref.astype(np.int64), handle.astype(np.int64), status.view(np.int64))


def role_of(head: Head) -> Role:
    """What a call's line means."""
    assert head.probe is not None
    return head.probe.role
