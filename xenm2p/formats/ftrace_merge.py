"""ftrace text in several files, one a cpu, merged by time as if it had been one file.

Lines are merged, not events: a call and its p2m writes may be in different files. The
order within a file is never changed: where its times go back, a line is taken for as late
as the latest one before it. Of equal times those of the file that was named first come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from xenm2p.errors import InputError
from xenm2p.formats.ftrace_layouts import LineForm
from xenm2p.formats.ftrace_lines import BLOCK_SIZE, PADDING, LineReader, Lines
from xenm2p.formats.ftrace_losses import Loss
from xenm2p.formats.ftrace_tasks import TaskNames
from xenm2p.trace import I64, Column

_LEAST_BLOCK = 1 << 18
# Where a line came from: the number of its line, and above these bits of its file
_LINE_BITS = 44
_NAMES_SHOWN = 8


def _no_keys() -> I64:
    return np.zeros(0, np.int64)


@dataclass(slots=True)
class _Part:
    """One file: its reader, and the lines of it that are read and not merged yet.

    `key` is the time that each of these is merged by.
    """

    number: int
    reader: LineReader
    blocks: Iterator[Lines]
    lines: Lines | None = None
    key: I64 = field(default_factory=_no_keys)
    latest: int = -(1 << 63)

    def fill(self) -> bool:
        """Have lines to merge; False at the end of the file."""
        while not len(self.key):
            self.lines = next(self.blocks, None)
            if self.lines is None:
                return False
            self.key = np.maximum(np.maximum.accumulate(self.lines.time), self.latest)
        return True

    def until(self, last: int, *, inclusive: bool) -> tuple[Lines, I64]:
        """Take the lines up to a time, and their keys."""
        assert self.lines is not None
        count = int(np.searchsorted(self.key, last, side="right" if inclusive else "left"))
        taken, key = self.lines.rows(slice(0, count)), self.key[:count]
        self.lines, self.key = self.lines.rows(slice(count, None)), self.key[count:]
        if count:
            self.latest = int(key[-1])
        return taken, key


@dataclass(slots=True)
class MergedReader:
    """Reads files side by side; what `LineReader` says of one file it says of all.

    The place of the n-th merged line is ``2 * n + 1``, that of what stands before it
    ``2 * n``; `located` tells the file and the line.
    """

    form: LineForm
    task_names: TaskNames
    parts: list[_Part]
    _origin: list[I64] = field(default_factory=list)
    events: int = 0

    @classmethod
    def of(cls, streams: Sequence[tuple[BinaryIO, str]], form: LineForm) -> MergedReader:
        """A reader of open files, with their names, that all are of one form."""
        names = TaskNames()
        size = max(BLOCK_SIZE // len(streams), _LEAST_BLOCK)
        readers = [LineReader(source, form, names) for _, source in streams]
        return cls(form, names, [
            _Part(number, reader, reader.blocks(stream, size))
            for number, (reader, (stream, _)) in enumerate(zip(readers, streams, strict=True))])

    @property
    def source(self) -> str:
        """The names of the files, the first of them where they are many."""
        names = [part.reader.source for part in self.parts]
        more = len(names) - _NAMES_SHOWN
        return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")

    @property
    def header(self) -> list[str]:
        """The comment lines of all files."""
        return [text for part in self.parts for text in part.reader.header]

    def blocks(self) -> Iterator[Lines]:
        """The lines of all files, merged, block by block.

        Memory is that of a block of each file, plus eight bytes a line. Raises InputError
        as LineReader does, and for files whose times count different things.
        """
        active = [part for part in self.parts if part.fill()]
        while active:
            last = min(int(part.key[-1]) for part in active)
            # More lines of that time may follow in this file, and they come before those
            # of the files after it.
            limiting = next(part.number for part in active if part.key[-1] == last)
            yield self._merged([(part, *part.until(last, inclusive=part.number <= limiting))
                                for part in active])
            active = [part for part in active if part.fill()]
        self._check_clocks()

    def _merged(self, taken: list[tuple[_Part, Lines, I64]]) -> Lines:
        taken = [(part, lines, key) for part, lines, key in taken if len(key)]
        order = np.argsort(np.concatenate([key for _, _, key in taken]), kind="stable")
        pieces, shifts, size = [], [], 0
        for _, lines, _ in taken:
            first = int(lines.begin.min())
            pieces.append(lines.text[first : int(lines.end.max()) + 1])
            shifts.append(size - first)
            size += len(pieces[-1])
        text = b"".join(pieces) + bytes(PADDING)

        def shifted(name: str) -> I64:
            columns = [getattr(lines, name) + shift
                       for (_, lines, _), shift in zip(taken, shifts, strict=True)]
            return np.concatenate(columns)[order]

        def column(name: str) -> Column:
            return np.concatenate([getattr(lines, name) for _, lines, _ in taken])[order]

        origin = np.concatenate([lines.place | part.number << _LINE_BITS
                                 for part, lines, _ in taken])[order]
        place = 2 * (self.events + np.arange(len(order))) + 1
        self._origin.append(origin)
        self.events += len(order)
        return Lines(text, np.frombuffer(text, np.uint8), place, shifted("begin"),
                     shifted("end"), column("time"), column("cpu"), column("task"))

    def losses(self) -> list[Loss]:
        """The losses that the files tell of, at their places among all lines."""
        origin = np.concatenate([_no_keys(), *self._origin])
        losses = []
        for part in self.parts:
            rows = np.flatnonzero(origin >> _LINE_BITS == part.number)
            lines = origin[rows] & (1 << _LINE_BITS) - 1
            for loss in part.reader.losses():
                following = int(np.searchsorted(lines, loss.place))
                before = int(rows[-1]) + 1 if len(rows) else 0
                row = int(rows[following]) if following < len(rows) else before
                losses.append(loss._replace(place=2 * row))
        return losses

    def notes(self) -> list[str]:
        """What each file's reader has to say; what all say alike is said once."""
        of_each = [part.reader.notes() for part in self.parts]
        common = [note for note in of_each[0] if all(note in notes for notes in of_each)]
        of_one = [f"{part.reader.source}: {note}"
                  for part, notes in zip(self.parts, of_each, strict=True)
                  for note in notes if note not in common]
        return [f"merged by time: {self.source}", *common, *of_one]

    def located(self, error: InputError) -> InputError:
        """An error with the file and the line of a merged line's place."""
        if error.source != self.source or not isinstance(error.place, int):
            return error
        row = error.place // 2
        for origin in self._origin:
            if row < len(origin):
                number, line = divmod(int(origin[row]), 1 << _LINE_BITS)
                return InputError(error.reason, source=self.parts[number].reader.source,
                                  place=line)
            row -= len(origin)
        return error

    def _check_clocks(self) -> None:
        read = [part.reader for part in self.parts if part.reader.events]
        for reader in read:
            if reader.clocks != read[0].clocks:
                raise InputError(f"its times count something other than those of "
                                 f"{read[0].source}: they cannot be merged by time",
                                 source=reader.source)
