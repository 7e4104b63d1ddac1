"""Damaged trace.dat: a clean error or what can be read of it, never a traceback."""

from __future__ import annotations

import io
import random
import struct
import sys

import pytest

from tests.formats.ftrace_text import events_of, set_p2m
from tests.formats.test_tracedat import as_text, read_dat, run
from tests.formats.tracedat_files import MAGIC, PAGE, Event, File
from xenm2p.errors import InputError
from xenm2p.formats.binary_reader import Loss
from xenm2p.formats.tracedat import read_tracedat
from xenm2p.trace import COLUMNS, NO_REF

SMALL = [Event(set_p2m(n, n + 1), cpu=n % 2, time=1000 * n) for n in range(1, 9)]
PAGES = File([Event(set_p2m(n, n), cpu=n % 2, time=1000 * n) for n in range(1, 900)])
WHOLE = events_of(as_text(PAGES.events), "time", "pfn", "cpu")


def said(data: bytes) -> str:
    """The error of a file."""
    with pytest.raises(InputError) as caught:
        read_dat(data)
    return str(caught.value)


class TestCutShort:
    @pytest.mark.parametrize("data", [
        File(SMALL).version6(), File(SMALL).version7("zlib", table_first=True),
        File(SMALL).version7("zstd")], ids=["6", "7 zlib", "7 zstd"])
    def test_at_every_byte(self, data):
        """A clean error, or the events of whole pages and a loss."""
        expected = events_of(as_text(SMALL), "pfn")
        last = len(data.rstrip(b"\0"))
        ends = [*range(len(MAGIC), min(last, PAGE)), *range(PAGE, last, 97)]
        for end in ends:
            try:
                found = events_of(read_dat(data[:end]), "pfn")
            except InputError as error:
                assert str(error).startswith("trace.dat:")
                continue
            rows = [row for row in found if row[0] != "lost"]
            assert [row for row in expected if row in rows] == rows
            assert len(rows) < len(found) or rows == expected

    @pytest.mark.parametrize("data", [
        PAGES.version6(), PAGES.version7(table_first=True),
        PAGES.version7("zlib", table_first=True), PAGES.version7("zstd", table_first=True)],
        ids=["6", "7", "7 zlib", "7 zstd"])
    def test_within_the_data(self, data):
        """Whole pages are read; of each cpu with less than all of them a loss tells."""
        seen = set()
        for end in range(len(data) - 1, max(len(data) - 10 * PAGE, 0), -1997):
            losses: list[Loss] = []
            try:
                trace = read_tracedat(io.BytesIO(data[:end]), "t", losses=losses)
            except InputError:
                continue
            rows = events_of(trace, "time", "pfn", "cpu")
            kept = [row for row in rows if row[0] != "lost"]
            assert [row for row in WHOLE if row in set(kept)] == kept
            lost = [row[3] for row in rows if row[0] == "lost"]
            cut = [loss.chunk for loss in losses]
            assert sorted(lost) == sorted(cut)
            for cpu in (0, 1):
                of_cpu = [row for row in kept if row[3] == cpu]
                assert of_cpu == [row for row in WHOLE if row[3] == cpu][: len(of_cpu)]
            assert all(loss.cut and f"file at byte {end}" in loss.sentence() for loss in losses)
            seen.add(len(kept))
        assert len(seen) > 1

    def test_the_number_of_lost_events_is_not_known(self):
        data = PAGES.version6()
        rows = events_of(read_dat(data[: -PAGE - 9]), "cpu", "ref")
        assert ("lost", 1, NO_REF) in rows

    def test_version_7_without_the_table_at_its_end(self):
        data = PAGES.version7("zlib")
        at = data.rindex(b"\0local\0") - 200
        assert "options: the section should be here, and the file ends at byte" in said(data[:at])


class TestFlippedBytes:
    @pytest.mark.parametrize("data", [
        File(run()).version6(), File(run()).version7(), File(run()).version7("zlib"),
        File(run()).version7("zstd")], ids=["6", "7", "7 zlib", "7 zstd"])
    def test_no_traceback(self, data):
        chance = random.Random(5)
        used = [at for at, value in enumerate(data) if value]
        for _ in range(150):
            damaged = bytearray(data)
            for _ in range(chance.choice([1, 1, 4])):
                damaged[chance.choice(used)] = chance.randrange(256)
            try:
                trace = read_dat(bytes(damaged))
            except InputError as error:
                assert "\n" not in str(error)
                continue
            assert all(len(column) == len(trace.events())
                       for column in trace.events().columns().values())

    def test_a_damaged_block_is_named(self):
        data = bytearray(PAGES.version7("zlib"))
        at = data.index(struct.pack("<HHI", 18, 1, 0)) + 40
        data[at : at + 4] = b"\xff\xff\xff\xff"
        assert "event formats: a compressed block is damaged:" in said(bytes(data))


