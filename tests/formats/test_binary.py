"""The binary format on good files: what is written is read, by whatever way."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import events_of_rows, traces
from xenm2p.errors import InputError, UsageError
from xenm2p.formats import binary_columns
from xenm2p.formats.binary import (
    MAGIC,
    BinaryReader,
    BinaryWriter,
    read_binary,
    scan_binary,
    write_binary,
)
from xenm2p.formats.binary_layout import ALIGNMENT, MAX_INDEX_ROWS, RecordType
from xenm2p.formats.binary_reader import Record
from xenm2p.formats.binary_writer import _Index
from xenm2p.trace import COLUMNS, NO_TASK, Events, Kind, Trace, same_trace

COMPRESSIONS = [None, "zlib", "zstd"]


def written(trace: Trace, **options: object) -> bytes:
    file = io.BytesIO()
    write_binary(trace, file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def a_trace(events: int = 10, pages: int = 256) -> Trace:
    """Maps and unmaps in turn, by two tasks."""
    rows = [
        {"time": 100 * i, "kind": Kind.MAP if i % 2 == 0 else Kind.UNMAP, "mfn": 0x50000 + i,
         "pfn": 0x8000 + i // 2 % pages, "user": 1, "handle": i, "task": i % 2}
        for i in range(events)
    ]
    return Trace.of_events(events_of_rows(rows), kernel="3.4", origin="a test",
                           tasks=["mount-1042", "qemu-7"], notes=["hand-made"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.xm2p"


@settings(deadline=None, max_examples=60)
@given(traces(), st.sampled_from(COMPRESSIONS), st.integers(1, 41))
def test_a_stream_gives_the_trace_back(trace: Trace, compression: str, chunk: int) -> None:
    data = written(trace, compression=compression, chunk_events=chunk)
    assert same_trace(read_binary(io.BytesIO(data), "-"), trace)


@settings(deadline=None, max_examples=30)
@given(traces(), st.sampled_from(COMPRESSIONS), st.integers(1, 41))
def test_a_mapped_file_gives_the_trace_back_each_time(
    tmp_path_factory: pytest.TempPathFactory, trace: Trace, compression: str, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("binary") / "trace.xm2p"
    path.write_bytes(written(trace, compression=compression, chunk_events=chunk))
    read = read_binary(path, "trace.xm2p")
    assert read.length == len(trace.events())
    assert same_trace(read, trace)
    assert same_trace(read, trace)
    assert scan_binary(path, "trace.xm2p").complete


def test_how_events_are_appended_does_not_change_a_byte() -> None:
    trace = a_trace(50)
    file = io.BytesIO()
    writer = BinaryWriter(file, trace, chunk_events=7)
    for begin, end in [(0, 1), (1, 1), (1, 20), (20, 21), (21, 50)]:
        writer.append(trace.events().rows(slice(begin, end)))
    writer.close()
    assert file.getvalue() == written(trace, chunk_events=7)


def test_an_empty_trace_is_a_file(path: Path) -> None:
    path.write_bytes(written(Trace.of_events(Events.from_columns(0))))
    assert list(read_binary(path, "x").chunks()) == []
    assert scan_binary(path, "x").sentences() == ["complete: 0 events in 0 chunks are whole"]


def test_notes_survive_those_found_while_writing_too(path: Path) -> None:
    trace = a_trace(4)

    def chunks_with_a_note():  # type: ignore[no-untyped-def]
        yield trace.events().rows(slice(0, 2))
        noisy.notes.append("found later")
        yield trace.events().rows(slice(2, 4))

    noisy = Trace(chunks_of=chunks_with_a_note, tasks=trace.tasks, notes=["known at once"])
    path.write_bytes(written(noisy, chunk_events=1))
    read = read_binary(path, "x")
    assert read.notes == ["known at once"]
    read.events()
    read.events()
    assert read.notes == ["known at once", "found later"]


def test_task_names_come_with_the_chunk_that_first_uses_them(path: Path) -> None:
    trace = a_trace(4)
    path.write_bytes(written(trace, chunk_events=1))
    read = read_binary(path, "x")
    chunks = read.chunks()
    next(chunks)
    assert read.tasks == ["mount-1042"]
    next(chunks)
    assert read.tasks == ["mount-1042", "qemu-7"]


def test_names_of_tasks_that_no_event_has_are_kept(path: Path) -> None:
    events = Events.from_columns(3)
    path.write_bytes(written(Trace.of_events(events, tasks=["idle-0"])))
    read = read_binary(path, "x")
    read.events()
    assert read.tasks == ["idle-0"]


# Without copying --------------------------------------------------------------------


def is_view(column: np.ndarray) -> bool:
    """Whether a column owns no memory of its own, but lies on a mapped file."""
    while isinstance(column.base, np.ndarray):
        column = column.base
    return isinstance(column.base, memoryview)


def test_plain_columns_of_a_mapped_file_are_aligned_views(path: Path) -> None:
    path.write_bytes(written(a_trace()))
    (chunk,) = read_binary(path, "x").chunks_of()
    assert is_view(chunk.pfn) and is_view(chunk.kind)
    assert not chunk.pfn.flags.writeable
    record = next(r for r in BinaryReader(path, "x").walk() if isinstance(r, Record))
    assert record.offset % ALIGNMENT == 0
    assert all(s.where % ALIGNMENT == 0 for s in record.head.sections if s.stored)


def test_a_column_of_one_value_takes_no_bytes(path: Path) -> None:
    path.write_bytes(written(a_trace()))
    (chunk,) = read_binary(path, "x").chunks_of()
    assert chunk.user.strides == (0,) and chunk.user.tolist() == [1] * 10


def test_columns_not_wanted_are_absent_and_unchecked(path: Path) -> None:
    data = bytearray(written(a_trace()))
    where = data.index(np.arange(0x50000, 0x5000A, dtype="<u8").tobytes())
    data[where] ^= 1
    path.write_bytes(data)
    read = read_binary(path, "x", columns=frozenset({"kind", "pfn"})).events()
    assert read.pfn.tolist() == a_trace().events().pfn.tolist()
    assert set(read.mfn.tolist()) == {COLUMNS["mfn"].absent}
    assert set(read.task.tolist()) == {NO_TASK}
    with pytest.raises(InputError, match="column 'mfn': CRC-32 differs"):
        read_binary(path, "x", columns=frozenset({"mfn"})).events()


def test_a_column_that_does_not_exist_cannot_be_wanted(path: Path) -> None:
    path.write_bytes(written(a_trace()))
    with pytest.raises(ValueError, match=r"unknown column 'pnf' \(did you mean 'pfn'"):
        read_binary(path, "x", columns=frozenset({"pnf"}))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_stream_is_read_once_and_in_bounded_pieces(compression: str) -> None:
    class Pipe(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1) -> bytes:
            self.most = max(self.most, size or 0)
            return super().read(min(size or 0, 1000))  # as a pipe does, less than asked for

    pipe = Pipe(written(a_trace(100), compression=compression, chunk_events=10))
    read = read_binary(pipe, "-")
    assert read.once and read.length is None
    assert same_trace(read, a_trace(100)) is True
    assert 0 < pipe.most <= 1 << 20
    with pytest.raises(InputError, match="only once"):
        read.events()


# Compression ------------------------------------------------------------------------


def test_an_unknown_compression_is_named() -> None:
    with pytest.raises(UsageError, match=r"unknown compression 'zlip' \(did you mean 'zlib'"):
        written(a_trace(), compression="zlip")


def test_a_missing_codec_names_the_command_that_helps(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"kind": Kind.LOOKUP, "mfn": i % 7} for i in range(1000)]
    path.write_bytes(written(Trace.of_events(events_of_rows(rows)), compression="zstd"))
    monkeypatch.setattr(binary_columns, "_zstandard", lambda: None)
    with pytest.raises(InputError, match=r"pip install 'xenm2p\[zst\]'") as caught:
        read_binary(path, "t.xm2p", salvage=True).events()
    assert str(caught.value).startswith("t.xm2p:byte ")
    with pytest.raises(UsageError, match=r"pip install 'xenm2p\[zst\]'"):
        written(a_trace(), compression="zstd")


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compression_is_smaller_and_gives_the_same(compression: str) -> None:
    rows = [{"time": i * 1000, "kind": Kind.MAP, "pfn": 0x8000 + i % 64, "mfn": 0x50000 + i}
            for i in range(5000)]
    trace = Trace.of_events(events_of_rows(rows))
    packed, plain = written(trace, compression=compression), written(trace)
    assert len(packed) * 4 < len(plain)
    assert same_trace(read_binary(io.BytesIO(packed), "x"), trace)


def test_what_compression_does_not_make_smaller_is_stored_plain() -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 1 << 63, 100, dtype=np.uint64)
    trace = Trace.of_events(Events.from_columns(100, mfn=noise, kind=np.full(100, Kind.LOOKUP)))
    assert len(written(trace, compression="zlib")) == len(written(trace))


# Seeking ----------------------------------------------------------------------------


@pytest.mark.parametrize("event", [0, 1, 9, 10, 55, 99])
def test_the_index_leads_to_the_chunk_of_an_event(path: Path, event: int) -> None:
    path.write_bytes(written(a_trace(100), chunk_events=10))
    reader = BinaryReader(path, "x")
    record = next(iter(reader.walk(reader.offset_before(event))))
    assert isinstance(record, Record) and record.head.type is RecordType.CHUNK
    assert record.head.first_event == event // 10 * 10


def test_a_file_without_end_record_is_walked_from_its_beginning(path: Path) -> None:
    path.write_bytes(written(a_trace(100), chunk_events=10)[:-1])
    reader = BinaryReader(path, "x")
    assert reader.end is None
    assert reader.offset_before(55) == reader.header.end


def test_a_long_index_keeps_evenly_spaced_chunks() -> None:
    index = _Index()
    chunks = 3 * MAX_INDEX_ROWS
    for i in range(chunks):
        index.add(64 * i, i)
    kept = index.columns()["first_event"]
    assert len(kept) <= MAX_INDEX_ROWS
    assert kept.tolist() == list(range(0, chunks, 4))


def test_a_file_begins_with_its_magic() -> None:
    assert written(a_trace()).startswith(MAGIC)
