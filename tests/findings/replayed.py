"""Findings of small traces through the reference engine, as rows that are easy to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.build import trace_of
from xenm2p.engine.reference import replay
from xenm2p.engine.replay import Options
from xenm2p.findings import (
    Context,
    Severity,
    describe,
    entries_of,
    findings_of,
    proving_events,
    rule_of,
)
from xenm2p.kernels import MODELS
from xenm2p.trace import Trace


@dataclass(frozen=True)
class Found:
    """One finding, with its words."""

    id: str
    severity: Severity
    event: int
    events: list[int]
    pfn: int
    entries: tuple[int | None, int | None]
    text: str


def findings_in(trace: Trace, model: str, options: Options | None = None) -> list[Found]:
    """All findings of a trace under the model of that name, in order."""
    context = Context(trace, MODELS[model])
    return [
        Found(rule_of(found, row).id, Severity(int(found.severity[row])),
              int(found.event[row]), proving_events(found, row), int(found.pfn[row]),
              entries_of(found, row), describe(found, row, context))
        for segment in replay(trace, context.model, options)
        for found in [findings_of(segment, context.model)]
        for row in range(len(found))
    ]


def find(
    id: str, rows: list[dict[str, Any]], model: str, options: Options | None = None,
    **trace: Any,
) -> list[Found]:
    """The findings of one id."""
    return [f for f in findings_in(trace_of(rows, **trace), model, options) if f.id == id]


def map_(pfn: int = 0x8000, mfn: int = 0x50010, user: bool = True, **more: Any) -> dict[str, Any]:
    """A map; by default of the domain's own frame 0x50010, whose frontend page is 0x1010."""
    return {"kind": "map", "pfn": pfn, "mfn": mfn, "user": user} | more


def unmap(pfn: int = 0x8000, user: bool = True, **more: Any) -> dict[str, Any]:
    """An unmap."""
    return {"kind": "unmap", "pfn": pfn, "user": user} | more


def lock(pfn: int = 0x1010) -> dict[str, Any]:
    """mount takes the lock of a frontend page."""
    return {"kind": "lock_page", "pfn": pfn, "task": "mount-1042"}


def unlock(pfn: int = 0x1010) -> dict[str, Any]:
    """The lock's release."""
    return {"kind": "unlock_page", "pfn": pfn, "task": "mount-1042"}


def dio_read(pfn: int = 0x8000) -> dict[str, Any]:
    """The backend's direct I/O reads into its page."""
    return {"kind": "dio_read", "pfn": pfn, "task": "qemu-77"}


def p2m_write(pfn: int, mfn: int, **more: Any) -> dict[str, Any]:
    """A p2m write seen on the machine."""
    return {"kind": "p2m_write", "pfn": pfn, "mfn": mfn} | more
