"""The binary trace format `.xm2p`: reading, writing, checking. See man/xenm2p-trace.5."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO

from xenm2p.errors import InputError
from xenm2p.formats.binary_layout import (
    DEFAULT_CHUNK_EVENTS,
    MAGIC,
    VERSION,
    Damage,
    RecordType,
)
from xenm2p.formats.binary_reader import BinaryReader, Loss, Record, take_names
from xenm2p.formats.binary_resume import ResumePoint, chunks_from, event_beyond, resume_point
from xenm2p.formats.binary_scan import BinaryReport, loss_of, scan_binary
from xenm2p.formats.binary_writer import BinaryWriter, write_binary
from xenm2p.trace import Events, Resumption, Trace

__all__ = [
    "DEFAULT_CHUNK_EVENTS", "MAGIC", "VERSION", "BinaryReader", "BinaryReport",
    "BinaryWriter", "Loss", "ResumePoint", "chunks_from", "read_binary", "resume_point",
    "scan_binary", "write_binary",
]

def read_binary(path_or_stream: str | os.PathLike[str] | BinaryIO, source: str, *,
                columns: frozenset[str] | None = None, salvage: bool = False,
                losses: list[Loss] | None = None) -> Trace:
    """A trace from a `.xm2p` file.

    A path of a regular file is memory-mapped: plain columns are views on it, constant ones
    have stride 0, none is writable; memory use stays at a chunk or two. Anything else is
    read once, chunk by chunk. `source` names the input in errors. `columns` names those to
    read, None for all; the others come as absent and are neither read nor checked.

    Raises InputError here for a header that cannot be read, and while chunks are read for
    a damaged chunk; with `salvage` damaged chunks are left out instead, and later events
    move up. A file that ends early (its writer was killed) gives its finished chunks. What
    was left out is said in the trace's notes and appended to `losses`.
    """
    reader = BinaryReader(path_or_stream, source, columns=columns)
    header = reader.header
    trace = Trace(
        chunks_of=lambda: chunks(), kernel=header.kernel, domain=header.domain,
        origin=header.origin, memory=header.memory, m2p=header.m2p,
        length=reader.end.head.first_event if reader.end and not salvage else None,
        once=reader.once, notes=list(header.notes))
    found: list[Loss] = [] if losses is None else losses
    is_read = False

    def chunks() -> Iterator[Events]:
        nonlocal is_read
        if reader.once and is_read:
            raise InputError("a stream can be read only once", source=source)
        is_read = True
        for item in read_chunks(reader, trace.tasks):
            if isinstance(item, Loss):
                if not (salvage or item.cut):
                    raise InputError(item.sentence(), source=source,
                                     place=f"byte {item.offset}")
                if item not in found:
                    found.append(item)
                _note(trace, item.sentence())
            else:
                record, events = item
                for note in record.text.get("notes", ()):
                    _note(trace, note)
                if events is not None:
                    yield events
    if not (reader.once or salvage) and columns is None:
        trace.resume = partial(_resumption, reader, trace)
        trace.beyond = partial(_beyond, path_or_stream, source)
    return trace


def _resumption(reader: BinaryReader, trace: Trace, event: int) -> Resumption:
    point = resume_point(reader, event)
    trace.tasks[:] = point.tasks  # from here on the trace's, which the chunks add to
    point = replace(point, tasks=trace.tasks)
    return Resumption(point.numbers, point.rows, point.first_event,
                      (events for _, events in chunks_from(reader, point)))


def _beyond(
    path: str | os.PathLike[str] | BinaryIO, source: str, time: int, by_halves: bool
) -> int | None:
    reader = BinaryReader(path, source, columns=frozenset({"time"}))
    return event_beyond(reader, time, by_halves=by_halves)


def _note(trace: Trace, sentence: str) -> None:
    # Each reading of the file comes upon the same ones.
    if sentence not in trace.notes:
        trace.notes.append(sentence)


def read_chunks(reader: BinaryReader, tasks: list[str], start: int | None = None,
                ) -> Iterator[Loss | tuple[Record, Events | None]]:
    """Each chunk with its events, the end record with None, and losses, in order.

    Names are put into `tasks`. `start` is the offset of a record to begin at; then `tasks`
    must hold the names of the chunks before it. Raises InputError for a missing codec.
    """
    known = 0 if start is None else len(tasks)
    may_jump = False  # a lost chunk may have given names
    for item in reader.walk(start):
        if isinstance(item, Loss):
            may_jump = True
            yield item
            continue
        head = item.head
        events = None
        try:
            if head.type is RecordType.CHUNK:
                known = take_names(item, tasks, known, may_jump)
                events, _ = reader.events_of(item, known)
            elif head.type is RecordType.END:
                take_names(item, tasks, known, may_jump)
        except Damage as damage:
            may_jump = True
            yield loss_of(item, damage)
            continue
        if head.type is not RecordType.CHECKPOINT:
            yield item, events
        del events
        reader.done_with(item)
