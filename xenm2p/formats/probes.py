"""The probes a tracer may have set: kernel function, its arguments, what an event of it means.

`PROBES` is the one table; readers of captures look a line's probe up here by the function
it names, by the name of the event, or by a name that kprobes and perf give by default.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum


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


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument that a reader wants.

    `fetch` is how a kprobe of our own fetches it, `others` the names that others give it.
    """

    name: str
    fetch: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """One kernel function, or tracepoint, and the event that its probe gives.

    `event` is the probe's name where it is ours; `arguments` are in the order of the C
    function, so that the n-th may also be called ``argN``, as kprobes name it.
    `needs` names those without which an event means nothing, `wants` those that are read
    where they are there.
    """

    role: Role
    event: str
    functions: tuple[str, ...]
    arguments: tuple[Argument, ...] = ()
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    tracepoint: bool = False

    def names_of(self, argument: str) -> tuple[str, ...]:
        """The names under which an argument may appear in a line, best first."""
        for position, known in enumerate(self.arguments, start=1):
            if known.name == argument:
                by_position = () if self.tracepoint else (f"arg{position}",)
                return (known.name, *known.others, *by_position)
        return (argument,)


def _grant(event: str, functions: tuple[str, ...], last: Argument) -> Probe:
    return Probe(
        Role.GRANT, event, functions,
        (
            Argument("ref", "%di:u32", ("gref", "grant_ref")),
            Argument("domid", "%si:u16", ("dom", "otherend_id")),
            Argument("frame", "%dx:x64", ("mfn", "gfn", "gmfn")),
            last,
        ),
        needs=("ref", "domid", "frame"),
        wants=("flags",),
    )


def _call(role: Role, event: str, function: str, ops: str, kops: str, words: int) -> Probe:
    # Eleven pages are what a ring request of blkfront holds.
    return Probe(
        role, event, (function,),
        (
            Argument(ops, "%di:x64", ("ops",)),
            Argument(kops, "%si:x64", ("kmap_ops", "kunmap_ops", "kops")),
            Argument("pages", "%dx:x64"),
            Argument("count", "%cx:u32", ("nr", "nr_pages")),
            Argument("op", f"+0(%di):x64[{words * 11}]"),
            Argument("page", "+0(%dx):x64[11]"),
        ),
    )


# A map op has four 64-bit words, an unmap op three:
# include/xen/interface/grant_table.h: struct gnttab_map_grant_ref, gnttab_unmap_grant_ref
MAP_OP_WORDS = 4
UNMAP_OP_WORDS = 3

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
        (Argument("pfn", "%di:x64"), Argument("mfn", "%si:x64", ("entry", "value"))),
        needs=("pfn", "mfn"),
    ),
    _grant("grant_access", ("gnttab_grant_foreign_access_ref",),
           Argument("readonly", "%cx:s32")),
    _grant("update_entry", ("gnttab_update_entry_v1", "gnttab_update_entry_v2"),
           Argument("flags", "%cx:x32")),
    Probe(
        Role.END_GRANT, "end_access",
        ("gnttab_end_foreign_access_ref_v1", "gnttab_end_foreign_access_ref_v2",
         "gnttab_end_foreign_access_ref"),
        (Argument("ref", "%di:u32", ("gref", "grant_ref")),),
        needs=("ref",),
    ),
    _call(Role.MAP, "set_foreign", "set_foreign_p2m_mapping",
          "map_ops", "kmap_ops", MAP_OP_WORDS),
    _call(Role.UNMAP, "clear_foreign", "clear_foreign_p2m_mapping",
          "unmap_ops", "kunmap_ops", UNMAP_OP_WORDS),
    _call(Role.MAP_REFS, "map_refs", "gnttab_map_refs",
          "map_ops", "kmap_ops", MAP_OP_WORDS),
    _call(Role.UNMAP_REFS, "unmap_refs", "gnttab_unmap_refs",
          "unmap_ops", "kunmap_ops", UNMAP_OP_WORDS),
    Probe(
        Role.ADD_OVERRIDE, "add_override", ("m2p_add_override",),
        (
            Argument("mfn", "%di:x64", ("frame",)),
            Argument("page", "%si:x64", ("pagep",)),
            Argument("kmap_op", "%dx:x64", ("kop",)),
        ),
        needs=("mfn", "page"),
    ),
    Probe(
        Role.REMOVE_OVERRIDE, "remove_override", ("m2p_remove_override",),
        (
            Argument("page", "%di:x64", ("pagep",)),
            Argument("kmap_op", "%si:x64", ("kop",)),
        ),
        needs=("page",),
    ),
    Probe(
        Role.LOCK, "mm_filemap_add_to_page_cache", (),
        # The page enters the page cache locked: mm/filemap.c: __filemap_add_folio
        (Argument("pfn", ""),), needs=("pfn",), tracepoint=True,
    ),
    Probe(
        Role.UNLOCK, "folio_unlock", ("folio_unlock", "unlock_page"),
        (Argument("folio", "%di:x64", ("page", "pagep")),), needs=("folio",),
    ),
    Probe(Role.WAIT, "folio_lock_slow", ("__folio_lock", "__lock_page"),
          (Argument("folio", "%di:x64", ("page", "pagep")),)),
    Probe(Role.WAIT, "folio_lock_killable_slow",
          ("__folio_lock_killable", "__lock_page_killable"),
          (Argument("folio", "%di:x64", ("page", "pagep")),)),
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
    returned = _PERF_RETURN.fullmatch(event)
    name = returned[1] if returned else event.removesuffix("_ret")
    return (_BY_EVENT[name], True) if name != event and name in _BY_EVENT else None