class TestRefused:
    @pytest.mark.parametrize(("change", "reason"), [
        ((b"tracing6", b"tracing5"), "byte 10: is a trace.dat of version '5'"),
        ((b"6\0\0\x08", b"6\0\x01\x08"), "byte 12: is of a big-endian machine"),
        ((b"\x08\x00\x10\x00\x00", b"\x08\x00\x11\x00\x00"), "byte 14: pages of 4352 bytes"),
        ((b"header_page\0", b"header_pane\0"), "byte 18: header info: 'header_page"),
        ((b"offset:8;\tsize:8;", b"offset:8;\tsize:4;"), ": is of a 32-bit kernel"),
        ((b"offset:16;\tsize:4080", b"offset:24;\tsize:4072"), "pages have a form that is not"),
        ((b"flyrecord", b"flyrecode"), "'flyrecord' should follow"),
        ((b"flyrecord\0", b"latency  \0"), "holds the text of a latency tracer"),
        ((b"pfn;", b"gfn;"), "set_p2m: 'pfn' is missing (have gfn, mfn)"),
        ((b"common_pid", b"common_tid"), "event formats: no type and pid"),
    ])
    def test_what_is_not_read(self, change, reason):
        data = File(SMALL).version6()
        assert change[0] in data
        assert reason in said(data.replace(*change, 1))

    def test_a_section_that_is_missing(self):
        data = File(SMALL).version7()
        option = struct.pack("<HI", 18, 8)
        assert "the options name no section of event formats" in said(
            data.replace(option, struct.pack("<HI", 99, 8)))
        at = data.index(b"\0local\0" + struct.pack("<II", PAGE, 2)) - 14
        assert "the options name no section with the events of the main buffer" in said(
            data[:at] + struct.pack("<H", 99) + data[at + 2 :])

    def test_a_section_that_is_another(self):
        data = File(SMALL).version7()
        said_of = said(data.replace(struct.pack("<HHI", 18, 0, 0), struct.pack("<HHI", 77, 0, 0)))
        assert "event formats: section 18 should be here and section 77 is" in said_of
        assert said_of.startswith("trace.dat:byte ")

    def test_options_that_come_back_to_themselves(self):
        data = bytearray(File(SMALL).version7())
        first = struct.unpack_from("<Q", data, data.index(b"1.5\0") + 4)[0]
        at = data.index(struct.pack("<HI", 0, 8), first) + 6
        data[at : at + 8] = struct.pack("<Q", first)
        assert "comes back to itself" in said(bytes(data))

    def test_a_page_with_more_than_a_page(self):
        data = bytearray(File(SMALL).version6())
        at = len(data) - 2 * PAGE
        data[at + 8 : at + 12] = struct.pack("<I", PAGE)
        assert f"byte {at + 8}: cpu 0's page of the ring buffer is damaged 8 bytes" in said(
            bytes(data))

    def test_a_record_that_ends_after_its_page(self):
        data = bytearray(File(SMALL).version6())
        at = len(data) - 2 * PAGE
        used = struct.unpack_from("<I", data, at + 8)[0]
        data[at + 8 : at + 12] = struct.pack("<I", used - 4)
        assert "bytes into it: a record ends after it" in said(bytes(data))


class TestCodecs:
    def test_an_unknown_one_is_named_with_what_helps(self):
        data = File(SMALL).version7("zlib").replace(b"zlib\0", b"lz4\0\0", 1)
        assert said(data) == (
            "trace.dat:byte 18: is compressed with 'lz4', not with zlib or zstd; "
            "trace-cmd convert --compression none -i trace.dat -o plain.dat")

    def test_zstd_without_its_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "zstandard", None)
        assert "is compressed with zstd, which needs the extra xenm2p[zst]; or: trace-cmd " in (
            said(File(SMALL).version7("zstd")))
        read_dat(File(SMALL).version7("zlib"))

    def test_a_block_that_becomes_more_than_it_says(self):
        for codec in ("zlib", "zstd"):
            data = File(SMALL).version7(codec)
            at = data.index(struct.pack("<HHI", 18, 1, 0)) + 16
            size = struct.unpack_from("<I", data, at + 4)[0]
            less = data[: at + 4] + struct.pack("<I", size - 1) + data[at + 8 :]
            assert "more than that" in said(less)
            more = data[: at + 4] + struct.pack("<I", size + 1) + data[at + 8 :]
            assert f"becomes {size}" in said(more)
            bomb = data[: at + 4] + struct.pack("<I", 1 << 30) + data[at + 8 :]
            assert "is larger than any of trace-cmd" in said(bomb)


def test_every_column_has_its_dtype():
    events = read_dat(File(run()).version7("zlib")).events()
    assert {name: getattr(events, name).dtype for name in COLUMNS} == {
        name: spec.dtype for name, spec in COLUMNS.items()}
