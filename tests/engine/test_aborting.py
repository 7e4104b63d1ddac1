"""Which unmaps a failed one of their call leaves undone."""

from __future__ import annotations

import numpy as np

from xenm2p.engine.aborting import NEVER, UnmapCalls
from xenm2p.trace import NO_CALL

# Rows by page: an unmap each, at these positions, of these calls.
POS = np.array([5, 1, 3, 0, 2, 4])
CALL = np.array([7, 7, 7, 8, NO_CALL, 8])
UNMAPS = np.ones(6, np.bool_)


def failing(*rows: int) -> np.ndarray:
    fails = np.zeros(6, np.bool_)
    fails[list(rows)] = True
    return fails


def test_those_of_the_call_that_come_later_are_not_done() -> None:
    calls = UnmapCalls.of(UNMAPS, POS, CALL, {})
    assert calls.ended_by(failing(2)).tolist() == [3, NEVER, NEVER, NEVER, NEVER, NEVER]
    assert calls.failed(failing(2)) == {7: 3}


def test_an_unmap_without_a_call_ends_nothing() -> None:
    calls = UnmapCalls.of(UNMAPS, POS, CALL, {})
    assert (calls.ended_by(failing(4)) == NEVER).all()
    assert calls.failed(failing(4)) == {}


def test_a_call_that_had_failed_before_the_chunk_has_ended() -> None:
    calls = UnmapCalls.of(UNMAPS, POS, CALL, {8: -20, 9: -4})
    assert calls.ended_by(failing()).tolist() == [NEVER, NEVER, NEVER, -20, NEVER, -20]
