"""The p2m dump: runs of entries, and a clean error for what is none."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenm2p.errors import InputError
from xenm2p.formats.p2mdump import looks_like_p2m_dump, read_p2m_dump
from xenm2p.trace import FOREIGN, IDENTITY, INVALID

DUMP = b"""\
# Linux p2m (xen_p2m_addr) size=0x30 entries; runs of INVALID(~0) and IDENTITY collapsed
pfn=0x0-0x9 type=LOCAL mfn=0x130000 step=+1
pfn=0xa-0xf type=IDENTITY mfn=0x400000000000000a step=+1
pfn=0x10-0x12 type=LOCAL mfn=0x13c3b2 step=-1
pfn=0x13-0x13 type=LOCAL mfn=0x13afc3
pfn=0x14-0x14 type=FOREIGN mfn=0x8000000000044206
pfn=0x15-0x2f type=INVALID mfn=0xffffffffffffffff
# totals {'LOCAL': 14, 'IDENTITY': 6, 'FOREIGN': 1, 'INVALID': 27}
"""


def rows(text: bytes) -> list[tuple[int, int, int]]:
    """The runs of a dump."""
    return read_p2m_dump(io.BytesIO(text), "p2m.txt").tuples()


def test_every_type_of_run() -> None:
    assert rows(DUMP) == [
        (0x0, 0x130000, 10),
        (0xA, IDENTITY | 0xA, 6),
        (0x10, 0x13C3B2, 1), (0x11, 0x13C3B1, 1), (0x12, 0x13C3B0, 1),
        (0x13, 0x13AFC3, 1),
        (0x14, FOREIGN | 0x44206, 1),
        (0x15, INVALID, 27),
    ]


def test_it_looks_like_a_dump() -> None:
    assert looks_like_p2m_dump(DUMP)
    assert looks_like_p2m_dump(DUMP.split(b"\n", 1)[1])
    assert not looks_like_p2m_dump(b"# tracer: nop\n")


@pytest.mark.parametrize(("line", "reason"), [
    (b"pfn=0x5-0x3 type=LOCAL mfn=0x1 step=+1", "is not a range of pfns"),
    (b"pfn=0x5-0x5 type=LOCAL mfn=0x8000000000000001", "is of type FOREIGN, not LOCAL"),
    (b"pfn=0x5-0x5 type=FOREIGN mfn=0xffffffffffffffff", "is of type INVALID, not FOREIGN"),
    (b"pfn=0x5-0x5 type=LOCALE mfn=0x1", "unknown type 'LOCALE' (did you mean 'LOCAL'?)"),
    (b"pfn=0x5-0x9 type=LOCAL mfn=0x1", "needs step=+1 or step=-1"),
    (b"pfn=0x5-0x9 type=LOCAL mfn=0x3 step=-1", "runs out of the frames"),
    (b"pfn=0x5-0x9 type=LOCAL mfn=0xffffffffffffe step=+1", "runs out of the frames"),
    (b"pfn=0x5-0x9 type=LOCAL mfn=0x1 step=+2", "not a run of p2m entries"),
    (b"pfn=5-9 type=LOCAL mfn=0x1", "not a run of p2m entries"),
    (b"pfn=0x0-0xfffffffffffff type=LOCAL mfn=0xfffffffffffff step=-1", "a falling run of"),
    (b"x" * 10_000_000, "the line is too long"),
])
def test_a_bad_line_is_an_error_that_names_it(line: bytes, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        rows(b"# Linux p2m\n" + line + b"\n")
    assert str(caught.value).startswith("p2m.txt:2: ")
    assert reason in str(caught.value)


def test_a_page_given_twice_is_an_error() -> None:
    with pytest.raises(InputError, match=r"p2m\.txt:2: pfn 0x4 comes after 0x5"):
        rows(b"pfn=0x0-0x5 type=LOCAL mfn=0x1 step=+1\npfn=0x4-0x4 type=LOCAL mfn=0x9\n")


def test_a_dump_that_lacks_a_line_does_not_pass_for_a_whole_one() -> None:
    lines = DUMP.splitlines(keepends=True)
    with pytest.raises(InputError, match=r"p2m\.txt:7: the dump's totals are"):
        rows(b"".join(lines[:4] + lines[5:]))


def test_a_dump_without_totals_is_read() -> None:
    assert len(rows(b"".join(DUMP.splitlines(keepends=True)[:-1]))) == 8


def test_no_run_is_an_error() -> None:
    with pytest.raises(InputError, match=r"p2m\.txt: no run of p2m entries"):
        rows(b"# Linux p2m\n")


def test_every_truncation_is_an_error_or_whole_lines() -> None:
    whole = rows(DUMP)
    for end in range(len(DUMP)):
        try:
            part = rows(DUMP[:end])
        except InputError:
            continue
        assert DUMP[end - 1 : end] == b"\n"
        assert part == whole[: len(part)]


def test_ten_thousand_flipped_bytes() -> None:
    flips = random.Random(3)
    for _ in range(10_000):
        damaged = bytearray(DUMP)
        damaged[flips.randrange(len(damaged))] = flips.randrange(256)
        try:
            assert len(rows(bytes(damaged))) < 40
        except InputError as error:
            assert "\n" not in str(error)


@given(st.binary(max_size=500))
def test_binary_junk(junk: bytes) -> None:
    looks_like_p2m_dump(junk)
    with pytest.raises(InputError):
        rows(junk + b"\n\0")
