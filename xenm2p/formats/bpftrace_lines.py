"""bpftrace's JSON lines -> the events in them, many at a time.

    {"time":NS,"cpu":N,"pid":N,"probe":"set_p2m","pfn":"0x..","mfn":"0x..","comm":"NAME"}

All lines of one probe have the same fields in the same order: a `_Shape` is learnt from the
first of them, and then the n-th numbers of all such lines are read side by side. A line that
is not exactly so is read on its own by `bpftrace_json.parse_line`, which gives the same for
every line that both take.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from xenm2p.errors import InputError
from xenm2p.formats.bpftrace_json import (
    RANGES,
    Header,
    LostRecord,
    Parsed,
    Record,
    Unwrapped,
    is_begin,
    is_chatter,
    parse_line,
)
from xenm2p.formats.ftrace_fields import parse_numbers
from xenm2p.formats.ftrace_lines import (
    LINE_LIMIT,
    PADDING,
    Bytes,
    Mask,
    has_bytes,
    windows,
)
from xenm2p.formats.ftrace_tasks import TaskNames
from xenm2p.trace import I64, U64

BLOCK_SIZE = 1 << 22
_SHAPE_LIMIT = 64
_NAME_LIMIT = 16  # TASK_COMM_LEN
_WRAPPED, _WRAPPED_END = b'{"type": "printf", "data": "', b'\\n"}'
_BROKEN_REACH = 1 << 12  # bytes of a line that newlines in a name broke
_FIELD = re.compile(rb'"(\w{1,40})":("?)(?:-?\d+|0x[0-9a-f]+)("?)[,}]')
_START = re.compile(rb'\{"time":(\d+),"cpu":(\d+),"pid":(\d+),"probe":"(\w{1,60})"')
_COMM = b',"comm":"'
_AFTER_NUMBER = np.zeros(256, np.bool_)
_AFTER_NUMBER[list(b',"}')] = True


@dataclass(frozen=True, slots=True)
class Rows:
    """Events of one probe: the lines they are on, and their numbers by field."""

    probe: str
    place: I64
    time: I64
    cpu: NDArray[np.int16]
    task: NDArray[np.int32]
    numbers: dict[str, U64]


@dataclass(frozen=True, slots=True)
class _Shape:
    """The fields of a probe's lines after its name, each with whether it is in quotes."""

    probe: bytes
    fields: tuple[tuple[bytes, bool], ...]


_NO_HEADER = Header(None, None)
# Lines that were read one at a time, by probe and fields
_Alone = dict[tuple[str, frozenset[str]], list[tuple[int, Record]]]


