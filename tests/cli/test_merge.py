"""Several files of one capture on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.formats.ftrace_text import (
    INVALID,
    Grant,
    foreign,
    line,
    map_call,
    set_p2m,
    unmap_call,
)

GRANT = Grant(0x8FE02, 0xBDC01)


@pytest.fixture
def cpus(tmp_path: Path) -> Path:
    """A directory with the text of two cpus: a map and its unmap on one, writes on the other."""
    (tmp_path / "cpu0.txt").write_text(
        line(map_call(GRANT), cpu=0, time=1.0) + line(unmap_call(GRANT), cpu=0, time=3.0))
    (tmp_path / "cpu1.txt").write_text(
        line(set_p2m(GRANT.pfn, foreign(GRANT.mfn)), cpu=1, time=2.0)
        + line(set_p2m(GRANT.pfn, INVALID), cpu=1, time=4.0))
    return tmp_path


def kinds(out: str) -> list[str]:
    """The kinds of all events of `export -t events -f jsonl`."""
    return [json.loads(row)["kind"] for row in out.splitlines()[1:]]


def test_a_directory_and_merged_files_are_the_same(xenm2p: Run, cpus: Path) -> None:
    export = ("export", "-t", "events", "-f", "jsonl")
    folder = xenm2p(*export, cpus)
    files = xenm2p(*export, cpus / "cpu0.txt", "--merge", cpus / "cpu1.txt")
    assert kinds(folder.out) == ["map", "p2m_write", "unmap", "p2m_write"]
    assert kinds(files.out) == kinds(folder.out)


def test_replay_takes_all_files_named_as_one(xenm2p: Run, cpus: Path) -> None:
    names = [cpus / "cpu0.txt", cpus / "cpu1.txt"]
    for words in ([names[0], "--merge", names[1]], ["--merge", names[1], names[0]],
                  ["--merge", names[0], names[1]]):
        done = xenm2p("replay", *words)
        assert done.status == 0, done.err
        assert "1 map, 1 unmap" in done.out
        assert "merged by time:" in " ".join(done.out.split())
        assert "--merge" in done.out.partition("All events:")[2]


def test_without_merge_each_trace_is_its_own(xenm2p: Run, cpus: Path) -> None:
    done = xenm2p("replay", cpus / "cpu0.txt", cpus / "cpu1.txt")
    assert "merged" not in done.out
    assert done.out.count("\ntrace ") == 2


@pytest.mark.parametrize("command", ["info", "check"])
def test_info_and_check(xenm2p: Run, cpus: Path, command: str) -> None:
    done = xenm2p(command, "-f", "json", cpus / "cpu0.txt", "--merge", cpus / "cpu1.txt")
    assert done.status == 0, done.err
    assert json.loads(done.out)["events"] == 4
    assert json.loads(xenm2p(command, "-f", "json", cpus).out)["events"] == 4


def test_convert(xenm2p: Run, cpus: Path, tmp_path: Path) -> None:
    done = xenm2p("convert", cpus, "-o", tmp_path / "all.yaml")
    assert done.status == 0
    assert (tmp_path / "all.yaml").read_text().count("kind: ") == 4


def test_a_missing_part_is_named(xenm2p: Run, cpus: Path) -> None:
    done = xenm2p("replay", cpus / "cpu0.txt", "--merge", cpus / "cpu2.txt")
    assert (done.status, done.out) == (3, "")
    assert done.err.startswith(f"xenm2p: {cpus / 'cpu2.txt'}: no such file")


def test_a_directory_without_parts(xenm2p: Run, tmp_path: Path) -> None:
    done = xenm2p("info", tmp_path)
    assert done.status == 3
    assert done.err == (f"xenm2p: {tmp_path}: is a directory without files of single cpus "
                        "(cpu0/trace, trace.cpu0.txt and the like)\n")


def test_the_raw_ring_buffer_has_a_hint(xenm2p: Run, tmp_path: Path) -> None:
    """The first bytes of a page, as Linux 6.18 gives them in per_cpu/cpu0/trace_pipe_raw."""
    path = tmp_path / "trace_pipe_raw"
    path.write_bytes(bytes.fromhex(
        "718400d445040000 3800000000000000 0600000005000001 ff18000001a04a81") + bytes(4064))
    done = xenm2p("info", path)
    assert done.status == 3
    assert "may be trace_pipe_raw" in done.err
    assert "record with trace-cmd" in done.err
