"""ftrace text, first step: bytes -> lines -> what stands before every event.

        0.xvda-0-2656    [001] .....  1390.727208: map_refs: (gnttab_map_refs+0x0/0x170) ...
    task, pid after a dash at byte 16 | cpu | flags | time: | the event from here on

kernel/trace/trace_output.c: trace_print_context prints the command as ``%16s-%-7d``, so the
dash is at byte 16 whatever blanks, dashes and brackets the name has; the columns to its right
keep their places within a capture. A `Layout` is these places; a block's lines are taken
apart at once where a layout fits, and the few others one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from xenm2p.errors import InputError
from xenm2p.trace import I64

BLOCK_SIZE = 1 << 23
LINE_LIMIT = 1 << 20
# Bytes after a block that a look ahead from any line in it may touch.
PADDING = 1 << 10

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_DASH = 16
_LAYOUT_LIMIT = 64
_CPU_LIMIT = 1 << 15
_REMARKS = (b"#", b"CPU:", b"cpus=")
_COMMENT_LIMIT = 1000  # a header has a dozen
_REMARK_LENGTH = 200
_BLANK, _DOT, _COLON, _DASH_SIGN = b" .:-"
_OPEN, _CLOSE = b"[]"

_AFTER_TASK = (
    rb"-(?P<pid>\d{1,10}) *(?:\( *(?:\d+|-+)\) *)?(?P<cpu>\[\d{1,5}\])(?: [^\s:\[\]]{3,10})?"
    rb"(?P<gap> +)(?P<time>\d{1,20}(?:\.(?:\d{6}|\d{9}))?): +(?=\S)"
)
_FIXED = re.compile(rb"(?P<comm>.{16})" + _AFTER_TASK, re.DOTALL)
# Lines that lost their leading blanks, or were printed with another width.
_LOOSE = re.compile(rb"\s*(?P<comm>\S.*?)" + _AFTER_TASK)
# trace_print_lat_context: relative microseconds, a mark for long delays
_LATENCY = re.compile(
    rb"(?P<comm>.{8})-(?P<pid>\d{1,10}) +(?P<cpu>\d{1,5})[^\s\d]\S{2,6} +"
    rb"(?P<time>\d{1,15})us[ +!#*@$]? ?: +(?=\S)"
)
_TASK_FIELD = re.compile(
    rb"(?P<comm>.{16})-(?P<pid>\d{1,10}) *(?:\( *(?:\d+|-+)\) *)?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the columns of a line stand, in bytes from its begin.

    `dot` is -1 for clocks that count without a fraction; `whole` is where the digits
    before the dot, or the colon, may begin; the event begins after the colon's blanks.
    """

    cpu: int
    cpu_end: int
    whole: int
    dot: int
    colon: int
    event: int

    @classmethod
    def of(cls, match: re.Match[bytes]) -> Layout:
        """The layout of a line that `_FIXED` matched."""
        time, begin = match["time"], match.start("time")
        whole_digits, _, fraction = time.partition(b".")
        dot = begin + len(whole_digits) if fraction else -1
        end = match.end("time")
        # trace_print_time: %5lu.%06lu, or %12llu for clocks that do not count in ns
        width = max(len(whole_digits), 5 if fraction else 12)
        whole = max((dot if fraction else end) - width, match.start("gap") + 1)
        return cls(match.start("cpu"), match.end("cpu"), whole, dot, end, match.end())


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of one block that carry an event, in order.

    `text`, and `data`, the same as an array, are the block with `PADDING` zeros after it;
    `begin` and `end` are offsets in it of the event's name and of the line's end; `place`
    counts the lines of the file from 1.
    """

    text: bytes
    data: Bytes
    place: I64
    begin: I64
    end: I64
    time: I64
    cpu: NDArray[np.int16]
    task: NDArray[np.int32]


def windows(data: Bytes, width: int) -> Bytes:
    """All `width` byte windows of `data`, without copying."""
    return np.ndarray((len(data) - width + 1, width), np.uint8, data, strides=(1, 1))


def has_bytes(data: Bytes, at: I64, wanted: bytes) -> Mask:
    """Where `data` has the bytes `wanted`, eight at a time; they may lie in the padding."""
    found = np.ones(len(at), np.bool_)
    words = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    for i in range(0, len(wanted), 8):
        part = wanted[i : i + 8]
        shift = np.uint64(64 - 8 * len(part))
        word = np.uint64(int.from_bytes(part.rjust(8, b"\0"), "little"))
        found &= words[at + i] << shift == word
    return found


def lanes_of(task: NDArray[np.int32], cpu: NDArray[np.int16], idle: list[int]) -> I64:
    """The lane of each event: its task, or the cpu, counted below zero, where pid 0 runs."""
    lane = task.astype(np.int64)
    if idle:
        lane = np.where(np.isin(task, idle), -1 - cpu.astype(np.int64), lane)
    return lane


def _digits(columns: NDArray[np.uint8]) -> I64:
    """The numbers of (n, width) digits, blanks before them being nothing."""
    number = np.zeros(len(columns), np.int64)
    for column in columns.T:
        number = number * 10 + np.where(column == _BLANK, 0, column - np.uint8(48))
    return number


@dataclass(frozen=True, slots=True)
class _Fragment:
    """What may be the begin of a line that a newline in a name broke.

    `place` is its last line, `strays` how many of its lines were counted as strays.
    """

    place: int
    text: bytes | None
    strays: int


_NO_FRAGMENT = _Fragment(0, None, 0)


@dataclass(slots=True)
class LineReader:
    """Takes a stream apart into `Lines`; what is not an event goes where it belongs.

    `remarks` are comment lines and loss markers as (place, text);
    `tasks` the names as ``comm-pid``; `idle` the task numbers of pid 0, of which every cpu
    has one; `strays` how many lines were none of these and `first_stray` the first;
    `first_cpu` the cpu of the first event.
    """

    source: str
    tasks: list[str] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)
    remarks: list[tuple[int, str]] = field(default_factory=list)
    strays: int = 0
    first_stray: int = 0
    last_line_cut: bool = False
    events: int = 0
    first_cpu: int = 0
    _task_of: dict[bytes, int] = field(default_factory=dict)
    _layouts: list[Layout] = field(default_factory=list)
    _fragment: _Fragment = _NO_FRAGMENT

    def blocks(self, stream: BinaryIO) -> Iterator[Lines]:
        """The event lines of `stream`, block by block; memory is that of a block.

        Raises InputError for a line longer than `LINE_LIMIT` and for a time that 64 bits
        do not hold.
        """
        place = 1
        rest = b""
        while piece := stream.read(BLOCK_SIZE):
            rest += piece
            cut = rest.rfind(b"\n") + 1
            if len(rest) - cut > LINE_LIMIT:
                place += rest.count(b"\n")
                raise InputError(f"a line of more than {LINE_LIMIT} bytes",
                                 source=self.source, place=place)
            if cut:
                lines, count = self._take_apart(rest[:cut] + bytes(PADDING), cut, place)
                rest = rest[cut:]
                place += count
                yield lines
        # Its last number may have lost digits, which nothing shows.
        self.last_line_cut = bool(rest)

    def _take_apart(self, text: bytes, size: int, place: int) -> tuple[Lines, int]:
        """The event lines of a block of `size` bytes and padding, and how many lines it has.

        `place` is its first line.
        """
        data = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(data[:size] == 10)
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends - starts
        if lengths.max() > LINE_LIMIT:
            raise InputError(f"a line of more than {LINE_LIMIT} bytes", source=self.source,
                             place=place + int(lengths.argmax()))
        count = len(ends)
        begin = np.full(count, -1, np.int64)
        time = np.zeros(count, np.int64)
        cpu = np.zeros(count, np.int16)
        task = np.zeros(count, np.int32)
        taken = np.zeros(count, np.bool_)

        def fit(layout: Layout, among: I64) -> None:
            found = self._fit(layout, data, starts[among], ends[among])
            rows = among[found[0]]
            begin[rows], time[rows], cpu[rows], task[rows] = found[1:]
            taken[rows] = True

        for layout in self._layouts:
            fit(layout, np.flatnonzero(~taken))
        is_empty = (lengths == 0).tolist()
        for row in np.flatnonzero(~taken).tolist():
            if taken[row] or (is_empty[row] and self._fragment is _NO_FRAGMENT):
                continue
            line = text[starts[row] : ends[row]]
            match = _FIXED.match(line)
            if match is not None and len(self._layouts) < _LAYOUT_LIMIT:
                layout = Layout.of(match)
                if layout not in self._layouts:
                    self._layouts.append(layout)
                    later = np.flatnonzero(~taken[row:]) + row
                    fit(layout, later)
            if not taken[row]:
                found = self._one_line(line, match, place + row)
                if found is not None:
                    begin[row], time[row], cpu[row], task[row] = found
                    begin[row] += starts[row]
                    taken[row] = True
        rows = np.flatnonzero(taken)
        if len(rows) and not self.events:
            self.first_cpu = int(cpu[rows[0]])
        self.events += len(rows)
        lines = Lines(text, data, rows + place, begin[rows], ends[rows], time[rows], cpu[rows],
                      task[rows])
        return lines, count

    def _fit(self, layout: Layout, data: Bytes, starts: I64, ends: I64) -> tuple[
            Mask, I64, I64, NDArray[np.int16], NDArray[np.int32]]:
        """Which lines the layout fits, and of those: begin of the event, time, cpu, task."""
        head = windows(data, layout.event + 1)[np.minimum(starts, len(data) - layout.event - 1)]
        whole_end = layout.dot if layout.dot >= 0 else layout.colon
        whole = head[:, layout.whole : whole_end]
        cpu = head[:, layout.cpu + 1 : layout.cpu_end - 1]
        fits = (
            (ends - starts > layout.event)
            & (head[:, _DASH] == _DASH_SIGN)
            & (head[:, layout.cpu] == _OPEN)
            & (head[:, layout.cpu_end - 1] == _CLOSE)
            & (head[:, layout.cpu_end] == _BLANK)
            & (head[:, layout.whole - 1] == _BLANK)
            & (head[:, layout.colon] == _COLON)
            & (head[:, layout.event - 1] == _BLANK)
            & (head[:, layout.event] != _BLANK)
        )
        for column in cpu.T:
            fits &= column - np.uint8(48) < 10
        blank_so_far = np.ones(len(head), np.bool_)
        for column in whole.T:
            blank_so_far &= column == _BLANK
            fits &= blank_so_far | (column - np.uint8(48) < 10)
        fits &= ~blank_so_far
        fraction = head[:, layout.dot + 1 : layout.colon] if layout.dot >= 0 else head[:, :0]
        if layout.dot >= 0:
            fits &= head[:, layout.dot] == _DOT
            for column in fraction.T:
                fits &= column - np.uint8(48) < 10
        if whole.shape[1] > (9 if layout.dot >= 0 else 18):
            fits &= False  # may exceed an int64: one at a time
        if cpu.shape[1] > 4:
            fits &= _digits(np.where(fits[:, None], cpu, 48)) < _CPU_LIMIT
        task = self._tasks_of(head[fits, : layout.cpu])
        fits[np.flatnonzero(fits)[task < 0]] = False
        time = _digits(whole[fits])
        if layout.dot >= 0:
            time = time * 10**9 + _digits(fraction[fits]) * 10 ** (9 - fraction.shape[1])
        number = _digits(cpu[fits])
        return (fits, starts[fits] + layout.event, time, number.astype(np.int16),
                task[task >= 0])

    def _tasks_of(self, fields: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Task numbers of (n, width) bytes that hold ``comm-pid``; -1 where they do not."""
        count, width = fields.shape
        words = np.zeros((count, -(-width // 8) * 8), np.uint8)
        words[:, :width] = fields
        keys = words.view(np.uint64)
        mixed = np.zeros(count, np.uint64)
        for column in keys.T:
            mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(32)
        _, first, which = np.unique(mixed, return_index=True, return_inverse=True)
        numbers = np.array([self._task_of_field(bytes(fields[i])) for i in first], np.int32)
        task = numbers[which] if count else np.zeros(0, np.int32)
        collided = (keys != keys[first][which]).any(axis=1) if count else np.zeros(0, np.bool_)
        for row in np.flatnonzero(collided).tolist():
            task[row] = self._task_of_field(bytes(fields[row]))
        return task

    def _task_of_field(self, text: bytes) -> int:
        number = self._task_of.get(text)
        if number is None:
            match = _TASK_FIELD.fullmatch(text)
            number = -1 if match is None else self._task(match["comm"], match["pid"])
            self._task_of[text] = number
        return number

    def _task(self, comm: bytes, pid: bytes) -> int:
        name = comm.lstrip(b" ") + b"-" + pid
        number = self._task_of.get(name)
        if number is None:
            number = self._task_of[name] = len(self.tasks)
            self.tasks.append(name.decode("utf-8", "backslashreplace"))
            if int(pid) == 0:
                self.idle.append(number)
        return number

    def _one_line(self, line: bytes, match: re.Match[bytes] | None, place: int) -> (
            tuple[int, int, int, int] | None):
        """Begin of the event, time, cpu and task of one line; None where it is no event."""
        fragment = self._fragment if self._fragment.place == place - 1 else _NO_FRAGMENT
        self._fragment = _NO_FRAGMENT
        dropped = 0
        if match is None and fragment.text is not None:
            # A newline in a command's name broke the line in two.
            match = _FIXED.match(fragment.text + b"\n" + line)
            if match is not None:
                dropped = len(fragment.text) + 1
                self.strays -= fragment.strays
                self.first_stray = self.first_stray if self.strays else 0
        scale = 1
        match = match or _LOOSE.match(line)
        if match is None:
            match = _LATENCY.match(line)
            scale = 1000
        if match is None:
            self._no_event(line, fragment, place)
            return None
        cpu = int(match["cpu"].strip(b"[]"))
        whole, _, fraction = match["time"].partition(b".")
        time = int(whole) * scale
        if fraction:
            time = time * 10**9 + int(fraction) * 10 ** (9 - len(fraction))
        if cpu >= _CPU_LIMIT or time >= 1 << 63:
            raise InputError(f"cpu {cpu} or time {match['time'].decode()} is out of range",
                             source=self.source, place=place)
        return match.end() - dropped, time, cpu, self._task(match["comm"], match["pid"])

    def _no_event(self, line: bytes, fragment: _Fragment, place: int) -> None:
        if line.startswith(_REMARKS):
            if len(self.remarks) < _COMMENT_LIMIT or not line.startswith(b"# "):
                self.remarks.append((place, line[:_REMARK_LENGTH].decode("utf-8", "replace")))
            return
        is_stray = bool(line.strip())
        if is_stray:
            self.strays += 1
            self.first_stray = self.first_stray or place
        whole = line if fragment.text is None else fragment.text + b"\n" + line
        if len(whole) <= _DASH:
            self._fragment = _Fragment(place, whole, fragment.strays + is_stray)
