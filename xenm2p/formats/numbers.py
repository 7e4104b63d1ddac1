"""Numbers in text: decimal or 0x hex and nothing else, one at a time and a million at a time.

YAML 1.1 reads `010` as 8, `1:30` as 90 and `1_000` as 1000, and every one of them may be
a slip of the pen in a file of frame numbers. Here they are errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xenm2p.trace import FOREIGN, I64, IDENTITY, INVALID, U64

Bools: TypeAlias = NDArray[np.bool_]

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,39})")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,40}")
_SHOWN = 40  # characters of a wrong value that an error repeats


def parse_int(text: str) -> int:
    """The number that `text` is: decimal (a minus sign allowed) or 0x hex.

    Raises ValueError, whose text says what is wrong, for everything else.
    """
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text, 16)
    raise ValueError(f"{quote(text)} is not a decimal or 0x number{_why(text)}")


def parse_entry(text: str) -> int:
    """A frame or p2m entry: a number, ``invalid``, ``F:0x1a2b`` or ``I:0x1a2b``.

    Raises ValueError for everything else. The inverse of `trace.format_frame`.
    """
    if text == "invalid":
        return INVALID
    if text[:2] in ("F:", "I:"):
        frame = parse_int(text[2:])
        if not 0 <= frame < IDENTITY:
            raise ValueError(f"{quote(text)} is not a frame")
        return frame | (FOREIGN if text[0] == "F" else IDENTITY)
    return parse_int(text)


def quote(text: str) -> str:
    """`text` for an error message: in quotes, on one line, cut where it is long."""
    shown = ascii(text[:_SHOWN])
    return shown if len(text) <= _SHOWN else f"{shown}... ({len(text)} characters)"


def _why(text: str) -> str:
    # What a YAML 1.1 reader would have made of it, where that is another number.
    if re.fullmatch(r"[-+]?0[0-7_]+", text):
        return " (YAML 1.1 would read octal; drop the leading zero)"
    if re.fullmatch(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+", text):
        return " (YAML 1.1 would read base 60)"
    if re.fullmatch(r"[-+]?[0-9a-fA-Fx]*(_[0-9a-fA-F]*)+", text):
        return " (no underscores)"
    return ""


# --- a million at a time ------------------------------------------------------------------
#
# A number of up to 8 digits is one unaligned 64-bit load; its digits are checked and summed
# up within the word (pairs, then fours, then eight), so that a column of numbers costs a
# dozen numpy operations whatever its length.

PAD = 24  # bytes that must be readable before the first and after the last byte of text

_ONES = 0x0101010101010101


def _each(byte: int) -> np.uint64:
    return np.uint64(_ONES * byte)


# LAST[n] keeps the last n characters of a word, FIRST[n] the first n (little-endian).
FIRST: U64 = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)
LAST: U64 = np.array([INVALID & ~((1 << 8 * (8 - n)) - 1) for n in range(9)], dtype=np.uint64)
_ZEROS_BEFORE: U64 = ~LAST & _each(ord("0"))


def words_of(text: NDArray[np.uint8]) -> U64:
    """The view whose element i is the little-endian word of bytes i to i+7 of `text`."""
    return np.ndarray((len(text) - 7,), dtype="<u8", buffer=text.data, strides=(1,))


def _decimal_digits(word: U64) -> tuple[U64, Bools]:
    digits = word ^ _each(ord("0"))  # '0'..'9' become 0..9, every other byte 10 or more
    is_ok = ((digits + _each(0x76)) | digits) & _each(0x80) == 0
    pairs = (digits * np.uint64(10 << 8 | 1) >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    fours = (pairs * np.uint64(100 << 16 | 1) >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    return fours * np.uint64(10000 << 32 | 1) >> np.uint64(32), is_ok


def _hex_digits(word: U64) -> tuple[U64, Bools]:
    letter = word >> np.uint64(6) & _each(1)  # 1 in bytes such as 'a', 'F'
    digits = (word & _each(0x0F)) + letter * np.uint64(9)
    # Spell the digits again: any byte that was no hex digit comes out as another one.
    from_ten = (digits + _each(0x76)) >> np.uint64(7) & _each(1)
    spelt = digits + _each(ord("0")) + from_ten * np.uint64(ord("a") - ord("0") - 10)
    is_ok = (spelt == word | letter << np.uint64(5)) & (digits & _each(0xF0) == 0)
    pairs = (digits * np.uint64(16 << 8 | 1) >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    fours = (pairs * np.uint64(1 << 24 | 1) >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    return fours * np.uint64(1 << 48 | 1) >> np.uint64(32), is_ok


def _sum_words(
    words: U64, begin: I64, end: I64, digits_of: Any, weight: int, most: int
) -> tuple[U64, Bools]:
    """Values of the digit strings [begin, end), eight digits a step from the right."""
    length = end - begin
    is_ok = (length >= 1) & (length <= most)
    last = np.clip(length, 0, 8)
    value, is_digits = digits_of(words[end - 8] & LAST[last] | _ZEROS_BEFORE[last])
    is_ok &= is_digits
    for step in range(1, -(-most // 8)):
        longer = np.flatnonzero(is_ok & (length > 8 * step))
        if not len(longer):
            break
        last = np.clip(length[longer] - 8 * step, 0, 8)
        word = words[end[longer] - 8 * (step + 1)] & LAST[last] | _ZEROS_BEFORE[last]
        more, is_digits = digits_of(word)
        value[longer] += more * np.uint64(weight**step)
        is_ok[longer] &= is_digits
    return value, is_ok


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column of parsed numbers; rows whose `is_ok` is False hold anything.

    value: uint64 magnitude. is_negative, is_entry: it had a minus sign; it was written
    ``invalid``, ``F:..`` or ``I:..`` (bits included in `value`).
    """

    value: U64
    is_ok: Bools
    is_negative: Bools
    is_entry: Bools


