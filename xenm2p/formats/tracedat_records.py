"""trace.dat: the data of the cpus -> their records' columns, and the raw calls.

What a cpu has is read some pages at a time; of a record only what its probe's event needs
is kept. Maps and unmaps keep all of their record: what it means is for the readers of
calls, once the records of all cpus are in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xenm2p.errors import InputError
from xenm2p.formats.binary_reader import Loss
from xenm2p.formats.ftrace_fields import Head, missing
from xenm2p.formats.ftrace_lines import windows
from xenm2p.formats.ftrace_ops import CALL_ROLES
from xenm2p.formats.probes import Role
from xenm2p.formats.tracedat_cursor import Cursor, unpack
from xenm2p.formats.tracedat_formats import (
    EventFormat,
    Field,
    Symbols,
    address_field,
    common_field,
    head_at,
)
from xenm2p.formats.tracedat_layout import CpuData, Layout
from xenm2p.formats.tracedat_pages import DamagedPageError, Records, read_pages
from xenm2p.trace import I64, INVALID, NO_REF, U64, Column

_BATCH = 1 << 22
_CHUNK_COUNT = 4
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Found:
    """Records of one head: `row` numbers them among their cpu's; `columns` are its fields.

    Of calls `raw` has the records themselves, (n, size) bytes of format `event`.
    """

    head: Head
    event: EventFormat
    row: I64
    columns: tuple[U64, ...] = ()
    raw: Bytes | None = None


@dataclass(slots=True)
class CpuRecords:
    """All records of a cpu: their times, pids, and those that mean something by head.

    `losses` are (row, events): events lost before a record, or after the last one.
    """

    cpu: int
    time: U64
    pid: NDArray[np.int32]
    found: list[Found]
    losses: list[tuple[int, int]]


@dataclass(slots=True)
class RecordReader:
    """Reads the records of cpus. `ignored` counts those of probes without a use.

    `cut` has what is missing at the file's end, the cpu as its chunk; `CpuRecords.losses`
    has it, too.
    """

    data: memoryview
    layout: Layout
    formats: dict[int, EventFormat]
    symbols: Symbols
    ignored: Counter[str] = field(default_factory=Counter)
    cut: list[Loss] = field(default_factory=list)
    _heads: dict[tuple[int, int | None], Head] = field(default_factory=dict)

    def read(self, part: CpuData) -> CpuRecords:
        """All records of a cpu. Raises InputError, naming the byte of what is damaged."""
        if not part.size:
            return CpuRecords(part.cpu, np.zeros(0, np.uint64), np.zeros(0, np.int32), [], [])
        kind = common_field(self.formats.values(), "common_type", 2)
        pid = common_field(self.formats.values(), "common_pid", 4)
        if kind is None or pid is None:
            raise InputError("event formats: no type and pid at one place in all of them",
                             source=self.layout.source)
        times: list[U64] = [np.zeros(0, np.uint64)]
        pids: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
        found: list[Found] = []
        losses: list[tuple[int, int]] = []
        first = 0
        for pages, places in self.pages(part):
            try:
                records = read_pages(pages)
            except DamagedPageError as error:
                inside = 0 if self.layout.codec else error.at
                raise InputError(
                    f"cpu {part.cpu}'s page of the ring buffer is damaged {error.at} bytes "
                    f"into it: {error.reason}", source=self.layout.source,
                    place=f"byte {places[error.page] + inside}") from None
            data = pages.reshape(-1)
            self._check_sizes(records, max(kind.end, pid.end), part, places,
                              pages.shape[1])
            numbers = _number(data, records.begin, kind).astype(np.int64)
            pids.append(_number(data, records.begin, pid).astype(np.int64).astype(np.int32))
            times.append(records.time)
            losses += [(first + row, events) for row, events in zip(
                records.loss_row.tolist(), records.loss_events.tolist(), strict=True)]
            try:
                found += self._sorted(data, records, numbers, first)
            except InputError as error:  # of a batch of pages, which begins here
                raise InputError(error.reason, source=error.source,
                                 place=f"byte {places[0]}") from None
            first += len(records.begin)
        if self.cut and self.cut[-1].chunk == part.cpu:
            losses.append((first, NO_REF))
        return CpuRecords(part.cpu, np.concatenate(times), np.concatenate(pids), found, losses)

    def _check_sizes(self, records: Records, least: int, part: CpuData, places: I64,
                     page_size: int) -> None:
        short = np.flatnonzero(records.size < least)
        if len(short):
            begin = int(records.begin[short[0]])
            raise InputError(
                f"cpu {part.cpu}: a record of {int(records.size[short[0]])} bytes is shorter "
                "than any event", source=self.layout.source,
                place=f"byte {places[begin // page_size]}")

    def _sorted(self, data: Bytes, records: Records, numbers: I64, first: int) -> list[Found]:
        """The records that mean something, by head."""
        found: list[Found] = []
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            event = self.formats.get(number)
            if event is None:
                self.ignored[f"number {number}"] += len(rows)
                continue
            for head, some in self._by_head(data, records, event, rows):
                if head.probe is None:
                    self.ignored[head.event] += len(some)
                elif head.probe.role is not Role.MARKER:
                    found.append(self._taken(data, records, event, head, some, first))
        return found

    def _by_head(self, data: Bytes, records: Records, event: EventFormat, rows: I64) -> (
            Iterator[tuple[Head, I64]]):
        """Records of one event by the places that they were probed at."""
        where = address_field(event)
        if where is None:
            yield self._head(event, None), rows
            return
        self._check_end(records, rows, event, where.end)
        addresses = _number(data, records.begin[rows], where)
        for address in np.unique(addresses).tolist():
            yield self._head(event, address), rows[addresses == np.uint64(address)]

    def _head(self, event: EventFormat, address: int | None) -> Head:
        key = event.number, address
        if key not in self._heads:
            self._heads[key] = head_at(event, address, self.symbols)
        return self._heads[key]

    def _taken(self, data: Bytes, records: Records, event: EventFormat, head: Head, rows: I64,
               first: int) -> Found:
        assert head.probe is not None
        begin = records.begin[rows]
        if head.returns or head.probe.role is Role.WAIT:
            return Found(head, event, first + rows)
        if head.probe.role in CALL_ROLES:
            size = max((each.end for each in event.fields.values()), default=0)
            self._check_end(records, rows, event, size)
            return Found(head, event, first + rows, raw=windows(data, size)[begin])
        columns = []
        for argument in (*head.probe.needs, *head.probe.wants):
            named = next((event.fields[name] for name in head.probe.names_of(argument)
                          if name in event.fields), None)
            if named is not None and named.is_number:
                self._check_end(records, rows, event, named.end)
                columns.append(_number(data, begin, named))
            elif argument in head.probe.needs:
                raise missing(event.name, argument, event.fields, self.layout.source, 0)
            else:
                columns.append(np.full(len(rows), INVALID, np.uint64))
        return Found(head, event, first + rows, tuple(columns))

    def _check_end(self, records: Records, rows: I64, event: EventFormat, end: int) -> None:
        if len(rows) and int(records.size[rows].min()) < end:
            raise InputError(f"{event.name}: a record of {int(records.size[rows].min())} bytes "
                             f"is shorter than its format, which has {end}",
                             source=self.layout.source)

    def pages(self, part: CpuData) -> Iterator[tuple[Bytes, I64]]:
        """A cpu's pages, some at a time, (n, size) bytes, with their places in the file."""
        if not part.size:
            return
        page_size = self.layout.page_size
        if self.layout.codec is None:
            available = min(max(len(self.data) - part.offset, 0), part.size)
            whole = available // page_size * page_size
            for begin in range(part.offset, part.offset + whole, _BATCH):
                piece = np.frombuffer(
                    self.data[begin : min(begin + _BATCH, part.offset + whole)], np.uint8)
                pages = piece.reshape(-1, page_size)
                yield pages, begin + page_size * np.arange(len(pages))
            if whole < part.size:
                self._is_cut(part, part.offset + whole, available - whole)
            return
        batch: list[Bytes] = []
        places: list[I64] = []
        for pages, place in self._chunks(part):
            batch.append(pages)
            places.append(np.full(len(pages), place))
            if sum(map(len, batch)) * page_size >= _BATCH:
                yield np.concatenate(batch), np.concatenate(places)
                batch, places = [], []
        if batch:
            yield np.concatenate(batch), np.concatenate(places)

    def _chunks(self, part: CpuData) -> Iterator[tuple[Bytes, int]]:
        """A cpu's compressed chunks of pages, and where they are in the file."""
        codec, page_size = self.layout.codec, self.layout.page_size
        assert codec is not None
        # trace-cmd does not count the number of chunks among the bytes of a cpu.
        end = part.offset + part.size + _CHUNK_COUNT
        cursor = Cursor(self.data[part.offset : end], self.layout.source,
                        f"cpu {part.cpu}'s data", part.offset)
        may_be_cut = end > len(self.data)
        if may_be_cut and cursor.left < _CHUNK_COUNT:
            self._is_cut(part, part.offset, cursor.left)
            return
        for _ in range(cursor.number(_CHUNK_COUNT)):
            begin = cursor.at
            if may_be_cut and _needed(cursor) > cursor.left:
                self._is_cut(part, part.offset + begin, cursor.left)
                return
            unpacked = unpack(cursor, codec)
            if len(unpacked) % page_size:
                cursor.at = begin
                raise cursor.error(f"a chunk of {len(unpacked)} bytes is not of whole pages")
            yield np.frombuffer(unpacked, np.uint8).reshape(-1, page_size), part.offset + begin

    def _is_cut(self, part: CpuData, offset: int, size: int) -> None:
        self.cut.append(Loss(
            offset, size, part.cpu, 0, None,
            f"cpu {part.cpu}'s data ends at byte {part.offset + part.size} and the file at byte "
            f"{len(self.data)}", cut=True))


def _needed(cursor: Cursor) -> int:
    """How many bytes the next block has with its two sizes; 8 where they are not there."""
    if cursor.left < 8:
        return 8
    return 8 + int.from_bytes(cursor.data[cursor.at : cursor.at + 4], "little")


def _number(data: Bytes, begin: I64, where: Field) -> U64:
    """A field of records as 64 bits; negative numbers modulo 2**64."""
    octets = windows(data, where.size)[begin + where.offset]
    sign = "i" if where.is_signed else "u"
    values: Column = octets.view(f"<{sign}{where.size}")[:, 0]
    return values.astype(np.int64).view(np.uint64) if where.is_signed else values.astype(
        np.uint64)
