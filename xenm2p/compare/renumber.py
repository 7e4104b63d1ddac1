"""Small numbers in place of a machine's own: pages, frames, refs, handles, calls, times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xenm2p.trace import (
    COLUMNS,
    FOREIGN,
    FRAME_MASK,
    IDENTITY,
    INVALID,
    U64,
    Events,
    Kind,
    Runs,
    Trace,
)

_FIRST_PAGE, _FIRST_FRAME = 0x1000, 0x50000
_STEP = 1000  # nanoseconds between two events
_BITS = np.uint64(FOREIGN | IDENTITY)
_NONE = np.uint64(INVALID)


@dataclass(frozen=True, slots=True)
class Renumbering:
    """Old numbers, ascending, and the new number of each."""

    old_pages: U64
    new_pages: U64
    old_frames: U64
    new_frames: U64

    @classmethod
    def of(cls, trace: Trace) -> Renumbering:
        """New numbers for the pages and frames of a trace, in the order they appear in it.

        Runs of the initial memory are taken apart: for small traces.
        """
        events = trace.events()
        pages = [events.pfn, *_indices(trace.memory), *_values(trace.m2p)]
        frames = [events.mfn, *_values(trace.memory), *_indices(trace.m2p)]
        return cls(*_numbered(np.concatenate(pages), _FIRST_PAGE),
                   *_numbered(_frame(np.concatenate(frames)), _FIRST_FRAME))

    def pages(self, pages: U64) -> U64:
        """The new numbers of pages; INVALID stays."""
        return _mapped(pages, self.old_pages, self.new_pages)

    def frames(self, entries: U64) -> U64:
        """The new numbers of frames or p2m entries, whose bits stay."""
        bits = np.where(entries == _NONE, np.uint64(0), entries & _BITS)
        return _mapped(_frame(entries), self.old_frames, self.new_frames) | bits

    def trace(self, trace: Trace) -> Trace:
        """The trace with the new numbers; refs, handles and calls count from 0."""
        events = trace.events()
        is_lost = events.kind == int(Kind.LOST)  # whose ref is a count
        ref = np.where(is_lost, events.ref, _counted(
            np.where(is_lost, COLUMNS["ref"].absent, events.ref), "ref"))
        moved = Events(**(events.columns() | {
            "time": np.arange(1, len(events) + 1) * _STEP,
            "pfn": self.pages(events.pfn), "mfn": self.frames(events.mfn),
            "ref": ref.astype(np.uint32), "handle": _counted(events.handle, "handle"),
            "call": _counted(events.call, "call")}))
        memory = Runs(*(np.concatenate(part) if part else np.zeros(0, np.uint64) for part in (
            [self.pages(p) for p in _indices(trace.memory)],
            [self.frames(v) for v in _values(trace.memory)],
            [np.ones(int(c), np.uint64) for c in trace.memory.count])))
        m2p = Runs(*(np.concatenate(part) if part else np.zeros(0, np.uint64) for part in (
            [self.frames(f) for f in _indices(trace.m2p)],
            [self.pages(v) for v in _values(trace.m2p)],
            [np.ones(int(c), np.uint64) for c in trace.m2p.count])))
        return replace(trace, chunks_of=lambda: iter((moved,)), memory=memory, m2p=m2p)


def _frame(entries: U64) -> U64:
    frames: U64 = np.where(entries == _NONE, _NONE, entries & ~_BITS & np.uint64(FRAME_MASK))
    return frames


def _indices(runs: Runs) -> list[U64]:
    return [start + np.arange(int(count), dtype=np.uint64)
            for start, count in zip(runs.start, runs.count, strict=True)]


def _values(runs: Runs) -> list[U64]:
    return [np.full(int(count), value) if value == _NONE
            else value + np.arange(int(count), dtype=np.uint64)
            for value, count in zip(runs.value, runs.count, strict=True)]


def _numbered(numbers: U64, first: int) -> tuple[U64, U64]:
    """The different numbers, ascending, and `first` on in the order of first appearance."""
    old, at = np.unique(numbers[numbers != _NONE], return_index=True)
    new = np.empty(len(old), np.uint64)
    new[np.argsort(at, kind="stable")] = np.arange(first, first + len(old), dtype=np.uint64)
    return old, new


def _mapped(numbers: U64, old: U64, new: U64) -> U64:
    at = np.minimum(np.searchsorted(old, numbers), max(len(old) - 1, 0))
    if not len(old):
        return numbers
    moved: U64 = np.where(old[at] == numbers, new[at], numbers)
    return moved


def _counted(column: NDArray[Any], name: str) -> NDArray[Any]:
    """A column's values as 0, 1, 2.. in the order they appear; what is absent stays so."""
    absent = COLUMNS[name].absent
    old, at = np.unique(column[column != absent], return_index=True)
    if not len(old):
        return column
    new = np.empty(len(old), column.dtype)
    new[np.argsort(at, kind="stable")] = np.arange(len(old))
    place = np.minimum(np.searchsorted(old, column), len(old) - 1)
    return np.where(column == absent, column, new[place]).astype(column.dtype)
