"""Trace: the event columns, the initial memory and the task names; what all rooms speak.

The one table of event kinds (`KINDS`) is where a kind's number, its fields, their YAML
keys and its help text come from; the one table of columns (`COLUMNS`) is where a
column's dtype, unit and absent sentinel come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

U64: TypeAlias = NDArray[np.uint64]
I64: TypeAlias = NDArray[np.int64]
Column: TypeAlias = NDArray[Any]

# arch/x86/include/asm/xen/page.h: FOREIGN_FRAME_BIT, IDENTITY_FRAME_BIT, INVALID_P2M_ENTRY
FOREIGN = 1 << 63
IDENTITY = 1 << 62
INVALID = (1 << 64) - 1
FRAME_MASK = IDENTITY - 1  # a frame number without its F and I bits

# Frame numbers of a 64-bit machine: a physical address is at most 2**64, a frame 4 KiB.
MAX_FRAME = (1 << 52) - 1

NO_DOMID = 0xFFFF
NO_REF = 0xFFFFFFFF
NO_HANDLE = 0xFFFFFFFF  # also the kernel's INVALID_GRANT_HANDLE
NO_CALL = -1
NO_CPU = -1
NO_TASK = -1


class Kind(IntEnum):
    """Event kinds; the numbers are those of the binary format and never change."""

    MAP = 0
    UNMAP = 1
    SET_P2M = 2
    SET_M2P = 3
    LOOKUP = 4
    LOCK_PAGE = 5
    UNLOCK_PAGE = 6
    DIO_READ = 7
    DIO_WRITE = 8
    GUP_FAST = 9
    GRANT = 10
    END_GRANT = 11
    P2M_WRITE = 12
    LOST = 13


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """One event column: name, dtype, the value that stands for absent, and its meaning."""

    name: str
    dtype: np.dtype[Any]
    absent: int
    help: str


def _column(name: str, dtype: str, absent: int, help: str) -> tuple[str, ColumnSpec]:
    return name, ColumnSpec(name, np.dtype(dtype), absent, help)


COLUMNS: dict[str, ColumnSpec] = dict(
    [
        _column("time", "<i8", 0, "time of the event in nanoseconds"),
        _column("kind", "<u1", 0, "what happened"),
        _column("pfn", "<u8", INVALID, "pseudo-physical frame number, or a page's number"),
        _column("mfn", "<u8", INVALID, "machine frame number, or a p2m entry with its bits"),
        _column("user", "<u1", 0, "1: mapped with kmap_ops, by gntdev for user space"),
        _column("domid", "<u2", NO_DOMID, "the other domain of a grant"),
        _column("ref", "<u4", NO_REF, "grant reference; the number of events of a `lost`"),
        _column("handle", "<u4", NO_HANDLE, "grant handle that the hypercall gave"),
        _column("status", "<i2", 0, "GNTST_* status of the hypercall, 0 is success"),
        _column("call", "<i8", NO_CALL, "events of one gnttab_(un)map_refs call share it"),
        _column("cpu", "<i2", NO_CPU, "processor the event was seen on"),
        _column("task", "<i4", NO_TASK, "index into the trace's task names"),
    ]
)


@dataclass(frozen=True, slots=True)
class KindSpec:
    """One event kind.

    `needs` and `takes` map the YAML keys that an event of this kind must and may have to
    the column that carries each; `time` is needed and `cpu`, `task` may be had by all.
    """

    kind: Kind
    name: str
    needs: dict[str, str]
    takes: dict[str, str]
    help: str

    @property
    def keys(self) -> dict[str, str]:
        """All YAML keys of this kind, in the order they are written, with their columns."""
        return {"time": "time"} | self.needs | self.takes | {"cpu": "cpu", "task": "task"}


def _kind(
    kind: Kind, needs: str, takes: str, help: str, **elsewhere: str
) -> tuple[str, KindSpec]:
    def columns(names: str) -> dict[str, str]:
        return {name: elsewhere.get(name, name) for name in names.split()}

    name = kind.name.lower()
    return name, KindSpec(kind, name, columns(needs), columns(takes), help)


KINDS: dict[str, KindSpec] = dict(
    [
        _kind(Kind.MAP, "mfn pfn", "user domid ref handle status call",
              "one grant mapped at backend page pfn; status other than 0: the hypercall "
              "failed and no table changes"),
        _kind(Kind.UNMAP, "pfn", "user domid ref handle status call",
              "that backend page's grant unmapped"),
        _kind(Kind.SET_P2M, "pfn mfn", "",
              "set_phys_to_machine; mfn may be invalid, F:.. or I:.."),
        _kind(Kind.SET_M2P, "mfn pfn", "",
              "the machine_to_phys entry changes; pfn may be invalid"),
        _kind(Kind.LOOKUP, "mfn", "", "mfn_to_pfn: the answer is reported"),
        _kind(Kind.LOCK_PAGE, "pfn task", "", "the page lock is taken"),
        _kind(Kind.UNLOCK_PAGE, "pfn task", "", "the page lock is released"),
        _kind(Kind.DIO_READ, "pfn task", "",
              "direct I/O reads into the mapped backend page: it dirties the page and so "
              "takes its lock (bio_set_pages_dirty)"),
        _kind(Kind.DIO_WRITE, "pfn task", "",
              "direct I/O writes from the mapped backend page: no page lock"),
        _kind(Kind.GUP_FAST, "pfn", "", "get_user_pages_fast on the owner's frontend page"),
        _kind(Kind.GRANT, "ref domid mfn", "", "the frontend grants a frame"),
        _kind(Kind.END_GRANT, "ref", "domid", "the frontend ends access"),
        _kind(Kind.P2M_WRITE, "pfn mfn", "call",
              "a p2m write seen on the machine; never applied, compared with the model"),
        _kind(Kind.LOST, "count", "",
              "the tracer lost events here; without cpu: on one that is not known",
              count="ref"),
    ]
)
KIND_BY_CODE: tuple[KindSpec, ...] = tuple(sorted(KINDS.values(), key=lambda spec: spec.kind))


@dataclass(frozen=True, slots=True)
class Events:
    """A run of events: twelve columns of one length, dtypes and sentinels as in `COLUMNS`."""

    time: I64
    kind: NDArray[np.uint8]
    pfn: U64
    mfn: U64
    user: NDArray[np.uint8]
    domid: NDArray[np.uint16]
    ref: NDArray[np.uint32]
    handle: NDArray[np.uint32]
    status: NDArray[np.int16]
    call: I64
    cpu: NDArray[np.int16]
    task: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.kind)

    def columns(self) -> dict[str, Column]:
        """The columns by name, in the order of `COLUMNS`."""
        return {name: getattr(self, name) for name in COLUMNS}

    def rows(self, where: slice | Column) -> Events:
        """The events at `where`: a slice gives views, a mask or index array copies."""
        return Events(**{name: column[where] for name, column in self.columns().items()})

    @classmethod
    def from_columns(cls, length: int, **given: Column) -> Events:
        """Events of `length` rows from the columns at hand; the others are absent."""
        columns = {}
        for name, spec in COLUMNS.items():
            if name in given:
                columns[name] = np.ascontiguousarray(given[name], dtype=spec.dtype)
            else:
                columns[name] = np.full(length, spec.absent, dtype=spec.dtype)
        return cls(**columns)

    @classmethod
    def concat(cls, parts: list[Events]) -> Events:
        """All `parts` one after the other."""
        if not parts:
            return cls.from_columns(0)
        columns = {n: np.concatenate([getattr(p, n) for p in parts]) for n in COLUMNS}
        return cls(**columns)


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of table entries: for i < count[k], entry start[k]+i holds value[k]+i.

    Three uint64 arrays of one length; a value of INVALID holds for the whole run.
    Later runs win over earlier ones.
    """

    start: U64
    value: U64
    count: U64

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def of(cls, rows: list[tuple[int, int, int]]) -> Runs:
        """Runs from (start, value, count) rows."""
        table = np.array(rows, dtype=np.uint64).reshape(len(rows), 3)
        return cls(*(np.ascontiguousarray(table[:, i]) for i in range(3)))

    def tuples(self) -> list[tuple[int, int, int]]:
        """The rows as (start, value, count) integers."""
        return list(zip(self.start.tolist(), self.value.tolist(), self.count.tolist(),
                        strict=True))


