"""What a `.xm2p` file holds and what it lost, every byte of it checked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import BinaryIO

from xenm2p.formats.binary_layout import (
    INDEX_COLUMNS,
    Damage,
    Encoding,
    RecordType,
    strings,
)
from xenm2p.formats.binary_reader import BinaryReader, Loss, Record, take_names


@dataclass(slots=True)
class BinaryReport:
    """The result of `scan_binary`.

    `events` and `chunks` count what is whole; `encodings` says how columns are stored.
    `complete` says that the file has its end record and no loss.
    """

    events: int = 0
    chunks: int = 0
    checkpoints: int = 0
    tasks: int = 0
    closed: bool = False
    encodings: set[str] = field(default_factory=set)
    losses: list[Loss] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.closed and not self.losses

    @property
    def damaged_chunks(self) -> list[Loss]:
        """The losses inside of the file, without the missing end."""
        return [loss for loss in self.losses if not loss.cut]

    @property
    def lost_bytes(self) -> int:
        return sum(loss.size for loss in self.losses)

    @property
    def lost_events(self) -> int | None:
        """How many events are lost, None where nobody can know."""
        if not self.closed:
            return None
        return sum(loss.events or 0 for loss in self.losses)

    def sentences(self) -> list[str]:
        """The report for a person, a sentence a line; the first is the sum of it."""
        whole = f"{self.events} events in {self.chunks} chunks are whole"
        if self.complete:
            return [f"complete: {whole}"]
        lost = "" if self.lost_events is None else f", {self.lost_events} events are lost"
        return [f"incomplete: {whole}{lost}", *(loss.sentence() for loss in self.losses)]


def scan_binary(path_or_stream: str | os.PathLike[str] | BinaryIO, source: str) -> BinaryReport:
    """Read a file from end to end, check every checksum and value, and say what is lost.

    Raises InputError for a header that cannot be read, and for a codec that is missing.
    """
    reader = BinaryReader(path_or_stream, source)
    report = BinaryReport()
    tasks: list[str] = []
    known = 0
    chunk_offsets: dict[int, int] = {}
    for item in reader.walk():
        if isinstance(item, Loss):
            report.losses.append(item)
            continue
        head = item.head
        try:
            if head.type is RecordType.CHUNK:
                chunk_offsets[item.offset] = head.first_event
                known = take_names(item, tasks, known, may_jump=bool(report.losses))
                reader.events_of(item, known)
                report.chunks += 1
                report.events += head.rows
            elif head.type is RecordType.CHECKPOINT:
                reader.events_of(item, len(strings(item.text, "tasks")))
                report.checkpoints += 1
            else:
                known = take_names(item, tasks, known, may_jump=bool(report.losses))
                report.closed = True
                _check_index(reader, item, chunk_offsets)
        except Damage as damage:
            report.losses.append(loss_of(item, damage))
        report.encodings |= {_encoding_name(section.encoding) for section in head.sections}
        reader.done_with(item)
    report.tasks = known
    return report


def loss_of(record: Record, damage: Damage) -> Loss:
    """A damaged record as a loss; only that of a chunk takes events with it."""
    is_chunk = record.head.type is RecordType.CHUNK
    return Loss(record.offset, record.head.size, record.chunk, record.head.first_event,
                record.head.rows if is_chunk else 0,
                str(damage) if is_chunk else f"{record.head.type.name.lower()}: {damage}")


def _encoding_name(encoding: int) -> str:
    return Encoding(encoding).name.lower() if encoding in list(Encoding) else str(encoding)


def _check_index(reader: BinaryReader, end: Record, chunk_offsets: dict[int, int]) -> None:
    """Damage if the end record's index names a place where that chunk is not."""
    if reader.end is None and not reader.once:
        raise Damage("the last bytes do not say where it begins")
    index = reader.table_of(end, INDEX_COLUMNS)
    for offset, first_event in zip(index["offset"].tolist(), index["first_event"].tolist(),
                                   strict=True):
        # Where chunks were lost their places cannot be compared.
        if chunk_offsets.get(offset, first_event) != first_event:
            raise Damage(f"the index puts event {first_event} at byte {offset}, where event "
                         f"{chunk_offsets[offset]} is")
