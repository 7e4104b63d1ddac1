"""The fast path: one row a line, as the writer emits them, a block of lines at a time.

A line such as ``- {time: 1000, kind: map, mfn: 0x50010, pfn: 0x8000}`` is tokens between
``, `` and ``: ``; the tokens of all lines of a block are looked up, checked and parsed in
columns. Every byte of an accepted line belongs to a checked key, a checked value or a
separator, so what is accepted means what YAML says it means. Whatever is not understood,
or is wrong, is left to the strict parser.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xenm2p.formats.numbers import FIRST, PAD, Bools, parse_numbers, words_of
from xenm2p.formats.yaml_rows import TaskNames
from xenm2p.formats.yaml_schema import ABSENT_COUNT, UNTOLD
from xenm2p.formats.yaml_tables import KIND, TASK, USER, LineTable, Names, word_of
from xenm2p.formats.yaml_write import PLAIN
from xenm2p.trace import FRAME_MASK, I64, INVALID, MAX_FRAME, U64, Column, Kind

MAX_INDENT = 4  # blanks before the dash; with `- {` they must fit into one word
_ITEM = b"- {"


@dataclass(frozen=True, slots=True)
class Block:
    """A block of whole lines: its bytes between `PAD` zeros, and where the lines are.

    `start[i]` to `end[i]` are line i without its newline.
    """

    text: NDArray[np.uint8]
    words: U64
    start: I64
    end: I64

    @classmethod
    def of(cls, data: bytes) -> Block:
        """The block for `data`, which ends with a newline."""
        text = np.zeros(len(data) + 2 * PAD, dtype=np.uint8)
        text[PAD:PAD + len(data)] = np.frombuffer(data, dtype=np.uint8)
        end = np.flatnonzero(text == ord("\n"))
        start = np.empty_like(end)
        start[:1] = PAD
        start[1:] = end[:-1] + 1
        return cls(text, words_of(text), start, end)

    def __len__(self) -> int:
        return len(self.start)

    def line(self, index: int) -> bytes:
        """The bytes of a line without its newline."""
        return self.text[self.start[index]:self.end[index]].tobytes()

    def is_item(self, indent: int) -> Bools:
        """Which lines look like ``- {...}`` behind `indent` blanks."""
        prefix = b" " * indent + _ITEM
        is_begun = self.words[self.start] & FIRST[len(prefix)] == np.uint64(word_of(prefix))
        looks: Bools = is_begun & (self.text[self.end - 1] == ord("}"))
        return looks


@dataclass(frozen=True, slots=True)
class ParsedLines:
    """Rows of the lines that were understood: `line[i]` is the line in the block of row i."""

    line: I64
    columns: dict[str, Column]


def parse_lines(
    block: Block, is_item: Bools, indent: int, table: LineTable, tasks: TaskNames
) -> ParsedLines:
    """The rows of those `is_item` lines that are surely right; no error, ever."""
    tokens = _split(block, is_item, indent, table)
    if tokens is None:
        return ParsedLines(np.empty(0, dtype=np.int64),
                           {name: _column({}, name, table, 0) for name in table.specs})
    n_rows = len(tokens.line)
    is_good = np.ones(n_rows, dtype=np.bool_)
    is_good[tokens.row[~tokens.is_ok]] = False

    # A key twice in a row would carry into the next bit and so lose bits in the sum.
    keys = np.add.reduceat(np.int64(1) << tokens.key, tokens.first)
    keys &= len(table.n_bits) - 1
    is_good &= table.n_bits[keys] == np.diff(tokens.first, append=len(tokens.key))

    columns: dict[str, Column] = {}
    # Which of table.rows each row is.
    spec = np.zeros(n_rows, dtype=np.int64)
    if table.kinds is not None:
        at = np.flatnonzero(tokens.key == table.keys.names.index(KIND))
        spec[tokens.row[at]], is_known = _find_kinds(block, tokens, at, table.kinds)
        is_good[tokens.row[at[~is_known]]] = False
        columns[KIND] = spec.astype(np.uint8)  # rows are in the order of their numbers
    is_good &= (table.needed[spec] & ~keys == 0) & (keys & ~table.allowed[spec] == 0)

    _parse_number_columns(block, tokens, table, spec, columns, is_good)
    if table.kinds is None:
        is_good &= _fits(columns, table, n_rows)
    else:
        _parse_words(block, tokens, table, columns, is_good, tasks)
        if "ref" in columns:
            columns["ref"][(spec == Kind.LOST) & (columns["ref"] == UNTOLD)] = ABSENT_COUNT
    columns = {name: _column(columns, name, table, n_rows) for name in table.specs}
    if not is_good.all():
        columns = {name: column[is_good] for name, column in columns.items()}
    return ParsedLines(tokens.line[is_good], columns)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The ``key: value`` tokens of some lines, in the order of the text.

    key: place in `LineTable.keys`; begin, end: of the value in the block's text; is_ok: the
    key is known and the separators are in place; row: to which row it belongs. Of rows:
    first: its first token; line: its line in the block.
    """

    key: I64
    begin: I64
    end: I64
    is_ok: Bools
    row: I64
    first: I64
    line: I64