def _no_runs() -> Runs:
    return Runs.of([])


ChunkSource: TypeAlias = Callable[[], Iterator[Events]]


@dataclass(frozen=True, slots=True)
class Resumption:
    """A way into the middle of a trace.

    A replay of the initial memory, then of `rows`, which are earlier events with `numbers`
    (r,) int64 ascending, then of `chunks`, whose first event has the number `first_event`,
    is from there on the same as a replay of all events, under every kernel model.
    """

    numbers: I64
    rows: Events
    first_event: int
    chunks: Iterator[Events]


@dataclass(slots=True)
class Trace:
    """A trace: what is known before the first event, and the events in chunks.

    `memory` rows are p2m runs (value: a frame, F:frame, I:frame or INVALID); a run of
    plain frames also gives m2p[value+i] = start+i. `m2p` rows apply after all of them.
    `chunks_of` starts a fresh iteration over the events at each call, except where
    `once` says that the input is a stream; `tasks` may grow while chunks are read.
    `length` is the number of events where it is known beforehand.
    `notes` says in sentences what a capture could not show. `resume` gives the nearest way
    in at or before an event number, where the file has checkpoints; `beyond` the first
    event later than a time, None for none, where that can be had without reading all; its
    second argument as `by_halves` of `event_beyond`.
    """

    chunks_of: ChunkSource
    kernel: str | None = None
    domain: int = 0
    origin: str = ""
    memory: Runs = field(default_factory=_no_runs)
    m2p: Runs = field(default_factory=_no_runs)
    tasks: list[str] = field(default_factory=list)
    length: int | None = None
    once: bool = False
    notes: list[str] = field(default_factory=list)
    resume: Callable[[int], Resumption] | None = None
    beyond: Callable[[int, bool], int | None] | None = None

    def chunks(self, size: int = 1 << 16) -> Iterator[Events]:
        """The events in order, in non-empty pieces of at most `size` rows (views)."""
        for chunk in self.chunks_of():
            for begin in range(0, len(chunk), size):
                yield chunk.rows(slice(begin, begin + size)) if len(chunk) > size else chunk

    def events(self) -> Events:
        """All events at once; for traces that fit into memory."""
        return Events.concat(list(self.chunks_of()))

    @classmethod
    def of_events(cls, events: Events, **header: Any) -> Trace:
        """A trace over events that are in memory."""
        return cls(chunks_of=lambda: iter((events,)), length=len(events), **header)

    def task_name(self, task: int) -> str | None:
        """The name of a task index, None where it is absent."""
        return self.tasks[task] if 0 <= task < len(self.tasks) else None


