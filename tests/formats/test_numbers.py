"""Numbers in text: one at a time and a column at a time give the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenm2p.formats.numbers import PAD, parse_entry, parse_int, parse_numbers, words_of
from xenm2p.trace import FOREIGN, IDENTITY, INVALID, format_frame

DIGITS = "0123456789abcdefABCDEFxXg@`/:G-+_ FI\x00\x10\x7f\xe1"
numerals = st.one_of(
    st.integers(0, INVALID).map(str),
    st.integers(-(1 << 15), 1 << 70).map(str),
    st.integers(0, 1 << 70).map(hex),
    st.integers(0, INVALID).map(format_frame),
    st.text("0123456789", max_size=22),
    st.text(DIGITS, max_size=22),
    st.tuples(st.sampled_from(["0x", "F:", "F:0x", "I:", "I:0x", "-", "-0x"]),
              st.text(DIGITS, max_size=18)).map("".join),
    st.sampled_from(["invalid", "invali", "invalidd", "invalid\0", "F:invalid", "1\x00"]),
)


def value_of(text: str) -> int | None:
    try:
        return parse_entry(text)
    except ValueError:
        return None


@given(st.lists(numerals, min_size=1, max_size=60))
def test_column_gives_what_single_numbers_give(texts):
    raw = [text.encode("latin-1") for text in texts]
    data = bytes(PAD) + b",".join(raw) + bytes(PAD)
    length = np.array([len(text) for text in raw], dtype=np.int64)
    begin = PAD + np.cumsum(length + 1) - length - 1
    buffer = np.frombuffer(data, dtype=np.uint8)
    numbers = parse_numbers(buffer, words_of(buffer), begin, begin + length)
    for row, text in enumerate(texts):
        value = value_of(text)
        if numbers.is_ok[row]:
            sign = -1 if numbers.is_negative[row] else 1
            assert sign * int(numbers.value[row]) == value
            assert numbers.is_entry[row] == (text[0] in "FIi")
        else:  # it may leave long ones to the other way
            assert value is None or len(text) > 18


@given(st.integers(0, (1 << 62) - 1), st.sampled_from([0, FOREIGN, IDENTITY]))
def test_entry_is_read_as_it_is_formatted(frame, bits):
    assert parse_entry(format_frame(frame | bits)) == frame | bits


@pytest.mark.parametrize("text", [
    "F:", "F:-1", "F:F:1", "I:invalid", "F:0x4000000000000000", "f:1",
])
def test_no_entry(text):
    assert value_of(text) is None


def test_long_value_is_cut_in_the_message():
    with pytest.raises(ValueError, match=r"'x{40}'\.\.\. \(1000 characters\) is not a decimal"):
        parse_int("x" * 1000)
