"""Reading `.xm2p`: a walk over the records of a file and what is missing between them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from xenm2p.errors import InputError, unknown
from xenm2p.formats.binary_columns import MissingCodec, decode_column
from xenm2p.formats.binary_layout import (
    ALIGNMENT,
    FILE_HEADER_SIZE,
    INDEX_COLUMNS,
    MAX_COLUMNS,
    MAX_TASKS,
    NUMBER_COLUMN,
    RECORD_HEAD_SIZE,
    SECTION_SIZE,
    TAIL,
    TAIL_MAGIC,
    Cut,
    Damage,
    RecordHead,
    RecordType,
    crc32,
    from_json,
    strings,
    unpack_file_header,
    unpack_file_start,
    unpack_record_head,
)
from xenm2p.formats.binary_source import Source, open_source
from xenm2p.trace import COLUMNS, KIND_BY_CODE, Column, Events

_HEAD_AND_TABLE = RECORD_HEAD_SIZE + SECTION_SIZE * (MAX_COLUMNS + 1)
_SEARCH_PIECE = 1 << 20
_LOST_NAME = "(name lost)"


@dataclass(frozen=True, slots=True)
class Loss:
    """A stretch of a file whose events cannot be had.

    `cut` says that the file ends here without an end record, as when its writer was
    killed; anything else is damage. `first_event` numbers the first event lost, `events`
    says how many they are, None where nobody can know; `chunk` counts from 0.
    """

    offset: int
    size: int
    chunk: int
    first_event: int
    events: int | None
    reason: str
    cut: bool = False

    def sentence(self) -> str:
        """The loss in one sentence, without the file's name."""
        if self.cut:
            left = (f"{self.size} bytes from byte {self.offset} on are not a whole record; "
                    if self.size else "")
            return f"{self.reason}; {left}the {self.first_event} events before are whole"
        if self.events is None:
            what = f"events from {self.first_event} on are lost, nobody knows how many"
        elif self.events == 0:
            what = "no event is lost"
        elif self.events == 1:
            what = f"event {self.first_event} is lost"
        else:
            what = f"events {self.first_event} to {self.first_event + self.events - 1} are lost"
        return f"chunk {self.chunk} ({self.size} bytes): {self.reason}; {what}"


@dataclass(frozen=True, slots=True)
class Record:
    """A record whose head and text are whole; its sections are checked when decoded.

    `chunk` is the number of the chunk it is or precedes, `body` all its bytes.
    """

    offset: int
    chunk: int
    head: RecordHead
    text: dict[str, Any]
    body: memoryview

    @property
    def end(self) -> int:
        """Offset of the next record."""
        return self.offset + self.head.size


