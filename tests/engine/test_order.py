"""Orders found digit by digit, against numpy's own stable sorts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from xenm2p.engine.order import last_before, order_of, sort_rows

DTYPES = (np.uint64, np.int64, np.uint32, np.uint16, np.int32)
# Few values, so that many are equal, and values of every width.
numbers = st.one_of(
    st.integers(0, 5), st.integers(0, (1 << 17) - 1), st.integers(0, (1 << 31) - 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@given(data=st.data())
def test_rows_are_sorted_and_equal_ones_stay_as_they_stood(
    dtype: type[np.integer], data: st.DataObject
) -> None:
    values = np.array(data.draw(st.lists(numbers, max_size=40)), np.int64).astype(dtype)
    found = sort_rows(values)
    assert found.row.tolist() == np.argsort(values, kind="stable").tolist()
    assert (found.above.astype(np.int64) + int(found.least)).tolist() == sorted(values.tolist())


@given(arrays.arrays(np.uint64, st.integers(0, 30)))
def test_all_of_64_bits_count(values: np.ndarray) -> None:
    assert sort_rows(values).row.tolist() == np.argsort(values, kind="stable").tolist()
    assert order_of(values).tolist() == np.argsort(values, kind="stable").tolist()


@given(st.lists(st.tuples(st.integers(-3, 1 << 33), numbers, st.integers(0, 3)), max_size=40))
def test_several_columns_order_by_the_first_then_the_next(
    rows: list[tuple[int, int, int]]
) -> None:
    columns = [np.array([row[i] for row in rows], np.int64) for i in range(3)]
    assert order_of(*columns).tolist() == np.lexsort(columns[::-1]).tolist()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_the_last_row_before_on_the_page(rows: list[tuple[bool, bool]]) -> None:
    where = np.array([is_there for is_there, _ in rows], np.bool_)
    heads = np.array([place == 0 or is_head for place, (_, is_head) in enumerate(rows)], np.bool_)
    starts = np.maximum.accumulate(np.where(heads, np.arange(len(rows)), 0)) if rows else (
        np.zeros(0, np.int64))
    wanted = [
        max((row for row in range(start, place) if where[row]), default=-1)
        for place, start in enumerate(starts.tolist())
    ]
    assert last_before(where, starts).tolist() == wanted
