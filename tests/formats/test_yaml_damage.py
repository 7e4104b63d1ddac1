"""Damaged and hostile YAML: a clean error or a right result, in bounded time and memory."""

from __future__ import annotations

import io
import random
import tracemalloc

import pytest

from tests.formats.test_yaml_fast import assert_same_outcome
from xenm2p.errors import InputError
from xenm2p.formats.yaml import read_yaml, read_yaml_strictly

HEAD = b"format: xenm2p-trace\nversion: 1\n"
SMALL = HEAD + b"""\
kernel: 3.4.5
origin: "gr\xc3\xb6\xc3\x9fe"
memory:
- {pfn: 0x1000, mfn: 0x50000, count: 256}
- {pfn: 0x8000, count: 64}
events:
- {time: 1000, kind: lock_page, pfn: 0x1010, task: mount-1042}
- {time: 2000, kind: map, mfn: 0x50010, pfn: 0x8000, user: true, ref: 8, status: -1}
- {time: 2500, kind: set_p2m, pfn: 0x1011, mfn: F:0x50011, task: "a, b"}
- {time: 9000, kind: unmap, pfn: 0x8000, user: true, handle: 3}
"""


class Endless(io.RawIOBase):
    """A stream that begins with some bytes and repeats others for ever."""

    def __init__(self, first: bytes, then: bytes):
        self._first = io.BytesIO(first)
        self._then = then
        self.given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._first.read(size) or (self._then * (size // len(self._then) + 1))[:size]
        self.given += len(data)
        return data


def test_cut_at_every_byte():
    for size in range(len(SMALL)):
        assert_same_outcome(SMALL[:size])


def test_thousands_of_flipped_bytes():
    chance = random.Random(20120411)
    for _ in range(2500):
        data = bytearray(SMALL)
        for _ in range(chance.choice([1, 1, 2, 8])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        assert_same_outcome(bytes(data))


def test_random_bytes():
    chance = random.Random(7)
    for _ in range(200):
        assert_same_outcome(chance.randbytes(chance.randrange(200)))


@pytest.mark.parametrize(("first", "then"), [
    (HEAD + b"origin: ", b"x"),
    (HEAD + b'origin: "', b"x y\n"),
    (HEAD + b"origin: |\n", b" many lines\n"),
    (HEAD + b"events:\n- {time: ", b"1"),
    (HEAD + b"events:\n- {time: 1, kind: lock_page, pfn: 1, task: ", b"a b"),
    (HEAD + b"events:\n- {time: 1, kind: lock_page, pfn: 1, task: '", b"a b\n  "),
    (HEAD + b"events:\n- {time: 1, ", b" "),
    (HEAD + b"? ", b"key"),
    (b"", b"x"),
    (b"%", b"YAML"),
    (b"# ", b"comment"),
    (b"", b"\0"),
], ids=lambda part: part[-12:])
def test_value_without_end_is_refused_in_bounded_memory(first, then):
    stream = Endless(first, then)
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read_yaml(stream, "t.yaml")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stream.given < 8 << 20
    assert peak < 64 << 20


@pytest.mark.parametrize("opening", [b"[", b"{", b"{a: ", b"- ", b"? ", b"[{a: "])
@pytest.mark.parametrize("first", [b"", HEAD + b"events:\n- ", HEAD + b"events:\n- {time: "])
def test_deep_nesting_is_refused_at_its_first_level(first, opening):
    data = first + opening * 200_000
    for read in (read_yaml, read_yaml_strictly):
        with pytest.raises(InputError):
            read(data, "t.yaml")


def test_alias_bomb():
    levels = b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9))
                      for n in range(1, 30))
    bomb = b"a0: &a0 [lol]\n" + levels
    with pytest.raises(InputError, match="unknown key 'a0'"):
        read_yaml(bomb, "t.yaml")
    with pytest.raises(InputError, match=r"t.yaml:3: a YAML anchor \('a0'\) is not allowed"):
        read_yaml(HEAD + bomb.replace(b"a0:", b"origin:"), "t.yaml")


@pytest.mark.parametrize("data", [
    SMALL.decode().encode("utf-16"), SMALL.decode().encode("latin-1"), SMALL + b"\0",
    SMALL + b"# \xff\n", SMALL + b"- {time: 1, kind: lock_page, pfn: 1, task: \xed\xa0\x80}\n",
], ids=["utf-16", "latin-1", "nul", "comment", "surrogate"])
def test_what_is_no_utf8_is_refused(data):
    with pytest.raises(InputError, match="not a text in UTF-8"):
        read_yaml(data, "t.yaml")


def test_byte_of_the_damage_is_named_far_into_a_file():
    line = b"- {time: 1, kind: gup_fast, pfn: 0x7}\n"
    data = HEAD + b"events:\n" + line * 100_000
    with pytest.raises(InputError, match=f"^t.yaml:byte {len(data) + 2}: "):
        read_yaml(data + b"# \xff\n" + line, "t.yaml")


def test_line_of_an_error_is_right_far_into_a_file():
    lines = (b"# comment\n- {time: 1, kind: gup_fast, pfn: 0x7}\n"
             b"- {kind: lookup, mfn: 1, time: 2}  # left to the strict parser\n")
    data = HEAD + b"events:\n" + lines * 10_000 + b"- {time: 2, kind: gup_fast, pfn: 010}\n"
    with pytest.raises(InputError, match=r"^t\.yaml:30004: event 20000: 'pfn': '010' is not"):
        read_yaml(data, "t.yaml")
