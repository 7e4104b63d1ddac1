"""The events of a trace that touch some pages and frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from xenm2p.trace import (
    FRAME_MASK,
    I64,
    INVALID,
    NO_CALL,
    NO_REF,
    U64,
    Events,
    Kind,
    Trace,
)

Mask = NDArray[np.bool_]

_LARGEST = np.uint64(INVALID)


class Reach(IntEnum):
    """How far to go from what a finding is about."""

    OWN = 0  # events on its pages and frames
    CALLS = 1  # and those of their calls and grants, and losses
    NEIGHBOURS = 2  # and events on the pages and frames of all these
    ALL = 3


def involved_events(
    trace: Trace, reach: Reach, pages: U64, frames: U64, proof: Sequence[int]
) -> tuple[Events, I64]:
    """The events within `reach` of `pages` and `frames`, and their numbers.

    `proof` are numbers of events that are always among them. Each step further reads the
    trace once more.
    """
    if reach is Reach.ALL:
        return _gathered(trace, lambda events, first: np.ones(len(events), np.bool_))
    touched = _Touched(pages, frames, np.array(sorted(proof), np.int64))
    found = _gathered(trace, touched.has)
    for _ in range(int(reach)):
        touched.add(found[0])
        found = _gathered(trace, touched.has)
        if reach is Reach.CALLS:
            break
    return found


class _Touched:
    """Pages, frames, calls and refs whose events are chosen."""

    def __init__(self, pages: U64, frames: U64, proof: I64) -> None:
        self._pages = _known(pages)
        self._frames = _known(frames)
        self._proof = proof
        self._calls = np.zeros(0, np.int64)
        self._refs = np.zeros(0, np.uint32)
        self._with_losses = False

    def has(self, events: Events, first: int) -> Mask:
        """Which of the events, numbered from `first`, are chosen."""
        chosen = touches(events, self._pages, self._frames)
        proof = self._proof[(self._proof >= first) & (self._proof < first + len(events))]
        chosen[proof - first] = True
        if self._with_losses:
            chosen |= events.kind == int(Kind.LOST)
            chosen |= np.isin(events.call, self._calls)
            is_grant = (events.kind == int(Kind.GRANT)) | (events.kind == int(Kind.END_GRANT))
            chosen |= is_grant & np.isin(events.ref, self._refs)
        return chosen

    def add(self, events: Events) -> None:
        """Choose what these events touch too."""
        if self._with_losses:
            self._pages = np.union1d(self._pages, _known(events.pfn))
            self._frames = np.union1d(self._frames, _known(_stripped(events)))
        self._calls = np.unique(events.call[events.call != NO_CALL])
        self._refs = np.unique(events.ref[events.ref != NO_REF])
        self._with_losses = True


def touches(events: Events, pages: U64, frames: U64) -> Mask:
    """Which events are on one of `pages` or name one of `frames`, p2m entries included."""
    touched: Mask = np.isin(events.pfn, pages)
    touched |= np.isin(_stripped(events), frames)
    return touched


def _known(numbers: U64) -> U64:
    return np.unique(numbers[numbers != _LARGEST])


def _stripped(events: Events) -> U64:
    """The frame of each event, without the bits of a p2m entry."""
    frames: U64 = np.where(events.mfn == _LARGEST, _LARGEST, events.mfn & np.uint64(FRAME_MASK))
    return frames


def _gathered(trace: Trace, choose: Callable[[Events, int], Mask]) -> tuple[Events, I64]:
    parts, numbers, first = [], [np.zeros(0, np.int64)], 0
    for events in trace.chunks():
        rows = np.flatnonzero(choose(events, first))
        if len(rows):
            parts.append(events.rows(rows))
            numbers.append(rows + first)
        first += len(events)
    return Events.concat(parts), np.concatenate(numbers)
