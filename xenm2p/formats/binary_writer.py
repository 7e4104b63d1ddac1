"""Writing `.xm2p`: append-only, one chunk at a time, in memory bounded by a chunk."""

from __future__ import annotations

from array import array
from typing import Any, BinaryIO

import numpy as np

from xenm2p.formats.binary_columns import codec, encode_column
from xenm2p.formats.binary_layout import (
    DEFAULT_CHUNK_EVENTS,
    INDEX_COLUMNS,
    MAX_CHUNK_EVENTS,
    MAX_INDEX_ROWS,
    MAX_TASKS,
    MAX_TEXT,
    NUMBER_COLUMN,
    RECORD_HEAD_SIZE,
    SECTION_SIZE,
    TAIL,
    TAIL_MAGIC,
    Encoding,
    FileHeader,
    RecordHead,
    RecordType,
    Section,
    crc32,
    pack_file_header,
    pack_record_head,
    padded,
    sums_crc32,
    to_json,
)
from xenm2p.formats.checkpoint import Condenser
from xenm2p.trace import COLUMNS, Column, Events, Trace

# A checkpoint is written when this many times the events of the last one came since, so that
# checkpoints take about a quarter of the file at most; and this many chunks, since finding
# out what is live costs as much as writing.
_CHECKPOINT_EVERY = 4
_CHECKPOINT_CHUNKS = 4


class BinaryWriter:
    """Writes events to `file`, a binary file open for writing, from its first byte on.

    The header (kernel, domain, origin, initial memory) comes from `header`, whose chunks
    are not looked at; its `tasks` and `notes` may grow while events are appended.
    `compression` is None, ``zlib`` or ``zstd``. Without `checkpoints` a replay of the file
    can start at its beginning only.

    After each chunk the file is flushed: a process that is killed loses no finished chunk.
    Raises UsageError for a compression that cannot be had, OSError from the file.
    """

    def __init__(self, file: BinaryIO, header: Trace, *, compression: str | None = None,
                 chunk_events: int = DEFAULT_CHUNK_EVENTS, checkpoints: bool = True):
        if not 1 <= chunk_events <= MAX_CHUNK_EVENTS:
            raise ValueError(f"chunk_events is {chunk_events}, not 1 to {MAX_CHUNK_EVENTS}")
        self._encoding = codec(compression)
        self._file = file
        self._tasks = header.tasks
        self._notes = header.notes
        self._chunk_events = chunk_events
        self._condenser = Condenser(header) if checkpoints else None
        self._pending: list[Events] = []
        self._pending_events = 0
        self._events = 0  # written
        self._tasks_written = 0
        self._notes_written = len(header.notes)
        self._checkpoint = 0  # offset of the newest
        self._next_checkpoint = chunk_events * _CHECKPOINT_CHUNKS
        self._index = _Index()
        self._position = 0
        self._write(pack_file_header(FileHeader(
            kernel=header.kernel, domain=header.domain, origin=header.origin,
            notes=header.notes, columns=tuple((s.name, s.dtype) for s in COLUMNS.values()),
            memory=header.memory, m2p=header.m2p, end=0)))

    def append(self, events: Events) -> None:
        """Append events; chunks are written as they fill."""
        self._pending.append(events)
        self._pending_events += len(events)
        if self._pending_events < self._chunk_events:
            return
        ready = self._pending[0] if len(self._pending) == 1 else Events.concat(self._pending)
        full = len(ready) // self._chunk_events * self._chunk_events
        for begin in range(0, full, self._chunk_events):
            self._write_chunk(ready.rows(slice(begin, begin + self._chunk_events)))
        # A copy: the caller's arrays may be views on something large.
        self._pending = [ready.rows(np.arange(full, len(ready)))] if full < len(ready) else []
        self._pending_events = len(ready) - full

    def close(self) -> None:
        """Write what is left and the end record. The file itself stays open."""
        if self._pending_events:
            self._write_chunk(Events.concat(self._pending))
        self._pending, self._pending_events = [], 0
        tasks_before = self._tasks_written
        self._write_record(
            RecordType.END, self._events, self._index.columns(), INDEX_COLUMNS,
            Encoding.PLAIN, self._new_text(len(self._tasks)), tasks_before=tasks_before,
            tail=True)
        self._file.flush()

    def _write_chunk(self, events: Events) -> None:
        if self._condenser is not None:
            self._write_checkpoint(self._condenser)
            self._condenser.feed(self._events, events)
        self._index.add(self._position, self._events)
        used = int(events.task.max()) + 1
        if used > len(self._tasks):
            raise ValueError(f"task {used - 1} has no name, there are {len(self._tasks)}")
        tasks_before = self._tasks_written
        self._write_record(
            RecordType.CHUNK, self._events, events.columns(), _EVENT_TABLE, self._encoding,
            self._new_text(used), tasks_before=tasks_before, checkpoint=self._checkpoint)
        self._events += len(events)
        self._file.flush()

    def _write_checkpoint(self, condenser: Condenser) -> None:
        """What is live before the next chunk, if enough came since the last checkpoint."""
        if self._events < self._next_checkpoint:
            return
        live = condenser.live()
        if live is None:
            return
        numbers, rows = live
        least = _CHECKPOINT_CHUNKS * self._chunk_events
        self._next_checkpoint = self._events + max(_CHECKPOINT_EVERY * len(numbers), least)
        # All names so far: whoever starts here has not seen the chunks that gave them.
        text = to_json({"tasks": self._tasks[:self._tasks_written]})
        if len(text) > MAX_TEXT:
            return
        self._checkpoint = self._position
        self._write_record(
            RecordType.CHECKPOINT, self._events, rows.columns() | {NUMBER_COLUMN[0]: numbers},
            (*_EVENT_TABLE, NUMBER_COLUMN), self._encoding, text)

    def _new_text(self, tasks: int) -> bytes:
        """The JSON of task names up to number `tasks`, and of notes, not written before."""
        if tasks > MAX_TASKS:
            raise ValueError(f"{tasks} task names, at most {MAX_TASKS} fit into a file")
        new = {
            "tasks": self._tasks[self._tasks_written:tasks],
            "notes": self._notes[self._notes_written:],
        }
        self._tasks_written = max(self._tasks_written, tasks)
        self._notes_written = len(self._notes)
        said = {key: value for key, value in new.items() if value}
        return to_json(said) if said else b""

    def _write_record(self, record_type: RecordType, first_event: int,
                      columns: dict[str, Column], table: tuple[tuple[str, np.dtype[Any]], ...],
                      encoding: Encoding, text: bytes, *, tasks_before: int = 0,
                      checkpoint: int = 0, tail: bool = False) -> None:
        if len(text) > MAX_TEXT:
            raise ValueError(f"{len(text)} bytes of task names and notes in one record, "
                             f"at most {MAX_TEXT} fit")
        sections: list[Section] = []
        at = padded(RECORD_HEAD_SIZE + SECTION_SIZE * len(table) + len(text))
        body: list[Any] = [text, bytes(at - RECORD_HEAD_SIZE - SECTION_SIZE * len(table)
                                       - len(text))]
        rows = 0
        for number, (name, dtype) in enumerate(table):
            column = columns[name].astype(dtype, copy=False)
            rows = len(column)
            kind, filter, data = encode_column(name, column, encoding)
            if kind is Encoding.CONSTANT:
                value = int.from_bytes(data, "little")
                sections.append(Section(kind, filter, number, value, 0, 0))
                continue
            stored = len(data)
            sections.append(Section(kind, filter, number, at, stored, sums_crc32(data)))
            body += [data, bytes(padded(stored) - stored)]
            at += padded(stored)
        if tail:
            body += [bytes(padded(TAIL.size) - TAIL.size),
                     TAIL.pack(self._position, TAIL_MAGIC)]
            at += padded(TAIL.size)
        head = RecordHead(
            type=record_type, first_event=first_event, rows=rows, size=at,
            text_size=len(text), text_crc=crc32(text), tasks_before=tasks_before,
            checkpoint=checkpoint, sections=tuple(sections))
        self._write(pack_record_head(head), *body)

    def _write(self, *pieces: Any) -> None:
        for piece in pieces:
            self._file.write(piece)
            self._position += len(piece)


