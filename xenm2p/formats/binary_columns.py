"""One column of one record: to stored bytes and back."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from xenm2p.errors import UsageError, unknown
from xenm2p.formats.binary_layout import Damage, Encoding, Filter, Section, sums_crc32
from xenm2p.trace import Column

CODECS: dict[str, Encoding] = {"zlib": Encoding.ZLIB, "zstd": Encoding.ZSTD}
ZSTD_HINT = "pip install 'xenm2p[zst]'"

# Columns that mostly grow: their differences are small and compress well.
DELTA_COLUMNS = frozenset({"time", "call", "number"})

# Of the levels, those that write at least half as fast as the level below for what they
# gain on a capture; tests/benchmarks/bench_binary.py prints the rates.
ZLIB_LEVEL = 3
ZSTD_LEVEL = 3


def _zstandard() -> Any:
    """The zstandard module, None where the extra is not installed."""
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard


def codec(compression: str | None) -> Encoding:
    """The encoding for a compression's name, PLAIN for None.

    Raises UsageError for an unknown name, and for zstd where its package is missing.
    """
    if compression is None:
        return Encoding.PLAIN
    if compression not in CODECS:
        raise UsageError(unknown("compression", compression, CODECS))
    if compression == "zstd" and _zstandard() is None:
        raise UsageError(f"compression 'zstd' needs the zstandard package: {ZSTD_HINT}")
    return CODECS[compression]


def encode_column(name: str, column: Column, wanted: Encoding) -> tuple[Encoding, Filter, Any]:
    """How to store a column, and the bytes to store (a buffer).

    One value throughout becomes CONSTANT (its 8 bytes, zero-padded, are returned); what
    compression does not make smaller stays PLAIN.
    """
    if len(column) and column[0] == column[-1] and (column == column[0]).all():
        return Encoding.CONSTANT, Filter.NONE, column[:1].tobytes().ljust(8, b"\0")
    plain = np.ascontiguousarray(column)
    if wanted == Encoding.PLAIN or not len(column):
        return Encoding.PLAIN, Filter.NONE, plain.view(np.uint8).data
    filter = Filter.NONE
    values = plain
    if name in DELTA_COLUMNS:
        filter = Filter.DELTA
        values = plain.copy()
        values[1:] -= plain[:-1]
    data = values.view(np.uint8).data
    if wanted == Encoding.ZLIB:
        stored = zlib.compress(data, ZLIB_LEVEL)
    else:
        stored = _zstandard().ZstdCompressor(level=ZSTD_LEVEL).compress(data)
    if len(stored) < plain.nbytes:
        return wanted, filter, stored
    return Encoding.PLAIN, Filter.NONE, plain.view(np.uint8).data


def decode_column(section: Section, dtype: np.dtype[Any], rows: int,
                  record: memoryview) -> Column:
    """A column of `rows` values, read-only; a view on `record` where it is stored plain.

    `record` is the whole record. The CRC-32 of its sums is compared first. Raises Damage.
    """
    size = rows * dtype.itemsize
    if section.encoding == Encoding.CONSTANT:
        bits = section.where.to_bytes(8, "little")
        if any(bits[dtype.itemsize:]):
            raise Damage(f"its constant 0x{section.where:x} does not fit into '{dtype.str}'")
        # As np.broadcast_to, which takes longer than many a chunk's column to check.
        return np.ndarray((rows,), dtype, buffer=bits, strides=(0,))
    stored = record[section.where:section.where + section.stored]
    is_plain = section.encoding == Encoding.PLAIN
    if is_plain != (section.stored == size) or section.stored > size:
        raise Damage(f"it has {section.stored} bytes stored for {rows} rows")
    if sums_crc32(stored) != section.crc:
        raise Damage("CRC-32 differs")
    if is_plain:
        return np.frombuffer(stored, dtype=dtype)
    values = np.frombuffer(_decompress(section.encoding, stored, size), dtype=dtype)
    if section.filter == Filter.DELTA:
        # An in-place sum keeps the dtype and so wraps around as the differences did.
        values = np.cumsum(values, dtype=dtype)
        values.flags.writeable = False
    elif section.filter != Filter.NONE:
        raise Damage(f"it has the unknown filter {section.filter}")
    return values


def _decompress(encoding: int, stored: memoryview, size: int) -> bytes:
    """Exactly `size` bytes out of `stored`, never allocating more for what it claims."""
    if encoding == Encoding.ZLIB:
        inflate = zlib.decompressobj()
        try:
            data = inflate.decompress(stored, size)
            # The end marker and check value may only be reached when asked for more.
            rest = inflate.decompress(inflate.unconsumed_tail, 1)
        except zlib.error as error:
            raise Damage(f"zlib: {error}") from None
        if len(data) != size or rest or not inflate.eof or inflate.unused_data:
            raise Damage(f"its zlib stream is not one of {size} bytes")
        return data
    if encoding == Encoding.ZSTD:
        zstandard = _zstandard()
        if zstandard is None:
            raise MissingCodec(f"the file is compressed with zstd: {ZSTD_HINT}")
        try:
            # The decoder allocates what the frame claims: compare that first.
            if zstandard.get_frame_parameters(stored).content_size != size:
                raise Damage(f"its zstd frame does not claim {size} bytes")
            data = zstandard.ZstdDecompressor().decompress(stored, max_output_size=size)
        except zstandard.ZstdError as error:
            raise Damage(f"zstd: {error}") from None
        if len(data) != size:
            raise Damage(f"its zstd frame is not one of {size} bytes")
        return bytes(data)
    raise Damage(f"it has the unknown encoding {encoding}")


class MissingCodec(Exception):
    """A column needs a package that is not installed: no damage, and nothing to salvage."""
