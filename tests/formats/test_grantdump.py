"""Grant-table dumps: entries of all tables, and a clean error for what is no whole dump."""

from __future__ import annotations

import io
import lzma
import random
from pathlib import Path

import pytest

from xenm2p.errors import InputError
from xenm2p.formats.grantdump import GrantDump, looks_like_grant_dump, read_grant_dump

CAPTURES = Path(__file__).parents[1] / "data" / "captures"

DUMP = b"""\
(XEN) gnttab_usage_print_all [ key 'g' pressed
(XEN)       -------- active --------       -------- shared --------
(XEN) [ref] localdom mfn      pin          localdom gmfn     flags
(XEN) grant-table for remote d0 (v1)
(XEN)   2 frames (64 max), 6 maptrack frames (1024 max)
(XEN) no active grant table entries
(XEN)       -------- active --------       -------- shared --------
(XEN) [ref] localdom mfn      pin          localdom gmfn     flags
(XEN) grant-table for remote d7 (v1)
(XEN)   1 frames (64 max), 0 maptrack frames (1024 max)
(XEN) [0x000]      0 0xbdc02 0x00000002          0 0x0bdc02 0x19
(XEN) [0x315]      3 0x40502 0x00000100          3 0x040502 0x09
(XEN) gnttab_usage_print_all ] done
"""
ROWS = [(7, 0, 0, 0xBDC02, 2), (7, 0x315, 3, 0x40502, 1)]


def read(text: bytes) -> GrantDump:
    """The dump in a text."""
    return read_grant_dump(io.BytesIO(text), "dmesg.txt")


def rows(dump: GrantDump) -> list[tuple[int, ...]]:
    """(granter, ref, mapper, mfn, pins) of each entry."""
    return list(zip(*(getattr(dump, name).tolist()
                      for name in ("granter", "ref", "mapper", "mfn", "pins")), strict=True))


def test_the_entries_of_all_tables() -> None:
    assert rows(read(DUMP)) == ROWS


@pytest.mark.parametrize(("name", "entries"), [
    ("self-phy-persist", 827), ("self-phy-midstart", 827), ("self-phy-nopersist-min", 3),
    ("domu-phy-nopersist", 3)])
def test_real_dumps(name: str, entries: int) -> None:
    text = lzma.decompress((CAPTURES / f"{name}.grants.xz").read_bytes())
    assert looks_like_grant_dump(text[:8192])
    assert len(read(text)) == entries


@pytest.mark.parametrize(("pin", "pins"), [
    (0x1, 1), (0x100, 1), (0x203, 5), (0x01010001, 1), (0x00010000, 0)])
def test_mappings_by_the_processors_are_counted(pin: int, pins: int) -> None:
    text = DUMP.replace(b"0x00000002", f"0x{pin:08x}".encode())
    assert rows(read(text))[0][4] == pins


def test_the_dump_of_older_hypervisors() -> None:
    text = (DUMP.replace(b"grant-table for remote d7 (v1)", b"grant-table for remote domain:    7"
                         b" (v1)").replace(b"[0x000]", b"[  0]").replace(b"[0x315]", b"[789]"))
    assert rows(read(text)) == ROWS


def test_other_lines_of_the_log_and_time_stamps() -> None:
    stamped = DUMP.replace(b"(XEN) ", b"(XEN) [2026-11-20 10:00:00] ")
    log = b"(XEN) Xen version 4.17\n[0x000] 0x1\n" + stamped + b"(XEN) d1 dies\n"
    assert rows(read(log)) == ROWS


def test_the_last_of_several_dumps_counts() -> None:
    first = DUMP.replace(b"0xbdc02", b"0xbdc03")
    assert rows(read(first + b"(XEN) other\n" + DUMP)) == ROWS


@pytest.mark.parametrize(("text", "reason"), [
    (b"", "dmesg.txt: no grant-table dump (xl debug-keys g) in it"),
    (b"(XEN) Xen version\n", "dmesg.txt: no grant-table dump (xl debug-keys g) in it"),
    (DUMP.rpartition(b"(XEN) gnttab")[0],
     "dmesg.txt:12: the grant-table dump is cut short: it has no end"),
    (b"\n".join(DUMP.split(b"\n")[1:]), "dmesg.txt:3: the grant-table dump has no beginning: "
     "Xen's log ring wrapped (conring_size=); clear it with `xl dmesg -c` before "
     "`xl debug-keys g`"),
    (DUMP.replace(b"0xbdc02 0x00000002", b"0xbdc02 0x2"),
     "dmesg.txt:11: not an entry of a grant table"),
    (DUMP.replace(b"0xbdc02", b"0xfffffffffffffff"), "dmesg.txt:11: a number in it is too large"),
    (DUMP.replace(b"grant-table for remote d0", b"").replace(b"grant-table for remote d7", b""),
     "dmesg.txt:11: an entry before any 'grant-table for remote'"),
])
def test_what_is_no_whole_dump(text: bytes, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value) == reason


def test_every_truncation_is_refused_or_whole() -> None:
    end_of_last = len(DUMP.rstrip())
    for end in range(len(DUMP)):
        if end >= end_of_last:
            assert rows(read(DUMP[:end])) == ROWS
            continue
        with pytest.raises(InputError):
            read(DUMP[:end])


def test_flipped_bytes_give_a_dump_or_one_line() -> None:
    dice = random.Random(4)
    for _ in range(2000):
        damaged = bytearray(DUMP)
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        try:
            read(bytes(damaged))
        except InputError as error:
            assert str(error).startswith("dmesg.txt:")
