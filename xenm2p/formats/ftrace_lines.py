"""ftrace text, first step: bytes -> lines -> what stands before every event.

How lines look is in ftrace_layouts.py. A block's lines are taken apart at once where a
layout that was learnt fits, and the few others one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from xenm2p.errors import InputError
from xenm2p.formats.ftrace_layouts import FTRACE, Clock, Layout, LineForm, layout_of, time_of
from xenm2p.formats.ftrace_losses import Loss, losses_of
from xenm2p.formats.ftrace_tasks import TaskNames
from xenm2p.trace import I64, NO_CPU

BLOCK_SIZE = 1 << 23
LINE_LIMIT = 1 << 20
# Bytes after a block that a look ahead from any line in it may touch.
PADDING = 1 << 10

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Lines this short may be the begin of one that a newline in a name broke.
_FRAGMENT_LIMIT = 16
_LAYOUT_LIMIT = 64
_CPU_LIMIT = 1 << 15
_COMMENT_LIMIT = 1000  # a header has a dozen
_REMARK_LENGTH = 200
_NAME_REACH = 64  # an event's name that stands further right is found on its own
_BLANK = ord(" ")
_RECORD = b"PERF_RECORD_"


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

    def rows(self, where: slice) -> Lines:
        """The lines at `where`, of the same text."""
        return Lines(self.text, self.data, self.place[where], self.begin[where],
                     self.end[where], self.time[where], self.cpu[where], self.task[where])


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
        is_idle = np.isin(task, idle) & (cpu != NO_CPU)
        lane = np.where(is_idle, -1 - cpu.astype(np.int64), lane)
    return lane


def _digits(columns: NDArray[np.uint8]) -> I64:
    """The numbers of (n, width) digits, blanks before them being nothing."""
    number = np.zeros(len(columns), np.int64)
    for column in columns.T:
        number = number * 10 + np.where(column == _BLANK, 0, column - np.uint8(48))
    return number


def _are_numbers(columns: NDArray[np.uint8], *, padded: bool) -> Mask:
    """Which rows of (n, width) bytes are digits, with blanks before them if `padded`."""
    good = np.ones(len(columns), np.bool_)
    blank_so_far = np.full(len(columns), padded)
    for column in columns.T:
        blank_so_far &= column == _BLANK
        good &= blank_so_far | (column - np.uint8(48) < 10)
    has_digits: Mask = good & ~blank_so_far
    return has_digits


def _skip_blanks(data: Bytes, at: I64, ends: I64) -> tuple[I64, Mask]:
    """Offsets after blanks, and where an event begins there: no number, no record of perf's."""
    window = windows(data, _NAME_REACH)[np.minimum(at, len(data) - _NAME_REACH)] != _BLANK
    begin = at + window.argmax(axis=1)
    first = data[begin]
    is_name = window.any(axis=1) & (begin < ends) & (first - np.uint8(48) >= 10)
    return begin, is_name & ~has_bytes(data, begin, _RECORD)


