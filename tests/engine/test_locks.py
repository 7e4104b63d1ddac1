"""Page locks and collision windows: each verdict, and its near miss."""

from __future__ import annotations

from typing import Any

import pytest

from tests.build import foreign
from tests.engine.outcome import Outcome, outcome_of, rows_of
from tests.engine.steps import (
    FRONTEND,
    MARKS,
    P2M_ONLY,
    dio_read,
    dio_write,
    lock,
    map_,
    set_p2m,
    unlock,
    unmap,
)
from xenm2p.engine.replay import Options, Verdict
from xenm2p.kernels import MODELS
from xenm2p.trace import INVALID

ASSUMED = Options(assume_dio=True)
LOST = {"kind": "lost", "cpu": 0, "count": 7}


def replayed(*rows: dict[str, Any], options: Options | None = None) -> Outcome:
    """Under `override`, where a share of a local frame resolves to its frontend page."""
    return outcome_of(list(rows), "override", options)


def windows(outcome: Outcome) -> list[tuple[int, int]]:
    """(first event, last event) of each window."""
    return list(zip(outcome.collisions.first_event.tolist(),
                    outcome.collisions.last_event.tolist(), strict=True))


# -- verdicts ----------------------------------------------------------------------------


def test_a_read_that_meets_a_lock_held_before_and_after_the_share_deadlocks() -> None:
    outcome = replayed(lock(), map_(), dio_read(), unmap(), unlock())
    assert rows_of(outcome.collisions) == [
        (Verdict.DEADLOCK, 1, 3, FRONTEND, 0x50010, 0x8000, 1, 0, 0, 2, 1)]


def test_a_share_and_a_lock_that_last_to_the_end_deadlock() -> None:
    outcome = replayed(lock(), map_(), dio_read())
    assert outcome.verdicts == [Verdict.DEADLOCK]
    assert windows(outcome) == [(1, -1)]


def test_a_lock_that_outlives_the_share_and_the_trace_deadlocks() -> None:
    assert replayed(lock(), map_(), dio_read(), unmap()).verdicts == [Verdict.DEADLOCK]


def test_a_lock_taken_after_the_share_began_contends() -> None:
    outcome = replayed(map_(), lock(), dio_read(), unmap(), unlock())
    assert outcome.verdicts == [Verdict.CONTENTION]
    assert windows(outcome) == [(1, 3)]


def test_a_lock_released_while_the_share_lives_contends() -> None:
    outcome = replayed(lock(), map_(), dio_read(), unlock(), unmap())
    assert outcome.verdicts == [Verdict.CONTENTION]
    assert windows(outcome) == [(1, 3)]


def test_a_lock_that_was_seen_taken_again_was_released_unseen() -> None:
    outcome = replayed(lock(), map_(), dio_read(), lock(), unmap())
    assert outcome.verdicts == [Verdict.CONTENTION, Verdict.PRONE]
    assert windows(outcome) == [(1, 3), (3, 4)]
    assert outcome.collisions.lock_event.tolist() == [0, 3]


@pytest.mark.parametrize("io", [[], [dio_write()]], ids=["no I/O", "dio_write"])
def test_without_a_read_the_window_is_prone(io: list[dict[str, Any]]) -> None:
    outcome = replayed(lock(), map_(), *io, unmap(), unlock())
    assert outcome.verdicts == [Verdict.PRONE]
    assert outcome.collisions.dio_event.tolist() == [-1]
    assert outcome.collisions.lock_spans_share.tolist() == [1]


def test_a_prone_window_says_that_the_lock_does_not_span_the_share() -> None:
    outcome = replayed(map_(), lock(), unlock(), unmap())
    assert outcome.verdicts == [Verdict.PRONE]
    assert outcome.collisions.lock_spans_share.tolist() == [0]


def test_the_first_read_of_a_window_proves_it() -> None:
    outcome = replayed(lock(), map_(), dio_read(), dio_read(), unmap())
    assert outcome.collisions.dio_event.tolist() == [2]


@pytest.mark.parametrize("reads", [
    [dio_read(), lock()], [lock(), unlock(), dio_read(), lock()]], ids=["before", "between"])
