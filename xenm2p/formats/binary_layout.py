"""The bytes of a `.xm2p` file: file header, record heads, section table; nothing else.

man/xenm2p-trace.5 describes the same for people who write readers in other languages; a
test holds the two together. All numbers are little-endian, every record begins at a
multiple of 64 bytes from the beginning of the file, and whatever is read is covered by a
CRC-32 (that of zlib, gzip and PNG) before it is believed; a stored column by that of its sums.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

import numpy as np

from xenm2p.trace import COLUMNS, FRAME_MASK, INVALID, MAX_FRAME, Column, Runs

# As in PNG, the line end shows a file that went through a text-mode transfer.
MAGIC = b"xenm2p\r\n"
VERSION = 1
ALIGNMENT = 64  # of records and of stored columns: a cache line, and more than any dtype needs

# Bounds that a reader may rely on, so that no count in a file makes it allocate without
# end: 2**20 events are 52 MiB of columns.
MAX_CHUNK_EVENTS = 1 << 20
MAX_RUNS = 1 << 24
MAX_TEXT = 1 << 24  # bytes of a JSON text
MAX_COLUMNS = 64
MAX_TASKS = 1 << 24
MAX_INDEX_ROWS = 1 << 16
DEFAULT_CHUNK_EVENTS = 1 << 16

_SUM_WORDS = 509
_SUM_BYTES = 8 * _SUM_WORDS

# magic, version, bytes of JSON, memory runs, m2p runs, CRC of the body, CRC of the above
FILE_HEADER = struct.Struct("<8sIIQQII")
FILE_HEADER_SIZE = 64  # the struct, then zeros

# magic, first event, rows, bytes in all, sections, bytes of JSON, CRC of the JSON,
# tasks before, checkpoint offset, zeros, CRC of this head and the section table
RECORD_HEAD = struct.Struct("<8sQQQIIIIQ4xI")
RECORD_HEAD_SIZE = 64

# encoding, filter, column, zeros; offset in the record or the constant's bits; bytes
# stored; CRC of these; zeros
SECTION = struct.Struct("<BBB5xQQI4x")
SECTION_SIZE = 32

# The last bytes of a file that was closed: where its end record begins.
TAIL = struct.Struct("<Q8s")
TAIL_MAGIC = b"x2ptail\n"


class RecordType(Enum):
    """What a record is; the value is its magic."""

    CHUNK = b"x2pchnk\n"
    CHECKPOINT = b"x2pckpt\n"
    END = b"x2pend.\n"


class Encoding(IntEnum):
    """How a column's values are stored in one record."""

    CONSTANT = 0  # one value for all rows, in the section table itself
    PLAIN = 1  # rows * itemsize bytes, as in memory
    ZLIB = 2  # one zlib stream (RFC 1950)
    ZSTD = 3  # one Zstandard frame (RFC 8878) that names its content size


class Filter(IntEnum):
    """What was done to the values before they were compressed."""

    NONE = 0
    DELTA = 1  # each value but the first less the one before, modulo 2**bits


