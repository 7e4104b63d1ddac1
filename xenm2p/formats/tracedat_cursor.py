"""trace.dat: numbers, texts and compressed blocks, read one after the other."""

from __future__ import annotations

from dataclasses import dataclass

from xenm2p.errors import InputError
from xenm2p.formats.tracedat_codecs import MAX_UNPACKED, Codec

_MAX_TEXT = 1 << 27  # more than all of kallsyms


@dataclass(slots=True)
class Cursor:
    """Reads numbers and strings of a part of a file, one after the other.

    `first` is the file's offset of `data[0]`; with `packed` the bytes are those that a
    section at `first` unpacks to. All raise InputError where the part ends early.
    """

    data: memoryview
    source: str
    what: str
    first: int = 0
    at: int = 0
    packed: bool = False

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"byte {self.first if self.packed else self.first + self.at}"

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self.data) - self.at

    def error(self, reason: str) -> InputError:
        """An error at this place."""
        return InputError(f"{self.what}: {reason}", source=self.source, place=self.place)

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > self.left:
            raise self.error(f"ends too early: {self.left} of {size} bytes are there")
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def number(self, size: int) -> int:
        """The next number, of `size` bytes, the low one first."""
        return int.from_bytes(self.take(size), "little")

    def text(self, size: int) -> bytes:
        """The next text, whose size is a number of `size` bytes before it."""
        length = self.number(size)
        if length > _MAX_TEXT:
            raise self.error(f"a text of {length} bytes is longer than any of trace-cmd")
        return self.take(length)

    def string(self, limit: int = 256) -> str:
        """The next string, which ends with a NUL."""
        piece = bytes(self.data[self.at : self.at + limit])
        end = piece.find(b"\0")
        if end < 0:
            raise self.error(f"a string does not end within {len(piece)} bytes")
        self.at += end + 1
        return piece[:end].decode("utf-8", "backslashreplace")


def unpack(cursor: Cursor, codec: Codec) -> bytes:
    """The next compressed block: two sizes, and what has the first of them."""
    begin = cursor.at
    packed_size, size = cursor.number(4), cursor.number(4)
    if size > MAX_UNPACKED:
        raise cursor.error(f"a block of {size} bytes is larger than any of trace-cmd")
    packed = cursor.take(packed_size)
    try:
        return codec(packed, size)
    except ValueError as error:
        cursor.at = begin
        raise cursor.error(f"a compressed block is damaged: {error}") from None