def test_a_read_outside_of_the_window_is_not_its_own(reads: list[dict[str, Any]]) -> None:
    outcome = replayed(map_(), *reads, unmap(), unlock())
    assert Verdict.DEADLOCK not in outcome.verdicts
    assert set(outcome.verdicts) == {Verdict.PRONE}


def test_a_read_of_another_page_is_not_the_windows() -> None:
    outcome = replayed(lock(), map_(), map_(0x8001, 0x50011), dio_read(0x8001), unmap())
    assert outcome.verdicts == [Verdict.PRONE]


# -- what does not collide -----------------------------------------------------------------


def test_a_lock_released_before_the_share_began_collides_with_nothing() -> None:
    assert replayed(lock(), unlock(), map_(), dio_read(), unmap()).verdicts == []


def test_a_lock_taken_after_the_share_ended_collides_with_nothing() -> None:
    assert replayed(map_(), dio_read(), unmap(), lock(), unlock()).verdicts == []


def test_a_lock_of_another_page_collides_with_nothing() -> None:
    assert replayed(lock(0x1011), map_(), dio_read(), unmap()).verdicts == []


def test_a_lock_of_the_backend_page_itself_is_no_collision() -> None:
    outcome = outcome_of([lock(0x8000), map_(), dio_read()], "local-foreign")
    assert outcome.resolved(2) == "0x8000"
    assert outcome.verdicts == []


def test_a_frame_of_another_domain_resolves_to_its_override() -> None:
    assert replayed(lock(0x200), lock(), map_(mfn=0x90000), dio_read()).verdicts == []


@pytest.mark.parametrize("model", [*MARKS, *P2M_ONLY])
def test_from_3_5_on_nothing_collides(model: str) -> None:
    outcome = outcome_of([lock(), map_(), dio_read(), unmap(), unlock()], model)
    assert outcome.verdicts == []


@pytest.mark.parametrize("model", MARKS)
def test_a_frontend_that_loses_its_mark_collides_again(model: str) -> None:
    outcome = outcome_of(
        [lock(), map_(), set_p2m(FRONTEND, 0x50010), dio_read(), unmap(), unlock()], model)
    assert outcome.verdicts == [Verdict.DEADLOCK]
    assert windows(outcome) == [(2, 4)]


@pytest.mark.parametrize("model", P2M_ONLY)
def test_from_4_0_on_a_share_resolves_to_its_own_page(model: str) -> None:
    outcome = outcome_of([lock(), map_(), dio_read()], model, ASSUMED)
    assert outcome.resolved(2) == "0x8000"
    assert outcome.verdicts == []


# -- shares of kernel backends -----------------------------------------------------------------


def test_a_kernel_backends_share_cannot_collide() -> None:
    outcome = replayed(lock(), map_(user=False), unmap(user=False), options=ASSUMED)
    assert outcome.verdicts == []


def test_a_read_on_a_kernel_backends_share_is_taken_at_its_word() -> None:
    outcome = replayed(lock(), map_(user=False), dio_read(), unmap(user=False))
    assert outcome.verdicts == [Verdict.DEADLOCK]
    assert windows(outcome) == [(2, 3)]


def test_so_is_a_write_though_it_takes_no_lock() -> None:
    outcome = replayed(lock(), map_(user=False), dio_write(), unmap(user=False))
    assert outcome.verdicts == [Verdict.PRONE]


def test_the_next_share_of_the_page_is_a_kernel_backends_again() -> None:
    outcome = replayed(
        map_(user=False), dio_read(), unmap(user=False), lock(), map_(user=False))
    assert outcome.verdicts == []


# -- assumed direct I/O ------------------------------------------------------------------------


def test_an_assumed_read_deadlocks_where_the_lock_spans_the_share() -> None:
    outcome = replayed(lock(), map_(), unmap(), unlock(), options=ASSUMED)
    assert outcome.verdicts == [Verdict.DEADLOCK]
    assert outcome.collisions.dio_event.tolist() == [-1]


@pytest.mark.parametrize("rows", [
    [map_(), lock(), unmap(), unlock()], [lock(), map_(), unlock(), unmap()]],
    ids=["taken later", "released earlier"])
