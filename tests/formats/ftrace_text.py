"""ftrace text as the kernel prints it, piece by piece, for tests that say what they mean."""

from __future__ import annotations

import io
from dataclasses import dataclass

from xenm2p.formats.ftrace import read_ftrace
from xenm2p.trace import FOREIGN, INVALID, KIND_BY_CODE, Kind, Runs, Trace

VMEMMAP = 0xFFFFEA0000000000
SLOTS = 11


def page_of(pfn: int, base: int = VMEMMAP) -> int:
    """The struct page of a pfn."""
    return base + 64 * pfn


def line(event: str, task: str = "0.xvda-0-2656", cpu: int = 1, time: float = 1390.727208,
         flags: str = ".....") -> str:
    """One line as trace_print_context and trace_print_time print it."""
    comm, _, pid = task.rpartition("-")
    blank = " " * (16 - len(comm.encode()))
    return f"{blank}{comm}-{pid:<7} [{cpu:03}] {flags} {time:12.6f}: {event}\n"


def set_p2m(pfn: int, entry: int) -> str:
    """A p2m write."""
    return f"set_p2m: (__set_phys_to_machine+0x0/0x180) pfn=0x{pfn:x} mfn=0x{entry:x}"


@dataclass
class Grant:
    """What a map op holds of one page."""

    pfn: int
    mfn: int = 0
    ref: int = 8
    handle: int = 3
    status: int = 0
    domid: int = 0

    def map_op(self) -> list[int]:
        """host_addr, flags | ref, dom | status | handle, dev_bus_addr."""
        answer = self.domid | (self.status & 0xFFFF) << 16 | self.handle << 32
        return [0xFFFF888000000000 | self.pfn << 12, 2 | self.ref << 32, answer, self.mfn << 12]

    def unmap_op(self) -> list[int]:
        """host_addr, dev_bus_addr, handle | status."""
        answer = self.handle | (self.status & 0xFFFF) << 32
        return [0xFFFF888000000000 | self.pfn << 12, 0, answer]


def _arrays(ops: list[list[int]], grants: list[Grant], width: int, base: int) -> str:
    words = [word for op in ops[:SLOTS] for word in op] + [0] * width * (SLOTS - len(ops))
    pages = [page_of(g.pfn, base) for g in grants[:SLOTS]] + [0] * (SLOTS - len(grants))
    op, page = (",".join(f"0x{w:x}" for w in values) for values in (words, pages))
    return f"op={{{op}}} page={{{page}}}"


def map_call(*grants: Grant, count: int | None = None, kmap: int = 0, base: int = VMEMMAP,
             event: str = "set_foreign: (set_foreign_p2m_mapping+0x0/0x300)") -> str:
    """A map call after its hypercall; `count` where it is not that of `grants`."""
    arrays = _arrays([g.map_op() for g in grants], list(grants), 4, base)
    number = len(grants) if count is None else count
    return (f"{event} map_ops=0xffffc90040867bf0 kmap_ops=0x{kmap:x} "
            f"pages=0xffffc90040867b98 count={number} {arrays}")


def unmap_call(*grants: Grant, count: int | None = None, kmap: int = 0, base: int = VMEMMAP,
               event: str = "clear_foreign: (clear_foreign_p2m_mapping+0x0/0x160)") -> str:
    """An unmap call after its hypercall."""
    arrays = _arrays([g.unmap_op() for g in grants], list(grants), 3, base)
    number = len(grants) if count is None else count
    return (f"{event} unmap_ops=0xffff88800c58a038 kunmap_ops=0x{kmap:x} "
            f"pages=0xffff88800c58b838 count={number} {arrays}")


def map_refs(*grants: Grant, **given: int) -> str:
    """A map call before its hypercall: frames and handles are old bytes."""
    return map_call(*grants, event="map_refs: (gnttab_map_refs+0x0/0x170)", **given)


def unmap_refs(*grants: Grant, **given: int) -> str:
    """An unmap call before its hypercall."""
    return unmap_call(*grants, event="unmap_refs: (gnttab_unmap_refs+0x0/0x70)", **given)


def read(text: str | bytes, memory: Runs | None = None) -> Trace:
    """The trace that a text gives."""
    data = text.encode() if isinstance(text, str) else text
    return read_ftrace(io.BytesIO(data), "capture.txt", memory=memory)


def events_of(trace: Trace, *columns: str) -> list[tuple[object, ...]]:
    """(kind, columns...) of all events; absent values as they are in the columns."""
    events = trace.events()
    kinds = [KIND_BY_CODE[kind].name for kind in events.kind.tolist()]
    return list(zip(kinds, *(getattr(events, name).tolist() for name in columns), strict=True))


def kinds_of(trace: Trace) -> list[str]:
    """The kinds of all events."""
    return [kind for kind, in events_of(trace)]


def foreign(mfn: int) -> int:
    """The p2m entry of a mapped frame."""
    return FOREIGN | mfn


__all__ = ["FOREIGN", "INVALID", "Grant", "Kind", "events_of", "foreign", "kinds_of", "line",
           "map_call", "map_refs", "page_of", "read", "set_p2m", "unmap_call", "unmap_refs"]