def _split(block: Block, is_item: Bools, indent: int, table: LineTable) -> _Tokens | None:
    text = block.text
    comma = np.flatnonzero(text == ord(","))
    colon = np.flatnonzero((text[:-1] == ord(":")) & (text[1:] == ord(" ")))
    n_commas = np.diff(np.searchsorted(comma, block.end), prepend=0)
    n_colons = np.diff(np.searchsorted(colon, block.end), prepend=0)
    is_split = is_item & (n_colons == n_commas + 1)
    if not is_split.any():
        return None
    if not is_split.all():
        comma = comma[np.repeat(is_split, n_commas)]
        colon = colon[np.repeat(is_split, n_colons)]
    line = np.flatnonzero(is_split)
    n_tokens = n_colons[line]
    last = np.cumsum(n_tokens) - 1
    first = last + 1 - n_tokens

    is_first = np.zeros(len(colon), dtype=np.bool_)
    is_first[first] = True
    key_begin = np.empty(len(colon), dtype=np.int64)
    key_begin[is_first] = block.start[line] + indent + len(_ITEM)
    key_begin[~is_first] = comma + 2
    end = np.empty(len(colon), dtype=np.int64)
    end[last] = block.end[line] - 1
    is_last = np.zeros(len(colon), dtype=np.bool_)
    is_last[last] = True
    end[~is_last] = comma
    begin = colon + 2

    length = colon - key_begin
    is_ok = (length >= 1) & (length <= 8) & (end > begin)
    is_ok &= is_first | (text[key_begin - 1] == ord(" "))
    key, is_known = table.keys.find(
        block.words[key_begin] & FIRST[np.clip(length, 0, 8)], np.uint64(0), length
    )
    is_ok &= is_known
    key[~is_ok] = 0
    return _Tokens(key, begin, end, is_ok, np.repeat(np.arange(len(line)), n_tokens), first, line)


def _find_kinds(block: Block, tokens: _Tokens, at: I64, kinds: Names) -> tuple[I64, Bools]:
    begin = tokens.begin[at]
    length = tokens.end[at] - begin
    low = block.words[begin] & FIRST[np.clip(length, 0, 8)]
    high = block.words[begin + 8] & FIRST[np.clip(length - 8, 0, 8)]
    index, is_known = kinds.find(low, high, length)
    return np.where(is_known, index, 0), is_known