@dataclass(slots=True)
class RecordReader:
    """Takes a stream apart into `Rows`; what is no event goes where it belongs.

    `losses` are (place, cpu or None, events); `strays` how many lines were nothing known
    and `first_stray` the first.
    """

    source: str
    task_names: TaskNames = field(default_factory=TaskNames)
    header: Header = _NO_HEADER
    losses: list[tuple[int, int | None, int]] = field(default_factory=list)
    strays: int = 0
    first_stray: int = 0
    last_line_cut: bool = False
    events: int = 0
    _shapes: list[_Shape] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What was left out."""
        notes = []
        if self.strays:
            notes.append(f"{self.strays} lines are no bpftrace events and were left out, the "
                         f"first is line {self.first_stray}")
        if self.last_line_cut:
            notes.append("the last line has no end and was left out: it may be cut short")
        return notes

    def blocks(self, stream: BinaryIO) -> Iterator[Rows]:
        """The events of `stream`, of one probe at a time; memory is that of a block.

        Raises InputError for a line longer than `LINE_LIMIT`, and as `parse_line` does.
        """
        place, rest = 1, b""
        while piece := stream.read(BLOCK_SIZE):
            rest += piece
            cut = rest.rfind(b"\n") + 1
            if len(rest) - cut > LINE_LIMIT:
                raise InputError(f"a line of more than {LINE_LIMIT} bytes", source=self.source,
                                 place=place + rest.count(b"\n"))
            # A line that newlines in a name broke stays whole.
            last = rest.rfind(b"\n{", 0, cut) + 1
            if cut - last < _BROKEN_REACH and is_begin(rest[last : cut - 1]):
                cut = last
            if cut:
                yield from self._take_apart(rest[:cut] + bytes(PADDING), cut, place)
                place += rest.count(b"\n", 0, cut)
                rest = rest[cut:]
        cut = rest.rfind(b"\n") + 1
        if cut:
            yield from self._take_apart(rest[:cut] + bytes(PADDING), cut, place)
        # Its last number may have lost digits, which nothing shows.
        self.last_line_cut = cut < len(rest)

    def _take_apart(self, text: bytes, size: int, place: int) -> Iterator[Rows]:
        if _WRAPPED in text:
            text = _without_wrapping(text[:size])
            size, text = len(text), text + bytes(PADDING)
        data = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(data[:size] == 10)
        starts = np.concatenate([[0], ends[:-1] + 1])
        if (ends - starts).max() > LINE_LIMIT:
            raise InputError(f"a line of more than {LINE_LIMIT} bytes", source=self.source,
                             place=place + int((ends - starts).argmax()))
        begun = _Begun.of(data, starts, ends)
        left = np.arange(len(ends))
        for shape in self._shapes:
            rows, left = self._fit(shape, data, begun, left, place)
            if rows is not None:
                yield rows
        alone: _Alone = defaultdict(list)
        waiting = set(left.tolist())
        for row in left.tolist():
            if row not in waiting:
                continue
            line = text[starts[row] : ends[row]]
            learnt = _shape_of(line) if len(self._shapes) < _SHAPE_LIMIT else None
            if learnt is not None and learnt not in self._shapes:
                self._shapes.append(learnt)
                rows, others = self._fit(learnt, data, begun, np.array(sorted(waiting)), place)
                waiting = set(others.tolist())
                if rows is not None:
                    yield rows
                if row not in waiting:
                    continue
            line, count = _whole(line, text, starts, ends, row)
            waiting.difference_update(range(row, row + count))
            self._one_line(line, place + row, alone)
        for (probe, _), records in alone.items():
            yield self._rows_of(probe, records)

    def _one_line(self, line: bytes, place: int, alone: _Alone) -> None:
        found: Parsed = parse_line(line, self.source, place)
        match found:
            case Record():
                alone[found.probe, frozenset(found.numbers)].append((place, found))
            case LostRecord():
                self.losses.append((place, found.cpu, found.events))
            case Header():
                self.header = found
            case Unwrapped():
                for inner in found.lines:
                    self._one_line(inner, place, alone)
                if found.lost is not None:
                    self.losses.append((place, found.lost.cpu, found.lost.events))
            case None if not line.startswith(b"{") and not is_chatter(line):
                self.strays += 1
                self.first_stray = self.first_stray or place

    def _rows_of(self, probe: str, records: list[tuple[int, Record]]) -> Rows:
        """Records of the same fields that were read one at a time."""
        columns = {key: np.array([record.numbers[key] for _, record in records], np.uint64)
                   for key in records[0][1].numbers}
        pids = columns.pop("pid").tolist()
        task = [self.task_names.number(record.comm, b"%d" % pid)
                for (_, record), pid in zip(records, pids, strict=True)]
        self.events += len(records)
        return Rows(probe, np.array([place for place, _ in records], np.int64),
                    columns.pop("time").astype(np.int64), columns.pop("cpu").astype(np.int16),
                    np.array(task, np.int32), columns)

    def _fit(self, shape: _Shape, data: Bytes, begun: _Begun, among: I64, place: int) -> tuple[
            Rows | None, I64]:
        """The events of lines that have the shape, and the lines that do not."""
        name = b'"' + shape.probe + b'"'
        rows = among[begun.good[among]]
        rows = rows[has_bytes(data, begun.probe[rows], name)]
        at, end = begun.probe[rows] + len(name), begun.end[rows]
        good = np.ones(len(rows), np.bool_)
        columns: dict[str, U64] = {}
        for field_name, quoted in shape.fields:
            prefix = b',"' + field_name + (b'":"' if quoted else b'":')
            column, at = _number(data, np.minimum(at, end), prefix, good, quoted=quoted)
            columns[field_name.decode()] = column
        at = np.minimum(at, end)
        good &= has_bytes(data, at, _COMM) & has_bytes(data, end - 2, b'"}')
        at = at + len(_COMM)
        length = end - 2 - at
        good &= (length >= 0) & (length <= _NAME_LIMIT)
        for key, column in columns.items():
            if key in RANGES:  # negative ones, which are few, are read on their own
                good &= column <= np.uint64(RANGES[key][1])
        rows, at, length = rows[good], at[good], length[good]
        if not len(rows):
            return None, among
        task = self.task_names.numbers_of(
            begun.pid[rows], windows(data, _NAME_LIMIT)[at], length)
        self.events += len(rows)
        found = Rows(shape.probe.decode(), rows + place, begun.time[rows], begun.cpu[rows], task,
                     {key: column[good] for key, column in columns.items()})
        return found, among[~np.isin(among, rows, assume_unique=True)]


def _without_wrapping(text: bytes) -> bytes:
    """The lines of objects of ``bpftrace -f json`` that hold nothing but a line of ours.

    Every line stays a line; one with more escapes than quotes and its end is left as it is.
    """
    lines = text.split(b"\n")
    for row, line in enumerate(lines):
        if line.startswith(_WRAPPED) and line.endswith(_WRAPPED_END):
            escaped = line[len(_WRAPPED) : -len(_WRAPPED_END)]
            inner = escaped.replace(b'\\"', b'"')
            if b"\\" not in inner and escaped.count(b'\\"') == inner.count(b'"'):
                lines[row] = inner
    return b"\n".join(lines)


def _whole(line: bytes, text: bytes, starts: I64, ends: I64, row: int) -> tuple[bytes, int]:
    """A line with what newlines in its task's name broke off, and how many lines that is."""
    name_at = int(starts[row]) + line.find(_COMM) + len(_COMM)
    last = row
    while is_begin(text[starts[row] : ends[last]]):
        last += 1
        if last == len(ends) or ends[last] - name_at > _NAME_LIMIT + len(b'"}'):
            return line, 1
    return text[starts[row] : ends[last]], last - row + 1


