"""`xenm2p reduce` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import DEADLOCK, Run


def test_what_is_left_replays_to_the_same_finding(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.yaml"
    done = xenm2p("reduce", "--finding", "XM101", deadlock, "-o", small)
    assert (done.status, done.out) == (0, "")
    assert "3 of 5 events" in done.err
    kept = yaml.safe_load(small.read_text())
    assert [event["kind"] for event in kept["events"]] == ["lock_page", "map", "dio_read"]
    assert kept["memory"] == [{"pfn": 0x1010, "mfn": 0x50010}]
    assert "1 deadlock" in xenm2p("replay", small).out


def test_the_comment_says_where_it_is_from(xenm2p: Run, deadlock: Path) -> None:
    out = xenm2p("reduce", "--finding", "XM101@1", "--not-under", "3.5", deadlock).out
    comments = [line for line in out.splitlines() if line.startswith("#")]
    assert deadlock.name in comments[0] and "sha256 " in comments[0]
    assert "events kept: 0, 1, 2 of 5" in comments[1]
    assert "not under local-foreign: xenm2p replay --kernel 3.4.5" in comments[2]
    assert str(deadlock.parent) not in "".join(comments)


def test_through_a_pipe(xenm2p: Run, deadlock: Path) -> None:
    reduced = xenm2p("reduce", "-q", "--renumber", "--finding", "lock-collision", "-",
                     stdin=DEADLOCK)
    assert (reduced.status, reduced.err) == (0, "")
    assert "0x50010" not in reduced.out
    assert "1 deadlock" in xenm2p("replay", "-", stdin=reduced.out).out


def test_options_of_the_replay_count(xenm2p: Run, tmp_path: Path) -> None:
    prone = tmp_path / "prone.yaml"
    prone.write_text("".join(line for line in DEADLOCK.splitlines(keepends=True)
                             if "dio_read" not in line))
    out = xenm2p("reduce", "--finding", "XM101", "--assume-dio", prone).out
    assert "xenm2p replay --kernel 3.4.5 --assume-dio" in out
    assert "1 deadlock" in xenm2p("replay", "--assume-dio", "-", stdin=out).out


def test_what_is_not_there_is_told_with_what_is(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("reduce", "--finding", "XM302", deadlock)
    assert (done.status, done.out) == (1, "")
    assert "no XM302 under override; found: XM101 (1)" in done.err


def test_what_the_other_kernel_shows_too(xenm2p: Run, tmp_path: Path) -> None:
    path = tmp_path / "leak.yaml"
    path.write_text("".join(line for line in DEADLOCK.splitlines(keepends=True)
                            if "kind: unmap" not in line))
    done = xenm2p("reduce", "--finding", "XM401", "--not-under", "3.5", path)
    assert (done.status, done.out) == (1, "")
    assert "XM401 is there under local-foreign as well" in done.err


@pytest.mark.parametrize(("words", "says"), [
    (["--finding", "XM1O1"], "unknown finding 'XM1O1'"),
    (["--finding", "XM101", "--not-under", "3.4"], "is the model of the replay itself"),
    (["--finding", "XM101", "--not-under", "x"], "unknown kernel 'x'"),
    ([], "--finding"),
])
def test_usage_errors(xenm2p: Run, deadlock: Path, words: list[str], says: str) -> None:
    done = xenm2p("reduce", *words, deadlock)
    assert done.status == 2
    assert says in done.err


def test_an_old_file_is_kept_where_nothing_is_found(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old.yaml"
    old.write_text("old")
    assert xenm2p("reduce", "--finding", "XM302", "--force", "-o", old, deadlock).status == 1
    assert old.read_text() == "old"
    assert xenm2p("reduce", "--finding", "XM101", "-o", old, deadlock).status == 2
