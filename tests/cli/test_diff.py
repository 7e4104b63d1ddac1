"""`xenm2p diff` as typed: what it shows, and its exit status."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Thread

import pytest

from tests.cli.conftest import DEADLOCK, Run
from tests.test_captures import CAPTURES
from tests.test_traces import TRACES
from xenm2p.report.formats import WRITERS

MOUNT = TRACES / "mount-ext4-same-domain.yaml"
BADREF = TRACES / "gntdev-badref.ftrace.txt.xz"
RENAMED = (DEADLOCK.replace("0x1010", "0x10aa").replace("0x8000", "0x8003")
           .replace("0x50010", "0x500aa").replace("ref: 8", "ref: 77")
           .replace("handle: 3", "handle: 9").replace("qemu-77", "qemu-1234")
           .replace("000, kind", "999, kind"))


def lines_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_trace_under_two_kernels(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("diff", deadlock, "--kernel-a", "3.4", "--kernel-b", "3.5")
    assert (done.status, done.err) == (1, "")
    assert "kernel A     override (Linux 2.6.38-3.4.9)\n" in done.out
    assert "first        event 1 is the first with another outcome" in done.out
    assert "+    p2m[0x1010] 0x50010 -> F:0x50010 (frontend, FOREIGN set)" in done.out
    assert "-    resolves to 0x1010\n+    resolves to 0x8000\n" in done.out
    assert ["XM101", "lock-collision", "1", "-", "-"] in map(str.split, done.out.splitlines())


def test_kernels_of_one_model_are_the_same(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("diff", deadlock, deadlock, "--kernel-a", "3.5", "--kernel-b", "3.14")
    assert done.status == 0
    assert "the same\n" in done.out and "@@" not in done.out


def test_one_trace_without_a_second_kernel_is_a_usage_error(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("diff", deadlock)
    assert (done.status, done.out) == (2, "")
    assert "--kernel-a" in done.err
    assert xenm2p("diff", deadlock, "--kernel-a", "3.x").status == 2


def test_a_renamed_copy_is_the_same(xenm2p: Run, deadlock: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(RENAMED)
    done = xenm2p("diff", deadlock, other)
    assert done.status == 0, done.out
    assert "the same\n" in done.out


def test_a_missing_unmap(xenm2p: Run, deadlock: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("".join(line for line in RENAMED.splitlines(keepends=True)
                             if "unmap" not in line))
    done = xenm2p("diff", deadlock, other)
    assert done.status == 1
    assert "-3 unmap pfn 0x8000 user handle 3\n" in done.out
    assert "only in A: unmap 1" in done.out
    (header, row) = lines_of(xenm2p("diff", "-f", "jsonl", deadlock, other).out)
    assert header == {"schema": "xenm2p/1", "table": "diff", "a": str(deadlock),
                      "b": str(other)}
    assert row == {"op": "missing", "table": "events", "what": "unmap 1", "event_a": 3,
                   "event_b": None, "count": 1, "a": "3 unmap pfn 0x8000 user handle 3",
                   "b": None}


def test_filters_choose_the_events_that_are_compared(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("".join(line for line in RENAMED.splitlines(keepends=True)
                             if "unmap" not in line))
    assert xenm2p("diff", "--to", "2", deadlock, other).status == 0
    assert xenm2p("diff", "--kind", "lock_page", "-q", deadlock, other).status == 0
    done = xenm2p("diff", "--kind", "unmap", deadlock, other)
    assert done.status == 1 and "-3 unmap" in done.out


def test_a_capture_and_the_file_made_of_it_are_the_same(xenm2p: Run, tmp_path: Path) -> None:
    converted = tmp_path / "trace.xm2p"
    assert xenm2p("convert", BADREF, "-o", converted).status == 0
    done = xenm2p("diff", BADREF, converted)
    assert (done.status, done.err) == (0, "")


def test_two_captures_of_one_workload(xenm2p: Run) -> None:
    done = xenm2p("diff", CAPTURES / "v4-tgid-scalar-fault.txt.xz",
                  CAPTURES / "v7-clock-mono.txt.xz")
    assert done.status == 1
    assert "shares       2153 in A, 2153 in B, 2153 in both" in done.out
    assert "missing      6 in 1 stretch, only in A: end_grant 6" in done.out
    assert len(done.out.splitlines()) < 150
    assert all(len(line) <= 72 and line.isascii() for line in done.out.splitlines()
               if "/" not in line)


def test_saved_replays(xenm2p: Run, deadlock: Path, tmp_path: Path) -> None:
    saved = {}
    for kernel in ("3.4", "3.5"):
        saved[kernel] = tmp_path / f"{kernel}.jsonl"
        xenm2p("replay", "--events", "-f", "jsonl", "-k", kernel, "-o", saved[kernel], deadlock)
    assert xenm2p("diff", saved["3.4"], saved["3.4"]).status == 0
    done = xenm2p("diff", saved["3.4"], saved["3.5"])
    assert done.status == 1
    assert "transitions  2 only in B" in done.out
    assert "-event 2: resolved 0x1010\n+event 2: resolved 0x8000\n" in done.out
    rows = lines_of(xenm2p("diff", "-f", "jsonl", saved["3.4"], saved["3.5"]).out)[1:]
    assert {row["table"] for row in rows} >= {"findings", "transitions", "events"}
    again = xenm2p("diff", saved["3.5"], deadlock)
    assert again.status == 0, again.out  # replayed under the saved one's kernel
    assert xenm2p("diff", saved["3.5"], deadlock, "--kernel-b", "3.4").status == 1


@pytest.mark.parametrize("text", [
    b'{"schema": 1}\n', b'{"schema": "xenm2p/1", "table": "events"}\n[1]\n',
    b'{"schema": "xenm2p/1", "table": "events"}\n{"event": 1\n',
    b'{"schema": "xenm2p/9", "table": "events"}\n', b'{"schema": "xenm2p/1", "table": "a"}\n' * 2,
    b'{"schema": "xenm2p/1", "table": []}\n', b'{"schema": \xff\n'])
def test_a_damaged_saved_replay_is_one_line(
    xenm2p: Run, deadlock: Path, tmp_path: Path, text: bytes
) -> None:
    saved = tmp_path / "saved.jsonl"
    saved.write_bytes(text)
    for names in ((saved, deadlock), (saved, saved), (deadlock, saved)):
        done = xenm2p("diff", *names)
        assert done.status == 3 and done.out == ""
        assert done.err.count("\n") == 1 and str(saved) in done.err


@pytest.mark.parametrize("format_", WRITERS)
def test_every_format(xenm2p: Run, deadlock: Path, format_: str) -> None:
    done = xenm2p("diff", "-f", format_, "-k", "3.4", "--kernel-b", "3.5", deadlock)
    assert done.status == 1 and "F:0x50010" in done.out


def test_side_by_side(xenm2p: Run) -> None:
    done = xenm2p("diff", "-y", "--limit", "3", MOUNT, "--kernel-a", "3.4", "--kernel-b", "3.5")
    assert done.status == 1
    assert max(map(len, done.out.splitlines())) <= 72
    assert "more differences" in done.out


def test_quiet_says_nothing_and_a_missing_file_does(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("diff", "-q", "--kernel-a", "3.4", "--kernel-b", "3.5", deadlock)
    assert (done.status, done.out, done.err) == (1, "", "")
    done = xenm2p("diff", deadlock, "nothing.yaml")
    assert (done.status, done.out) == (3, "")
    assert done.err.count("\n") == 1


def test_standard_input(xenm2p: Run, deadlock: Path) -> None:
    assert xenm2p("diff", "-", deadlock, stdin=DEADLOCK).status == 0
    done = xenm2p("diff", "-", "--kernel-a", "3.4", "--kernel-b", "3.5", stdin=DEADLOCK)
    assert done.status == 1


def test_a_pipe_given_by_its_path_is_read_once(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    """Its begin was lost when it was asked whether it is a saved replay."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_bytes, args=[deadlock.read_bytes()])
    writer.start()
    done = xenm2p("diff", pipe, deadlock)
    writer.join()
    assert (done.status, done.err) == (0, "")
