"""`xenm2p bisect` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import DEADLOCK, LOSSY, Run


def test_the_cure_stands_in_words(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("bisect", deadlock)
    assert done.status == 0
    assert "XM101 lock-collision: 1 up to 3.4.9; cured by b9e0d95c041c" in done.out
    assert max(len(line) for line in done.out.splitlines() if "/" not in line) <= 72


@pytest.mark.parametrize(("words", "status"), [
    (["--finding", "XM101"], 1), (["--finding", "lock-collision", "-k", "3.4"], 1),
    (["--finding", "XM101", "-k", "3.5"], 0), (["--finding", "XM101@1"], 1),
    (["--finding", "XM101@4"], 0), (["--finding", "XM301"], 0),
])
def test_the_status_answers_for_one_finding(
    xenm2p: Run, deadlock: Path, words: list[str], status: int
) -> None:
    done = xenm2p("bisect", "-q", *words, deadlock)
    assert (done.status, done.out, done.err) == (status, "", "")


def test_a_row_a_model_for_programs(xenm2p: Run, deadlock: Path) -> None:
    lines = xenm2p("bisect", "-f", "jsonl", "--finding", "XM101", deadlock).out.splitlines()
    header, *rows = map(json.loads, lines)
    assert (header["schema"], header["table"]) == ("xenm2p/1", "bisection")
    assert [(row["model"], row["count"]) for row in rows] == [
        ("override", 1), ("local-foreign", 0), ("kmap-only", 0), ("p2m-only", 0),
        ("p2m-only-continue", 0)]
    assert {row["verdict"] for row in rows} == {"deadlock"}


def test_each_finding_with_all(xenm2p: Run, deadlock: Path) -> None:
    out = xenm2p("bisect", "--all", deadlock).out
    assert any(line.split() == ["XM101", "1", "0x1010", "deadlock", "-", "-", "-", "-"]
               for line in out.splitlines())
    rows = json.loads(xenm2p("bisect", "--all", "-f", "json", deadlock).out)
    assert rows["table"] == "bisection-findings"


def test_standard_input_is_read_once_for_all_models(xenm2p: Run, deadlock: Path) -> None:
    named, piped = xenm2p("bisect", deadlock).out, xenm2p("bisect", "-", stdin=DEADLOCK).out
    table = [line for line in named.splitlines() if line.startswith("XM")]
    assert table == [line for line in piped.splitlines() if line.startswith("XM")]


def test_nothing_found_is_said(xenm2p: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("format: xenm2p-trace\nversion: 1\nevents: []\n")
    assert "No findings under any of them." in xenm2p("bisect", path).out


def test_losses_count_with_strict(xenm2p: Run, tmp_path: Path) -> None:
    path = tmp_path / "lossy.yaml"
    path.write_text(LOSSY)
    assert xenm2p("bisect", "-q", path).status == 0
    assert xenm2p("bisect", "-q", "--strict", path).status == 4


def test_an_unknown_finding_is_a_usage_error(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("bisect", "--finding", "XM110", deadlock)
    assert done.status == 2
    assert "unknown finding 'XM110'" in done.err


def test_unreadable_input(xenm2p: Run, tmp_path: Path) -> None:
    done = xenm2p("bisect", tmp_path / "none")
    assert (done.status, done.out) == (3, "")
