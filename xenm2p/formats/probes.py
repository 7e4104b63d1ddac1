"""The probes a tracer may have set: kernel function, its arguments, what an event of it means.

`PROBES` is the one table. Readers of captures look a line's probe up here by the function
it names, by the name of the event, or by a name that kprobes and perf give by default;
`xenm2p capture` prints from it the probes to set (probe_definitions.py, which also needs
each kernel's parameters, probe_signatures.py). Which trace event each role becomes:

    P2M_WRITE     p2m_write where a call of its task explains it, else set_p2m
    GRANT         grant
    END_GRANT     end_grant
    LOCK, LOCK_POINTER  lock_page
    UNLOCK        unlock_page
    WAIT          none: a note says how many tasks waited
    MAP           one map a page, all of one call
    UNMAP         one unmap a page, all of one call
    ADD_OVERRIDE, REMOVE_OVERRIDE  one map, one unmap (before Linux 4.0)
    MAP_REFS, UNMAP_REFS  lend what MAP, UNMAP or the overrides lack; stand for them where
                  those were not probed
    MARKER        none

A page lock is known to be taken only where a page enters the page cache: lock_page itself is
inline up to its slow path, and there the lock is still another's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from xenm2p.formats.probe_signatures import MAP_OP_SIZE, UNMAP_OP_SIZE


class Role(IntEnum):
    """What an event of a probe means to a reader."""

    P2M_WRITE = 0  # a p2m entry is written
    GRANT = 1  # a frame is granted
    END_GRANT = 2  # access to a grant ends
    LOCK = 3  # a page is locked from here on
    UNLOCK = 4  # a page lock is released
    WAIT = 5  # a task waits for a page lock: nothing is held yet
    MAP = 6  # pages are mapped, the hypercall is done
    UNMAP = 7  # pages are unmapped, the hypercall is done
    MAP_REFS = 8  # a map call begins, its hypercall is still to come
    UNMAP_REFS = 9  # an unmap call begins, its hypercall is still to come
    ADD_OVERRIDE = 10  # one page goes onto the m2p override list
    REMOVE_OVERRIDE = 11  # one page comes off the list
    MARKER = 12  # text written by the user
    LOCK_POINTER = 13  # as LOCK, the page given by its struct page


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument that a reader wants.

    It is the C parameter of this name, or of one of `others`, the names that others give
    it; `type` is the kprobe type that fetches it. Where `at` names a parameter the argument
    lies in the memory there, and `words` is how many 64-bit words a page has of it.
    """

    name: str
    type: str = "x64"
    others: tuple[str, ...] = ()
    at: str = ""
    words: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """One kernel function, or tracepoint, and the event that its probe gives.

    `event` is the probe's name where it is ours, `group` its group, for a tracepoint the
    kernel's; `functions` are the kernel's names for what is probed, best first; `arguments`
    are in the order of the C function, so that the n-th may also be called ``argN``, as
    kprobes name it. `needs` names those without which an event means nothing, `wants` those
    that are read where they are there. `returns` is the type of the function's result, ""
    where it has none of use; `instead_of` the event that makes this one superfluous.
    """

    role: Role
    event: str
    functions: tuple[str, ...]
    arguments: tuple[Argument, ...] = ()
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    tracepoint: bool = False
    group: str = ""
    returns: str = ""
    instead_of: str = ""

    def names_of(self, argument: str) -> tuple[str, ...]:
        """The names under which an argument may appear in a line, best first."""
        for position, known in enumerate(self.arguments, start=1):
            if known.name == argument:
                by_position = () if self.tracepoint else (f"arg{position}",)
                return (known.name, *known.others, *by_position)
        return (argument,)


def _grant(event: str, functions: tuple[str, ...], last: Argument, *,
           instead_of: str = "") -> Probe:
    return Probe(
        Role.GRANT, event, functions,
        (
            Argument("ref", "u32", ("gref", "grant_ref")),
            Argument("domid", "u16", ("dom", "otherend_id")),
            Argument("frame", "x64", ("mfn", "gfn", "gmfn")),
            last,
        ),
        needs=("ref", "domid", "frame"),
        wants=("flags",),
        group="gnt",
        instead_of=instead_of,
    )


def _end_grant(event: str, functions: tuple[str, ...]) -> Probe:
    return Probe(Role.END_GRANT, event, functions,
                 (Argument("ref", "u32", ("gref", "grant_ref")),), needs=("ref",), group="gnt")


def _call(role: Role, event: str, group: str, function: str, ops: str, kops: str,
          words: int) -> Probe:
    return Probe(
        role, event, (function,),
        (
            Argument(ops, "x64", ("ops",)),
            Argument(kops, "x64", ("kmap_ops", "kunmap_ops", "kops")),
            Argument("pages"),
            Argument("count", "u32", ("nr", "nr_pages")),
            Argument("op", at=ops, words=words),
            Argument("page", at="pages", words=1),
        ),
        group=group,
        returns="s32",
    )


def _lock(role: Role, event: str, functions: tuple[str, ...], *,
          needs: tuple[str, ...] = ()) -> Probe:
    # The flags, struct page's first word, have PG_locked as bit 0.
    return Probe(role, event, functions,
                 (Argument("folio", "x64", ("page", "pagep")), Argument("flags", at="folio")),
                 needs=needs, group="pagelock")


MAP_OP_WORDS = MAP_OP_SIZE // 8
UNMAP_OP_WORDS = UNMAP_OP_SIZE // 8