def test_an_assumed_read_contends_where_it_does_not(rows: list[dict[str, Any]]) -> None:
    assert replayed(*rows, options=ASSUMED).verdicts == [Verdict.CONTENTION]


def test_nothing_is_assumed_of_a_kernel_backends_share_that_was_written_from() -> None:
    outcome = replayed(lock(), map_(user=False), dio_write(), unmap(user=False),
                       options=ASSUMED)
    assert outcome.verdicts == [Verdict.PRONE]


# -- several shares and windows ------------------------------------------------------------------


def test_every_share_of_a_locked_page_has_its_own_window() -> None:
    outcome = replayed(lock(), map_(0x8000), map_(0x8001), dio_read(0x8001),
                       unmap(0x8001), unmap(0x8000))
    assert outcome.verdicts == [Verdict.DEADLOCK, Verdict.PRONE]
    assert outcome.collisions.backend_pfn.tolist() == [0x8001, 0x8000]


def test_two_locks_in_turn_are_two_windows() -> None:
    outcome = replayed(lock(), map_(), unlock(), lock(), dio_read(), unlock(), unmap())
    assert windows(outcome) == [(1, 2), (3, 5)]
    assert outcome.verdicts == [Verdict.PRONE, Verdict.CONTENTION]


def test_a_frontend_that_is_ballooned_out_ends_the_window_but_not_the_wait() -> None:
    """The share then resolves to its override; the read still waits for the lock it met."""
    outcome = replayed(lock(), map_(), dio_read(), set_p2m(FRONTEND, INVALID), unmap())
    assert windows(outcome) == [(1, 3)]
    assert outcome.verdicts == [Verdict.DEADLOCK]


# -- losses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [
    [lock(), map_(), LOST, dio_read(), unmap()],
    [lock(), LOST, map_(), dio_read(), unmap()],
    [lock(), map_(), dio_read(), LOST],
], ids=["in the window", "between lock and map", "after the read"])
def test_a_loss_leaves_the_verdict_unknown(rows: list[dict[str, Any]]) -> None:
    assert replayed(*rows).verdicts == [Verdict.UNKNOWN]


def test_a_window_decided_before_the_loss_stands() -> None:
    assert replayed(lock(), map_(), dio_read(), unmap(), LOST).verdicts == [Verdict.DEADLOCK]


def test_a_write_seen_of_the_page_makes_it_known_again() -> None:
    seen = {"kind": "p2m_write", "pfn": 0x8000, "mfn": foreign(0x50010)}
    outcome = replayed(LOST, lock(), map_(), seen, dio_read(), unmap())
    assert outcome.verdicts == [Verdict.DEADLOCK]


def test_a_write_seen_of_another_page_does_not() -> None:
    seen = {"kind": "p2m_write", "pfn": 0x8001, "mfn": INVALID}
    outcome = replayed(LOST, lock(), map_(), seen, dio_read(), unmap())
    assert outcome.verdicts == [Verdict.UNKNOWN]


def test_a_lock_taken_before_the_loss_may_have_been_released_in_it() -> None:
    seen = {"kind": "p2m_write", "pfn": 0x8000, "mfn": foreign(0x50010)}
    outcome = replayed(lock(), LOST, map_(), seen, dio_read(), unmap())
    assert outcome.verdicts == [Verdict.UNKNOWN]


# -- the locks themselves -----------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_lock_is_one_row_from_taken_to_released(model: str) -> None:
    outcome = outcome_of([lock(), unlock()], model)
    assert rows_of(outcome.locks) == [(0, 1, FRONTEND, 0, 1000, 2000)]
    assert outcome.counts.locks == 1


def test_a_lock_still_held_or_taken_again_has_no_release() -> None:
    outcome = replayed(lock(), lock())
    assert outcome.locks.lock_event.tolist() == [0, 1]
    assert outcome.locks.unlock_event.tolist() == [-1, -1]


def test_a_release_of_what_was_not_seen_taken_is_no_row() -> None:
    assert len(replayed(unlock()).locks) == 0
