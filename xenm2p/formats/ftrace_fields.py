"""ftrace text, second step: which probe an event is of, and its ``name=value`` fields.

Events of one probe begin with the same bytes, their *head*, such as
``set_p2m: (__set_phys_to_machine+0x0/0x180) ``: heads are learnt as they come, and lines
are sorted by them at once. Where the first line of a head has its fields the others are
expected to have theirs; a line that has them elsewhere is read on its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xenm2p.errors import InputError
from xenm2p.formats.ftrace_lines import PADDING, Bytes, Lines, Mask, has_bytes, windows
from xenm2p.formats.probes import BY_FUNCTION, Probe, probe_of_event
from xenm2p.trace import I64, INVALID, U64

_HEAD_LIMIT = 256
_NAME_LIMIT = 1000
_NAME_LENGTH = 100
_DIGITS = 16  # as many as a number may have that is read with others
_FIELD_REACH = 256  # fields further right than this are read line by line

# A kprobe prints where it is, a kretprobe also where it returns to;
# trace-cmd report -R prints the event's own fields of the same meaning. perf names the group.
_HEAD = re.compile(
    rb"(?:[\w.-]+:(?=[^\s:]+:(?:\s|$)))?(?P<event>[^\s:]+): *"
    rb"(?:\((?P<place>[^()]*(?:\([^()]*\))?[^()]*)\)(?: |$)|(?P<raw>(?:__probe_\w+=\S+ ?)+))?"
)
_AT_SYMBOL = re.compile(rb"(?P<function>[A-Za-z_][\w.]*)\+0x(?P<offset>[0-9a-f]+)/0x[0-9a-f]+.*")
# perf and trace-cmd have no symbol there but an address, which may begin with a letter.
_RETURN_FROM = re.compile(
    rb".*<- (?![0-9a-f]{16}\b)(?P<function>[A-Za-z_][\w.]*).*", re.DOTALL)
# An endbr or a call to fentry may stand before the probed instruction.
_ENTRY_OFFSET = 5

_NUMBER = re.compile(rb"-?(?:0x[0-9a-f]{1,16}|\d{1,20})")

HEX_VALUE = np.full(256, 255, np.uint8)
for _value, _character in enumerate(b"0123456789abcdef"):
    HEX_VALUE[_character] = _value
_END_OF_FIELD = np.zeros(256, np.bool_)
_END_OF_FIELD[list(b" \n\r")] = True


@dataclass(frozen=True, slots=True)
class Head:
    """The bytes that events of one probe begin with, and the probe they are of.

    `returns` says that it is the function's return; `probe` is None where xenm2p has no
    use for the event.
    """

    text: bytes
    event: str
    probe: Probe | None
    returns: bool


_NAMELESS = Head(b"", "?", None, False)


def head_of(line: bytes) -> Head | None:
    """The head of an event, from its name on; None where there is no name."""
    match = _HEAD.match(line)
    if match is None:
        return None
    event = match["event"][:_NAME_LENGTH].decode("utf-8", "backslashreplace")
    place = match["place"]
    if place is not None:
        returned = _RETURN_FROM.fullmatch(place)
        at = returned or _AT_SYMBOL.fullmatch(place)
        if at is not None:
            probe = BY_FUNCTION.get(at["function"].decode())
            if not returned and int(at["offset"], 16) > _ENTRY_OFFSET:
                probe = None  # inside the function, where registers hold other things
            return Head(match[0], event, probe, returned is not None)
    found = probe_of_event(event)
    if found is None:
        return Head(match[0], event, None, False)
    probe, returns = found
    returned_by_place = (place is not None and b"<-" in place) or b"_ret_ip" in (
        match["raw"] or b"")
    return Head(match[0], event, probe, returns or returned_by_place)


@dataclass(slots=True)
class Classifier:
    """Sorts event lines by head. `ignored` counts events of probes without a use."""

    heads: list[Head] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def groups(self, lines: Lines) -> Iterator[tuple[Head, I64]]:
        """The heads in `lines`, each with its rows; a head may come more than once."""
        data, begin = lines.data, lines.begin
        first_bytes = windows(data, 8)[begin].view("<u8")[:, 0]
        left = np.arange(len(begin))
        for head in self.heads:
            has = self._has_head(head, lines, first_bytes, left)
            if has.any():
                yield self._counted(head, left[has])
                left = left[~has]
        while len(left) and len(self.heads) < _HEAD_LIMIT:
            row = int(left[0])
            head = head_of(lines.text[begin[row] : lines.end[row]]) or _NAMELESS
            if 0 < len(head.text) <= PADDING // 2:
                self.heads.append(head)
                # The longer of two that begin alike must be asked first.
                self.heads.sort(key=lambda known: -len(known.text))
            has = self._has_head(head, lines, first_bytes, left)
            has[0] = True
            yield self._counted(head, left[has])
            left = left[~has]
        rare: dict[Head, list[int]] = {}
        for row in left.tolist():
            head = head_of(lines.text[begin[row] : lines.end[row]]) or _NAMELESS
            rare.setdefault(head, []).append(row)
        for head, rows in rare.items():
            yield self._counted(head, np.array(rows, np.int64))

    def _counted(self, head: Head, rows: I64) -> tuple[Head, I64]:
        if head.probe is None and (
                len(self.ignored) < _NAME_LIMIT or head.event in self.ignored):
            self.ignored[head.event] += len(rows)
        return head, rows

    @staticmethod
    def _has_head(head: Head, lines: Lines, first_bytes: U64, among: I64) -> Mask:
        """Which of the rows `among` begin with `head`."""
        shift = 8 * (8 - min(len(head.text), 8))
        word = int.from_bytes(head.text[:8].ljust(8, b"\0"), "little") << shift
        has: Mask = (first_bytes[among] << np.uint64(shift)) == np.uint64(word & (1 << 64) - 1)
        rows = among[has]
        begin = lines.begin[rows]
        after = np.minimum(begin + len(head.text), lines.end[rows])
        same = (after == begin + len(head.text)) & has_bytes(lines.data, begin, head.text)
        if not head.text.endswith((b") ", b")")):
            # "name: " must not take in "name: (somewhere else) "
            same &= lines.data[after] != ord("(")
        has[has] = same
        return has


def parse_numbers(data: Bytes, at: I64, ends: Mask = _END_OF_FIELD) -> tuple[U64, I64, Mask]:
    """Numbers, decimal or 0x hex, that begin at `at` and end before one of `ends`.

    `ends` has True for the bytes that may follow: a blank or the end of the line.

    Returns their values, the offsets after them, and which of them are such numbers of at
    most 16 hex or 19 decimal digits.
    """
    if not len(at) or not _is_short(data, int(at[0])):
        return _parse_digits(data, at, ends, _DIGITS)
    value, after, good = _parse_digits(data, at, ends, _DIGITS // 2)
    longer = np.flatnonzero(~good)
    if len(longer):
        value[longer], after[longer], good[longer] = _parse_digits(
            data, at[longer], ends, _DIGITS)
    return value, after, good


def _is_short(data: Bytes, at: int) -> bool:
    """Whether a number has few digits, as then most of its column have."""
    return bool((HEX_VALUE[data[at + 2 : at + 2 + _DIGITS // 2]] == 255).any())


def _parse_digits(data: Bytes, at: I64, ends: Mask, most: int) -> tuple[U64, I64, Mask]:
    """As `parse_numbers`, of numbers of at most `most` digits, 8 or 16."""
    prefix = windows(data, 2)[at]
    is_hex = (prefix[:, 0] == ord("0")) & (prefix[:, 1] == ord("x"))
    begin = at + 2 * is_hex
    digits = HEX_VALUE[windows(data, most + 1)[begin]]
    has_hex = bool(is_hex.any())
    decimal = np.flatnonzero(~is_hex)
    if has_hex and len(decimal):
        is_other = digits >= np.where(is_hex, np.uint8(16), np.uint8(10))[:, None]
    else:
        is_other = digits >= np.uint8(16 if has_hex else 10)
    is_other[:, most] = True
    length = is_other.argmax(axis=1)
    after = begin + length
    good = (length > 0) & ends[data[after]]
    value = np.zeros(len(at), np.uint64)
    if has_hex:
        # Nibbles, high one first, are the bytes of a number; those behind it go.
        octets = digits[:, 0:most:2] << 4 | digits[:, 1:most:2] & 15
        behind = np.minimum(4 * (most - length), 4 * most - 1).astype(np.uint64)
        value = octets.view(f">u{most // 2}")[:, 0].astype(np.uint64) >> behind
    if len(decimal):
        of_decimal, digits = length[decimal], digits[decimal]
        number = np.zeros(len(decimal), np.uint64)
        for column in range(int(of_decimal.max())):
            number = np.where(column < of_decimal, number * np.uint64(10) + digits[:, column],
                              number)
        value[decimal] = number
    return value, after, good


def number_of(text: bytes) -> int | None:
    """One number as 64 bits, decimal, negative or 0x hex; None where it is none."""
    if _NUMBER.fullmatch(text) is None:
        return None
    value = int(text, 16) if b"x" in text else int(text)
    return value % (1 << 64) if -(1 << 63) <= value < 1 << 64 else None


def fields_of(arguments: bytes) -> dict[str, bytes]:
    """``name=value`` fields of a line by name; what else is in the line is left out."""
    pairs = (word.partition(b"=") for word in arguments.split() if b"=" in word)
    return {name.decode("latin-1"): value for name, _, value in pairs}


def missing(event: str, argument: str, have: Iterable[str], source: str,
            place: int) -> InputError:
    """The error for an event that lacks an argument, naming what it has."""
    names = ", ".join(list(have)[:12]) or "nothing"
    return InputError(f"{event}: '{argument}' is missing (have {names})",
                      source=source, place=place)


@dataclass(frozen=True, slots=True)
class _Field:
    """Where the first line of a head has a field: after how many blanks, under which name.

    `word` is -1 where the line does not have it.
    """

    word: int
    key: bytes


def _expected(arguments: bytes, probe: Probe) -> list[_Field] | None:
    """Where the fields of a probe stand in a line; None where a needed one is not there."""
    names = [word.partition(b"=")[0] if b"=" in word else b""
             for word in arguments[:_FIELD_REACH].split(b" ")]
    places = []
    for argument in (*probe.needs, *probe.wants):
        known = [name.encode() for name in probe.names_of(argument) if name.encode() in names]
        if known:
            places.append(_Field(names.index(known[0]), known[0] + b"="))
        elif argument in probe.needs:
            return None
        else:
            places.append(_Field(-1, b""))
    return places


def parse_fields(lines: Lines, rows: I64, head: Head, source: str) -> list[U64]:
    """The fields that a probe needs and wants, of events of one head, a column each.

    A wanted one that is not there is INVALID. Raises InputError, naming the line, where a
    needed one is missing or no number.
    """
    assert head.probe is not None
    data, ends = lines.data, lines.end[rows]
    starts = lines.begin[rows] + len(head.text)
    good = starts < ends
    expected = _expected(lines.text[starts[0] : ends[0]], head.probe)
    columns = [np.full(len(rows), INVALID, np.uint64)
               for _ in (*head.probe.needs, *head.probe.wants)]
    if expected is None:
        good &= False
    at, word = starts, 0
    for column, place in zip(columns, expected or (), strict=False):
        if place.word < 0:
            continue
        if place.word < word:  # fields in another order than the function's
            at, word = starts, 0
        at = np.minimum(_skip_words(data, at, place.word - word), ends)
        good &= has_bytes(data, at, place.key)
        values, after, numbers = parse_numbers(data, at + len(place.key))
        good &= numbers & (after <= ends)
        column[:] = values
        at, word = np.minimum(after + 1, ends), place.word + 1
    for row in np.flatnonzero(~good).tolist():
        text = lines.text[starts[row] : ends[row]]
        one = _parse_one(text, head, source, int(lines.place[rows[row]]))
        for column, value in zip(columns, one, strict=True):
            column[row] = value
    return columns


def _skip_words(data: Bytes, at: I64, words: int) -> I64:
    """Offsets after `words` blanks, or `at` where there are not so many close by."""
    if not words:
        return at
    blanks = windows(data, _FIELD_REACH)[at] == ord(" ")
    nth = np.cumsum(blanks, axis=1, dtype=np.uint8) == words
    found: NDArray[np.int64] = nth.argmax(axis=1)
    return np.where(nth.any(axis=1), at + found + 1, at)


def _parse_one(arguments: bytes, head: Head, source: str, place: int) -> list[int]:
    assert head.probe is not None
    fields = fields_of(arguments)
    values = []
    for argument in (*head.probe.needs, *head.probe.wants):
        names = [name for name in head.probe.names_of(argument) if name in fields]
        if not names and argument in head.probe.wants:
            values.append(INVALID)
            continue
        if not names:
            raise missing(head.event, argument, fields, source, place)
        value = number_of(fields[names[0]])
        if value is None:
            shown = fields[names[0]][:40].decode("utf-8", "backslashreplace")
            raise InputError(f"{head.event}: {names[0]}={shown} is not a 64-bit number",
                             source=source, place=place)
        values.append(value)
    return values
