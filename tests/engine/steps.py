"""Events for the smallest traces of the engine's tests, and the models they are about.

Maps, unmaps, locks and direct I/O are `tests.findings.replayed`'s.
"""

from __future__ import annotations

from typing import Any

from tests.findings.replayed import dio_read, lock, map_, unlock, unmap

__all__ = [
    "dio_read", "dio_write", "lock", "lookup", "map_", "set_m2p", "set_p2m", "unlock", "unmap",
]

LISTS = ["override", "local-foreign", "kmap-only"]
MARKS = ["local-foreign", "kmap-only"]
P2M_ONLY = ["p2m-only", "p2m-only-continue"]

# 0x50010 and 0x50011 are the frames of pages 0x1010 and 0x1011, 0x90000 is of another domain.
MFN, FRONTEND = 0x50010, 0x1010


def lookup(mfn: int = MFN) -> dict[str, Any]:
    """mfn_to_pfn."""
    return {"kind": "lookup", "mfn": mfn}


def set_p2m(pfn: int, mfn: int) -> dict[str, Any]:
    """set_phys_to_machine."""
    return {"kind": "set_p2m", "pfn": pfn, "mfn": mfn}


def set_m2p(mfn: int, pfn: int) -> dict[str, Any]:
    """The owner of a frame changes."""
    return {"kind": "set_m2p", "mfn": mfn, "pfn": pfn}


def dio_write(pfn: int = 0x8000) -> dict[str, Any]:
    """The backend's direct I/O writes from its page."""
    return {"kind": "dio_write", "pfn": pfn, "task": "qemu-77"}
