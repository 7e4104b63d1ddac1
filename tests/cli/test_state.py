"""`xenm2p state` as a user types it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

MOUNT = Path(__file__).parents[2] / "traces" / "mount-ext4-same-domain.yaml"
QDISK = Path(__file__).parents[2] / "traces" / "self-qdisk-pagelock.xm2p"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_moment_is_told_in_at_most_72_columns_of_ascii(xenm2p: Run) -> None:
    done = xenm2p("state", "--at", 15, "-k", "3.5", MOUNT)
    assert (done.status, done.err) == (0, "")
    assert "0x1010  0x50010  F:0x50010" in done.out
    assert "page locks that are held: 3" in done.out
    assert done.out.isascii()
    lines = done.out.splitlines()[2:]  # the first names the file, however long its path is
    assert max(map(len, lines)) <= 72


def test_lists_stand_newest_first(xenm2p: Run) -> None:
    done = xenm2p("state", "--at", 15, "-t", "overrides", "-f", "csv", "-k", "3.5", MOUNT)
    of_bucket = [(row["place"], row["pfn"]) for row in rows(done.out) if row["bucket"] == "909"]
    assert of_bucket == [("0", "0x8002"), ("1", "0x8001"), ("2", "0x8000")]


@pytest.mark.parametrize("at", ["15", "1038000ns", "1.038ms", "1039us"])
def test_a_time_is_after_all_events_up_to_it(xenm2p: Run, at: str) -> None:
    out = xenm2p("state", "--at", at, "-f", "jsonl", MOUNT).out
    assert json.loads(out.splitlines()[0])["after_event"] == 15


def test_before_the_first_event_and_after_the_last(xenm2p: Run) -> None:
    assert "before the first event" in " ".join(
        xenm2p("state", "--at", "1ns", MOUNT).out.split())
    assert "after event 41" in " ".join(xenm2p("state", "--at", "9s", MOUNT).out.split())
    assert xenm2p("state", "--at", "9s", MOUNT).out == xenm2p("state", MOUNT).out


def test_two_moments_differ_in_what_began_and_ended(xenm2p: Run) -> None:
    done = xenm2p("state", "--diff", 9, 15, "-t", "p2m", "-f", "csv", "-k", "3.5", MOUNT)
    assert {(row["sign"], row["pfn"]) for row in rows(done.out)} == {
        ("+", pfn) for pfn in ("0x1011", "0x1012", "0x8001", "0x8002", "0x8003", "0x8004")}
    same = xenm2p("state", "--diff", 9, 9, "-f", "jsonl", MOUNT)
    assert all("schema" in json.loads(line) for line in same.out.splitlines())


def test_a_newer_override_does_not_make_the_older_ones_differ(xenm2p: Run) -> None:
    done = xenm2p("state", "--diff", 9, 11, "-t", "overrides", "-f", "csv", "-k", "3.5", MOUNT)
    assert [(row["sign"], row["pfn"]) for row in rows(done.out)] == [("+", "0x8001")]


def test_filters_hide_what_has_nothing_of_their_kind(xenm2p: Run) -> None:
    def shown(*filters: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        table = ""
        for line in xenm2p("state", "--at", 15, "-k", "3.5", "-f", "jsonl", *filters,
                           MOUNT).out.splitlines():
            table = json.loads(line).get("table", table)
            counts[table] = counts.get(table, -1) + 1
        return {name: count for name, count in counts.items() if count}

    assert shown("--pfn", "0x8000") == {"p2m": 1, "overrides": 1, "shares": 1}
    assert shown("--pfn", "0x1011") == {"p2m": 1, "locks": 1}
    assert shown("--mfn", "0x50010") == {"p2m": 4, "overrides": 3, "shares": 3, "grants": 3}
    assert shown("--ref", "8") == {"shares": 1, "grants": 1}
    assert shown("--task", "mount-1042") == {"locks": 3, "grants": 5}


def test_json_is_one_value_and_csv_wants_a_table(xenm2p: Run) -> None:
    tables = json.loads(xenm2p("state", "-f", "json", MOUNT).out)
    assert [table["table"] for table in tables] == [
        "p2m", "m2p", "overrides", "shares", "locks", "grants"]
    done = xenm2p("state", "-f", "csv", MOUNT)
    assert (done.status, done.out) == (2, "")
    assert "-t p2m" in done.err


def test_what_makes_no_sense_is_told(xenm2p: Run) -> None:
    for words, hint in (
        (["--at", 99], "no event 99: the trace has 42"),
        (["--at", 1, "--diff", 1, 2], "one of the options"),
        (["--at", "soon"], "neither an event number"),
        (["--diff", "1", "soon"], "neither an event number"),
        (["-t", "share"], "did you mean 'shares'"),
    ):
        done = xenm2p("state", *words, MOUNT)
        assert (done.status, done.out) == (2, ""), words
        assert hint in done.err


def test_a_capture_tells_the_same_as_text_and_from_a_checkpoint(
    xenm2p: Run, tmp_path: Path
) -> None:
    text = QDISK.with_name("self-qdisk-pagelock.ftrace.txt.xz")
    memory = QDISK.with_name("self-qdisk-pagelock.p2m.txt.xz")
    chunked = tmp_path / "chunked.xm2p"
    xenm2p("convert", QDISK, "-o", chunked, "--chunk-events", 500)
    for at in ("9500", "15000"):
        wanted = xenm2p("state", "--at", at, "-k", "3.4", "-f", "jsonl", "--memory", memory, text)
        got = xenm2p("state", "--at", at, "-k", "3.4", "-f", "jsonl", chunked)
        assert got.out.replace(str(chunked), "") == wanted.out.replace(str(text), "")
        assert '"table": "locks"' in got.out


@pytest.mark.parametrize("content", [b"", b"xenm2p\r\n", b"\0" * 100, b"events: [}"])
def test_what_cannot_be_read_is_one_line(xenm2p: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    done = xenm2p("state", path)
    assert (done.status, done.out) == (3, "")
    assert done.err.count("\n") == 1