# What a probe of a call may fetch of each page instead of whole arrays: the names before
# the page's number, as in r0= h0= a0= p0= r1= ..; without a number it is the first page's.
PAGE_FIELDS: dict[str, tuple[str, ...]] = {
    "ref": ("r", "ref"),
    "handle": ("h", "handle"),
    "dev_bus_addr": ("a", "dev_bus_addr"),
    "page": ("p", "pagep"),
    "status": ("s", "status"),
    "domid": ("d", "dom", "domid"),
    "flags": ("f", "flags"),
}

PROBES: tuple[Probe, ...] = (
    Probe(
        Role.P2M_WRITE, "set_p2m",
        # The second is the first's caller; both probed give each write twice.
        ("__set_phys_to_machine", "set_phys_to_machine"),
        (Argument("pfn", "x64"), Argument("mfn", "x64", ("entry", "value"))),
        needs=("pfn", "mfn"), group="p2m", returns="u8",
    ),
    # Called through gnttab_interface, so that no grant passes it by.
    _grant("update_entry", ("gnttab_update_entry_v1", "update_grant_entry"),
           Argument("flags", "x32")),
    _grant("update_entry_v2", ("gnttab_update_entry_v2",), Argument("flags", "x32")),
    # Its callers within the file may have it inlined.
    _grant("grant_access", ("gnttab_grant_foreign_access_ref",),
           Argument("readonly", "s32"), instead_of="update_entry"),
    _end_grant("end_access", ("gnttab_end_foreign_access_ref_v1",
                              "gnttab_end_foreign_access_ref")),
    _end_grant("end_access_v2", ("gnttab_end_foreign_access_ref_v2",)),
    _call(Role.MAP, "set_foreign", "p2m", "set_foreign_p2m_mapping",
          "map_ops", "kmap_ops", MAP_OP_WORDS),
    _call(Role.UNMAP, "clear_foreign", "p2m", "clear_foreign_p2m_mapping",
          "unmap_ops", "kunmap_ops", UNMAP_OP_WORDS),
    _call(Role.MAP_REFS, "map_refs", "gnt", "gnttab_map_refs",
          "map_ops", "kmap_ops", MAP_OP_WORDS),
    _call(Role.UNMAP_REFS, "unmap_refs", "gnt", "gnttab_unmap_refs",
          "unmap_ops", "kunmap_ops", UNMAP_OP_WORDS),
    Probe(
        Role.ADD_OVERRIDE, "add_override", ("m2p_add_override",),
        (
            Argument("mfn", "x64", ("frame",)),
            Argument("page", "x64", ("pagep",)),
            Argument("kmap_op", "x64", ("kop",)),
        ),
        needs=("mfn", "page"), group="p2m", returns="s32",
    ),
    Probe(
        Role.REMOVE_OVERRIDE, "remove_override", ("m2p_remove_override",),
        (
            Argument("page", "x64", ("pagep",)),
            Argument("kmap_op", "x64", ("kop",)),
        ),
        needs=("page",), group="p2m", returns="s32",
    ),
    Probe(
        Role.LOCK, "mm_filemap_add_to_page_cache", (),
        # The page enters the page cache locked: mm/filemap.c: __filemap_add_folio
        (Argument("pfn", ""),), needs=("pfn",), tracepoint=True, group="filemap",
    ),
    Probe(
        Role.LOCK_POINTER, "add_to_page_cache", ("add_to_page_cache_locked",),
        (Argument("page", "x64", ("pagep",)),), needs=("page",), group="pagelock",
        instead_of="mm_filemap_add_to_page_cache",
    ),
    _lock(Role.UNLOCK, "folio_unlock", ("folio_unlock", "unlock_page"), needs=("folio",)),
    _lock(Role.WAIT, "folio_lock_slow", ("__folio_lock", "__lock_page")),
    _lock(Role.WAIT, "folio_lock_killable_slow",
          ("__folio_lock_killable", "__lock_page_killable")),
    Probe(Role.MARKER, "tracing_mark_write", (), tracepoint=True),
    Probe(Role.MARKER, "print", (), tracepoint=True),
)

BY_FUNCTION: dict[str, Probe] = {
    function: probe for probe in PROBES for function in probe.functions
}
_BY_EVENT: dict[str, Probe] = {probe.event: probe for probe in PROBES} | BY_FUNCTION

# What kprobes call a probe without a name: p_FUNCTION_OFFSET, r_FUNCTION_0
_DEFAULT_NAME = re.compile(r"[pr]_(\w+)_(\d+)")
_PERF_RETURN = re.compile(r"(\w+)__return")


def probe_of_event(event: str) -> tuple[Probe, bool] | None:
    """The probe of an event that names no function, and whether it is the function's return.

    `event` is a name of ours with or without ``_ret``, a function's name, or one that
    kprobes or perf make of it.
    """
    default = _DEFAULT_NAME.fullmatch(event)
    if default is not None:
        probe = BY_FUNCTION.get(default[1])
        at_entry = event.startswith("r") or default[2] == "0"
        return (probe, event.startswith("r")) if probe and at_entry else None
    if event in _BY_EVENT:
        return _BY_EVENT[event], False
    # perf adds to the name that it was given.
    returned = _PERF_RETURN.fullmatch(event)
    name = (returned[1] if returned else event).removesuffix("_ret")
    return (_BY_EVENT[name], True) if name != event and name in _BY_EVENT else None
