"""The tables of a replay: columns of one length, cut and put together."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from tests.engine.outcome import rows_of
from xenm2p.engine.replay import (
    Collisions,
    Counts,
    Facts,
    Locks,
    Resolutions,
    Shares,
    Table,
    Transitions,
)
from xenm2p.trace import FOREIGN, INVALID

TABLES = [Resolutions, Transitions, Shares, Locks, Collisions, Facts]
ROWS = [(0, 0x8000, INVALID, 0x50000 | FOREIGN, 0), (1, 0x8001, 5, INVALID, 2),
        (2, 0x8002, 6, 7, 1)]


@pytest.mark.parametrize("table", TABLES)
def test_every_column_has_its_dtype(table: type[Table]) -> None:
    assert [column.name for column in fields(table)] == list(table.dtypes)
    empty = table.of([])
    assert {name: getattr(empty, name).dtype for name in table.dtypes} == {
        name: np.dtype(dtype) for name, dtype in table.dtypes.items()}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_no_rows_and_of_no_parts_is_empty(table: type[Table]) -> None:
    assert len(table.of([])) == 0
    assert len(table.concat([])) == 0
    assert rows_of(table.concat([table.of([]), table.of([])])) == []


def test_rows_go_in_and_come_out_without_a_bit_lost() -> None:
    table = Transitions.of(ROWS)
    assert len(table) == 3
    assert rows_of(table) == ROWS


def test_rows_at_a_slice_a_mask_and_an_index_array() -> None:
    table = Transitions.of(ROWS)
    assert rows_of(table.rows(slice(1, None))) == ROWS[1:]
    assert rows_of(table.rows(table.side == 2)) == [ROWS[1]]
    assert rows_of(table.rows(np.array([2, 0]))) == [ROWS[2], ROWS[0]]


def test_a_slice_copies_nothing() -> None:
    table = Transitions.of(ROWS)
    assert np.shares_memory(table.rows(slice(0, 2)).pfn, table.pfn)


def test_parts_come_one_after_the_other() -> None:
    whole = Transitions.concat([Transitions.of(ROWS[:1]), Transitions.of(ROWS[1:])])
    assert rows_of(whole) == ROWS
    assert whole.pfn.dtype == np.uint64


def test_a_row_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        Transitions.of([ROWS[0], ROWS[1][:3]])


def test_counts_add_up_field_by_field() -> None:
    total = Counts(events=3, maps=2, lost=7) + Counts(events=1, frontend_set=4)
    assert total == Counts(events=4, maps=2, lost=7, frontend_set=4)