def _parse_number_columns(
    block: Block,
    tokens: _Tokens,
    table: LineTable,
    spec: I64,
    columns: dict[str, Column],
    is_good: Bools,
) -> None:
    """Fill `columns` from the tokens that are numbers; clear `is_good` where one is wrong."""
    at = np.flatnonzero(table.is_number[tokens.key])
    key, row = tokens.key[at], tokens.row[at]
    numbers = parse_numbers(block.text, block.words, tokens.begin[at], tokens.end[at])
    value = numbers.value
    is_ok = numbers.is_ok & (value >= table.least[key]) & (value <= table.most[key])
    entry = np.flatnonzero(numbers.is_entry)
    if len(entry):
        form = table.form[spec[row[entry]], key[entry]]
        is_invalid = value[entry] == INVALID
        frame = np.where(is_invalid, 0, value[entry] & np.uint64(FRAME_MASK))
        is_ok[entry] = numbers.is_ok[entry] & (frame <= table.most[key[entry]]) & \
            (form >= np.where(is_invalid, 1, 2))
    negative = np.flatnonzero(numbers.is_negative)
    if len(negative):
        is_ok[negative] = numbers.is_ok[negative] & \
            (value[negative] <= table.least_negative[key[negative]])
        value[negative] = -value[negative]
    is_good[row[~is_ok]] = False

    for place in np.flatnonzero(table.is_number).tolist():
        of_key = np.flatnonzero(key == place)
        if len(of_key):
            column = _column(columns, table.columns[place], table, len(spec))
            column[row[of_key]] = value[of_key].astype(column.dtype)


def _column(
    columns: dict[str, Column], name: str, table: LineTable, n_rows: int
) -> Column:
    """The column of that name, at first with every row absent."""
    if name not in columns:
        dtype, absent = table.specs[name]
        columns[name] = np.full(n_rows, absent, dtype=dtype)
    return columns[name]


def _parse_words(
    block: Block,
    tokens: _Tokens,
    table: LineTable,
    columns: dict[str, Column],
    is_good: Bools,
    tasks: TaskNames,
) -> None:
    """Fill `user` and `task`; clear `is_good` where one is not surely what YAML takes."""
    for key in (USER, TASK):
        at = np.flatnonzero(tokens.key == table.keys.names.index(key))
        if not len(at):
            continue
        begin, end, row = tokens.begin[at], tokens.end[at], tokens.row[at]
        if key == USER:
            values, is_ok = _parse_users(block, begin, end)
        else:
            values, is_ok = _parse_tasks(block, begin, end, tasks)
        column = _column(columns, key, table, len(is_good))
        column[row] = values
        is_good[row[~is_ok]] = False


def _parse_users(block: Block, begin: I64, end: I64) -> tuple[Column, Bools]:
    word = block.words[begin] & FIRST[np.clip(end - begin, 0, 8)]
    is_true = (word == np.uint64(word_of(b"true"))) & (end - begin == 4)
    is_false = (word == np.uint64(word_of(b"false"))) & (end - begin == 5)
    return is_true, is_true | is_false


def _parse_tasks(
    block: Block, begin: I64, end: I64, tasks: TaskNames
) -> tuple[Column, Bools]:
    """Task numbers. Names are few: one dictionary lookup an event, one check a name."""
    data = block.text.tobytes()
    known: dict[bytes, int] = {}
    numbers = []
    for first, last in zip(begin.tolist(), end.tolist(), strict=True):
        name = data[first:last]
        number = known.get(name)
        if number is None:
            text = name.decode("ascii", "replace")
            number = tasks.index_of(text) if PLAIN.fullmatch(text) else _NOT_PLAIN
            known[name] = number
        numbers.append(number)
    values = np.array(numbers, dtype=np.int32)
    return values, values != _NOT_PLAIN


_NOT_PLAIN = -2


def _fits(columns: dict[str, Column], table: LineTable, n_rows: int) -> Bools:
    """Which runs stay within the frames there are."""
    count = _column(columns, "count", table, n_rows)
    fits = np.ones(n_rows, dtype=np.bool_)
    for name in ("start", "value"):
        column = _column(columns, name, table, n_rows)
        frame = column & np.uint64(FRAME_MASK)
        fits &= (frame + count <= np.uint64(MAX_FRAME + 1)) | (column == np.uint64(INVALID))
    return fits
