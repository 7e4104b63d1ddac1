"""Folding tables to a width."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenm2p.report.fold import fold_table
from xenm2p.report.markup import Rows, render_table
from xenm2p.report.plain import MARKUP, WIDTH

CELLS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=30)


def test_a_table_that_fits_stays_as_it_is() -> None:
    assert list(fold_table(["a", "b"], [["1", "2"]], frozenset(), 72)) == [
        (["a", "b"], [["1", "2"]])]


def test_a_long_text_wraps_into_the_room_that_is_left() -> None:
    (headers, rows), = fold_table(["id", "text"], [["1", "word " * 10]], frozenset({"text"}), 30)
    assert headers == ["id", "text"]
    assert rows[0][1].splitlines() == ["word word word word word"] * 2


def test_what_cannot_wrap_is_stacked_with_row_numbers() -> None:
    headers = ["first", "second", "third"]
    tables = list(fold_table(headers, [["x" * 20] * 3, ["y" * 20] * 3], frozenset(), 50))
    assert [names for names, _ in tables] == [["#", "first", "second"], ["#", "third"]]
    assert [row[0] for row in tables[1][1]] == ["0", "1"]


@given(st.integers(1, 8).flatmap(lambda columns: st.lists(
    st.lists(CELLS, min_size=columns, max_size=columns), min_size=1, max_size=4)))
def test_no_line_is_wider_than_the_width_and_no_cell_is_lost(rows: list[list[str]]) -> None:
    headers = [f"column{i}" for i in range(len(rows[0]))]
    text = render_table(MARKUP, Rows(headers, rows))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(header in text for header in headers)
    words = text.split()
    assert all(word in words for row in rows for cell in row for word in cell.split())