_EVENT_TABLE = tuple((spec.name, spec.dtype) for spec in COLUMNS.values())


class _Index:
    """Where chunks begin: all of them, or evenly spaced ones once there are too many."""

    def __init__(self) -> None:
        self._offsets = array("Q")
        self._first_events = array("Q")
        self._every = 1
        self._seen = 0

    def add(self, offset: int, first_event: int) -> None:
        if self._seen % self._every == 0:
            if len(self._offsets) == MAX_INDEX_ROWS:
                self._offsets = self._offsets[::2]
                self._first_events = self._first_events[::2]
                self._every *= 2
            if self._seen % self._every == 0:
                self._offsets.append(offset)
                self._first_events.append(first_event)
        self._seen += 1

    def columns(self) -> dict[str, Column]:
        return {"offset": np.array(self._offsets, dtype=np.uint64),
                "first_event": np.array(self._first_events, dtype=np.uint64)}


def write_binary(trace: Trace, file: BinaryIO, *, compression: str | None = None,
                 chunk_events: int = DEFAULT_CHUNK_EVENTS, checkpoints: bool = True) -> None:
    """Write a trace to a binary file, chunk by chunk in bounded memory.

    Arguments and errors are those of BinaryWriter.
    """
    writer = BinaryWriter(file, trace, compression=compression, chunk_events=chunk_events,
                          checkpoints=checkpoints)
    for events in trace.chunks(chunk_events):
        writer.append(events)
    writer.close()
