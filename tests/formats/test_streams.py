"""Input streams: plain and compressed bytes, from files and pipes, and what can go wrong."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import random
import re
import sys
import tracemalloc
from pathlib import Path

import pytest

from xenm2p.errors import InputError
from xenm2p.formats.streams import PEEK, open_input

with contextlib.suppress(ImportError):  # the extra xenm2p[zst]
    import zstandard

DATA = bytes(random.Random(3).choices(b"0123456789abcdef\n", k=40_000))
PACK = {"gzip": gzip.compress, "xz": lzma.compress}
if "zstandard" in sys.modules:
    PACK["zstd"] = zstandard.compress


@pytest.fixture(params=PACK)
def packing(request):
    return request.param


def stored(folder: Path, data: bytes) -> str:
    path = folder / "input"
    path.write_bytes(data)
    return str(path)


def read_all(name: str) -> bytes:
    with open_input(name) as opened:
        return opened.stream.read()


def error_of(name: str) -> str:
    with pytest.raises(InputError) as caught:
        read_all(name)
    return str(caught.value)


class TestContent:
    def test_plain_file_can_be_mapped(self, tmp_path):
        name = stored(tmp_path, DATA)
        with open_input(name) as opened:
            assert opened.path == Path(name)
            assert opened.first == DATA[:PEEK]
            assert opened.stream.read() == DATA

    def test_compressed_file(self, tmp_path, packing):
        name = stored(tmp_path, PACK[packing](DATA))
        with open_input(name) as opened:
            assert opened.path is None
            assert opened.first == DATA[:PEEK]
            assert opened.stream.read() == DATA

    def test_concatenated_streams(self, tmp_path, packing):
        assert read_all(stored(tmp_path, PACK[packing](DATA) * 3)) == DATA * 3

    def test_xz_padding(self, tmp_path):
        packed = lzma.compress(DATA) + bytes(8) + lzma.compress(DATA) + bytes(4)
        assert read_all(stored(tmp_path, packed)) == DATA * 2

    def test_empty_file(self, tmp_path):
        assert read_all(stored(tmp_path, b"")) == b""

    def test_compressed_nothing(self, tmp_path, packing):
        assert read_all(stored(tmp_path, PACK[packing](b""))) == b""

    def test_standard_input(self, monkeypatch, packing):
        packed = io.BytesIO(PACK[packing](DATA))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(packed))
        assert read_all("-") == DATA

    def test_standard_input_stays_open(self, monkeypatch):
        stdin = io.TextIOWrapper(io.BytesIO(DATA))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert read_all("-") == DATA
        assert not stdin.buffer.closed

    def test_pipe_that_gives_a_byte_at_a_time(self, monkeypatch):
        class Slow(io.BytesIO):
            def read(self, size=-1):
                return super().read(1)

        packed = Slow(gzip.compress(b"hello"))
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": packed})())
        with open_input("-") as opened:
            assert opened.first == b"hello"
            assert opened.stream.read() == b"hello"

    def test_fifo_cannot_be_mapped(self, tmp_path):
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        both = os.open(fifo, os.O_RDWR)  # so that opening does not wait for a writer
        try:
            os.write(both, b"x" * PEEK)
            with open_input(str(fifo)) as opened:
                assert opened.path is None
                assert opened.stream.read(PEEK) == b"x" * PEEK
        finally:
            os.close(both)


class TestErrors:
    def test_missing_file_names_the_nearest(self, tmp_path):
        (tmp_path / "trace.yaml").touch()
        name = str(tmp_path / "trace.yml")
        assert error_of(name) == f"{name}: no such file (did you mean 'trace.yaml'?)"

    def test_missing_folder(self, tmp_path):
        assert error_of(f"{tmp_path}/a/b") == f"{tmp_path}/a/b: no such file"

    def test_directory(self, tmp_path):
        assert error_of(str(tmp_path)) == f"{tmp_path}: is a directory"

    def test_no_permission(self, tmp_path, monkeypatch):
        def refuse(*_args, **_options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)  # root may read everything
        assert error_of(f"{tmp_path}/x") == f"{tmp_path}/x: no permission to read it"

    def test_name_with_nul(self):
        assert error_of("a\0b") == "'a\\x00b': not a file name"

    def test_name_too_long(self):
        assert "cannot be read: File name too long" in error_of("x" * 5000)

    def test_closed_standard_input(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", None)
        assert error_of("-") == "-: standard input is closed"

    def test_disk_error_while_reading(self, monkeypatch):
        class Broken(io.BytesIO):
            def read(self, size=-1):
                raise OSError(5, "Input/output error")

        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Broken()})())
        assert error_of("-") == "-: cannot be read: Input/output error"

    def test_cut_short_at_any_byte(self, tmp_path, packing):
        packed = PACK[packing](b"some text\n" * 9)
        for size in range(6, len(packed)):
            assert f"{packing} data is cut short" in error_of(stored(tmp_path, packed[:size]))

    def test_place_of_the_cut_is_named(self, tmp_path):
        name = stored(tmp_path, gzip.compress(DATA)[:-1])
        said = re.fullmatch(rf"{name}:byte (\d+): gzip data is cut short", error_of(name))
        assert said is not None
        assert len(DATA) // 2 < int(said[1]) <= len(DATA)

    def test_flipped_bytes_never_give_a_traceback(self, tmp_path, packing):
        packed = PACK[packing](DATA[:2000])
        chance = random.Random(5)
        for _ in range(300):
            data = bytearray(packed)
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            try:
                read_all(stored(tmp_path, bytes(data)))
            except InputError as error:
                assert "\n" not in str(error)

    @pytest.mark.parametrize("kind", ["gzip", "xz"])
    def test_garbage_after_the_stream(self, tmp_path, kind):
        assert "is damaged" in error_of(stored(tmp_path, PACK[kind](DATA) + b"garbage" * 9))

    def test_zstd_without_the_extra(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "zstandard", None)
        name = stored(tmp_path, b"\x28\xb5\x2f\xfd")
        assert error_of(name) == (f"{name}: zstd data needs the extra xenm2p[zst]; "
                                  f"or: zstd -dc {name} | xenm2p ... -")

    def test_zstd_without_the_extra_from_a_pipe(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "zstandard", None)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x28\xb5\x2f\xfd")))
        assert "or: zstd -dc | xenm2p ... -" in error_of("-")


def test_memory_does_not_grow_with_the_content(tmp_path, packing):
    name = stored(tmp_path, PACK[packing](bytes(100 << 20)))
    size = 0
    tracemalloc.start()
    try:
        with open_input(name) as opened:
            while piece := opened.stream.read(1 << 20):
                size += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 100 << 20
    assert peak < 48 << 20
