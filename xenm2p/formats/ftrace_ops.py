"""ftrace text, third step: what one line of a map or unmap call shows of its pages.

The probes may fetch whole arrays of ops and pages, a few fields of each page, or none of
them; trace-cmd prints arrays as bytes (``report -R``) or as zeros (``report``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from xenm2p.errors import InputError
from xenm2p.formats.ftrace_fields import Head, fields_of, missing, number_of
from xenm2p.formats.probes import MAP_OP_WORDS, PAGE_FIELDS, UNMAP_OP_WORDS, Role
from xenm2p.trace import INVALID, NO_DOMID, NO_HANDLE, NO_REF

# GNTMAP_contains_pte: the host address is that of a pte, as gntdev has it
CONTAINS_PTE = 1 << 4
COUNT_UNKNOWN = -1
USER_UNKNOWN = -1
STATUS_UNKNOWN = -(1 << 15)  # no GNTST_* has it
# More pages than one call can have: GNTTABOP calls of Linux stay far below
COUNT_LIMIT = 1 << 24

_RAW_ARRAY = re.compile(rb"(\w+)=ARRAY\[([^\]]*)\]")
_OCTETS = re.compile(rb"(?:[0-9a-f]{2}, ){7}[0-9a-f]{2}(?:, )?")

CALL_ROLES = frozenset({
    Role.MAP, Role.UNMAP, Role.MAP_REFS, Role.UNMAP_REFS, Role.ADD_OVERRIDE, Role.REMOVE_OVERRIDE
})
MAP_ROLES = frozenset({Role.MAP, Role.MAP_REFS, Role.ADD_OVERRIDE})


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


def _numbers_of(octets: bytes) -> bytes:
    """An array that is printed as bytes, low byte first, as one of numbers.

    It ends with what is no number where something stands there that is no byte.
    """
    words, at = [], 0
    while (match := _OCTETS.match(octets, at)) is not None:
        word = int.from_bytes(bytes.fromhex(match[0].replace(b", ", b"").decode()), "little")
        words.append(b"%d" % word)
        at = match.end()
    rest = octets[at:].replace(b", ", b"")
    is_whole = len(rest) < 2 * 8 and re.fullmatch(rb"[0-9a-f]*", rest) is not None
    return b"{" + b",".join(words if is_whole else [*words, b"?"]) + b"}"


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


@lru_cache(maxsize=256)
def page_keys(page: int) -> tuple[tuple[str, str], ...]:
    """What the n-th page's fields are, and the names they may have, best first."""
    numbered = [(name, f"{short}{page}") for name, (short, *_) in PAGE_FIELDS.items()]
    named = [(name, key) for name, (_, *long) in PAGE_FIELDS.items() for key in long]
    return (*numbered, *named) if page == 0 else tuple(numbered)


def _from_scalars(fields: dict[str, bytes], role: Role, count: int) -> tuple[list[Page], bool]:
    """Pages from fields of their own, ``r0= h0= a0= p0=`` or ``ref= handle= ..``."""
    is_map, is_done = role in (Role.MAP, Role.MAP_REFS), role in (Role.MAP, Role.UNMAP)
    pages = []
    for i in range(min(count, len(fields))):
        found: dict[str, int] = {}
        for name, key in page_keys(i):
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
        raw = {name.decode(): _numbers_of(octets)
               for name, octets in _RAW_ARRAY.findall(arguments)}
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
        user = int(bool(flags & CONTAINS_PTE))
    else:
        user = USER_UNKNOWN
    return Call(COUNT_UNKNOWN if count is None else count, user, pages, blank)


def lend(call: Call, before: Call) -> Call:
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
