"""Damaged text: a clean error or what can be read of it, never a traceback or a wrong number."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.ftrace_text import (
    INVALID,
    Grant,
    events_of,
    foreign,
    line,
    map_call,
    map_refs,
    read,
    set_p2m,
    unmap_call,
    unmap_refs,
)
from tests.formats.perf_text import as_perf, read_perf
from xenm2p.errors import InputError
from xenm2p.formats.ftrace import looks_like_ftrace, looks_like_perf
from xenm2p.trace import Trace

GRANTS = [Grant(0x8FE02 + i, 0xBDC01 + i, ref=1 + i, handle=0x4AF + i) for i in range(2)]
SMALL = (
    "# tracer: nop\n#\n# entries-in-buffer/entries-written: 9/12   #P:2\n"
    + line("grant_access: (gnttab_grant_foreign_access_ref+0x0/0x30) ref=9 domid=0 frame=0x401a2")
    + line(map_refs(*GRANTS)) + line(map_call(*GRANTS))
    + "".join(line(set_p2m(g.pfn, foreign(g.mfn))) for g in GRANTS)
    + "CPU:1 [LOST 4667 EVENTS]\n"
    + line(unmap_refs(*GRANTS), task="new\nline-5")
    + line(unmap_call(*GRANTS), task="new\nline-5")
    + "".join(line(set_p2m(g.pfn, INVALID), task="new\nline-5") for g in GRANTS)
    + line("mm_filemap_add_to_page_cache: dev 202:0 ino c pfn=0x26606 ofs=4096 order=0")
    + line("folio_unlock: (folio_unlock+0x0/0x20) folio=0xffffea0000998180 flags=0x5")
    + line("end_access: (gnttab_end_foreign_access_ref_v1+0x0/0x40) ref=9")
).replace(",0x0,0x0", "").encode()
PLAIN = SMALL.replace(b"new\nline", b"new line")
LATENCY = b"".join(
    b"%s-%-7s   1..... 12345us*: %s\n" % (row[8:16], row[17:22].strip(), row.split(b": ", 1)[1])
    if b"208: " in row else row + b"\n" for row in PLAIN.splitlines())
PERF = as_perf(PLAIN)
FORMS = pytest.mark.parametrize(("read", "small"), [
    (read, SMALL), (read, LATENCY), (read_perf, PERF)], ids=["ftrace", "latency", "perf"])
Read = Callable[[bytes], Trace]
COLUMNS = ("time", "pfn", "mfn", "ref", "handle", "domid", "status", "cpu")


def rows_of(trace: Trace) -> list[tuple[object, ...]]:
    """All events but losses, with the names of tasks."""
    rows = events_of(trace, *COLUMNS, "call", "task")
    return [(*row[:-1], trace.task_name(int(str(row[-1])))) for row in rows if row[0] != "lost"]


@FORMS
def test_every_truncation_gives_a_part_of_the_whole(read: Read, small: bytes) -> None:
    """Except that a map whose writes are cut off needs no write, and a loss no follower."""
    whole = rows_of(read(small))
    assert len(whole) >= 11
    for end in range(0, len(small), 1 if small is SMALL else 3):
        try:
            part = rows_of(read(small[:end]))
        except InputError as error:
            assert str(error).startswith(("capture.txt:", "perf.txt:"))
            continue
        assert part == whole[: len(part)]


@FORMS
def test_thousands_of_flipped_bytes(read: Read, small: bytes) -> None:
    random_bytes = random.Random(2)
    for _ in range(10_000 // 8 if small is SMALL else 400):
        damaged = bytearray(small)
        for _ in range(8):
            damaged[random_bytes.randrange(len(damaged))] = random_bytes.randrange(256)
        try:
            events = read(bytes(damaged)).events()
        except InputError as error:
            assert "\n" not in str(error)
            continue
        assert len(events) < 100
        assert (events.task < 40).all()


@given(st.binary(max_size=2000))
def test_binary_junk(junk: bytes) -> None:
    looks_like_ftrace(junk)
    looks_like_perf(junk)
    with pytest.raises(InputError):
        read(junk)
    with pytest.raises(InputError):
        read_perf(junk)


@pytest.mark.parametrize("first", [b" ", b"1 ", b"[1] ", b"1: ", b"-1 [", b"a", b"\n", b"#\n"])
def test_what_a_file_is_is_known_at_once(first: bytes) -> None:
    """No pattern tries the same bytes over and over; 8 KiB are what it is asked of."""
    assert not looks_like_ftrace((first * 8192)[:8192])
    assert not looks_like_perf((first * 8192)[:8192])


@given(st.lists(st.sampled_from(SMALL.splitlines(keepends=True)), max_size=40))
def test_lines_in_any_order(lines: list[bytes]) -> None:
    try:
        trace = read(b"".join(lines))
    except InputError:
        return
    events = trace.events()
    assert (np.diff(events.call[events.call >= 0]) <= 40).all()


@given(st.binary(min_size=1, max_size=60))
def test_junk_after_an_event_that_is_known(junk: bytes) -> None:
    head = b"        0.xvda-0-2656    [001] .....  1390.727208: "
    for probe in (b"set_p2m: (__set_phys_to_machine+0x0/0x180) ",
                  b"set_foreign: (set_foreign_p2m_mapping+0x0/0x300) count=",
                  b"clear_foreign: (clear_foreign_p2m_mapping+0x0/0x160) count=2 op={", b""):
        try:
            events = read(SMALL + head + probe + junk + b"\n").events()
        except InputError:
            continue
        assert len(events) >= 14


@pytest.mark.parametrize("old,new", [
    (b"pfn=0x8fe02", b"pfn=0x18fe028fe028fe028fe02"),
    (b"count=2", b"count=99999999999999999999999"),
    (b"ref=9 ", b"ref=99999999999999999999999 "),
    (b"[001]", b"[99999]"),
])
def test_huge_numbers_are_refused_or_left_out(old: bytes, new: bytes) -> None:
    try:
        trace = read(SMALL.replace(old, new))
    except InputError as error:
        assert str(error).startswith("capture.txt:")
    else:
        assert len(trace.events()) < len(read(SMALL).events()) + 2


@FORMS
def test_blocks_cut_anywhere_read_the_same(monkeypatch: pytest.MonkeyPatch, read: Read,
                                           small: bytes) -> None:
    whole = rows_of(read(small))
    for size in (1, 13, 64, 333, 1024):
        monkeypatch.setattr("xenm2p.formats.ftrace_lines.BLOCK_SIZE", size)
        assert rows_of(read(small)) == whole
