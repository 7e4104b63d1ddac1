"""Starting a replay in the middle of a binary file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from tests.formats.test_binary import a_trace, written
from xenm2p.errors import InputError
from xenm2p.formats.binary import BinaryReader, chunks_from, resume_point, scan_binary
from xenm2p.formats.binary_layout import RecordType
from xenm2p.formats.binary_reader import Record
from xenm2p.trace import Events

EVENTS = 100
CHUNK = 5  # a checkpoint every four chunks
PAGES = 2  # two pages mapped again and again: little is live


@pytest.fixture(params=[None, "zlib"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "trace.xm2p"
    trace = a_trace(EVENTS, PAGES)
    path.write_bytes(written(trace, chunk_events=CHUNK, compression=request.param))
    return path


@pytest.mark.parametrize("event", [0, 19, 20, 21, 57, 99, 1000])
def test_a_point_leads_to_the_events_from_a_checkpoint_on(path: Path, event: int) -> None:
    reader = BinaryReader(path, "x")
    point = resume_point(reader, event)
    assert point.first_event == min(event, 80) // 20 * 20
    chunks = list(chunks_from(reader, point))
    assert chunks[0][0] == point.first_event
    whole = a_trace(EVENTS, PAGES).events()
    rest = Events.concat([events for _, events in chunks])
    assert np.array_equal(rest.time, whole.time[point.first_event:])
    assert point.tasks == a_trace().tasks


def test_its_rows_are_earlier_events_under_their_numbers(path: Path) -> None:
    point = resume_point(BinaryReader(path, "x"), 60)
    whole = a_trace(EVENTS, PAGES).events()
    assert len(point.numbers) > 0 and point.numbers.max() < 60
    for name, column in point.rows.columns().items():
        assert np.array_equal(column, getattr(whole, name)[point.numbers])


def test_names_given_before_a_checkpoint_come_with_it(path: Path) -> None:
    assert resume_point(BinaryReader(path, "x"), 60).tasks == ["mount-1042", "qemu-7"]
    assert resume_point(BinaryReader(path, "x"), 0).tasks == []


def test_a_cut_file_resumes_too(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    assert resume_point(BinaryReader(path, "x"), 60).first_event == 60


def test_a_damaged_checkpoint_is_passed_over_and_reported(path: Path) -> None:
    checkpoints = [r for r in BinaryReader(path, "x").walk()
                   if isinstance(r, Record) and r.head.type is RecordType.CHECKPOINT]
    record = checkpoints[-1]
    stored = next(s for s in record.head.sections if s.stored)
    data = bytearray(path.read_bytes())
    data[record.offset + stored.where] ^= 1
    path.write_bytes(data)
    assert resume_point(BinaryReader(path, "x"), 90).first_event == 0
    report = scan_binary(path, "x")
    assert report.lost_events == 0 and not report.complete
    assert "checkpoint: column 'time': CRC-32 differs; no event is lost" in report.sentences()[1]


def test_a_file_without_checkpoints_starts_at_its_beginning(path: Path) -> None:
    path.write_bytes(written(a_trace(EVENTS, PAGES), chunk_events=CHUNK, checkpoints=False))
    point = resume_point(BinaryReader(path, "x"), 60)
    assert (point.first_event, len(point.rows)) == (0, 0)


def test_a_stream_cannot_be_entered_in_the_middle(path: Path) -> None:
    with pytest.raises(InputError, match="from its beginning only"):
        resume_point(BinaryReader(io.BytesIO(path.read_bytes()), "-"), 60)
