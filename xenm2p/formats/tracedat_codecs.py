"""trace.dat: the codecs that trace-cmd compresses sections and chunks of version 7 with."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from xenm2p.errors import InputError

# More than any section or chunk that trace-cmd writes: a chunk is ten pages by default,
# and all of kallsyms a few MiB.
MAX_UNPACKED = 1 << 28

# The bytes of a block and how many they become; raises ValueError, saying what is wrong.
Codec = Callable[[bytes, int], bytes]


def codec_named(name: str, source: str, place: str) -> Codec | None:
    """The codec of a name as trace-cmd writes it in the header, None for ``none``.

    Raises InputError for one that is not known or not installed, naming what helps.
    """
    if name == "none":
        return None
    if name == "zlib":
        return _inflate
    copied = f"trace-cmd convert --compression none -i {source} -o plain.dat"
    if name == "zstd":
        module = _zstandard()
        if module is None:
            raise InputError("is compressed with zstd, which needs the extra xenm2p[zst]; "
                             f"or: {copied}", source=source, place=place)
        return lambda packed, size: _zstd(module, packed, size)
    raise InputError(f"is compressed with {name!a}, not with zlib or zstd; {copied}",
                     source=source, place=place)


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard


def _inflate(packed: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacker.eof and len(unpacked) == size:
        unpacked += unpacker.decompress(unpacker.unconsumed_tail, 1)
    return _of_size(unpacked, size)


def _zstd(module: Any, packed: bytes, size: int) -> bytes:
    try:
        reader = module.ZstdDecompressor(max_window_size=MAX_UNPACKED).stream_reader(packed)
        with reader:
            unpacked = reader.read(size + 1)
    except module.ZstdError as error:
        raise ValueError(str(error)) from None
    return _of_size(unpacked, size)


def _of_size(unpacked: bytes, size: int) -> bytes:
    if len(unpacked) != size:
        more = "more than that" if len(unpacked) > size else str(len(unpacked))
        raise ValueError(f"it should become {size} bytes and becomes {more}")
    return unpacked
