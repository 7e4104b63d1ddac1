"""ftrace text, third step: the lines of map and unmap calls, one call at a time.

A call shows twice: as ``gnttab_map_refs`` before its hypercall, when handles, frames and
statuses are still to come, and as ``set_foreign_p2m_mapping`` after it. The second is the
event; the first only lends what the second's probe did not fetch. Where the second was not
probed the first stands for the call.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xenm2p.errors import InputError
from xenm2p.formats.ftrace_fields import Head, fields_of, missing, number_of
from xenm2p.formats.ftrace_lines import Lines
from xenm2p.formats.probes import MAP_OP_WORDS, PAGE_FIELDS, UNMAP_OP_WORDS, Role
from xenm2p.trace import I64, INVALID, NO_DOMID, NO_HANDLE, NO_REF, U64

# GNTMAP_contains_pte: the host address is that of a pte, as gntdev has it
_CONTAINS_PTE = 1 << 4
COUNT_UNKNOWN = -1
USER_UNKNOWN = -1
STATUS_UNKNOWN = -(1 << 15)  # no GNTST_* has it
# More pages than one call can have: GNTTABOP calls of Linux stay far below
COUNT_LIMIT = 1 << 24

_RAW_ARRAY = re.compile(rb"(\w+)=ARRAY\[([0-9a-f, ]*)\]")

CALL_ROLES = frozenset({
    Role.MAP, Role.UNMAP, Role.MAP_REFS, Role.UNMAP_REFS, Role.ADD_OVERRIDE, Role.REMOVE_OVERRIDE
})
MAP_ROLES = frozenset({Role.MAP, Role.MAP_REFS, Role.ADD_OVERRIDE})
_REFS_OF = {Role.MAP: Role.MAP_REFS, Role.ADD_OVERRIDE: Role.MAP_REFS,
            Role.UNMAP: Role.UNMAP_REFS, Role.REMOVE_OVERRIDE: Role.UNMAP_REFS}


class Page(NamedTuple):
    """One page of a call as a line shows it: `page` is its struct page, 0 where unknown."""

    page: int
    mfn: int = INVALID
    domid: int = NO_DOMID
    ref: int = NO_REF
    handle: int = NO_HANDLE
    status: int = STATUS_UNKNOWN


@dataclass(frozen=True, slots=True)
class Call:
    """One line of a call: how many pages it has, and those that the line shows.

    `blank_arrays` says that arrays were printed of which nothing is left but zeros.
    """

    count: int
    user: int
    pages: list[Page]
    blank_arrays: bool = False


def _words(text: bytes, wanted: int) -> list[int] | None:
    """The first `wanted` numbers of a printed array ``{0x1,0x2,..}``; None if it is none."""
    if not (text.startswith(b"{") and text.endswith(b"}")):
        return None
    numbers = [number_of(word) for word in text[1:-1].split(b",", wanted)[:wanted]]
    return None if None in numbers else [number for number in numbers if number is not None]


def _signed16(value: int) -> int:
    value &= 0xFFFF
    return value - (1 << 16) if value >= 1 << 15 else value


def _page_of_map(op: list[int], page: int, is_done: bool) -> Page:
    """A page from its map op; before the hypercall the op holds no answer yet."""
    ref, domid = op[1] >> 32, op[2] & 0xFFFF
    if not is_done:
        return Page(page, domid=domid, ref=ref)
    return Page(page, op[3] >> 12, domid, ref, op[2] >> 32, _signed16(op[2] >> 16))


def _page_of_unmap(op: list[int], page: int, is_done: bool) -> Page:
    status = _signed16(op[2] >> 32) if is_done else STATUS_UNKNOWN
    return Page(page, handle=op[2] & 0xFFFFFFFF, status=status)


def _from_arrays(fields: dict[str, bytes], role: Role, count: int) -> (
        tuple[list[Page], bool] | None):
    """Pages from an array of ops and one of pages; None where the line has none."""
    arrays = [name for name, value in fields.items() if value.startswith(b"{")]
    if not arrays:
        return None
    words = MAP_OP_WORDS if role in (Role.MAP, Role.MAP_REFS) else UNMAP_OP_WORDS
    known = [name for name in arrays if name in ("op", "ops", "page", "pagep")]
    # By default arrays are named after their place: the ops come first, as in our probes.
    ops_name = next((n for n in known if n.startswith("op")), None if known else arrays[0])
    pages_name = next((n for n in known if n.startswith("page")),
                      arrays[1] if not known and len(arrays) > 1 else None)
    ops = _words(fields[ops_name], words * count) if ops_name else []
    pointers = _words(fields[pages_name], count) if pages_name else []
    if ops is None or pointers is None:
        return [], False
    shown = max(len(ops) // words, len(pointers))
    is_done = role in (Role.MAP, Role.UNMAP)
    take = _page_of_map if words == MAP_OP_WORDS else _page_of_unmap
    pages = []
    for i in range(shown):
        op = ops[words * i : words * (i + 1)]
        page = pointers[i] if i < len(pointers) else 0
        if any(op):
            pages.append(take(op, page, is_done) if len(op) == words else Page(page))
        elif page:
            pages.append(Page(page))
    return pages, shown > 0 and not pages


def _from_scalars(fields: dict[str, bytes], role: Role, count: int) -> tuple[list[Page], bool]:
    """Pages from fields of their own, ``r0= h0= a0= p0=`` or ``ref= handle= ..``."""
    is_map, is_done = role in (Role.MAP, Role.MAP_REFS), role in (Role.MAP, Role.UNMAP)
    pages = []
    for i in range(min(count, len(fields))):
        found: dict[str, int] = {}
        for name, (short, *long) in PAGE_FIELDS.items():
            for key in (f"{short}{i}", *(long if i == 0 else ())):
                value = number_of(fields[key]) if key in fields else None
                if value is not None:
                    found.setdefault(name, value)
        if not found.keys() & {"page", "ref", "handle", "dev_bus_addr"}:
            break
        if found.get("page") == 0:
            break  # not fetched: what else there is of it is not to be trusted
        handle = found.get("handle", NO_HANDLE) & 0xFFFFFFFF
        status = _signed16(found["status"]) if "status" in found else STATUS_UNKNOWN
        pages.append(Page(
            found.get("page", 0),
            found["dev_bus_addr"] >> 12 if is_map and is_done and "dev_bus_addr" in found
            else INVALID,
            found.get("domid", NO_DOMID) & 0xFFFF if is_map else NO_DOMID,
            found.get("ref", NO_REF) & 0xFFFFFFFF if is_map else NO_REF,
            NO_HANDLE if role is Role.MAP_REFS else handle,
            status if is_done else STATUS_UNKNOWN,
        ))
    return pages, False


def read_call(arguments: bytes, head: Head, source: str, place: int) -> Call:
    """One line of a call; pages beyond its count, whatever they hold, are left out.

    Raises InputError, naming the line, for a count that is none.
    """
    assert head.probe is not None
    probe, role = head.probe, head.probe.role
    raw = {}
    if b"=ARRAY[" in arguments:
        for name, octets in _RAW_ARRAY.findall(arguments):
            values = np.frombuffer(bytes.fromhex(octets.replace(b", ", b"").decode()), "u1")
            words = values[: len(values) // 8 * 8].view("<u8").tolist()
            raw[name.decode()] = b"{" + b",".join(b"%d" % word for word in words) + b"}"
        arguments = _RAW_ARRAY.sub(b"", arguments)
    fields = fields_of(arguments) | raw

    def scalar(argument: str) -> int | None:
        for name in probe.names_of(argument):
            if name in fields:
                return number_of(fields[name])
        return None

    if role in (Role.ADD_OVERRIDE, Role.REMOVE_OVERRIDE):
        page, kmap_op, mfn = scalar("page"), scalar("kmap_op"), scalar("mfn")
        for argument in probe.needs:
            if scalar(argument) is None:
                raise missing(head.event, argument, fields, source, place)
        user = USER_UNKNOWN if kmap_op is None else int(kmap_op != 0)
        return Call(1, user, [Page(page or 0, INVALID if mfn is None else mfn, status=0)])

    count = scalar("count")
    if count is not None and count > COUNT_LIMIT:
        raise InputError(f"{head.event}: count {count} is more than {COUNT_LIMIT}",
                         source=source, place=place)
    # Without a count nobody knows which slots are stale.
    usable = count or 0
    pages, blank = _from_arrays(fields, role, usable) or _from_scalars(fields, role, usable)
    kmap_ops = scalar(probe.arguments[1].name)
    flags = number_of(fields["flags"]) if "flags" in fields else None
    if kmap_ops is not None:
        user = int(kmap_ops != 0)
    elif flags is not None and role in MAP_ROLES:
        user = int(bool(flags & _CONTAINS_PTE))
    else:
        user = USER_UNKNOWN
    return Call(COUNT_UNKNOWN if count is None else count, user, pages, blank)


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
    is_override: NDArray[np.bool_]
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
class _Pending:
    """A call seen before its hypercall, not yet after it."""

    arguments: bytes
    head: Head
    place: int
    time: int
    cpu: int
    task: int
    lent: bool = False


def _columns(kinds: str) -> list[array[int]]:
    return [array(kind) for kind in kinds]


@dataclass(slots=True)
class CallReader:
    """Pairs the two lines of each call as they come; see the module's text."""

    source: str
    idle: list[int]
    roles: set[Role] = field(default_factory=set)
    blank_arrays: int = 0
    _calls: list[array[int]] = field(default_factory=lambda: _columns("qqqqqqqqqq"))
    _pages: list[array[int]] = field(default_factory=lambda: _columns("qQQqqqq"))
    _pending: dict[tuple[int, int, Role], _Pending] = field(default_factory=dict)
    _open: dict[tuple[int, int, Role], frozenset[int]] = field(default_factory=dict)

    def read(self, lines: Lines, row: int, head: Head) -> None:
        """Take in the line of a call."""
        assert head.probe is not None
        role = head.probe.role
        self.roles.add(role)
        begin = int(lines.begin[row]) + len(head.text)
        seen = _Pending(lines.text[begin : int(lines.end[row])], head, int(lines.place[row]),
                        int(lines.time[row]), int(lines.cpu[row]), int(lines.task[row]))
        if role in (Role.MAP_REFS, Role.UNMAP_REFS):
            lane = self._lane(seen, role)
            self._release(self._pending.get(lane))
            self._pending[lane] = seen
            return
        refs = self._pending.get(self._lane(seen, _REFS_OF[role]))
        if role in (Role.MAP, Role.UNMAP):
            self._call(seen, refs)
        else:
            self._override(seen, refs)

    def _lane(self, seen: _Pending, role: Role) -> tuple[int, int, Role]:
        """Lines of one call are of one task; pid 0 is a task of each cpu."""
        return seen.task, seen.cpu if seen.task in self.idle else -1, role

    def _call(self, seen: _Pending, refs: _Pending | None) -> None:
        call = read_call(seen.arguments, seen.head, self.source, seen.place)
        if refs is not None:
            del self._pending[self._lane(refs, _REFS_OF[self._role(seen)])]
            has_all = call.user != USER_UNKNOWN and call.count != COUNT_UNKNOWN and (
                call.count == 0 or (call.pages and call.pages[0].page))
            if not has_all:
                before = read_call(refs.arguments, refs.head, self.source, refs.place)
                call = _lend(call, before)
        self._open[self._lane(seen, self._role(seen))] = frozenset(p.page for p in call.pages)
        self._add(seen, call, refs.place if refs else seen.place)

    def _override(self, seen: _Pending, refs: _Pending | None) -> None:
        call = read_call(seen.arguments, seen.head, self.source, seen.place)
        whole = Role.MAP if self._role(seen) is Role.ADD_OVERRIDE else Role.UNMAP
        page = call.pages[0]
        if page.page in self._open.get(self._lane(seen, whole), ()):
            return  # 3.15-3.19: part of a call whose pages are known
        if refs is not None:
            refs.lent = True
            before = read_call(refs.arguments, refs.head, self.source, refs.place)
            for known in before.pages:
                if known.page == page.page:
                    page = known._replace(mfn=page.mfn, status=0)
            user = before.user if call.user == USER_UNKNOWN else call.user
            call = replace(call, pages=[page], user=user)
        self._add(seen, call, refs.place if refs else seen.place)

    @staticmethod
    def _role(seen: _Pending) -> Role:
        assert seen.head.probe is not None
        return seen.head.probe.role

    def _release(self, refs: _Pending | None) -> None:
        """A call whose second line never came stands for itself."""
        if refs is not None and not refs.lent:
            call = read_call(refs.arguments, refs.head, self.source, refs.place)
            self._add(refs, call, refs.place)

    def _add(self, seen: _Pending, call: Call, same_call: int) -> None:
        role = self._role(seen)
        self.blank_arrays += call.blank_arrays
        number = len(self._calls[0])
        values = (seen.place, seen.time, seen.cpu, seen.task, role in MAP_ROLES,
                  role in (Role.MAP_REFS, Role.UNMAP_REFS),
                  role in (Role.ADD_OVERRIDE, Role.REMOVE_OVERRIDE), call.count, call.user,
                  same_call)
        for column, value in zip(self._calls, values, strict=True):
            column.append(value)
        for page in call.pages:
            for column, value in zip(self._pages, (number, *page), strict=True):
                column.append(value)

    def table(self) -> CallTable:
        """All calls read, in the order of their lines."""
        for refs in self._pending.values():
            self._release(refs)
        self._pending.clear()
        calls = [np.array(column, np.int64) for column in self._calls]
        call_of, page, mfn, *rest = self._pages
        order = np.argsort(calls[0], kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        page_call = rank[np.array(call_of, np.int64)]
        by_call = np.argsort(page_call, kind="stable")
        place, time, cpu, task, is_map, is_refs, is_override, count, user, same = (
            column[order] for column in calls)
        return CallTable(
            place, time, cpu.astype(np.int16), task.astype(np.int32), is_map != 0, is_refs != 0,
            is_override != 0, count, user, same, page_call[by_call],
            np.array(page, np.uint64)[by_call], np.array(mfn, np.uint64)[by_call],
            *(np.array(column, np.int64)[by_call] for column in rest))


def _lend(call: Call, before: Call) -> Call:
    """A call with what only its line from before the hypercall shows."""
    pages = []
    for i in range(max(len(call.pages), len(before.pages))):
        known = call.pages[i] if i < len(call.pages) else Page(0)
        lent = before.pages[i] if i < len(before.pages) else Page(0)
        pages.append(Page(
            known.page or lent.page, known.mfn,
            lent.domid if known.domid == NO_DOMID else known.domid,
            lent.ref if known.ref == NO_REF else known.ref,
            lent.handle if known.handle == NO_HANDLE else known.handle,
            known.status))
    return Call(
        before.count if call.count == COUNT_UNKNOWN else call.count,
        before.user if call.user == USER_UNKNOWN else call.user,
        pages, call.blank_arrays)