def parse_numbers(text: NDArray[np.uint8], words: U64, begin: I64, end: I64) -> Numbers:
    """The numbers and entries at text[begin:end], row by row, without a loop over rows.

    `words` is `words_of(text)`; `begin` and `end` are int64 offsets at least `PAD` away from
    both ends of `text`. What `is_ok` says is right is what `parse_entry` gives; it may be
    False for text that `parse_entry` takes (more than 19 decimal or 16 hex digits).
    """
    begin = begin.copy()
    length = np.clip(end - begin, 0, 8)
    first = words[begin] & FIRST[length]
    first_byte = first & np.uint64(0xFF)
    is_hex = first & np.uint64(0xFFFF) == np.uint64(ord("0") | ord("x") << 8)
    is_negative = first_byte == np.uint64(ord("-"))
    begin[is_negative] += 1

    # Entries are rare among numbers: look closer only at what does not begin as one.
    is_entry = np.zeros(len(begin), dtype=np.bool_)
    bits = np.zeros(len(begin), dtype=np.uint64)
    is_word = np.flatnonzero(first_byte > np.uint64(ord("9")))
    if len(is_word):
        two = first[is_word] & np.uint64(0xFFFF)
        for letter, bit in ((ord("F"), FOREIGN), (ord("I"), IDENTITY)):
            rows = is_word[two == np.uint64(letter | ord(":") << 8)]
            is_entry[rows] = True
            bits[rows] = bit
            begin[rows] += 2
            after = words[begin[rows]] & np.uint64(0xFFFF)
            is_hex[rows] = after == np.uint64(ord("0") | ord("x") << 8)
        word = np.uint64(int.from_bytes(b"invalid", "little"))
        is_invalid = is_word[(first[is_word] == word) & (end[is_word] - begin[is_word] == 7)]
        is_entry[is_invalid] = True

    value = np.zeros(len(begin), dtype=np.uint64)
    is_ok = np.zeros(len(begin), dtype=np.bool_)
    rows = np.flatnonzero(is_hex & ~is_negative)
    value[rows], is_ok[rows] = _sum_words(
        words, begin[rows] + 2, end[rows], _hex_digits, 1 << 32, 16
    )
    rows = np.flatnonzero(~is_hex)
    value[rows], is_ok[rows] = _sum_words(
        words, begin[rows], end[rows], _decimal_digits, 10**8, 19
    )
    has_zero_first = (text[begin[rows]] == ord("0")) & (end[rows] - begin[rows] > 1)
    is_ok[rows] &= ~has_zero_first

    if len(is_word):
        is_ok[bits != 0] &= value[bits != 0] < np.uint64(IDENTITY)
        value |= bits
        value[is_invalid] = INVALID
        is_ok[is_invalid] = True
    return Numbers(value, is_ok, is_negative, is_entry)
