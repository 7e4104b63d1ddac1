"""What a rule is, what a finding is, and the words that all rules' texts share.

A finding is a row of `Findings`; its text is made from the row alone, when it is asked
for, because a replay may give millions of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.replay import NO_EVENT, Table
from xenm2p.kernels import Difference, KernelModel
from xenm2p.trace import (
    I64,
    INVALID,
    NO_CPU,
    NO_DOMID,
    NO_REF,
    NO_TASK,
    U64,
    Column,
    Trace,
    format_frame,
)


class Severity(IntEnum):
    """How bad a finding is; `--fail-on` compares these."""

    INFO = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class Findings(Table):
    """Findings in the order they are decided, one row each.

    `rule` is the number of the finding's id. `event` to `unknown` are as in
    `replay.Facts`; for XM101, `event` is the window's first event, `old` the backend page,
    `other` the share's map and `value` the dio_read. `kind` to `result` are cells of the
    event itself, where the rule's `event_cells` name them. `domid` and `ref` are the grant's
    for XM401, `task` (the lock's holder) to `spans` are XM101's alone.
    `maps` holds an int64 array, of map events for XM401, of all proving events for XM102, and
    `cycle` the waits of XM102 one after the other; None elsewhere.
    """

    rule: NDArray[np.int16]
    severity: NDArray[np.uint8]
    event: I64
    pfn: U64
    mfn: U64
    old: U64
    new: U64
    other: I64
    value: I64
    unknown: NDArray[np.uint8]
    kind: NDArray[np.uint8]
    user: NDArray[np.uint8]
    cpu: NDArray[np.int16]
    ref: NDArray[np.uint32]
    result: NDArray[np.uint8]
    domid: NDArray[np.uint16]
    task: NDArray[np.int32]
    last_event: I64
    lock_event: I64
    verdict: NDArray[np.uint8]
    spans: NDArray[np.uint8]
    maps: NDArray[np.object_]
    cycle: NDArray[np.object_]

    dtypes: ClassVar[dict[str, str]] = {
        "rule": "i2", "severity": "u1", "event": "i8", "pfn": "u8", "mfn": "u8", "old": "u8",
        "new": "u8", "other": "i8", "value": "i8", "unknown": "u1", "kind": "u1",
        "user": "u1", "cpu": "i2", "ref": "u4", "result": "u1", "domid": "u2", "task": "i4",
        "last_event": "i8", "lock_event": "i8", "verdict": "u1", "spans": "u1", "maps": "O",
        "cycle": "O"}

    absent: ClassVar[dict[str, int | None]] = {
        "pfn": INVALID, "mfn": INVALID, "old": INVALID, "new": INVALID, "other": NO_EVENT,
        "value": -1, "unknown": 0, "kind": 0, "user": 0, "cpu": NO_CPU, "ref": NO_REF,
        "result": 0, "domid": NO_DOMID, "task": NO_TASK, "last_event": NO_EVENT,
        "lock_event": NO_EVENT, "verdict": 0, "spans": 0, "maps": None,
        "cycle": None}

    @classmethod
    def from_columns(cls, length: int, **given: Column) -> Findings:
        """Findings from the columns at hand; the others are absent, and cost no memory."""
        columns = {}
        for column in fields(cls):
            name, dtype = column.name, cls.dtypes[column.name]
            columns[name] = (
                given[name].astype(dtype, copy=False) if name in given
                else np.broadcast_to(np.array(cls.absent[name], dtype=dtype), length)
            )
        return cls(**columns)


NO_FINDINGS = Findings.of([])


class Row:
    """One row of `findings`: each column by its name, as a plain Python value."""

    __slots__ = ("_findings", "_row")

    def __init__(self, findings: Findings, row: int):
        self._findings = findings
        self._row = row

    def __getattr__(self, name: str) -> Any:
        cell = getattr(self._findings, name)[self._row]
        return cell.item() if isinstance(cell, np.generic) else cell


@dataclass(frozen=True, slots=True)
class Context:
    """What a text needs beside its row: the trace's task names and the kernel model."""

    trace: Trace
    model: KernelModel

    def task(self, task: int) -> str:
        """The name of a task, or ``a task`` where the trace has none."""
        return self.trace.task_name(task) or "a task"


def other_and_event(row: Row) -> list[int]:
    """The proof of most findings: the event it rests on, and the event that shows it."""
    return [row.other, row.event]


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding: all that documents, man pages and reports say of it.

    number: of the id, which never changes meaning.
    what: what the finding says happened, one sentence.
    grading: which severity it has when, and why.
    cure: what to do about it.
    cured_by: the kernel commits that end it, where they are known.
    severity: the severity under a kernel model, unless `severity_of_rows` says otherwise.
    severity_of_rows: (n,) uint8 severities for n findings of this rule, for rules whose
        findings differ under one model.
    text: one line for a row. proof: the event numbers that prove it, in any order.
    entries: which of `old` and `new` are p2m entries, for reports to print.
    event_cells: the columns of the event itself that text or severity need.
    """

    number: int
    name: str
    family: str
    what: str
    grading: str
    cure: str
    severity: Callable[[KernelModel], Severity]
    text: Callable[[Row, Context], str]
    cured_by: tuple[Difference, ...] = ()
    proof: Callable[[Row], list[int]] = other_and_event
    entries: tuple[str, ...] = ()
    event_cells: tuple[str, ...] = ()
    severity_of_rows: Callable[[Findings], NDArray[np.uint8]] | None = None

    @property
    def id(self) -> str:
        """The id, such as ``XM101``."""
        return f"XM{self.number}"


def always(severity: Severity) -> Callable[[KernelModel], Severity]:
    """A severity that is the same under every kernel model."""
    return lambda model: severity


def graded(mask: Column, severity: Severity, otherwise: Severity) -> NDArray[np.uint8]:
    """`severity` for the rows under `mask`, `otherwise` for the others."""
    return np.where(mask, severity, otherwise).astype(np.uint8)


def page(pfn: int) -> str:
    """``page 0x1010``."""
    return f"page {format_frame(pfn)}"


def grant(domid: int, ref: int) -> str:
    """``grant 8 of domain 0``, without the domain where it is absent."""
    return f"grant {ref}" if domid == NO_DOMID else f"grant {ref} of domain {domid}"


def share_of(event: int) -> str:
    """``share of event 13``, or what is known of a share whose map was not seen."""
    return "share from before the trace" if event == NO_EVENT else f"share of event {event}"