def _is_step(head: NDArray[np.uint8], layout: Layout) -> Mask:
    """Where what stands between the colon and the event can be a step of time, or nothing."""
    first = head[:, layout.colon + 2]
    begins_step: Mask = (first == _BLANK) | (first == ord("("))
    return begins_step if layout.event > layout.colon + 2 else np.ones(len(head), np.bool_)


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

    `remarks` are comment lines and loss markers as (place, text); `strays` how many lines
    were none of these and `first_stray` the first; `first_cpu` the cpu of the first event.
    `clocks` is what times count.
    """

    source: str
    form: LineForm = FTRACE
    task_names: TaskNames = field(default_factory=TaskNames)
    remarks: list[tuple[int, str]] = field(default_factory=list)
    strays: int = 0
    first_stray: int = 0
    last_line_cut: bool = False
    events: int = 0
    first_cpu: int = 0
    clocks: set[Clock] = field(default_factory=set)
    _layouts: list[Layout] = field(default_factory=list)
    _fragment: _Fragment = _NO_FRAGMENT

    @property
    def header(self) -> list[str]:
        """Comment lines, and marks of losses."""
        return [text for _, text in self.remarks]

    def losses(self) -> list[Loss]:
        """The losses that the text tells of."""
        return losses_of(self.remarks, self.first_cpu)

    def notes(self) -> list[str]:
        """What was left out, and what times mean."""
        notes = []
        if Clock.TICKS in self.clocks:
            notes.append("times are counts without a unit, as of trace_clock x86-tsc or counter: "
                         "they are taken for nanoseconds")
        if Clock.SINCE_BUFFER in self.clocks:
            notes.append("latency format: times are microseconds since the buffer's first event, "
                         "and names of tasks are cut to 8 characters")
        if self.strays:
            notes.append(f"{self.strays} lines are no {self.form.name} events and were left out, "
                         f"the first is line {self.first_stray}")
        if self.last_line_cut:
            notes.append("the last line has no end and was left out: it may be cut short")
        return notes

    def blocks(self, stream: BinaryIO, size: int = 0) -> Iterator[Lines]:
        """The event lines of `stream`, block by block of about `size` bytes (`BLOCK_SIZE`).

        Memory is that of a block.

        Raises InputError for a line longer than `LINE_LIMIT` and for a time that 64 bits
        do not hold.
        """
        place = 1
        rest = b""
        while piece := stream.read(size or BLOCK_SIZE):
            cut = piece.rfind(b"\n") + 1
            if len(piece) - cut + (0 if cut else len(rest)) > LINE_LIMIT:
                place += rest.count(b"\n") + piece.count(b"\n")
                raise InputError(f"a line of more than {LINE_LIMIT} bytes",
                                 source=self.source, place=place)
            if cut:
                # One copy: blocks are large, and this is a good part of the time.
                text = b"".join((rest, memoryview(piece)[:cut], bytes(PADDING)))
                lines, count = self._take_apart(text, len(rest) + cut, place)
                rest = piece[cut:]
                place += count
                yield lines
            else:
                rest += piece
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
            match = None
            for pattern, task_pattern in self.form.fixed:
                if match is None:
                    match = pattern.match(line)
                    field_pattern = task_pattern
            if match is not None and len(self._layouts) < _LAYOUT_LIMIT:
                learnt = layout_of(match, field_pattern, self.form)
                if learnt is not None and learnt not in self._layouts:
                    self._layouts.append(learnt)
                    fit(learnt, np.flatnonzero(~taken[row:]) + row)
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
        whole = head[:, layout.whole : layout.whole_end]
        cpu = head[:, max(layout.cpu, 0) : max(layout.cpu_end, 0)]
        fits = ends - starts > layout.event
        for at, byte in layout.exact:
            fits &= head[:, at] == byte
        fits &= _are_numbers(cpu, padded=layout.cpu_padded) if layout.cpu >= 0 else True
        fits &= _are_numbers(whole, padded=True)
        fraction = head[:, layout.dot + 1 : layout.time_end] if layout.dot >= 0 else head[:, :0]
        if layout.dot >= 0:
            fits &= head[:, layout.dot] == ord(".")
            fits &= _are_numbers(fraction, padded=False)
        if whole.shape[1] > (9 if layout.dot >= 0 else 15):
            fits &= False  # may exceed an int64: one at a time
        number = _digits(np.where(fits[:, None], cpu, _BLANK))
        fits &= number < _CPU_LIMIT
        begin = starts + layout.event
        if layout.pads_names:
            begin, has_name = _skip_blanks(data, begin, ends)
            fits &= has_name
        else:
            fits &= (head[:, layout.event - 1] == _BLANK) & (head[:, layout.event] != _BLANK)
            fits &= _is_step(head, layout)
        task = self.task_names.numbers(head[fits, : layout.task_end], layout.task)
        fits[np.flatnonzero(fits)[task < 0]] = False
        time = _digits(whole[fits])
        if layout.dot >= 0:
            time = time * 10**9 + _digits(fraction[fits]) * 10 ** (9 - fraction.shape[1])
        elif layout.clock is Clock.SINCE_BUFFER:
            time *= 1000
        if fits.any():
            self.clocks.add(layout.clock)
        cpu_number = number[fits] if layout.cpu >= 0 else np.full(len(time), NO_CPU)
        return fits, begin[fits], time, cpu_number.astype(np.int16), task[task >= 0]

    def _one_line(self, line: bytes, match: re.Match[bytes] | None, place: int) -> (
            tuple[int, int, int, int] | None):
        """Begin of the event, time, cpu and task of one line; None where it is no event."""
        fragment = self._fragment if self._fragment.place == place - 1 else _NO_FRAGMENT
        self._fragment = _NO_FRAGMENT
        dropped = 0
        if match is None and fragment.text is not None:
            # A newline in a command's name broke the line in two.
            match = self.form.fixed[0][0].match(fragment.text + b"\n" + line)
            if match is not None:
                dropped = len(fragment.text) + 1
                self.strays -= fragment.strays
                self.first_stray = self.first_stray if self.strays else 0
        for pattern in self.form.loose:
            match = match or pattern.match(line)
        if match is None or line.startswith(_RECORD, match.end()):
            self._no_event(line, fragment, place)
            return None
        cpu = NO_CPU if match["cpu"] is None else int(match["cpu"])
        time, clock = time_of(match)
        if cpu >= _CPU_LIMIT or time >= 1 << 63:
            raise InputError(f"cpu {cpu} or time {time} is out of range",
                             source=self.source, place=place)
        self.clocks.add(clock)
        return match.end() - dropped, time, cpu, self.task_names.number(
            match["comm"], match["pid"])

    def _no_event(self, line: bytes, fragment: _Fragment, place: int) -> None:
        if line.startswith(self.form.entries):
            return
        if line.startswith(self.form.remarks) or _RECORD in line:
            if len(self.remarks) < _COMMENT_LIMIT or not line.startswith(b"# "):
                self.remarks.append((place, line[:_REMARK_LENGTH].decode("utf-8", "replace")))
            return
        is_stray = bool(line.strip())
        if is_stray:
            self.strays += 1
            self.first_stray = self.first_stray or place
        whole = line if fragment.text is None else fragment.text + b"\n" + line
        if len(whole) <= _FRAGMENT_LIMIT:
            self._fragment = _Fragment(place, whole, fragment.strays + is_stray)
