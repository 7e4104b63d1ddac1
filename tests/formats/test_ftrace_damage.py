"""Damaged text: a clean error or what can be read of it, never a traceback or a wrong number."""

from __future__ import annotations

import random

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
from xenm2p.errors import InputError
from xenm2p.formats.ftrace import looks_like_ftrace

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
COLUMNS = ("time", "pfn", "mfn", "ref", "handle", "domid", "status", "cpu", "task")


def test_every_truncation_gives_a_part_of_the_whole() -> None:
    """Except that a map whose writes are cut off needs no write, and a loss no follower."""
    whole = [row for row in events_of(read(SMALL), *COLUMNS) if row[0] != "lost"]
    for end in range(len(SMALL)):
        try:
            part = [row for row in events_of(read(SMALL[:end]), *COLUMNS) if row[0] != "lost"]
        except InputError as error:
            assert str(error).startswith("capture.txt:")
            continue
        assert part == whole[: len(part)]


def test_ten_thousand_flipped_bytes() -> None:
    random_bytes = random.Random(2)
    for _ in range(10_000 // 8):
        damaged = bytearray(SMALL)
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
    with pytest.raises(InputError):
        read(junk)


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


def test_blocks_cut_anywhere_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = events_of(read(SMALL), *COLUMNS, "call")
    for size in (1, 13, 64, 333, 1024):
        monkeypatch.setattr("xenm2p.formats.ftrace_lines.BLOCK_SIZE", size)
        assert events_of(read(SMALL), *COLUMNS, "call") == whole
