"""The part of a trace's initial memory that some events can see, as rows to pick from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xenm2p.engine.memory import Intervals, m2p_rows, p2m_rows
from xenm2p.trace import FOREIGN, FRAME_MASK, IDENTITY, INVALID, U64, Events, Runs, Trace

_NONE = np.uint64(INVALID)


class Row(NamedTuple):
    """One entry of the initial p2m (`at` a page) or, with `is_m2p`, m2p (`at` a frame)."""

    is_m2p: bool
    at: int
    entry: int


def memory_around(trace: Trace, events: Events) -> list[Row]:
    """The entries of all pages and frames that the rules may look at for these events.

    That are the events' own, the pages that m2p names for their frames and the frames that
    p2m has for their pages, and so on; INVALID entries need no row.
    """
    p2m, m2p = Intervals.of(p2m_rows(trace)), Intervals.of(m2p_rows(trace))
    pages, frames = _known(events.pfn), _known(_frames_of(events.mfn))
    while True:
        owners = _known(m2p.entries(frames))
        held = _known(_frames_of(p2m.entries(pages)))
        more_pages, more_frames = np.union1d(pages, owners), np.union1d(frames, held)
        if len(more_pages) == len(pages) and len(more_frames) == len(frames):
            break
        pages, frames = more_pages, more_frames
    # mfn_to_pfn also asks for p2m[mfn], whether it is the identity.
    identity = frames[p2m.entries(frames) == (frames | np.uint64(IDENTITY))]
    pages = np.union1d(pages, identity)
    entries = p2m.entries(pages)
    rows = [Row(False, pfn, entry)
            for pfn, entry in zip(pages.tolist(), entries.tolist(), strict=True)
            if entry != INVALID]
    # A plain entry names its frame's owner as well, the last one of a frame wins.
    implied = {row.entry: row.at for row in rows if not row.entry & (FOREIGN | IDENTITY)}
    owners = m2p.entries(frames)
    rows += [Row(True, mfn, owner)
             for mfn, owner in zip(frames.tolist(), owners.tolist(), strict=True)
             if implied.get(mfn, INVALID) != owner]
    return rows


def runs_of(rows: Sequence[Row]) -> tuple[Runs, Runs]:
    """The rows as a trace's `memory` and `m2p`, neighbours in one run."""
    return (_runs([row for row in rows if not row.is_m2p]),
            _runs([row for row in rows if row.is_m2p]))


def _runs(rows: Sequence[Row]) -> Runs:
    runs: list[tuple[int, int, int]] = []
    for row in rows:
        start, value, count = runs[-1] if runs else (0, 0, 0)
        step = 0 if row.entry == INVALID else count
        if count and row.at == start + count and row.entry == value + step:
            runs[-1] = (start, value, count + 1)
        else:
            runs.append((row.at, row.entry, 1))
    return Runs.of(runs)


def _known(numbers: U64) -> U64:
    return np.unique(numbers[numbers != _NONE])


def _frames_of(entries: U64) -> U64:
    frames: U64 = np.where(entries == _NONE, _NONE, entries & np.uint64(FRAME_MASK))
    return frames
