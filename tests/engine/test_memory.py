"""The tables before the first event, asked one entry at a time and as arrays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.build import trace_of
from xenm2p.engine.memory import Intervals, entry_in, m2p_rows, p2m_rows
from xenm2p.trace import FOREIGN, IDENTITY, INVALID, MAX_FRAME

Rows = list[tuple[int, int, int]]

starts = st.integers(0, 40) | st.just(MAX_FRAME - 20)
values = st.sampled_from([0, 7, 0x50000, 5 | FOREIGN, 3 | IDENTITY, INVALID])
rows_of_any_order = st.lists(st.tuples(starts, values, st.integers(1, 20)), max_size=6)


def entries(rows: Rows, *index: int) -> list[int]:
    return Intervals.of(rows).entries(np.array(index, np.uint64)).tolist()


@given(rows_of_any_order, st.lists(st.integers(0, 70) | st.integers(MAX_FRAME - 25, MAX_FRAME)))
def test_arrays_and_single_entries_agree(rows: Rows, index: list[int]) -> None:
    assert entries(rows, *index) == [entry_in(rows, i) for i in index]


def test_a_run_counts_up_from_its_value() -> None:
    assert entries([(0x1000, 0x50000, 3)], 0x0FFF, 0x1000, 0x1002, 0x1003) == [
        INVALID, 0x50000, 0x50002, INVALID]


def test_an_invalid_run_does_not_count_up() -> None:
    assert entries([(0x8000, INVALID, 4)], 0x8003) == [INVALID]


def test_bits_stay_on_while_the_frame_counts_up() -> None:
    assert entries([(0, 5 | FOREIGN, 2), (8, 6 | IDENTITY, 2)], 1, 9) == [
        6 | FOREIGN, 7 | IDENTITY]


def test_the_later_of_two_rows_wins() -> None:
    rows = [(10, 100, 10), (12, 200, 3), (14, INVALID, 2)]
    assert entries(rows, 11, 12, 13, 14, 15, 16) == [101, 200, 201, INVALID, INVALID, 106]


def test_a_row_that_a_later_one_covers_leaves_nothing() -> None:
    assert entries([(10, 100, 2), (0, 500, 20)], 10, 11) == [510, 511]


def test_without_rows_every_entry_is_invalid() -> None:
    assert entries([], 0, MAX_FRAME) == [INVALID, INVALID]


def test_indices_of_any_shape() -> None:
    index = np.array([[1, 2], [3, 99]], np.uint64)
    found = Intervals.of([(0, 50, 10)]).entries(index)
    assert found.tolist() == [[51, 52], [53, INVALID]]


def test_a_million_frames_are_one_interval() -> None:
    table = Intervals.of([(0x1000, 0x50000, 1_000_000)])
    assert len(table.start) == 3  # before, within and after it
    assert entry_in([(0x1000, 0x50000, 1_000_000)], 0x1000 + 999_999) == 0x50000 + 999_999


def test_overlapping_rows_are_cut_at_their_borders_only() -> None:
    table = Intervals.of([(0, 0, 1 << 40), (1 << 20, INVALID, 1 << 20)])
    assert table.start.tolist() == [0, 1 << 20, 1 << 21, 1 << 40]


def test_a_plain_memory_row_names_the_owner_of_its_frames_too() -> None:
    trace = trace_of([], memory=[(0x1000, 0x50000, 2)], m2p=[])
    assert p2m_rows(trace) == [(0x1000, 0x50000, 2)]
    assert m2p_rows(trace) == [(0x50000, 0x1000, 2)]


def test_rows_with_bits_and_invalid_rows_own_no_frame() -> None:
    trace = trace_of(
        [], memory=[(1, 2 | FOREIGN, 1), (3, 4 | IDENTITY, 1), (5, INVALID, 9)], m2p=[])
    assert m2p_rows(trace) == []


def test_m2p_rows_come_after_all_memory_rows() -> None:
    trace = trace_of([], memory=[(0x1000, 0x50000, 4)], m2p=[(0x50001, 0x200, 1)])
    owner_of = [entry_in(m2p_rows(trace), mfn) for mfn in (0x50000, 0x50001, 0x50002)]
    assert owner_of == [0x1000, 0x200, 0x1002]