@dataclass(frozen=True, slots=True)
class _Begun:
    """What all lines begin with: their time, cpu and pid, and where the probe's name stands.

    `good` says of which lines this is true; `end` is where they end.
    """

    good: Mask
    end: I64
    time: I64
    cpu: NDArray[np.int16]
    pid: U64
    probe: I64

    @classmethod
    def of(cls, data: Bytes, starts: I64, ends: I64) -> _Begun:
        """The begins of the lines of a block."""
        good = ends - starts > len(b'{"time":0,"cpu":0,"pid":0,"probe":""}')
        time, at = _number(data, starts, b'{"time":', good, quoted=False)
        cpu, at = _number(data, np.minimum(at, ends), b',"cpu":', good, quoted=False)
        pid, at = _number(data, np.minimum(at, ends), b',"pid":', good, quoted=False)
        for key, column in (("time", time), ("cpu", cpu), ("pid", pid)):
            good &= column <= np.uint64(RANGES[key][1])
        at = np.minimum(at, ends)
        good &= has_bytes(data, at, b',"probe":')
        return cls(good, ends, time.astype(np.int64), cpu.astype(np.int16), pid,
                   at + len(b',"probe":'))


def _number(data: Bytes, at: I64, prefix: bytes, good: Mask, *, quoted: bool) -> tuple[
        U64, I64]:
    """The number after `prefix` at each offset, and the offsets after it."""
    good &= has_bytes(data, at, prefix)
    begin = at + len(prefix)
    value, after, is_number = parse_numbers(data, begin, _AFTER_NUMBER)
    good &= is_number
    # 010 is eight to some and ten to others.
    good &= (data[begin] != ord("0")) | (data[begin + 1] == ord("x")) | (after - begin == 1)
    if quoted:
        good &= data[after] == ord('"')
        after = after + 1
    else:
        good &= (data[begin + 1] != ord("x")) & (data[after] != ord('"'))
    return value, after


def _shape_of(line: bytes) -> _Shape | None:
    """The shape of a line whose fields are all numbers, its task's name last."""
    start = _START.match(line)
    if start is None:
        return None
    at, fields = start.end(), []
    while line[at : at + 1] == b"," and not line.startswith(_COMM, at):
        found = _FIELD.match(line, at + 1)
        if found is None or found[2] != found[3]:
            return None
        fields.append((found[1], bool(found[2])))
        at = found.end() - 1
    names = [name for name, _ in fields]
    if len(set(names)) < len(names) or not line.startswith(_COMM, at):
        return None
    return _Shape(start[4], tuple(fields))
