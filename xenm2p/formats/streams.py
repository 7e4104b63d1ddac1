"""Input as a stream of bytes: a path or standard input, plain or compressed.

Compression is found by the first bytes, never by the name, and undone piece by piece, so
that memory does not grow with the file. What is wrong with the input becomes one line.
"""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from xenm2p.errors import InputError, nearest

PEEK = 1 << 13  # first bytes that a format may look at

_PIECE = 1 << 16
# `xz -9` needs 65 MiB; a file that asks for more than this was made to hurt.
_MAX_DICTIONARY = 1 << 28
# One zstd block of a few bytes may hold 128 KiB: feed so little that a piece stays small.
_ZSTD_PIECE = 1 << 8

_MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(slots=True)
class BinaryInput:
    """An opened input.

    name: what the user called it, for messages. stream: its bytes, decompressed. path: the
    file, where it is a plain regular one that can be mapped into memory, else None. first:
    the first bytes of `stream` (at most `PEEK`), which `stream` still gives.
    """

    name: str
    stream: io.BufferedReader
    path: Path | None
    first: bytes

    def __enter__(self) -> BinaryInput:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stream.close()


def open_input(name: str) -> BinaryInput:
    """Open a file by its path, or standard input by ``-``; undo gzip, xz and zstd.

    Raises InputError, also later from reads of the stream: no such file, a directory, no
    permission, compressed data that is damaged or cut short (place: the byte up to which
    the decompressed data could be had).
    """
    raw, path = _open_standard_input() if name == "-" else _open_path(name)
    start = _Source(raw, name)
    first = _read_fully(start, PEEK)
    joined: Any = io.BufferedReader(_Joined(first, start), _PIECE)
    for magic, compression in _MAGIC.items():
        if first.startswith(magic):
            path = None
            unpacked = _Unpacked(_DECOMPRESSORS[compression](joined, name), name, compression)
            try:
                first = _read_fully(unpacked, PEEK)
            except InputError:
                joined.close()
                raise
            joined = io.BufferedReader(_Joined(first, unpacked), _PIECE)
            break
    return BinaryInput(name, joined, path, first)


def _open_standard_input() -> tuple[IO[bytes], None]:
    if sys.stdin is None:
        raise InputError("standard input is closed", source="-")
    return sys.stdin.buffer, None


def _open_path(name: str) -> tuple[IO[bytes], Path | None]:
    path = Path(name)
    try:
        raw = path.open("rb", buffering=0)
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        hint = nearest(path.name, _names_in(path.parent))
        raise InputError(f"no such file{hint}", source=name) from None
    except OSError as error:
        raise InputError(_os_reason(error), source=name) from None
    except ValueError:  # a NUL byte
        raise InputError("not a file name", source=ascii(name)) from None
    return raw, path if is_file else None


