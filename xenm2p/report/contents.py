"""What is in a trace, gathered chunk by chunk: for `info` and `check`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xenm2p.trace import (
    COLUMNS,
    FRAME_MASK,
    INVALID,
    KIND_BY_CODE,
    KINDS,
    NO_CALL,
    NO_CPU,
    NO_REF,
    NO_TASK,
    U64,
    Column,
    Events,
    Kind,
)

_NEEDS_PFN = np.array(["pfn" in spec.needs for spec in KIND_BY_CODE])
_NEEDS_MFN = np.array(["mfn" in spec.needs for spec in KIND_BY_CODE])


@dataclass(slots=True)
class Distinct:
    """The distinct values seen, sorted; memory grows with them, not with what was seen."""

    values: Column
    _pending: list[Column] = field(default_factory=list)
    _pending_size: int = 0

    def add(self, column: Column) -> None:
        """Take in more values."""
        fresh = np.unique(column)
        self._pending.append(fresh)
        self._pending_size += len(fresh)
        # Merging only when as many wait as are known keeps the whole quasi-linear.
        if self._pending_size > max(len(self.values), 1 << 16):
            self._merge()

    def __len__(self) -> int:
        self._merge()
        return len(self.values)

    def _merge(self) -> None:
        self.values = np.unique(np.concatenate([self.values, *self._pending]))
        self._pending, self._pending_size = [], 0


def _distinct(column: str) -> Distinct:
    return Distinct(np.zeros(0, dtype=COLUMNS[column].dtype))


@dataclass(slots=True)
class Contents:
    """Totals of the events of a trace.

    `backwards` counts events whose time is before that of the event before, `first_back`
    is the first of them, None for none. `lost` sums the `lost` events that told a number.
    """

    events: int = 0
    kinds: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(len(KIND_BY_CODE), dtype=np.int64))
    first_time: int | None = None
    last_time: int | None = None
    backwards: int = 0
    first_back: int | None = None
    lost: int = 0
    pages: Distinct = field(default_factory=lambda: _distinct("pfn"))
    frames: Distinct = field(default_factory=lambda: _distinct("mfn"))
    cpus: Distinct = field(default_factory=lambda: _distinct("cpu"))
    tasks: Distinct = field(default_factory=lambda: _distinct("task"))
    calls: Distinct = field(default_factory=lambda: _distinct("call"))
    _previous: int | None = None

    def add(self, events: Events) -> None:
        """Take in the next events, at least one."""
        self._add_times(events)
        self.kinds += np.bincount(events.kind, minlength=len(KIND_BY_CODE))
        self.pages.add(_frames(events.pfn[_NEEDS_PFN[events.kind]]))
        self.frames.add(_frames(events.mfn[_NEEDS_MFN[events.kind]]))
        self.cpus.add(events.cpu[events.cpu != NO_CPU])
        self.tasks.add(events.task[events.task != NO_TASK])
        self.calls.add(events.call[events.call != NO_CALL])
        told = (events.kind == Kind.LOST) & (events.ref != NO_REF)
        self.lost += int(events.ref[told].sum(dtype=np.int64))
        self.events += len(events)

    def _add_times(self, events: Events) -> None:
        time = events.time
        low, high = int(time.min()), int(time.max())
        self.first_time = low if self.first_time is None else min(self.first_time, low)
        self.last_time = high if self.last_time is None else max(self.last_time, high)
        before = time[0] if self._previous is None else self._previous
        steps_back = np.flatnonzero(time < np.concatenate([[before], time[:-1]]))
        if len(steps_back) and self.first_back is None:
            self.first_back = self.events + int(steps_back[0])
        self.backwards += len(steps_back)
        self._previous = int(time[-1])

    @property
    def has_losses(self) -> bool:
        """Whether the tracer said that it lost events."""
        return bool(self.kinds[Kind.LOST])

    def by_kind(self) -> list[tuple[str, int]]:
        """The kinds that occur, with how often, in the order of the kinds."""
        return [(name, int(self.kinds[spec.kind])) for name, spec in KINDS.items()
                if self.kinds[spec.kind]]


def _frames(entries: U64) -> U64:
    """The frame numbers of p2m entries; INVALID is none."""
    frames: U64 = entries[entries != np.uint64(INVALID)]
    frames &= np.uint64(FRAME_MASK)
    return frames
