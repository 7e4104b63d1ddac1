"""Aligning two clocks by what both saw."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compare.recordings import HERTZ, OFFSET, ZERO, recording, seen_by_xen
from xenm2p.compare.clocks import Recording, align


@pytest.mark.parametrize("seed", range(5))
def test_rate_and_offset_are_found(seed: int) -> None:
    capture = recording(seed)
    xen = seen_by_xen(capture)
    clocks = align(xen, capture)
    assert clocks is not None
    assert clocks.hertz == pytest.approx(HERTZ, rel=1e-3)
    off = clocks.times_of(xen.time.astype(np.uint64)) - capture.time
    assert np.abs(off).max() <= clocks.error_ns + clocks.drift_ns + 1


def test_a_capture_that_lost_much_is_aligned_all_the_same() -> None:
    capture = recording(1, events=4000)
    xen = seen_by_xen(capture)
    kept = np.ones(4000, np.bool_)
    kept[1000:2500] = False
    clocks = align(xen, Recording(capture.time[kept], capture.what[kept], capture.weight[kept]))
    assert clocks is not None
    assert clocks.hertz == pytest.approx(HERTZ, rel=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_another_run_is_not_aligned(seed: int) -> None:
    assert align(seen_by_xen(recording(seed)), recording(seed + 100)) is None


def test_nothing_and_the_same_over_and_over_are_not_aligned() -> None:
    nothing = Recording(*(np.zeros(0, np.int64),) * 3)
    assert align(nothing, nothing) is None
    same = Recording(np.arange(100), np.arange(100) % 2, np.ones(100, np.int64))
    assert align(same, same) is None


def test_times_outside_of_what_both_saw_follow_the_rate() -> None:
    capture = recording(2)
    clocks = align(seen_by_xen(capture), capture)
    assert clocks is not None
    second = round(HERTZ)
    early, late = clocks.times_of(np.array(
        [int(clocks.cycles[0]) - second, int(clocks.cycles[-1]) + second], np.uint64))
    assert early == pytest.approx(clocks.times[0] - 10**9, abs=10**6)
    assert late == pytest.approx(clocks.times[-1] + 10**9, abs=10**6)


def test_cycle_counts_of_more_than_53_bits() -> None:
    capture = recording(3)
    xen = seen_by_xen(capture)
    far = Recording(xen.time.astype(np.uint64) + np.uint64(1 << 60), xen.what, xen.weight)
    clocks = align(far, capture)
    assert clocks is not None
    assert clocks.hertz == pytest.approx(HERTZ, rel=1e-3)
    assert (ZERO, OFFSET) != (0, 0)