def _names_in(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:  # only a hint is lost
        return []


def _os_reason(error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return "is a directory"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"cannot be read: {error.strerror or error}"


def _read_fully(stream: IO[bytes] | io.RawIOBase, size: int) -> bytes:
    """Up to `size` bytes; fewer only at the end, also from a pipe that gives a few at a time."""
    pieces = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


class _Source(io.RawIOBase):
    """The bytes of the file itself; errors of the operating system become InputError."""

    def __init__(self, inner: IO[bytes], name: str):
        self._inner = inner
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except OSError as error:
            raise InputError(_os_reason(error), source=self._name) from None
        if data is None:
            raise InputError("it has no data yet and does not wait (O_NONBLOCK)",
                             source=self._name)
        buffer[:len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed and self._inner is not getattr(sys.stdin, "buffer", None):
            self._inner.close()
        super().close()


class _Joined(io.RawIOBase):
    """Bytes that were read beforehand, then the stream they came from."""

    def __init__(self, before: bytes, rest: io.RawIOBase):
        self._before = memoryview(before)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._before:
            return self._rest.readinto(buffer)
        data, self._before = self._before[:len(buffer)], self._before[len(buffer):]
        buffer[:len(data)] = data
        return len(data)

    def close(self) -> None:
        self._rest.close()
        super().close()


class _Unpacked(io.RawIOBase):
    """Decompressed bytes; what the decompressor complains of becomes InputError."""

    def __init__(self, inner: Any, name: str, compression: str):
        self._inner = inner
        self._name = name
        self._compression = compression
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except (EOFError, OSError, zlib.error, lzma.LZMAError, _DamagedError) as error:
            what = "data is cut short" if isinstance(error, EOFError) else \
                f"data is damaged ({error})"
            raise InputError(f"{self._compression} {what}", source=self._name,
                             place=f"byte {self._position}") from None
        buffer[:len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._inner.close()
        super().close()


class _DamagedError(Exception):
    """Compressed data that its decompressor refuses."""


class _Frames:
    """Concatenated compressed streams, read through decompressor objects of one stream each.

    gzip.GzipFile does this for gzip. lzma.LZMAFile has no memory limit, and zstandard's
    stream reader takes a cut-off file for a whole one, so they are driven by hand.
    """

    def __init__(self, packed: IO[bytes], new: Any, piece: int, padding: bytes):
        self._packed = packed
        self._new = new
        self._piece = piece
        self._padding = padding  # bytes that may stand between streams
        self._decompressor: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end. Raises EOFError for one that comes too soon."""
        while not self._output:
            if self._decompressor is None or self._decompressor.needs_input:
                self._input = self._input or self._packed.read(self._piece)
            if self._decompressor is None:
                if self._padding:
                    self._input = self._input.lstrip(self._padding)
                if not self._input:
                    if self._packed.peek(1):  # type: ignore[attr-defined]
                        continue
                    return b""
                self._decompressor = self._new()
            elif not self._input and self._decompressor.needs_input:
                raise EOFError
            self._output = memoryview(self._decompressor.decompress(self._input, _PIECE))
            self._input = b""
            if self._decompressor.eof:
                self._input = self._decompressor.unused_data
                self._decompressor = None
        data, self._output = self._output[:size], self._output[size:]
        return bytes(data)

    def close(self) -> None:
        """Close the compressed stream."""
        self._packed.close()


class _GzipStream:
    """gzip.GzipFile, which leaves the stream that it was given open."""

    def __init__(self, packed: IO[bytes]):
        self._packed = packed
        self._file = gzip.GzipFile(fileobj=packed, mode="rb")

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end."""
        return self._file.read(size)

    def close(self) -> None:
        """Close both."""
        self._file.close()
        self._packed.close()


def _xz(packed: IO[bytes], name: str) -> _Frames:
    def new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_DICTIONARY)

    return _Frames(packed, new, 1 << 12, padding=b"\0")


def _zstd(packed: IO[bytes], name: str) -> _Frames:
    try:
        import zstandard
    except ImportError:
        command = f"zstd -dc {'' if name == '-' else name + ' '}| xenm2p ... -"
        raise InputError("zstd data needs the extra xenm2p[zst]; or: " + command,
                         source=name) from None

    class Frame:
        """One frame, with zstandard's error as ours."""

        def __init__(self) -> None:
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_DICTIONARY >> 1)
            self._object = decompressor.decompressobj()

        needs_input = True  # it gives all that it can each time, without a limit

        def decompress(self, data: bytes, _most: int) -> bytes:
            try:
                return self._object.decompress(data)
            except zstandard.ZstdError as error:
                raise _DamagedError(str(error)) from None

        @property
        def eof(self) -> bool:
            return self._object.eof

        @property
        def unused_data(self) -> bytes:
            return self._object.unused_data

    return _Frames(packed, Frame, _ZSTD_PIECE, padding=b"")


def _gzip(packed: IO[bytes], name: str) -> _GzipStream:
    return _GzipStream(packed)


_DECOMPRESSORS: dict[str, Any] = {"gzip": _gzip, "xz": _xz, "zstd": _zstd}
