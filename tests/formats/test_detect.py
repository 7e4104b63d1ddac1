"""Formats are found by content, whatever the file's name is."""

from __future__ import annotations

import gzip
import io
import lzma
import sys

import pytest

from xenm2p.errors import InputError
from xenm2p.formats.binary import write_binary
from xenm2p.formats.detect import format_of, read_trace
from xenm2p.formats.yaml import read_yaml
from xenm2p.trace import same_trace

YAML = b"""\
format: xenm2p-trace
version: 1
memory:
- {pfn: 0x1000, mfn: 0x50000, count: 256}
events:
- {time: 2000, kind: map, mfn: 0x50010, pfn: 0x8000, user: true, domid: 0, ref: 8, handle: 3}
"""


def named(first: bytes) -> str | None:
    found = format_of(first)
    return found.name if found else None


@pytest.mark.parametrize("first", [
    YAML,
    b"# a comment\n\n  # another\n" + YAML,
    b"\xef\xbb\xbf" + YAML,
    b"%YAML 1.1\n---\n" + YAML,
    b"--- \n" + YAML,
    YAML.replace(b"\n", b"\r\n"),
    b"events:\n- {time: 1, kind: gup_fast, pfn: 1}\n",
    b'{"format": "xenm2p-trace", "version": 1}',
    b"fromat: xenm2p-trace\n",
], ids=range(9))
def test_yaml(first):
    assert named(first) == "yaml"


@pytest.mark.parametrize("first", [
    b"# tracer: nop\n#\n# entries-in-buffer/entries-written: 12/12   #P:2\n",
    b"cpus=2\n          mount-1042  [000] .....  100.000001: map_refs: (x+0x0) count=1\n",
])
def test_ftrace(first):
    assert named(first) == "ftrace"


def test_binary():
    assert named(b"xenm2p\r\n" + bytes(100)) == "xm2p"


@pytest.mark.parametrize("first", [
    b"", b"hello world\n", b"services:\n  web:\n", bytes(64), b"\x7fELF\x02\x01", b"[1, 2]",
    b"<html>", b"a,b,c\n1,2,3\n",
])
def test_anything_else_is_unknown(first):
    assert named(first) is None


class TestReading:
    @pytest.fixture
    def trace(self):
        return read_yaml(YAML, "t.yaml")

    @pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
    def test_yaml_file_of_any_name(self, tmp_path, trace, pack):
        path = tmp_path / "trace.bin"
        path.write_bytes(pack(YAML))
        assert same_trace(read_trace(str(path)), trace)

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_binary_file(self, tmp_path, trace, pack):
        plain = tmp_path / "plain"
        with plain.open("wb") as out:
            write_binary(trace, out)
        path = tmp_path / "trace.yaml"
        path.write_bytes(pack(plain.read_bytes()))
        assert same_trace(read_trace(str(path)), trace)

    def test_standard_input(self, monkeypatch, trace):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(YAML)))
        assert same_trace(read_trace("-"), trace)

    def test_errors_name_what_the_user_named(self, tmp_path):
        path = tmp_path / "t"
        path.write_bytes(YAML + b"- {}\n")
        with pytest.raises(InputError, match=f"^{path}:7: event 1: 'kind' is missing"):
            read_trace(str(path))

    @pytest.mark.parametrize(("content", "said"), [
        (b"", "the file is empty"),
        (gzip.compress(b""), "the file is empty"),
        (b"hello world, this is text\n", "unknown format: it begins with 'hello world, thi'; "
                                         "looked for a binary trace's first bytes"),
        (b"\x00\xff\n", r"unknown format: it begins with '\x00\xff\n'; looked for"),
        (b"# Linux p2m (xen_p2m_addr) size=0xc0000\n", "this is a p2m dump; give it with"),
        (b"PERFILE2" + bytes(90), "this is a perf.data; give the output of `perf script`"),
        (b"\x17\x08Dtracing6\0", "byte 12: the file's header: ends too early: 0 of 1 bytes"),
    ])
    def test_unknown_content(self, tmp_path, content, said):
        path = tmp_path / "x"
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_trace(str(path))
        assert str(caught.value).startswith((f"{path}: {said}", f"{path}:{said}"))


class TestMemory:
    def test_rows_of_the_dump_come_first(self, tmp_path, trace_file):
        dump = tmp_path / "p2m.txt"
        dump.write_text("pfn=0x0-0x9e type=LOCAL mfn=0x130000 step=+1\n")
        rows = read_trace(str(trace_file), memory=str(dump)).memory.tuples()
        assert rows == [(0, 0x130000, 0x9F), (0x1000, 0x50000, 256)]

    def test_missing_dump(self, trace_file):
        with pytest.raises(InputError, match="/nowhere: no such file"):
            read_trace(str(trace_file), memory="/nowhere")

    @pytest.fixture
    def trace_file(self, tmp_path):
        path = tmp_path / "t.yaml"
        path.write_bytes(YAML)
        return path
