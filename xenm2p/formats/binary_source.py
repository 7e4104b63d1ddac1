"""Where a reader's bytes come from: a mapped file, or a stream that is read once."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import BinaryIO, Protocol

from xenm2p.errors import InputError

# The most that is asked of a stream at once: what a file claims to hold is allocated only
# as it arrives.
_PIECE = 1 << 20


class Source(Protocol):
    """Bytes by offset. `once` says that offsets may only grow."""

    once: bool

    def at(self, offset: int, size: int) -> memoryview:
        """The bytes from `offset` on: `size` of them, fewer only at the end."""

    def done_with(self, offset: int, size: int) -> None:
        """These bytes are not needed in memory any longer (views on them stay valid)."""

    def rest(self, offset: int) -> int:
        """How many bytes there are from `offset` to the end; a stream is read up."""


class MappedFile:
    """A regular file, mapped: views on it cost nothing until they are used.

    As with every mapped file, one that another program shortens while it is read ends this
    program (SIGBUS); one that grows is read up to the size it had.
    """

    once = False

    def __init__(self, path: Path, source: str):
        try:
            with path.open("rb") as file:
                self._size = os.fstat(file.fileno()).st_size
                # An empty file cannot be mapped.
                self._map = mmap.mmap(
                    file.fileno(), 0, access=mmap.ACCESS_READ) if self._size else None
        except OSError as error:
            raise InputError(error.strerror or str(error), source=source) from None
        self._view = memoryview(self._map if self._map is not None else b"")
        self._size = len(self._view)

    def at(self, offset: int, size: int) -> memoryview:
        return self._view[offset:offset + size]

    def done_with(self, offset: int, size: int) -> None:
        # Without this the pages of the whole file would count as this process's memory.
        # Dropping too much costs only another page fault: the file is still there.
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            start = offset // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, start, min(offset + size, self._size) - start)

    def rest(self, offset: int) -> int:
        return max(self._size - offset, 0)


class Stream:
    """A pipe or a decompressor. Holds what was asked for last, nothing before it."""

    once = True

    def __init__(self, file: BinaryIO, source: str):
        self._file = file
        self._source = source
        self._base = 0
        self._window = b""

    def at(self, offset: int, size: int) -> memoryview:
        behind = offset - self._base
        if behind < 0:
            raise ValueError(f"a stream cannot go back to byte {offset}")
        while behind > len(self._window):
            behind -= len(self._window)
            self._window = self._read(min(behind, _PIECE))
            if not self._window:
                break
        # A new object each time: arrays may still view the old one.
        pieces = [self._window[behind:]]
        self._base = offset
        missing = size - len(pieces[0])
        while missing > 0:
            piece = self._read(min(missing, _PIECE))
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
        self._window = b"".join(pieces)
        return memoryview(self._window)[:size]

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size) or b""
        except (OSError, EOFError) as error:
            raise InputError(f"cannot be read: {error}", source=self._source) from None

    def done_with(self, offset: int, size: int) -> None:
        pass

    def rest(self, offset: int) -> int:
        count = len(self.at(offset, _PIECE))
        while data := self._read(_PIECE):
            count += len(data)
        return count


def open_source(path_or_stream: str | os.PathLike[str] | BinaryIO, source: str) -> Source:
    """A mapped file for the path of a regular file, a stream for everything else."""
    if not isinstance(path_or_stream, (str, os.PathLike)):
        return Stream(path_or_stream, source)
    path = Path(path_or_stream)
    try:
        if path.is_file():
            return MappedFile(path, source)
        return Stream(path.open("rb"), source)
    except OSError as error:
        raise InputError(error.strerror or str(error), source=source) from None
