"""xentrace's binary file: records of every form, damage, and a real one."""

from __future__ import annotations

import io
import lzma
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenm2p.errors import InputError
from xenm2p.formats import xentrace
from xenm2p.formats.xentrace import Grant, Xentrace, looks_like_xentrace, read_xentrace

REAL = Path(__file__).parents[1] / "data" / "captures" / "tcmd-phy-nopersist.xentrace.xz"

MAP, UNMAP, TRANSFER = 0x10F001, 0x10F002, 0x10F003
LOST, WRAP, CPU_CHANGE = 0x1F001, 0x1F002, 0x1F003


def record(event: int, *extra: int, tsc: int | None = None) -> bytes:
    """One record."""
    head = event | len(extra) << 28 | (tsc is not None) << 31
    cycles = b"" if tsc is None else struct.pack("<Q", tsc)
    return struct.pack("<I", head) + cycles + struct.pack(f"<{len(extra)}I", *extra)


def window(cpu: int, *records: bytes) -> bytes:
    """What xentrace takes at once from one processor's buffer."""
    body = b"".join(records)
    return record(CPU_CHANGE, cpu, len(body)) + body


SMALL = (
    window(0, record(MAP, 3, tsc=1 << 40), record(0x20F00F, 1, 2, 3, tsc=7), record(WRAP, 0, 0))
    + window(1, record(UNMAP, 3, tsc=(1 << 40) + 5), record(LOST, 9, 0, 0, 0, tsc=11))
    + window(0)
    + window(3, record(LOST, 4), record(TRANSFER, 7, tsc=12), record(0x21000, tsc=13)))


def read(data: bytes) -> Xentrace:
    """The records of a file."""
    return read_xentrace(io.BytesIO(data), "x.bin")


def rows(found: Xentrace) -> list[tuple[int, ...]]:
    """(tsc, cpu, kind, domid) of each grant record."""
    return list(zip(found.tsc.tolist(), found.cpu.tolist(), found.kind.tolist(),
                    found.domid.tolist(), strict=True))


def test_records_of_every_form() -> None:
    found = read(SMALL)
    assert rows(found) == [(1 << 40, 0, Grant.MAP, 3), ((1 << 40) + 5, 1, Grant.UNMAP, 3),
                           (12, 3, Grant.TRANSFER, 7)]
    assert (found.records, found.lost, found.cut) == (12, 13, False)
    assert found.lost_tsc.tolist() == [11]


def test_in_order_of_the_cycle_count() -> None:
    assert read(SMALL).in_order().tsc.tolist() == [12, 1 << 40, (1 << 40) + 5]


def test_it_looks_like_xentrace() -> None:
    assert looks_like_xentrace(SMALL)
    assert not looks_like_xentrace(SMALL[1:])
    assert not looks_like_xentrace(b"")


def test_a_real_file() -> None:
    """xenalyze tells 26256 bytes of grant records of cpu 0 and 50096 of cpu 1, 16 each."""
    found = read(lzma.decompress(REAL.read_bytes()))
    assert np.bincount(found.cpu).tolist() == [26256 // 16, 50096 // 16]
    assert np.bincount(found.kind).tolist() == [2386, 2386]
    assert set(found.domid.tolist()) == {0}
    assert (found.records, found.lost, found.cut) == (4807, 0, False)


@pytest.mark.parametrize("block", [4, 12, 60, 1000])
def test_whatever_the_blocks_are(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(SMALL)
    monkeypatch.setattr(xentrace, "_BLOCK", block)
    assert rows(read(SMALL)) == rows(whole)
    assert read(SMALL).records == whole.records


def test_every_truncation_gives_the_records_before_it() -> None:
    whole = rows(read(SMALL))
    for end in range(len(SMALL)):
        try:
            part = read(SMALL[:end])
        except InputError as error:
            assert str(error).startswith("x.bin:")
            continue
        assert rows(part) == whole[: len(part)]
        # At the end of a window nothing shows that there were others.
        assert part.cut or SMALL[end:].startswith(record(CPU_CHANGE, 0, 0)[:4])


def test_flipped_bytes_give_records_or_one_line() -> None:
    dice = random.Random(3)
    for _ in range(3000):
        damaged = bytearray(SMALL)
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        try:
            read(bytes(damaged))
        except InputError as error:
            assert str(error).startswith("x.bin:")


@given(st.binary(max_size=200))
def test_any_bytes_give_records_or_one_line(data: bytes) -> None:
    for text in (data, SMALL[:12] + data):
        try:
            read(text)
        except InputError as error:
            assert str(error).startswith("x.bin:")


@pytest.mark.parametrize(("data", "reason"), [
    pytest.param(b"", "x.bin: no record of xentrace in it", id="empty"),
    pytest.param(record(CPU_CHANGE, 0, 16) + SMALL,
                 "x.bin:byte 12: damaged: a processor's records end here, and not at byte 28 as "
                 "was said", id="a window too short"),
    pytest.param(window(0) + record(MAP, 0, tsc=1),
                 "x.bin:byte 12: damaged: no processor's record at byte 12", id="no window"),
    pytest.param(record(CPU_CHANGE, 0),
                 "x.bin:byte 0: damaged: a processor's record has another size",
                 id="a strange window"),
])
def test_damage_names_its_place(data: bytes, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read(data)
    assert str(caught.value) == reason
