"""Starting in the middle of a `.xm2p` file: the newest checkpoint before an event."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xenm2p.errors import InputError
from xenm2p.formats.binary_layout import Damage, RecordType, strings
from xenm2p.formats.binary_reader import BinaryReader, Loss, Record, take_names
from xenm2p.trace import I64, Events


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a replay can start.

    Replay the initial memory, then `rows` under their own `numbers`, then the events from
    `first_event` on (`chunks_from`): from there on everything is as if replayed from the
    beginning, under every kernel model. `tasks` are the names known at that point.
    """

    numbers: I64
    rows: Events
    first_event: int
    offset: int
    tasks: list[str]


def resume_point(reader: BinaryReader, event: int) -> ResumePoint:
    """The newest checkpoint at or before `event`; the file's beginning where there is none.

    Raises InputError for a stream, which cannot be entered in the middle, and for damage
    met on the way; a checkpoint that is damaged itself is passed over.
    """
    if reader.once:
        raise InputError("a stream can be read from its beginning only", source=reader.name)
    beginning = ResumePoint(np.empty(0, np.int64), Events.from_columns(0), 0, reader.header.end,
                            [])
    offset = _checkpoint_offset(reader, event)
    # Only a record that is a whole checkpoint of an event not beyond the wanted one will do.
    if not reader.header.end <= offset or not reader.is_record_at(offset, RecordType.CHECKPOINT):
        return beginning
    record = reader.record_at(offset)
    try:
        tasks = strings(record.text, "tasks")
        rows, numbers = reader.events_of(record, len(tasks))
    except Damage:
        return beginning
    is_in_order = bool(np.all(numbers[1:] > numbers[:-1]))
    if record.head.first_event > event or not is_in_order or (
            len(numbers) and not 0 <= numbers[0] <= numbers[-1] < record.head.first_event):
        return beginning
    return ResumePoint(numbers, rows, record.head.first_event, record.end, list(tasks))


def _checkpoint_offset(reader: BinaryReader, event: int) -> int:
    """The checkpoint of the last chunk that begins at or before `event`, 0 for none."""
    offset = 0
    for item in reader.walk(reader.offset_before(event)):
        if isinstance(item, Loss):
            _refuse(reader, item)
            continue
        if item.head.first_event > event:
            break
        if item.head.type is RecordType.CHUNK:
            offset = item.head.checkpoint
    return offset


def chunks_from(reader: BinaryReader, point: ResumePoint) -> Iterator[tuple[int, Events]]:
    """The chunks from a resume point on, each with the number of its first event.

    `point.tasks` grows with the names that they bring. Raises InputError for damage.
    """
    known = len(point.tasks)
    for item in reader.walk(point.offset):
        if isinstance(item, Loss):
            _refuse(reader, item)
            continue
        if item.head.type is not RecordType.CHUNK:
            continue
        yield item.head.first_event, _events(reader, item, point.tasks, known)
        known = len(point.tasks)
        reader.done_with(item)


def event_beyond(reader: BinaryReader, time: int, *, by_halves: bool) -> int | None:
    """The number of the first event later than `time` in ns, None where there is none.

    Looked for `by_halves` where the file has an index, so that among times that step back it
    may be another than the very first. Raises InputError for damage.
    """
    offsets = reader.chunk_offsets() if by_halves else []
    later = bisect_right(offsets, time, key=lambda offset: _first_time(reader, offset))
    # Else what the index names is no chunk: it is damaged, and the file is walked.
    is_chunk = later > 0 and reader.is_record_at(offsets[later - 1], RecordType.CHUNK)
    start = offsets[later - 1] if is_chunk else None
    # Names are not known here, nor needed: only times are read.
    for item in reader.walk(start):
        if isinstance(item, Loss):
            _refuse(reader, item)
        elif item.head.type is RecordType.CHUNK:
            is_beyond = _events(reader, item, [], None).time > time
            reader.done_with(item)
            if is_beyond.any():
                return item.head.first_event + int(is_beyond.argmax())
    return None


def _first_time(reader: BinaryReader, offset: int) -> int:
    if not reader.is_record_at(offset, RecordType.CHUNK):
        return 1 << 63  # later than any time
    times = _events(reader, reader.record_at(offset), [], None).time
    return int(times[0]) if len(times) else -(1 << 63)


def _events(
    reader: BinaryReader, record: Record, tasks: list[str], known: int | None
) -> Events:
    """A chunk's events; with `known` None its names are not taken."""
    try:
        known = 0 if known is None else take_names(record, tasks, known, may_jump=False)
        return reader.events_of(record, known)[0]
    except Damage as damage:
        raise InputError(f"chunk at event {record.head.first_event}: {damage}",
                         source=reader.name, place=f"byte {record.offset}") from None


def _refuse(reader: BinaryReader, loss: Loss) -> None:
    """Raise for damage; that the file was cut is no reason not to read what is there."""
    if not loss.cut:
        raise InputError(loss.sentence(), source=reader.name, place=f"byte {loss.offset}")