def event_beyond(trace: Trace, time: int, *, by_halves: bool = False) -> int | None:
    """The number of the first event later than `time` in ns, None where none is.

    Where times step back the first one counts, whatever comes after; but with `by_halves`
    a file that can be entered in the middle is searched so, which may find another one.
    """
    if trace.beyond is not None:
        return trace.beyond(time, by_halves)
    first = 0
    for chunk in trace.chunks():
        is_beyond = chunk.time > time
        if is_beyond.any():
            return first + int(is_beyond.argmax())
        first += len(chunk)
    return None


def same_trace(a: Trace, b: Trace) -> bool:
    """Whether two traces say the same: header, memory rows, and every event by meaning."""
    if (a.kernel, a.domain, a.origin) != (b.kernel, b.domain, b.origin):
        return False
    for runs_a, runs_b in ((a.memory, b.memory), (a.m2p, b.m2p)):
        if runs_a.tuples() != runs_b.tuples():
            return False
    events_a, events_b = a.events(), b.events()
    names_a = [a.task_name(t) for t in events_a.task.tolist()]
    names_b = [b.task_name(t) for t in events_b.task.tolist()]
    return names_a == names_b and all(
        np.array_equal(getattr(events_a, f.name), getattr(events_b, f.name))
        for f in fields(Events)
        if f.name != "task"
    )


def is_foreign(entry: int) -> bool:
    """Whether a p2m entry has the FOREIGN bit; INVALID, which has all bits, does not count."""
    return entry != INVALID and bool(entry & FOREIGN)


def strip_bits(entry: int) -> int:
    """The frame of an entry: F and I bits off, INVALID stays INVALID."""
    return INVALID if entry == INVALID else entry & FRAME_MASK


def format_frame(entry: int) -> str:
    """A frame or p2m entry as text: ``invalid``, ``0x1a2b``, ``F:0x1a2b``, ``I:0x1a2b``."""
    if entry == INVALID:
        return "invalid"
    if entry & FOREIGN:
        return f"F:0x{entry & ~FOREIGN:x}"
    if entry & IDENTITY:
        return f"I:0x{entry & ~IDENTITY:x}"
    return f"0x{entry:x}"
