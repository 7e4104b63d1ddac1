"""The binary format on bad files: cut, flipped, lying. Never a wrong number, never silence."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.formats.test_binary import a_trace, written
from xenm2p.errors import InputError
from xenm2p.formats.binary import BinaryReader, Loss, read_binary, scan_binary
from xenm2p.formats.binary_layout import (
    FILE_HEADER,
    MAGIC,
    RECORD_HEAD,
    RECORD_HEAD_SIZE,
    SECTION,
    SECTION_SIZE,
    RecordType,
    sums_crc32,
)
from xenm2p.formats.binary_reader import Record
from xenm2p.trace import COLUMNS, Trace, same_trace

SECTIONS = len(COLUMNS)
COLUMN_NUMBER = {name: number for number, name in enumerate(COLUMNS)}


def chunks_in(data: bytes) -> list[tuple[int, int]]:
    """Offset and size of every chunk of a whole file."""
    return [(r.offset, r.head.size) for r in BinaryReader(io.BytesIO(data), "x").walk()
            if isinstance(r, Record) and r.head.type is RecordType.CHUNK]


def outcome(data: bytes, **options: bool) -> Trace | InputError:
    """The trace with all its events in memory, or the clean error."""
    try:
        trace = read_binary(io.BytesIO(data), "t.xm2p", **options)  # type: ignore[arg-type]
        events = trace.events()
    except InputError as error:
        return error
    return Trace.of_events(events, kernel=trace.kernel, domain=trace.domain, origin=trace.origin,
                           memory=trace.memory, m2p=trace.m2p, tasks=trace.tasks,
                           notes=trace.notes)


# Cut --------------------------------------------------------------------------------


def test_cut_at_any_byte_every_finished_chunk_is_read(tmp_path: Path) -> None:
    data = written(a_trace(10), chunk_events=4)
    whole = a_trace(10).events()
    chunks = chunks_in(data)
    first = chunks[0][0]
    for size in range(len(data)):
        path = tmp_path / "cut.xm2p"
        path.write_bytes(data[:size])
        if size < first:
            with pytest.raises(InputError, match=r"^t:byte 0: "):
                read_binary(path, "t")
            continue
        finished = sum(offset + length <= size for offset, length in chunks)
        read = read_binary(path, "t")
        assert np.array_equal(read.events().time, whole.time[:4 * finished])
        (note,) = read.notes[1:]
        assert "its writer did not finish" in note
        assert f"the {min(4 * finished, 10)} events before are whole" in note


def test_a_cut_stream_says_the_same_as_a_cut_file(tmp_path: Path) -> None:
    data = written(a_trace(10), chunk_events=4)
    for size in range(chunks_in(data)[0][0], len(data), 37):
        path = tmp_path / "cut.xm2p"
        path.write_bytes(data[:size])
        from_file, from_stream = scan_binary(path, "t"), scan_binary(
            io.BytesIO(data[:size]), "t")
        assert from_file.sentences() == from_stream.sentences()
        assert not from_file.complete and from_file.lost_events is None


def test_check_counts_the_bytes_after_the_last_whole_chunk() -> None:
    data = written(a_trace(10), chunk_events=4)
    offset, _ = chunks_in(data)[1]
    report = scan_binary(io.BytesIO(data[:offset + 100]), "t")
    assert report.sentences() == [
        "incomplete: 4 events in 1 chunks are whole",
        f"the file ends inside a record: its writer did not finish; 100 bytes from byte "
        f"{offset} on are not a whole record; the 4 events before are whole"]
    assert report.lost_bytes == 100 and report.damaged_chunks == []


def test_zeros_at_the_end_are_a_cut(tmp_path: Path) -> None:
    data = written(a_trace(10), chunk_events=4)
    path = tmp_path / "zeros.xm2p"
    path.write_bytes(data[:chunks_in(data)[2][0]] + bytes(5000))
    read = read_binary(path, "t")
    assert len(read.events()) == 8
    assert "the file ends in zeros" in read.notes[-1]


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.xm2p"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="the file is empty"):
        read_binary(path, "t")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_binary(tmp_path / "none.xm2p", "none.xm2p")


def test_bytes_after_the_end_record_are_not_passed_over() -> None:
    data = written(a_trace(10))
    twice = data + data
    assert isinstance(outcome(twice), InputError)
    assert "bytes follow the end record" in str(outcome(twice))
    assert len(outcome(twice, salvage=True).events()) == 10  # type: ignore[union-attr]


# Flipped ----------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_10000_random_flips_never_change_a_number(compression: str) -> None:
    rng = random.Random(20260)
    data = written(a_trace(8), chunk_events=4, compression=compression)
    for _ in range(10_000):
        bad = bytearray(data)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        result = outcome(bytes(bad))
        assert isinstance(result, InputError) or same_trace(result, a_trace(8))


def test_salvage_of_random_damage_gives_whole_events_only() -> None:
    rng = random.Random(7)
    data = written(a_trace(12), chunk_events=4)
    rows = set(a_trace(12).events().time.tolist())
    for _ in range(1000):
        bad = bytearray(data)
        for _ in range(rng.randrange(1, 20)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        result = outcome(bytes(bad), salvage=True)
        if isinstance(result, Trace):
            times = result.events().time.tolist()
            assert set(times) <= rows and len(times) % 4 == 0
            assert len(times) == 12 or result.notes != ["hand-made"]


def test_random_bytes_are_a_clean_error() -> None:
    rng = random.Random(3)
    for size in range(0, 2000, 7):
        assert isinstance(outcome(MAGIC + rng.randbytes(size)), InputError)


# Damaged chunks ---------------------------------------------------------------------


def with_damage(data: bytes, chunk: int, at: int = RECORD_HEAD_SIZE + SECTION_SIZE * SECTIONS,
                ) -> bytes:
    """One byte of a chunk turned, by default one of its second column."""
    offset, _ = chunks_in(data)[chunk]
    bad = bytearray(data)
    bad[offset + at + 64] ^= 0xFF
    return bytes(bad)


def test_a_damaged_column_is_named_with_chunk_and_events() -> None:
    data = written(a_trace(10), chunk_events=4)
    offset, size = chunks_in(data)[1]
    assert str(outcome(with_damage(data, 1))) == (
        f"t.xm2p:byte {offset}: chunk 1 ({size} bytes): column 'kind': CRC-32 differs; "
        f"events 4 to 7 are lost")


@pytest.mark.parametrize("at", [-64, -64 + 24, 0, RECORD_HEAD_SIZE + SECTION_SIZE * SECTIONS])
def test_salvage_leaves_out_the_damaged_chunk_only(at: int, tmp_path: Path) -> None:
    data = written(a_trace(12), chunk_events=4)
    path = tmp_path / "bad.xm2p"
    path.write_bytes(with_damage(data, 1, at))
    losses: list[Loss] = []
    read = read_binary(path, "t", salvage=True, losses=losses)
    assert read.events().time.tolist() == [0, 100, 200, 300, 800, 900, 1000, 1100]
    assert read.events().time.tolist() == [0, 100, 200, 300, 800, 900, 1000, 1100]
    (loss,) = losses
    assert (loss.chunk, loss.first_event, loss.events, loss.cut) == (1, 4, 4, False)
    assert read.notes[1:] == [loss.sentence()]
    report = scan_binary(path, "t")
    assert report.lost_events == 4 and report.losses == losses
    assert report.sentences()[0] == (
        "incomplete: 8 events in 2 chunks are whole, 4 events are lost")


def test_a_chunk_cut_out_of_the_middle_is_missed() -> None:
    data = written(a_trace(12), chunk_events=4)
    offset, size = chunks_in(data)[1]
    assert "its first event has number 8, not 4; events 4 to 7 are lost" in str(
        outcome(data[:offset] + data[offset + size:]))


def test_a_chunk_that_comes_twice_is_not_seen_twice() -> None:
    data = written(a_trace(12), chunk_events=4)
    offset, size = chunks_in(data)[1]
    twice = data[:offset + size] + data[offset:]
    assert "its first event has number 4, not 8; no event is lost" in str(outcome(twice))
    assert len(outcome(twice, salvage=True).events()) == 12  # type: ignore[union-attr]


def test_names_lost_with_a_chunk_do_not_move_the_others() -> None:
    data = written(a_trace(4), chunk_events=1)
    bad = with_damage(data, 0, at=RECORD_HEAD_SIZE + SECTION_SIZE * SECTIONS - 64)
    assert "text is damaged" in str(outcome(bad))
    read = outcome(bad, salvage=True)
    assert isinstance(read, Trace)
    assert [read.task_name(t) for t in read.events().task.tolist()] == [
        "qemu-7", "(name lost)", "qemu-7"]


def test_a_transfer_in_text_mode_is_named() -> None:
    data = written(a_trace(4))
    assert "transfer in text mode" in str(outcome(data.replace(b"\r\n", b"\n")))
    assert "transfer in text mode" in str(outcome(data.replace(b"\n", b"\r\n")))


# Lies with a right CRC --------------------------------------------------------------


def relabelled(data: bytes, chunk: int, change: Callable[[bytearray], None]) -> bytes:
    """A file whose chunk head was changed and given a right CRC again."""
    offset, _ = chunks_in(data)[chunk]
    end = offset + RECORD_HEAD_SIZE + SECTION_SIZE * SECTIONS
    head = bytearray(data[offset:end])
    change(head)
    rest = zlib.crc32(head[RECORD_HEAD_SIZE:], zlib.crc32(head[:RECORD_HEAD_SIZE - 4]))
    head[RECORD_HEAD_SIZE - 4:RECORD_HEAD_SIZE] = struct.pack("<I", rest)
    return data[:offset] + bytes(head) + data[end:]


def with_head(field: int, value: int) -> Callable[[bytearray], None]:
    def change(head: bytearray) -> None:
        fields = list(RECORD_HEAD.unpack_from(head))
        fields[field] = value
        RECORD_HEAD.pack_into(head, 0, *fields)
    return change


def with_section(column: str, field: int, value: int) -> Callable[[bytearray], None]:
    def change(head: bytearray) -> None:
        at = RECORD_HEAD_SIZE + SECTION_SIZE * COLUMN_NUMBER[column]
        fields = list(SECTION.unpack_from(head, at))
        fields[field] = value
        SECTION.pack_into(head, at, *fields)
    return change


BIG = (1 << 64) - 1


@pytest.mark.parametrize("change", [
    *(with_head(1, value) for value in (0, 5, 1 << 62, BIG)),  # first event
    *(with_head(2, value) for value in (0, 3, 5, 1 << 20, 1 << 40, BIG)),  # rows
    *(with_head(3, value) for value in (0, 64, 1, 1 << 40, BIG)),  # size
    *(with_head(4, value) for value in (0, 11, 13, 65, 0xFFFFFFFF)),  # sections
    *(with_head(5, value) for value in (1, 1 << 20, 0xFFFFFFFF)),  # bytes of text
    *(with_head(7, value) for value in (1, 3, 1 << 23, 0xFFFFFFFF)),  # tasks before
    *(with_section("pfn", 0, value) for value in (2, 3, 4, 255)),  # encoding
    *(with_section("pfn", 2, value) for value in (3, 12, 255)),  # column
    *(with_section("pfn", 3, value) for value in (0, 64, 65, 1 << 40, BIG)),  # offset
    *(with_section("pfn", 4, value) for value in (0, 1, 31, 33, 1 << 40, BIG)),  # stored
    with_section("user", 3, 2), with_section("user", 3, 256),  # a constant's value
])
@pytest.mark.parametrize("salvage", [False, True])
def test_a_head_that_lies_is_a_clean_error(
    change: Callable[[bytearray], None], salvage: bool
) -> None:
    data = written(a_trace(8), chunk_events=4)
    result = outcome(relabelled(data, 1, change), salvage=salvage)
    if salvage or isinstance(result, Trace):
        assert isinstance(result, Trace)
        assert set(result.events().time.tolist()) <= set(a_trace(8).events().time.tolist())
        assert len(result.notes) > 1
    else:
        assert "chunk 1" in str(result) or "end" in str(result)


@pytest.mark.parametrize("column, value, words", [
    ("kind", 14, "event 4: kind is 14, not one of 0 to 13"),
    ("kind", 255, "event 4: kind is 255, not one of 0 to 13"),
    ("user", 2, "event 4: user is 2, not one of 0 to 1"),
    ("task", 2, "event 4: task is 2, not one of -1 to 1"),
    ("task", 0xFFFFFFFE, "event 4: task is -2, not one of -1 to 1"),
])
def test_values_out_of_range_are_named(column: str, value: int, words: str) -> None:
    def change(head: bytearray) -> None:
        with_section(column, 0, 0)(head)
        with_section(column, 3, value)(head)
        with_section(column, 4, 0)(head)
    data = written(a_trace(8), chunk_events=4)
    assert words in str(outcome(relabelled(data, 1, change)))


@pytest.mark.parametrize("bomb", [zlib.compress(bytes(1 << 24)), zlib.compress(b"")])
def test_a_compressed_column_of_another_size_is_refused(bomb: bytes) -> None:
    data = written(a_trace(4096), chunk_events=4096)
    offset, _ = chunks_in(data)[0]
    at = offset + RECORD_HEAD_SIZE + SECTION_SIZE * COLUMN_NUMBER["pfn"]
    where = SECTION.unpack_from(data, at)[3]

    def change(head: bytearray) -> None:
        with_section("pfn", 0, 2)(head)
        with_section("pfn", 4, len(bomb))(head)
        with_section("pfn", 5, sums_crc32(bomb))(head)
    lie = bytearray(relabelled(data, 0, change))
    lie[offset + where:offset + where + len(bomb)] = bomb
    assert "zlib stream is not one of 32768 bytes" in str(outcome(bytes(lie)))


def with_header(data: bytes, text: bytes) -> bytes:
    """A file that consists of a header with that text."""
    body = text + bytes(-len(text) % 64)
    start = FILE_HEADER.pack(MAGIC, 1, len(text), 0, 0, zlib.crc32(body), 0)[:-4]
    return (start + struct.pack("<I", zlib.crc32(start))).ljust(64, b"\0") + body


@pytest.mark.parametrize("text, words", [
    (b"[]", "not a JSON object"),
    (b"{", "not JSON"),
    (b"\xff", "not JSON"),
    (b"[" * 100000, "not JSON"),
    (b'{"domain": "0"}', "'domain' is not a domain number"),
    (b'{"domain": true, "origin": ""}', "'domain' is not a domain number"),
    (b'{"domain": 0, "origin": 7}', "'origin' is not a string"),
    (b'{"domain": 0, "origin": "", "kernel": 3.4}', "'kernel' is not a string"),
    (b'{"domain": 0, "origin": "", "columns": {}}', "not a table of columns"),
    (b'{"domain": 0, "origin": "", "columns": [["time"]]}', "not a name and a dtype"),
    (b'{"domain": 0, "origin": "", "columns": [["time", "O"]]}', "unknown dtype 'O'"),
    (b'{"domain": 0, "origin": "", "columns": [["time", "<u8"]]}', "not '<i8'"),
    (b'{"domain": 0, "origin": "", "columns": [["time", "<i8"]]}', "column 'kind' is missing"),
    (b'{"domain": 0, "origin": "", "columns": [["time", "<i8"], ["time", "<i8"]]}', "twice"),
    (b'{"domain": 0, "origin": "", "notes": [1]}', "'notes' is not a list of strings"),
])
def test_a_header_that_means_nothing_is_named(text: bytes, words: str) -> None:
    assert words in str(outcome(with_header(b"", text)))


@pytest.mark.parametrize("position, size, value", [
    (12, 4, 0xFFFFFFFF), (12, 4, 1 << 24), (16, 8, BIG), (16, 8, 1 << 24), (24, 8, 1 << 40)])
def test_counts_of_the_header_that_lie_allocate_nothing(
    position: int, size: int, value: int
) -> None:
    data = bytearray(written(a_trace(4)))
    data[position:position + size] = value.to_bytes(size, "little")
    data[36:40] = struct.pack("<I", zlib.crc32(data[:36]))
    assert isinstance(outcome(bytes(data)), InputError)


def test_a_later_version_is_named() -> None:
    data = bytearray(written(a_trace(4)))
    data[8] = 2
    assert "version 2 of the format is not known" in str(outcome(bytes(data)))


def test_a_damaged_index_costs_only_the_index(tmp_path: Path) -> None:
    data = bytearray(written(a_trace(12), chunk_events=4))
    data[-16] ^= 64  # the tail names another place
    path = tmp_path / "tail.xm2p"
    path.write_bytes(data)
    assert same_trace(read_binary(path, "t"), a_trace(12))
    report = scan_binary(path, "t")
    assert not report.complete and report.lost_events == 0
    assert "the last bytes do not say where it begins" in report.sentences()[1]


def test_the_sums_of_a_column_are_added_as_the_man_page_says() -> None:
    stored = bytes(range(256)) * 40 + b"odd"
    words = struct.unpack(f"<{len(stored) // 8 + 1}Q", stored + bytes(-len(stored) % 8))
    sums = [sum(words[i::509]) % 2**64 for i in range(509)]
    assert sums_crc32(stored) == zlib.crc32(struct.pack("<509Q", *sums))


def test_disk_blocks_that_changed_places_change_the_sums() -> None:
    one, other = bytes([1]) * 4096, bytes([2]) * 4096
    assert sums_crc32(one + other) != sums_crc32(other + one)
    assert sums_crc32(one * 3 + other) != sums_crc32(other + one * 3)
