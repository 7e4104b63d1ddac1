"""`xenm2p replay`: the screen, the rows, the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import DEADLOCK, Run


def tables_of(text: str) -> dict[str, list[dict[str, object]]]:
    """The tables of `-f jsonl`: a line with a schema begins each."""
    tables: dict[str, list[dict[str, object]]] = {}
    for line in map(json.loads, text.splitlines()):
        if "schema" in line:
            rows = tables.setdefault(line["table"], [])
        else:
            rows.append(line)
    return tables


def test_names_page_holder_lock_share_and_read_of_a_deadlock(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("replay", deadlock)
    row = next(line for line in done.out.splitlines() if line.startswith("deadlock "))
    assert row.split() == ["deadlock", "0x1010", "mount-1042", "0", "0x8000", "1", "2"]
    assert done.status == 1


def test_names_the_commit_that_cures(xenm2p: Run, deadlock: Path) -> None:
    out = " ".join(xenm2p("replay", deadlock).out.split())
    assert "Linux 3.5 (and 3.4.10) cures XM101 and XM203: b9e0d95c041c" in out


def test_the_cured_kernel_has_no_collision_and_exits_0(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("replay", "--kernel", "3.5", deadlock)
    assert "collision" not in done.out
    assert "set 2 times, 1 of them on frontend pages" in done.out
    assert done.status == 0


def test_another_kernel_than_the_traced_one_is_called_a_what_if(
    xenm2p: Run, deadlock: Path
) -> None:
    assert "a what-if" in xenm2p("replay", "-k", "3.5", deadlock).out
    assert "what-if" not in xenm2p("replay", "-k", "3.4", deadlock).out


def test_says_when_nothing_names_a_kernel(xenm2p: Run) -> None:
    done = xenm2p("replay", "-", stdin=DEADLOCK.replace('kernel: "3.4.5"\n', ""))
    assert "standard input under local-foreign" in done.out
    assert "neither the trace nor --kernel names a kernel" in " ".join(done.out.split())


def test_traced_kernel_picks_the_model_where_kernel_does_not(xenm2p: Run, deadlock: Path) -> None:
    out = " ".join(xenm2p("replay", "--traced-kernel", "6.1.0-9-amd64", deadlock).out.split())
    assert "under p2m-only-continue (Linux 5.12 and later)" in out
    assert "what-if" not in out


def test_writes_seen_on_the_machine_are_judged_only_under_its_own_kernel(
    xenm2p: Run, tmp_path: Path
) -> None:
    trace = tmp_path / "writes.yaml"
    trace.write_text(DEADLOCK + "- {time: 6000, kind: p2m_write, pfn: 0x8000, mfn: 0x777}\n")

    def findings(*options: str) -> list[object]:
        rows = tables_of(xenm2p("replay", "-f", "jsonl", *options, trace).out)["findings"]
        return [row["id"] for row in rows]

    assert "XM501" in findings()
    assert "XM501" in findings("--kernel", "override")
    assert "XM501" not in findings("--kernel", "3.16")
    assert "XM501" in findings("--kernel", "3.16", "--traced-kernel", "3.18")


def test_shows_the_commands_that_show_more(xenm2p: Run, deadlock: Path) -> None:
    out = xenm2p("replay", "--kernel", "3.4", "--pfn", "0x1010", deadlock).out
    commands = out.replace(" \\\n     ", "")
    assert f"xenm2p export -t findings --kernel 3.4 --pfn 0x1010 {deadlock}" in commands
    assert f"xenm2p replay --events --kernel 3.4 --pfn 0x1010 {deadlock}" in commands


def test_a_command_that_it_shows_gives_what_it_promises(xenm2p: Run, deadlock: Path) -> None:
    out = xenm2p("replay", deadlock).out
    start = next(i for i, line in enumerate(out.splitlines()) if " export -t findings" in line)
    command = out.splitlines()[start]
    while command.endswith("\\"):
        start += 1
        command = command[:-1] + out.splitlines()[start]
    assert xenm2p(*command.split()[1:]).out.startswith("id,name,severity,event,events")


def test_events_come_with_their_transitions(xenm2p: Run, deadlock: Path) -> None:
    lines = xenm2p("replay", "--events", "--kernel", "3.5", deadlock).out.splitlines()
    at = next(i for i, line in enumerate(lines) if " map " in line)
    assert lines[at] == "       1 0.000002000 map mfn 0x50010 pfn 0x8000 user domid 0 ref 8"
    assert lines[at + 1] == "           handle 3 = 0"
    story = [line.strip() for line in lines]
    assert "p2m[0x8000] invalid -> F:0x50010 (backend, FOREIGN set)" in story
    assert "p2m[0x1010] 0x50010 -> F:0x50010 (frontend, FOREIGN set)" in story


def test_plain_is_ascii_of_72_columns_without_tabs(xenm2p: Run, tmp_path: Path) -> None:
    trace = tmp_path / "odd.yaml"
    trace.write_text(DEADLOCK.replace("mount-1042", '"mo\\u00fcnt\\t\\x1b[31m-' + "9" * 60 + '"'))
    out = xenm2p("replay", "--events", trace).out
    assert "\\xfc" in out
    assert out.isascii() and "\t" not in out and "\x1b" not in out
    commands = [line for line in out.splitlines() if str(trace) in line]
    assert max(len(line) for line in out.splitlines() if line not in commands) <= 72


def test_jsonl_gives_summary_collisions_findings(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("replay", "-f", "jsonl", deadlock)
    tables = tables_of(done.out)
    assert list(tables) == ["summary", "collisions", "findings"]
    assert tables["summary"][0]["deadlocks"] == 1
    assert tables["summary"][0]["model"] == "override"
    assert tables["collisions"] == [{
        "verdict": "deadlock", "first_event": 1, "last_event": 3, "pfn": "0x1010",
        "mfn": "0x50010", "backend_pfn": "0x8000", "map_event": 1, "lock_event": 0,
        "lock_task": "mount-1042", "dio_event": 2, "lock_spans_share": True}]
    assert done.status == 1


def test_jsonl_with_events_gives_their_tables_too(xenm2p: Run, deadlock: Path) -> None:
    tables = tables_of(xenm2p("replay", "-f", "jsonl", "--events", deadlock).out)
    assert list(tables) == ["summary", "collisions", "findings", "events", "transitions"]
    assert [row["kind"] for row in tables["events"]] == [
        "lock_page", "map", "dio_read", "unmap", "unlock_page"]


def test_json_is_one_document_for_several_traces(xenm2p: Run, deadlock: Path) -> None:
    tables = json.loads(xenm2p("replay", "-f", "json", deadlock, deadlock).out)
    assert [table["table"] for table in tables] == ["summary", "collisions", "findings"] * 2


@pytest.mark.parametrize(("markup", "sign"), [
    ("github", "| verdict "), ("rst", "========"), ("jira", "|| verdict "),
    ("html", "<th>verdict"), ("latex", "\\begin{tabular}")])
def test_every_markup_has_the_collision(
    xenm2p: Run, deadlock: Path, markup: str, sign: str
) -> None:
    out = xenm2p("replay", "-f", markup, deadlock).out
    assert sign in out
    assert "0x1010" in out


def test_csv_holds_one_table_and_is_refused(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("replay", "-f", "csv", deadlock)
    assert done.status == 2
    assert "xenm2p export" in done.err


@pytest.mark.parametrize(("fail_on", "status"), [
    ("error", 1), ("warning", 1), ("info", 1), ("never", 0)])
def test_fail_on_decides_the_exit_status(
    xenm2p: Run, deadlock: Path, fail_on: str, status: int
) -> None:
    assert xenm2p("replay", "--fail-on", fail_on, deadlock).status == status


def test_fail_on_warning_fails_where_error_does_not(xenm2p: Run) -> None:
    # 0x1010 is not locked: nothing but a local alias, a warning.
    trace = "\n".join(line for line in DEADLOCK.splitlines()
                      if "lock_page" not in line and "dio" not in line) + "\n"
    assert xenm2p("replay", "-", stdin=trace).status == 0
    assert xenm2p("replay", "--fail-on", "warning", "-", stdin=trace).status == 1


def test_several_traces_exit_with_the_worst_status(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    clean = tmp_path / "clean.yaml"
    clean.write_text(DEADLOCK[:DEADLOCK.index("events:")] + "events: []\n")
    assert xenm2p("replay", clean, deadlock).status == 1
    assert xenm2p("replay", clean, clean).status == 0


def test_an_unreadable_trace_does_not_hide_the_others(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    done = xenm2p("replay", tmp_path / "none.yaml", deadlock)
    assert "1 deadlock" in done.out
    assert done.err.startswith(f"xenm2p: {tmp_path / 'none.yaml'}: no such file")
    assert done.status == 3


def test_quiet_gives_the_status_alone(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("replay", "-q", deadlock)
    assert (done.status, done.out, done.err) == (1, "", "")


def test_strict_exits_4_where_events_were_lost(xenm2p: Run, lossy: Path) -> None:
    assert xenm2p("replay", lossy).status == 1
    assert xenm2p("replay", "--strict", lossy).status == 4


def test_strict_exits_4_where_a_file_ends_early(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.xm2p", tmp_path / "cut.xm2p"
    assert xenm2p("convert", "--chunk-events", 2, deadlock, "-o", whole).status == 0
    cut.write_bytes(whole.read_bytes()[:-200])
    assert xenm2p("replay", "--strict", "--kernel", "6.1", whole).status == 0
    done = xenm2p("replay", "--strict", "--kernel", "6.1", cut)
    assert done.status == 4
    assert "note" in done.out


def test_both_engines_show_the_same(xenm2p: Run, deadlock: Path) -> None:
    outputs = {xenm2p("replay", "--events", "--engine", engine, deadlock).out
               for engine in ("vector", "reference")}
    assert len(outputs) == 1


def test_assume_dio_turns_prone_into_deadlock(xenm2p: Run) -> None:
    trace = "\n".join(line for line in DEADLOCK.splitlines() if "dio" not in line) + "\n"
    assert "1 collision: 1 prone" in xenm2p("replay", "-", stdin=trace).out
    done = xenm2p("replay", "--assume-dio", "-", stdin=trace)
    assert "1 collision: 1 deadlock" in done.out


def test_filters_narrow_what_is_shown_and_what_fails(xenm2p: Run, deadlock: Path) -> None:
    shown = xenm2p("replay", "--pfn", "0x1010", deadlock)
    hidden = xenm2p("replay", "--pfn", "0x2000-0x2fff", deadlock)
    assert "1 deadlock" in shown.out and shown.status == 1
    assert "No findings." in hidden.out and hidden.status == 0
    assert "only what the filters choose" in hidden.out
