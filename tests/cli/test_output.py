"""-o: written whole or not at all, whatever happens in between."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import DEADLOCK, PROGRAM, Run

COMMANDS = (["replay"], ["export", "-t", "events"], ["info"], ["check"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_the_file_holds_what_standard_output_would(
    xenm2p: Run, deadlock: Path, tmp_path: Path, command: list[str]
) -> None:
    out = tmp_path / "out"
    done = xenm2p(*command, deadlock, "-o", out)
    assert done.out == ""
    assert out.read_text() == xenm2p(*command, deadlock).out
    assert sorted(tmp_path.iterdir()) == [deadlock, out]  # no temporary file is left


def test_findings_do_not_keep_the_file_from_being_written(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    assert xenm2p("replay", deadlock, "-o", tmp_path / "out").status == 1
    assert "1 deadlock" in (tmp_path / "out").read_text()


def test_an_existing_file_is_refused(xenm2p: Run, deadlock: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    done = xenm2p("info", deadlock, "-o", out)
    assert (done.status, out.read_text()) == (2, "old")
    assert done.err == f"xenm2p: {out}: the file exists; --force overwrites it\n"


def test_force_overwrites_and_keeps_the_mode(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    out.chmod(0o640)
    assert xenm2p("info", deadlock, "-o", out, "--force").status == 0
    assert "old" not in out.read_text()
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_of_any_new_file(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    xenm2p("info", deadlock, "-o", tmp_path / "out")
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out", "plain")}
    assert len(modes) == 1


def test_a_link_stays_and_its_target_is_replaced(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    assert xenm2p("info", deadlock, "-o", tmp_path / "link", "--force").status == 0
    assert (tmp_path / "link").is_symlink()
    assert "old" not in (tmp_path / "target").read_text()


def test_a_directory_is_refused(xenm2p: Run, deadlock: Path, tmp_path: Path) -> None:
    done = xenm2p("info", deadlock, "-o", tmp_path)
    assert (done.status, done.err) == (3, f"xenm2p: {tmp_path}: is a directory\n")


def test_a_directory_that_is_not_there_is_named(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    out = tmp_path / "none" / "out"
    done = xenm2p("info", deadlock, "-o", out)
    assert (done.status, done.err) == (3, f"xenm2p: {out}: no such directory\n")


def test_an_unreadable_trace_leaves_the_old_file(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    out, bad = tmp_path / "out", tmp_path / "bad.yaml"
    out.write_text("old")
    bad.write_text(DEADLOCK + "- {time: 6000, kind: mapp, mfn: 1, pfn: 2}\n")
    for command in (["replay"], ["export", "-t", "events"], ["convert", "--to", "xm2p"]):
        done = xenm2p(*command, bad, "-o", out, "--force")
        assert (done.status, out.read_text()) == (3, "old")
        assert "did you mean 'map'" in done.err
    assert sorted(tmp_path.iterdir()) == [bad, deadlock, out]


def test_one_unreadable_trace_of_several_leaves_the_old_file(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    done = xenm2p("replay", deadlock, tmp_path / "none", "-o", out, "--force")
    assert (done.status, out.read_text()) == (3, "old")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_full_disk_is_one_line(program: Run, deadlock: Path, command: list[str]) -> None:
    done = program(*command, deadlock, "-o", "/dev/full")
    assert done.status == 3
    assert done.err == "xenm2p: /dev/full: cannot write: No space left on device\n"


@pytest.mark.parametrize("command", [["--help"], ["replay", "--help"], ["--version"]])
def test_help_that_cannot_be_written_is_one_line(command: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*PROGRAM, *command], stdout=full, stderr=subprocess.PIPE)
    assert done.stderr == b"xenm2p: standard output: No space left on device\n"
    assert done.returncode == 3


def test_a_full_disk_behind_standard_output_is_one_line(deadlock: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*PROGRAM, "replay", deadlock], stdout=full,
                              stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 3
    assert done.stderr == b"xenm2p: standard output: No space left on device\n"


def test_a_closed_standard_output_is_one_line(deadlock: Path) -> None:
    words = " ".join(map(str, [*PROGRAM, "replay", deadlock]))
    done = subprocess.run(["bash", "-c", f"{words} >&-"], capture_output=True, timeout=60)
    assert done.returncode == 3
    assert done.stderr == b"xenm2p: standard output is closed\n"


def test_a_closed_standard_error_changes_nothing(deadlock: Path) -> None:
    words = " ".join(map(str, [*PROGRAM, "replay", deadlock]))
    done = subprocess.run(["bash", "-c", f"{words} 2>&-"], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"1 deadlock" in done.stdout


@pytest.mark.parametrize(("signal_", "status"), [
    (signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGHUP, 129),
    (signal.SIGINT, 130)])
def test_killed_in_the_middle_the_old_file_stays(
    tmp_path: Path, signal_: signal.Signals, status: int
) -> None:
    out = tmp_path / "out.xm2p"
    out.write_text("old")
    process = subprocess.Popen(
        [*PROGRAM, "generate", "same-domain", "--events", "1000000000", "--force", "-o", out],
        stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr:
        wait_for(lambda: temporary_size(tmp_path) > 1 << 20)
        process.send_signal(signal_)
        assert process.wait(timeout=60) == status
        assert process.stderr.read() == b""
    assert out.read_text() == "old"
    if signal_ != signal.SIGKILL:  # which nobody can clean up after
        assert list(tmp_path.iterdir()) == [out]


def temporary_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(".out.xm2p.*.tmp"))


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 50
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    large = tmp_path / "large.xm2p"
    subprocess.run([*PROGRAM, "generate", "same-domain", "--events", "20000", "-o", large],
                   check=True, timeout=60)
    for command in (["export", "-t", "events"], ["replay", "--events"]):
        process = subprocess.Popen([*PROGRAM, *command, large], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        with process.stderr:
            assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_a_pipe_as_output_file_is_written_in_place(
    program: Run, deadlock: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE) as reader:
        done = program("info", deadlock, "-o", fifo)
        assert reader.stdout is not None
        assert b"format" in reader.stdout.read()
    assert done.status == 0
