"""Markups: whatever a cell or a task name holds stands for itself."""

from __future__ import annotations

import html.parser
import io

import pytest

from xenm2p.report.fields import FINDINGS, LOCKS
from xenm2p.report.formats import MARKUPS
from xenm2p.report.markup import (
    Heading,
    Items,
    Lines,
    Rows,
    Verbatim,
    printable,
    render,
    write_markup,
)

NASTY = r"a|b *c* _d_ `e` <f> {g} [h] \i #j $k %l &m ~n ^o @p -q +r !s"


@pytest.mark.parametrize(("text", "shown"), [
    ("mount-1042", "mount-1042"), ("a\nb", "a\\nb"), ("\x1b[31m", "\\x1b[31m"),
    ("\x7f\x85", "\\x7f\\x85"), ("mönt", "mönt"), ("\udc80", "\\udc80"), ("\u202e", "\\u202e"),
    ("a\u2028b", "a\\u2028b")])
def test_control_characters_are_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


class _Text(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_any_text_as_it_is() -> None:
    blocks = [Heading(NASTY), Items([("key", NASTY)]), Lines([NASTY, NASTY]), Verbatim([NASTY]),
              Rows(["header"], [[NASTY]])]
    parser = _Text()
    parser.feed(render(MARKUPS["html"], blocks))
    assert parser.text.count(NASTY) == 6


@pytest.mark.parametrize(("markup", "cell"), [
    ("github", r"\|"), ("rst", r"\|"), ("jira", r"\|"), ("latex", r"\_d\_")])
def test_a_cell_does_not_break_its_table(markup: str, cell: str) -> None:
    text = render(MARKUPS[markup], [Rows(["header"], [[NASTY]])])
    assert cell in text


@pytest.mark.parametrize("markup", MARKUPS)
def test_a_frame_that_looks_like_a_number_stays_one(markup: str) -> None:
    assert "12e4" in render(MARKUPS[markup], [Rows(["frame"], [["12e4"]])])


@pytest.mark.parametrize("markup", MARKUPS)
def test_a_table_without_rows_still_has_its_headers(markup: str) -> None:
    assert "frame" in render(MARKUPS[markup], [Rows(["frame"], [], right=frozenset({"frame"}))])


def test_a_fence_is_longer_than_any_in_the_listing() -> None:
    assert render(MARKUPS["github"], [Verbatim(["```"])]).startswith("````\n")


def test_plain_wraps_a_listing_only_where_it_may() -> None:
    long = "word " * 30
    assert len(render(MARKUPS["plain"], [Verbatim([long])]).splitlines()) == 1
    wrapped = render(MARKUPS["plain"], [Verbatim([long], hanging=8)]).splitlines()
    assert max(map(len, wrapped)) <= 72
    assert wrapped[1].startswith(" " * 10 + "word")


def test_columns_without_values_are_left_out() -> None:
    out = io.StringIO()
    columns = [[0], [None], ["0x10"], ["cat-1"], [5], [None]]
    write_markup(out, MARKUPS["github"], LOCKS, {}, [columns])
    assert out.getvalue().splitlines()[0].replace(" ", "") == "|lock_event|pfn|task|first_time|"


def test_a_rare_flag_is_shown_where_it_is_set() -> None:
    def text(unknown: bool) -> str:
        out = io.StringIO()
        row = ["XM1", "n", "info", 0, [0], None, None, "t", None, None, unknown]
        write_markup(out, MARKUPS["github"], FINDINGS, {}, [[[cell] for cell in row]])
        return out.getvalue()

    assert "unknown" in text(True) and "unknown" not in text(False)
