"""Made-up recordings of maps and unmaps, and the same as a cycle counter sees them."""

from __future__ import annotations

import numpy as np

from xenm2p.compare.clocks import Recording

HERTZ = 2.6e9
ZERO = 3_000_000_000_000  # cycles when the clock said OFFSET
OFFSET = 1_300_000_000_000  # ns


def recording(seed: int, events: int = 2000) -> Recording:
    """Calls of 1 to 11 pages, maps and unmaps in turn, with pauses of all lengths."""
    dice = np.random.default_rng(seed)
    sizes = dice.integers(1, 12, events)
    what = np.repeat(np.arange(events) % 2, sizes)[:events]
    pauses = np.repeat(dice.exponential(1e6, events) + 1e4, sizes)[:events]
    is_first = np.concatenate([[True], np.diff(np.repeat(np.arange(events), sizes)[:events]) > 0])
    time = OFFSET + np.cumsum(np.where(is_first, pauses, 1000)).astype(np.int64)
    return Recording(time, what.astype(np.int64), np.ones(events, np.int64))


def seen_by_xen(capture: Recording) -> Recording:
    """The same by the cycle counter, a few microseconds earlier."""
    dice = np.random.default_rng(len(capture.time))
    early = np.sort(dice.integers(0, 5000, len(capture.time)))[::-1]
    cycles = ZERO + ((capture.time.astype(np.int64) - OFFSET - early) * (HERTZ / 1e9))
    return Recording(np.maximum.accumulate(cycles.astype(np.int64)), capture.what,
                     capture.weight)