# Tables of the two records that hold something else than events. A checkpoint holds the
# event columns too; its `number` comes after them.
NUMBER_COLUMN = ("number", np.dtype("<i8"))
INDEX_COLUMNS: tuple[tuple[str, np.dtype[Any]], ...] = (
    ("offset", np.dtype("<u8")),
    ("first_event", np.dtype("<u8")),
)
DTYPES = {name: np.dtype(name) for name in
          ("<i1", "<u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "|i1", "|u1")}


class Damage(Exception):
    """Bytes that are not what they should be; the reader adds file and offset."""


class Cut(Exception):
    """The file ends inside of something."""


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What a file says of itself before its first record.

    `columns` is the file's own column table, names and dtypes in the order of the section
    tables' column numbers; `end` the offset of the first record.
    """

    kernel: str | None
    domain: int
    origin: str
    notes: list[str]
    columns: tuple[tuple[str, np.dtype[Any]], ...]
    memory: Runs
    m2p: Runs
    end: int


@dataclass(frozen=True, slots=True)
class Section:
    """One row of a record's section table: where one column's values are, and how stored.

    `where` is the offset from the record's beginning, or, for a constant, the value's bits.
    """

    encoding: int
    filter: int
    column: int
    where: int
    stored: int
    crc: int


@dataclass(frozen=True, slots=True)
class RecordHead:
    """The head of a record.

    `first_event` is the number of the chunk's first event, of the event before which the
    checkpoint holds, or of the event that would come next. `size` counts all bytes of the
    record from its magic. `tasks_before` is how many task names earlier chunks gave.
    `checkpoint` is the offset of the newest checkpoint before a chunk, 0 for none.
    """

    type: RecordType
    first_event: int
    rows: int
    size: int
    text_size: int
    text_crc: int
    tasks_before: int
    checkpoint: int
    sections: tuple[Section, ...]

    @property
    def text_offset(self) -> int:
        return RECORD_HEAD_SIZE + SECTION_SIZE * len(self.sections)


def crc32(data: Any) -> int:
    """CRC-32 of anything with a contiguous buffer."""
    return zlib.crc32(data)


def sums_crc32(data: Any) -> int:
    """CRC-32 of the sums of anything with a contiguous buffer.

    The bytes, and zeros up to a multiple of 8, are uint64 words; word i is added, modulo
    2**64, to sum i % 509. A CRC-32 of the bytes themselves costs more than all the rest of
    reading and replaying them. What changes one word, or a run of less than 509, changes
    the sums; 509 is prime, so that disk blocks in the wrong order do so too.
    """
    count = len(data) // _SUM_BYTES * _SUM_BYTES
    whole = np.frombuffer(data, "<u8", count // 8).reshape(-1, _SUM_WORDS)
    sums = np.add.reduce(whole, axis=0)
    rest = np.frombuffer(bytes(data[count:]).ljust(_SUM_BYTES, b"\0"), "<u8")
    return zlib.crc32(sums + rest)


def padded(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def to_json(value: dict[str, Any]) -> bytes:
    """Compact ASCII JSON; lone surrogates, which a task name may have, survive as escapes."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def from_json(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`; Damage where there is none."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Damage("its text is not JSON") from None
    if not isinstance(value, dict):
        raise Damage("its text is not a JSON object")
    return value


def strings(value: dict[str, Any], key: str) -> list[str]:
    """The list of strings under `key`, empty where there is none."""
    found = value.get(key, [])
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise Damage(f"'{key}' is not a list of strings")
    return found


def pack_file_header(header: FileHeader) -> bytes:
    """The bytes of a file before its first record; `header.end` is not looked at."""
    text = to_json({
        "kernel": header.kernel,
        "domain": header.domain,
        "origin": header.origin,
        "notes": header.notes,
        "columns": [[name, dtype.str.replace("|", "<")] for name, dtype in header.columns],
    })
    if len(text) > MAX_TEXT:
        raise ValueError(f"origin and notes take {len(text)} bytes, at most {MAX_TEXT} fit")
    if max(len(header.memory), len(header.m2p)) > MAX_RUNS:
        raise ValueError(f"more than {MAX_RUNS} runs of initial memory")
    body = b"".join([
        text, bytes(-len(text) % ALIGNMENT),
        *(column.astype("<u8").tobytes() for runs in (header.memory, header.m2p)
          for column in (runs.start, runs.value, runs.count)),
    ])
    fixed = FILE_HEADER.pack(MAGIC, VERSION, len(text), len(header.memory), len(header.m2p),
                             crc32(body), 0)[:-4]
    start = fixed + struct.pack("<I", crc32(fixed))
    whole = start + bytes(FILE_HEADER_SIZE - len(start)) + body
    return whole + bytes(-len(whole) % ALIGNMENT)


def unpack_file_start(data: bytes) -> tuple[int, int, int, int, int]:
    """Bytes of JSON, memory runs, m2p runs, CRC of the body, size of the whole header.

    `data` is the first 64 bytes of a file. Raises Damage or Cut.
    """
    if not data:
        raise Cut("the file is empty")
    if data[:8] != MAGIC[:len(data[:8])]:
        if data[:6] == MAGIC[:6]:
            raise Damage("line ends were converted, as by a transfer in text mode: "
                         "copy the file again in binary")
        raise Damage("not an xm2p file")
    if len(data) < FILE_HEADER_SIZE:
        raise Cut("the file ends inside its header")
    _, version, text_size, memory, m2p, body_crc, crc = FILE_HEADER.unpack_from(data)
    if version != VERSION:
        # Looked at before the CRC: another version may have its header otherwise.
        raise Damage(f"version {version} of the format is not known, only {VERSION}")
    if crc != crc32(data[:FILE_HEADER.size - 4]):
        raise Damage("the header is damaged (CRC-32 differs)")
    if text_size > MAX_TEXT or memory > MAX_RUNS or m2p > MAX_RUNS:
        raise Damage(f"the header claims {text_size} bytes of text, {memory} and {m2p} runs "
                     f"of memory: more than the format allows")
    size = padded(FILE_HEADER_SIZE + padded(text_size) + 24 * (memory + m2p))
    return text_size, memory, m2p, body_crc, size


def unpack_file_header(data: memoryview) -> FileHeader:
    """The header from its bytes, whole. Raises Damage or Cut."""
    text_size, memory, m2p, body_crc, size = unpack_file_start(bytes(data[:FILE_HEADER_SIZE]))
    runs_at = FILE_HEADER_SIZE + padded(text_size)
    body_end = runs_at + 24 * (memory + m2p)
    if len(data) < body_end:
        raise Cut("the file ends inside its header")
    if crc32(data[FILE_HEADER_SIZE:body_end]) != body_crc:
        raise Damage("the header is damaged (CRC-32 differs)")
    text = from_json(bytes(data[FILE_HEADER_SIZE:FILE_HEADER_SIZE + text_size]))
    kernel, domain, origin = (text.get(key) for key in ("kernel", "domain", "origin"))
    if not (kernel is None or isinstance(kernel, str)):
        raise Damage("the header's 'kernel' is not a string")
    if not isinstance(domain, int) or isinstance(domain, bool) or not 0 <= domain <= 0xFFFF:
        raise Damage("the header's 'domain' is not a domain number")
    if not isinstance(origin, str):
        raise Damage("the header's 'origin' is not a string")
    words = np.frombuffer(data[runs_at:body_end], dtype="<u8").copy()
    return FileHeader(
        kernel=kernel, domain=domain, origin=origin, notes=strings(text, "notes"),
        columns=_column_table(text.get("columns")),
        memory=_runs("memory", words[:3 * memory], is_p2m=True),
        m2p=_runs("m2p", words[3 * memory:], is_p2m=False), end=size,
    )


def _runs(name: str, words: Column, is_p2m: bool) -> Runs:
    start, value, count = words.reshape(3, -1)
    frames = np.uint64(MAX_FRAME)
    # p2m values may carry F and I bits; no run may reach beyond the last frame.
    is_invalid = value == np.uint64(INVALID)
    first = value & np.uint64(FRAME_MASK) if is_p2m else value
    is_beyond = (start > frames) | (count == 0) | (count - np.uint64(1) > frames - start)
    is_beyond |= ~is_invalid & ((first > frames) | (count - np.uint64(1) > frames - first))
    if is_beyond.any():
        row = int(is_beyond.argmax())
        raise Damage(f"{name} run {row} is not a run of frames: start 0x{int(start[row]):x}, "
                     f"value 0x{int(value[row]):x}, count {int(count[row])}")
    return Runs(start.copy(), value.copy(), count.copy())


def _column_table(rows: Any) -> tuple[tuple[str, np.dtype[Any]], ...]:
    """The column table of the header; columns of other names are allowed and ignored."""
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_COLUMNS:
        raise Damage("the header's 'columns' is not a table of columns")
    table: list[tuple[str, np.dtype[Any]]] = []
    for row in rows:
        if not (isinstance(row, list) and len(row) == 2
                and all(isinstance(item, str) for item in row)):
            raise Damage("the header's 'columns' has a row that is not a name and a dtype")
        name, dtype = row
        if dtype not in DTYPES:
            raise Damage(f"column '{name}' has the unknown dtype '{dtype}'")
        if name in COLUMNS and COLUMNS[name].dtype != DTYPES[dtype]:
            raise Damage(f"column '{name}' has dtype '{dtype}', "
                         f"not '{COLUMNS[name].dtype.str}'")
        if name in dict(table):
            raise Damage(f"column '{name}' is there twice")
        table.append((name, DTYPES[dtype]))
    for name in ("time", "kind"):
        if name not in dict(table):
            raise Damage(f"column '{name}' is missing")
    return tuple(table)


def pack_record_head(head: RecordHead) -> bytes:
    """The bytes of a record's head and section table."""
    fixed = RECORD_HEAD.pack(
        head.type.value, head.first_event, head.rows, head.size, len(head.sections),
        head.text_size, head.text_crc, head.tasks_before, head.checkpoint, 0)[:-4]
    table = b"".join(
        SECTION.pack(s.encoding, s.filter, s.column, s.where, s.stored, s.crc)
        for s in head.sections)
    return fixed + struct.pack("<I", zlib.crc32(table, zlib.crc32(fixed))) + table


def unpack_record_head(data: memoryview) -> RecordHead:
    """A record's head from bytes that begin with it and reach past its section table.

    Raises Damage where magic, CRC or a bound is wrong, Cut where `data` is too short.
    """
    magic = bytes(data[:8])
    if len(data) < RECORD_HEAD_SIZE:
        raise Cut("the file ends inside a record: its writer did not finish")
    try:
        record_type = RecordType(magic)
    except ValueError:
        raise Damage("no record begins here") from None
    (_, first_event, rows, size, sections, text_size, text_crc, tasks_before, checkpoint,
     crc) = RECORD_HEAD.unpack_from(data)
    if sections > MAX_COLUMNS + 1:
        raise Damage("the head of the record is damaged (too many sections)")
    table_end = RECORD_HEAD_SIZE + SECTION_SIZE * sections
    if len(data) < table_end:
        raise Cut("the file ends inside a record: its writer did not finish")
    table = data[RECORD_HEAD_SIZE:table_end]
    if zlib.crc32(table, zlib.crc32(data[:RECORD_HEAD_SIZE - 4])) != crc:
        raise Damage("the head of the record is damaged (CRC-32 differs)")
    head = RecordHead(
        type=record_type, first_event=first_event, rows=rows, size=size, text_size=text_size,
        text_crc=text_crc, tasks_before=tasks_before, checkpoint=checkpoint,
        sections=tuple(Section(*row) for row in SECTION.iter_unpack(table)))
    _check_bounds(head)
    return head


def _check_bounds(head: RecordHead) -> None:
    """Refuse a head that no writer writes, though its CRC is right."""
    most = MAX_INDEX_ROWS if head.type is RecordType.END else MAX_CHUNK_EVENTS
    if head.rows > most or head.first_event + head.rows >= 1 << 63:
        raise Damage(f"the record claims {head.rows} rows from {head.first_event} on")
    if head.type is RecordType.CHUNK and head.rows == 0:
        raise Damage("the chunk claims to have no events")
    if head.text_size > MAX_TEXT or head.tasks_before > MAX_TASKS:
        raise Damage(f"the record claims {head.text_size} bytes of text, "
                     f"{head.tasks_before} task names")
    # The longest honest record: every section plain, with its padding, the text, the tail.
    longest = (padded(head.text_offset + head.text_size)
               + len(head.sections) * (8 * head.rows + ALIGNMENT) + ALIGNMENT)
    if head.size % ALIGNMENT or not head.text_offset + head.text_size <= head.size <= longest:
        raise Damage(f"the record claims {head.size} bytes for {head.rows} rows")
    for section in head.sections:
        if section.encoding != Encoding.CONSTANT and (
                section.where < head.text_offset or section.where % ALIGNMENT
                or section.where + section.stored > head.size):
            raise Damage(f"the section of column {section.column} lies outside of its record")
