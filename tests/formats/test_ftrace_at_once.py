"""Calls of many lines at once are what they are one line at a time, whatever the lines hold."""

from __future__ import annotations

import io
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.ftrace_text import (
    INVALID,
    Grant,
    events_of,
    foreign,
    line,
    map_call,
    map_refs,
    page_of,
    read,
    set_p2m,
    unmap_call,
    unmap_refs,
)
from tests.formats.test_ftrace_calls import as_bytes
from tests.formats.test_perf import same_events
from xenm2p.errors import InputError
from xenm2p.formats.ftrace import read_ftrace
from xenm2p.trace import NO_CALL, NO_HANDLE, Trace

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
FUNCTIONS = {"set_foreign": "set_foreign_p2m_mapping", "map_refs": "gnttab_map_refs",
             "clear_foreign": "clear_foreign_p2m_mapping", "unmap_refs": "gnttab_unmap_refs"}


def nothing_at_once(lines: Any, rows: Any, *_: Any) -> tuple[None, Any]:
    """Stands for `read_calls` and `read_scalar_calls`: leaves all lines."""
    return None, rows


def one_by_one(text: bytes) -> Trace:
    """The trace of a text, its calls read a line at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xenm2p.formats.ftrace_calls.read_calls", nothing_at_once)
        patch.setattr("xenm2p.formats.ftrace_calls.read_scalar_calls", nothing_at_once)
        return read_ftrace(io.BytesIO(text), "capture.txt")


def agrees(text: str | bytes) -> None:
    """Hold both ways against each other, in blocks of several sizes."""
    data = text.encode() if isinstance(text, str) else text
    try:
        expected = one_by_one(data)
    except InputError as error:
        with pytest.raises(InputError) as caught:
            read(data)
        assert str(caught.value) == str(error)
        return
    for size in (1 << 23, 700):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("xenm2p.formats.ftrace_lines.BLOCK_SIZE", size)
            found = read(data)
        assert same_events(found, expected)
        assert found.memory.tuples() == expected.memory.tuples()
        assert found.notes == expected.notes


NUMBERS = st.sampled_from(["0", "0x0", "1", "7", "0x1a", "-1", "4294967295", "0x10000000000",
                           f"0x{page_of(5):x}", f"0x{page_of(6):x}", "(fault)", "0x", "08"])


@st.composite
def scalar_call(draw: st.DrawFn) -> str:
    """A call with fields of its own for each page, of one of a few probes."""
    event = draw(st.sampled_from(list(FUNCTIONS)))
    is_map = event in ("set_foreign", "map_refs")
    form = draw(st.sampled_from(["short", "named", "count"]))
    fields = [("count", draw(st.sampled_from(["0", "1", "1", "2", "3", "70", "x"])))]
    if draw(st.booleans()) or form == "short":
        fields.append(("kmap_ops" if is_map else "kunmap_ops", draw(NUMBERS)))
    if form == "named":
        names = ["flags", "ref", "dom", "status", "handle", "dev_bus_addr", "pagep", "other"]
        fields += [(name, draw(NUMBERS)) for name in names]
    if form == "short":
        for page in range(3):
            fields += [(f"{name}{page}", draw(NUMBERS)) for name in ("rhap" if is_map else "hp")]
    text = " ".join(f"{name}={value}" for name, value in fields)
    task = draw(st.sampled_from(["a-1", "b-2", "<idle>-0"]))
    return line(f"{event}: ({FUNCTIONS[event]}+0x0/0x300) {text}", task=task,
                cpu=draw(st.integers(0, 1)))


def grants(numbers: list[int]) -> list[Grant]:
    """Grants of some pages."""
    return [Grant(5 + n, 0x100 + n, ref=n, handle=10 + n, status=-(n % 3 == 2)) for n in numbers]


@st.composite
def array_call(draw: st.DrawFn) -> str:
    """A call with arrays, as numbers or as bytes."""
    make = draw(st.sampled_from([map_call, map_refs, unmap_call, unmap_refs]))
    pages = grants(draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)))
    call = make(*pages, count=draw(st.sampled_from([None, 0, 1, 12, 65])),
                kmap=draw(st.integers(0, 1)))
    if draw(st.booleans()):
        call = as_bytes(call)
        if draw(st.booleans()):
            call = call.replace(draw(st.sampled_from([", 00", "ARRAY[00", "] page", "ff]"])),
                                draw(st.sampled_from([",00", ", 0g", ", 0", "", "00, "])), 1)
    return line(call, task=draw(st.sampled_from(["a-1", "<idle>-0"])),
                cpu=draw(st.integers(0, 1)))


@st.composite
def write(draw: st.DrawFn) -> str:
    """A p2m write of one of the pages."""
    entry = draw(st.sampled_from([foreign(0x100), foreign(0x101), INVALID, 7]))
    return line(set_p2m(draw(st.integers(5, 8)), entry), cpu=draw(st.integers(0, 1)),
                task=draw(st.sampled_from(["a-1", "b-2", "<idle>-0"])))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(scalar_call(), write()), min_size=1, max_size=14))
def test_fields_of_their_own(lines: list[str]) -> None:
    agrees("".join(lines))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(array_call(), write()), min_size=1, max_size=10))
def test_arrays(lines: list[str]) -> None:
    agrees("".join(lines))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(array_call(), scalar_call(), write()), min_size=1, max_size=12))
def test_all_sorts_in_one_capture(lines: list[str]) -> None:
    agrees("".join(lines))


@pytest.mark.parametrize("name", [
    "tcmd-phy-scalar-report", "v4-tgid-scalar-fault", "tcmd-phy-nopersist-report-R",
    "gntdev-badref"])
def test_captures(name: str) -> None:
    text = lzma.decompress((CAPTURES / f"{name}.txt.xz").read_bytes())
    rows = text.splitlines(keepends=True)
    agrees(b"".join(rows[:3000]))


def test_an_unmap_borrows_the_pages_of_the_line_before() -> None:
    refs = ("unmap_refs: (gnttab_unmap_refs+0x0/0x70) count=2 kunmap_ops=0x0 "
            f"h0=994 p0=0x{page_of(5):x} h1=995 p1=0x{page_of(6):x}")
    done = "clear_foreign: (clear_foreign_p2m_mapping+0x0/0x160) count=2"
    text = line(refs) + line(done) + line(refs) + line(done)
    assert events_of(read(text), "pfn", "handle", "call") == [
        ("unmap", 5, 994, 0), ("unmap", 6, 995, 0),
        ("lost", INVALID, NO_HANDLE, NO_CALL),  # the maps between are not in the capture
        ("unmap", 5, 994, 1), ("unmap", 6, 995, 1)]