class BinaryReader:
    """An open `.xm2p` file.

    `columns` names the event columns to read, None for all; the others come as absent and
    are neither read nor checked. `end` is the end record, found from the file's last bytes;
    None on streams and in files that were not closed. Raises InputError for a header that
    cannot be read.
    """

    def __init__(self, path_or_stream: str | os.PathLike[str] | BinaryIO, source: str, *,
                 columns: frozenset[str] | None = None):
        for name in sorted(columns or ()):
            if name not in COLUMNS:
                raise ValueError(unknown("column", name, COLUMNS))
        self.name = source
        self.columns = frozenset(COLUMNS) if columns is None else columns
        self._source: Source = open_source(path_or_stream, source)
        self.once = self._source.once
        try:
            size = unpack_file_start(bytes(self._source.at(0, FILE_HEADER_SIZE)))[-1]
            self.header = unpack_file_header(self._source.at(0, size))
        except (Damage, Cut) as error:
            raise InputError(str(error), source=source, place="byte 0") from None
        self.end = None if self.once else self._find_end()

    def walk(self, start: int | None = None) -> Iterator[Record | Loss]:
        """All records in order, and the losses between them; the last is the end record
        or a Loss. `start` is the offset of a record, the first by default.
        """
        position = self.header.end if start is None else start
        event: int | None = 0 if start is None else None  # the number that comes next
        chunk = 0
        damaged: Loss | None = None  # how many events it held, the next record tells
        while True:
            try:
                record = self._record_at(position, chunk)
            except Cut as cut:
                if damaged is not None:
                    yield damaged
                yield Loss(position, self._source.rest(position), chunk, event or 0, None,
                           str(cut), cut=True)
                return
            except Damage as damage:
                # Its size may be part of the damage: look for the next head that is whole.
                found = self._search(position + ALIGNMENT)
                if damaged is None:
                    damaged = Loss(position, found - position, chunk, event or 0, None,
                                   str(damage))
                    chunk += 1
                else:
                    damaged = replace(damaged, size=found - damaged.offset)
                position = found
                if not len(self._source.at(found, 1)):
                    yield self._as_cut_by_zeros(damaged)
                    return
                continue
            head = record.head
            missing = 0 if event is None else head.first_event - event
            if damaged is not None:
                yield replace(damaged, events=max(missing, 0))
                missing = min(missing, 0)
                damaged = None
            if missing:
                yield Loss(position, 0 if missing > 0 else head.size, chunk, event or 0,
                           max(missing, 0),
                           f"its first event has number {head.first_event}, not {event}")
            position = record.end
            is_chunk = head.type is RecordType.CHUNK
            if missing >= 0:  # else these events have been there before
                yield record
                event = head.first_event + (head.rows if is_chunk else 0)
            chunk += is_chunk
            if head.type is RecordType.END:
                if rest := self._source.rest(position):
                    yield Loss(position, rest, chunk, event or 0, 0,
                               "bytes follow the end record")
                return

    def done_with(self, record: Record) -> None:
        """The record's pages need not stay in memory (views on them stay valid)."""
        self._source.done_with(record.offset, record.head.size)

    def record_at(self, position: int) -> Record:
        """The record at an offset that the file itself names.

        Raises InputError where there is none.
        """
        try:
            return self._record_at(position, 0)
        except (Damage, Cut) as error:
            raise InputError(str(error), source=self.name, place=f"byte {position}") from None

    def _record_at(self, position: int, chunk: int) -> Record:
        head = unpack_record_head_at(self._source, position)
        body = self._source.at(position, head.size)
        if len(body) < head.size:
            raise Cut("the file ends inside a record: its writer did not finish")
        text = body[head.text_offset:head.text_offset + head.text_size]
        if crc32(text) != head.text_crc:
            # The columns may be whole, but not the names of their tasks.
            raise Damage("its text is damaged (CRC-32 differs)")
        return Record(position, chunk, head, from_json(bytes(text)) if len(text) else {}, body)

    def _search(self, position: int) -> int:
        """Offset of the next whole record head from `position` on, else of the end."""
        while True:
            piece = bytes(self._source.at(position, _SEARCH_PIECE))
            for at in _magics(piece):
                try:
                    unpack_record_head_at(self._source, position + at)
                except (Damage, Cut):
                    continue
                return position + at
            if len(piece) < _SEARCH_PIECE:
                return position + len(piece)
            self._source.done_with(position, _SEARCH_PIECE)
            position += _SEARCH_PIECE

    def _as_cut_by_zeros(self, loss: Loss) -> Loss:
        """A loss at the file's end; a cut if it is nothing but zeros.

        Some file systems leave them where data had not been written before a power failure.
        """
        if self.once or any(map(any, self._pieces(loss.offset, loss.size))):
            return loss
        return replace(loss, cut=True, reason="the file ends in zeros: its writer did not finish")

    def _pieces(self, offset: int, size: int) -> Iterator[memoryview]:
        for at in range(offset, offset + size, _SEARCH_PIECE):
            yield self._source.at(at, min(_SEARCH_PIECE, offset + size - at))

    def _find_end(self) -> Record | None:
        """The end record, by the last bytes of the file; None where they do not name one."""
        size = self._source.rest(0)
        if size < self.header.end + TAIL.size:
            return None
        offset, magic = TAIL.unpack(self._source.at(size - TAIL.size, TAIL.size))
        if magic != TAIL_MAGIC or not self.header.end <= offset < size or offset % ALIGNMENT:
            return None
        try:
            record = self._record_at(offset, -1)
        except (Damage, Cut):
            return None
        is_end = record.head.type is RecordType.END and record.end == size
        return record if is_end else None

    def chunk_offsets(self) -> list[int]:
        """Offsets of chunks as the end record's index names them; none without one.

        Whether a chunk is there is not looked at: in a large file that takes seconds.
        """
        if self.end is None:
            return []
        try:
            offsets: list[int] = self.table_of(self.end, INDEX_COLUMNS)["offset"].tolist()
        except Damage:
            return []
        return offsets

    def offset_before(self, event: int) -> int:
        """Offset of a record from which a walk comes upon the chunk of `event`.

        By the end record's index where there is one: it names every chunk of a short file
        and evenly spaced ones of a long file. Else where the first record is.
        """
        if self.end is not None:
            try:
                index = self.table_of(self.end, INDEX_COLUMNS)
            except Damage:
                return self.header.end
            row = int(np.searchsorted(index["first_event"], np.uint64(max(event, 0)),
                                      side="right")) - 1
            if row >= 0 and self.is_record_at(int(index["offset"][row]), RecordType.CHUNK):
                return int(index["offset"][row])
        return self.header.end

    def is_record_at(self, offset: int, record_type: RecordType) -> bool:
        """Whether the head of a record of that type is at `offset`, whole."""
        if offset % ALIGNMENT or offset < self.header.end:
            return False
        try:
            return unpack_record_head_at(self._source, offset).type is record_type
        except (Damage, Cut):
            return False

    def table_of(self, record: Record, table: tuple[tuple[str, np.dtype[Any]], ...],
                 wanted: frozenset[str] | None = None) -> dict[str, Column]:
        """The sections of a record by the names that `table` gives their numbers.

        Only `wanted` ones are decoded, None for all of them. Raises Damage.
        """
        columns: dict[str, Column] = {}
        for section in record.head.sections:
            if section.column >= len(table):
                raise Damage(f"it has a column {section.column}, which the header has not")
            name, dtype = table[section.column]
            if wanted is not None and name not in wanted:
                continue
            if name in columns:
                raise Damage(f"it has column '{name}' twice")
            try:
                columns[name] = decode_column(section, dtype, record.head.rows, record.body)
            except Damage as damage:
                raise Damage(f"column '{name}': {damage}") from None
            except MissingCodec as missing:
                raise InputError(str(missing), source=self.name,
                                 place=f"byte {record.offset}") from None
        for name, _ in table:
            if name not in columns and (wanted is None or name in wanted):
                raise Damage(f"column '{name}' is missing")
        return columns

    def events_of(self, record: Record, tasks: int) -> tuple[Events, Column]:
        """A chunk's or checkpoint's events, and their numbers. Raises Damage.

        Columns that are not wanted, or that the file has not, are absent (constants
        with stride 0, as constant columns are). `tasks` is the number of names known.
        """
        table = self.header.columns
        rows, first = record.head.rows, record.head.first_event
        if record.head.type is RecordType.CHECKPOINT:
            columns = self.table_of(record, (*table, NUMBER_COLUMN),
                                    self.columns | {NUMBER_COLUMN[0]})
            numbers = columns.pop(NUMBER_COLUMN[0])
        else:
            columns = self.table_of(record, table, self.columns)
            numbers = np.arange(first, first + rows, dtype=np.int64)
        for name, least, most in (("kind", 0, len(KIND_BY_CODE) - 1), ("user", 0, 1),
                                  ("task", COLUMNS["task"].absent, tasks - 1)):
            column = columns.get(name)
            if column is None or not rows:
                continue
            seen = column[:1] if column.strides == (0,) else column  # a constant is seen in one
            if seen.max() > most or seen.min() < least:
                row = int(((column < least) | (column > most)).argmax())
                raise Damage(f"event {int(numbers[row])}: {name} is {int(column[row])}, "
                             f"not one of {least} to {most}")
        return Events(**{
            name: columns[name] if name in columns
            else np.broadcast_to(spec.dtype.type(spec.absent), (rows,))
            for name, spec in COLUMNS.items()}), numbers


def unpack_record_head_at(source: Source, position: int) -> RecordHead:
    """The head of the record at an offset. Raises Damage or Cut."""
    data = source.at(position, _HEAD_AND_TABLE)
    if not len(data):
        raise Cut("the file has no end record: its writer did not finish")
    return unpack_record_head(data)


def _magics(piece: bytes) -> list[int]:
    """Where in `piece` a record may begin."""
    found = []
    for record_type in RecordType:
        at = piece.find(record_type.value)
        while at >= 0:
            if at % ALIGNMENT == 0:
                found.append(at)
            at = piece.find(record_type.value, at + 1)
    return sorted(found)


def take_names(record: Record, tasks: list[str], known: int, may_jump: bool) -> int:
    """Put a record's task names where they belong; how many are known then. Raises Damage."""
    before = record.head.tasks_before
    names = strings(record.text, "tasks")
    strings(record.text, "notes")
    if before < known or (before > known and not may_jump):
        raise Damage(f"{before} task names were to come before it, not {known}")
    if before + len(names) > MAX_TASKS:
        raise Damage(f"it has more than {MAX_TASKS} task names")
    tasks += [_LOST_NAME] * (before - len(tasks))
    tasks[before:before + len(names)] = names
    return before + len(names)
