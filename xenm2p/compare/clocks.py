"""Two recordings of the same maps and unmaps by two clocks: which moment is which.

Nothing in a file of xentrace says how fast its cycle counter runs, or what time it is. What
both recordings have is the order: runs of maps and of unmaps, and how long each run is. A
sequence of runs that occurs once in either recording is one moment seen by both clocks. Such
moments, as long as they come in the same order, give the rate and the offset, and between
them the drift.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xenm2p.trace import I64, U64

Times = NDArray[np.float64]

# How many runs make a sequence that is looked for. Long ones are sure and rarely whole;
# that length is taken which gives the most moments.
_LENGTHS = (24, 16, 12, 8, 6, 4)
_FEWEST = 8  # moments, without which the clocks stay unaligned
_FEWEST_IN_ORDER = 0.75  # of all moments found: others are chance
_LEAST_SPAN = 0.2  # of the shorter recording
# Two clocks of one machine differ by less, from their straight line; chance differs by more.
_MOST_DRIFT = 2e-3  # of the span
_HASH = np.uint64(0x9E3779B97F4A7C15)
# Cycle counters run at 10 MHz to 100 GHz.
_SLOWEST, _FASTEST = 1e7, 1e11


@dataclass(frozen=True, slots=True)
class Clocks:
    """How a cycle counter's moments are times in nanoseconds.

    cycles, times: (n,) the moments that both recordings have, ascending. hertz: cycles a
    second over all of them. error_ns: how far off a moment is from what its neighbours
    say, for 99 of 100. drift_ns: the most that a moment is off the straight line.
    runs: how many runs long the sequences were.
    """

    cycles: U64
    times: I64
    hertz: float
    error_ns: int
    drift_ns: int
    runs: int

    def times_of(self, cycles: U64) -> I64:
        """Times in nanoseconds; between two moments in proportion, outside at the rate."""
        first = self.cycles[0]
        given = (cycles - first).view(np.int64).astype(np.float64)
        known = (self.cycles - first).astype(np.float64)
        times = np.interp(given, known, (self.times - self.times[0]).astype(np.float64))
        per_cycle = 1e9 / self.hertz
        times += np.minimum(given, 0) * per_cycle
        times += np.maximum(given - known[-1], 0) * per_cycle
        moments: I64 = np.rint(times).astype(np.int64) + self.times[0]
        return moments


@dataclass(frozen=True, slots=True)
class Recording:
    """Maps and unmaps in order of time: `what` numbers kind and domain, `weight` how many
    records an event stands for."""

    time: I64 | U64
    what: I64
    weight: I64


def align(xen: Recording, capture: Recording) -> Clocks | None:
    """The clocks of two recordings, None where they cannot be told from the data."""
    runs_of_xen, runs_of_capture = _runs(xen), _runs(capture)
    best: Clocks | None = None
    for length in _LENGTHS:
        found = _fit(xen, capture, *_common(runs_of_xen, runs_of_capture, length), length)
        if found is not None and (best is None or len(found.cycles) > len(best.cycles)):
            best = found
    return best


@dataclass(frozen=True, slots=True)
class _Runs:
    """Where each run of one kind begins, and a number for its kind and size."""

    first: I64
    token: U64


def _runs(recording: Recording) -> _Runs:
    what = recording.what
    changes = np.flatnonzero(what[1:] != what[:-1]) + 1
    first = np.concatenate([np.zeros(min(len(what), 1), np.int64), changes])
    size = np.add.reduceat(recording.weight, first) if len(first) else first
    token = (what[first] << 32 | size).astype(np.uint64)
    return _Runs(first, token)


def _common(a: _Runs, b: _Runs, length: int) -> tuple[I64, I64]:
    """Events of `a` and of `b` that begin a sequence which either has exactly once."""
    names_a, first_a = _unique_sequences(a, length)
    names_b, first_b = _unique_sequences(b, length)
    _, in_a, in_b = np.intersect1d(names_a, names_b, assume_unique=True, return_indices=True)
    # The first run of a sequence may have lost its beginning; the second begins as it does.
    return a.first[first_a[in_a] + 1], b.first[first_b[in_b] + 1]


def _unique_sequences(runs: _Runs, length: int) -> tuple[U64, I64]:
    """The sequences that occur once, and with which run each begins."""
    names, first, count = np.unique(
        _sequences(runs.token, length), return_index=True, return_counts=True)
    return names[count == 1], first[count == 1]


def _sequences(token: U64, length: int) -> U64:
    """One number for each `length` tokens that follow each other."""
    count = max(len(token) - length + 1, 0)
    name = np.zeros(count, np.uint64)
    for i in range(length):
        name = (name ^ token[i : i + count]) * _HASH
        name ^= name >> np.uint64(29)
    return name


def _fit(xen: Recording, capture: Recording, in_xen: I64, in_capture: I64,
         length: int) -> Clocks | None:
    if len(in_xen) < _FEWEST:
        return None
    order = np.argsort(in_xen)
    in_xen, in_capture = in_xen[order], in_capture[order]
    kept = _longest_rising(in_capture)
    if len(kept) < _FEWEST_IN_ORDER * len(in_xen):
        return None
    cycles = xen.time[in_xen[kept]].astype(np.uint64)
    times = capture.time[in_capture[kept]].astype(np.int64)
    is_later = np.concatenate([[True], (cycles[1:] > cycles[:-1]) & (times[1:] >= times[:-1])])
    cycles, times = _without_strays(cycles[is_later], times[is_later])
    if len(cycles) < _FEWEST:
        return None
    elapsed = (cycles - cycles[0]).astype(np.float64)
    passed = (times - times[0]).astype(np.float64)
    spans = [float(recording.time[-1] - recording.time[0]) for recording in (xen, capture)]
    if elapsed[-1] < _LEAST_SPAN * spans[0] and passed[-1] < _LEAST_SPAN * spans[1]:
        return None
    slope, offset = np.polyfit(elapsed, passed, 1)
    if slope <= 0 or not _SLOWEST <= 1e9 / slope <= _FASTEST:
        return None
    drift = np.abs(passed - slope * elapsed - offset).max()
    if drift > _MOST_DRIFT * passed[-1]:
        return None
    error = np.percentile(_off_neighbours(elapsed, passed), 99)
    return Clocks(cycles, times, float(1e9 / slope), int(np.ceil(error)), int(np.ceil(drift)),
                  length)


def _without_strays(cycles: U64, times: I64) -> tuple[U64, I64]:
    """Without moments that are far off what their neighbours say: chance found them."""
    off = _off_neighbours((cycles - cycles[:1]).astype(np.float64), times.astype(np.float64))
    is_near = off <= max(20 * float(np.median(off)), 1000.0)
    return cycles[is_near], times[is_near]


def _off_neighbours(x: Times, y: Times) -> Times:
    """How far each point but the first and last is off the line through its neighbours."""
    if len(x) < 3:
        return np.zeros(len(x))
    share = (x[1:-1] - x[:-2]) / np.maximum(x[2:] - x[:-2], 1)
    off = np.abs(y[1:-1] - y[:-2] - share * (y[2:] - y[:-2]))
    return np.concatenate([[0.0], off, [0.0]])


def _longest_rising(values: I64) -> I64:
    """Where the longest strictly rising subsequence of `values` stands."""
    tails: list[int] = []
    tail_at: list[int] = []
    before = np.full(len(values), -1, np.int64)
    for i, value in enumerate(values.tolist()):
        at = bisect_left(tails, value)
        if at == len(tails):
            tails.append(value)
            tail_at.append(i)
        else:
            tails[at], tail_at[at] = value, i
        before[i] = tail_at[at - 1] if at else -1
    chain = []
    i = tail_at[-1] if tail_at else -1
    while i >= 0:
        chain.append(i)
        i = int(before[i])
    return np.array(chain[::-1], np.int64)
