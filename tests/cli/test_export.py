"""`xenm2p export`: every table in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.cli.conftest import DEADLOCK, Run
from tests.test_traces import TRACES
from xenm2p.report.fields import TABLES
from xenm2p.report.formats import WRITERS


def rows_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()[1:]]


def test_transitions_under_the_cured_kernel(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("export", "-t", "transitions", "-f", "jsonl", "-k", "3.5", deadlock)
    assert [tuple(row.values()) for row in rows_of(done.out)] == [
        (1, 2000, "0x8000", "invalid", "F:0x50010", "set", "backend"),
        (1, 2000, "0x1010", "0x50010", "F:0x50010", "set", "frontend"),
        (3, 4000, "0x8000", "F:0x50010", "invalid", "cleared", "backend"),
        (3, 4000, "0x1010", "F:0x50010", "0x50010", "cleared", "frontend"),
    ]
    assert done.status == 0


def test_jsonl_begins_with_its_header(xenm2p: Run, deadlock: Path) -> None:
    out = xenm2p("export", "-t", "locks", "-f", "jsonl", deadlock).out
    header = json.loads(out.splitlines()[0])
    assert header == {"schema": "xenm2p/1", "table": "locks", "kernel": "override",
                      "trace": str(deadlock)}


FIXED = {
    "events": "event time kind pfn mfn result reason resolved warnings",
    "transitions": "event time pfn old new foreign side",
    "collisions": "verdict first_event last_event pfn mfn backend_pfn map_event lock_event "
                  "lock_task dio_event lock_spans_share",
    "findings": "id name severity event events pfn mfn text",
    "shares": "map_event unmap_event mfn pfn domid ref handle user first_time last_time",
}


@pytest.mark.parametrize("table", FIXED)
def test_the_fixed_columns_come_first(xenm2p: Run, deadlock: Path, table: str) -> None:
    header = xenm2p("export", "-t", table, deadlock).out.splitlines()[0].split(",")
    fixed = FIXED[table].split()
    assert header[:len(fixed)] == fixed


@pytest.mark.parametrize("table", TABLES)
def test_all_machine_formats_say_the_same(xenm2p: Run, deadlock: Path, table: str) -> None:
    def text(value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, list):
            return " ".join(map(str, value))
        return json.dumps(value) if isinstance(value, bool) else str(value)

    outputs = {name: xenm2p("export", "-t", table, "-f", name, deadlock).out
               for name in ("jsonl", "json", "csv", "tsv")}
    rows = rows_of(outputs["jsonl"])
    assert json.loads(outputs["json"])["rows"] == rows
    as_text = [{name: text(value) for name, value in row.items()} for row in rows]
    assert list(csv.DictReader(io.StringIO(outputs["csv"]))) == as_text
    assert list(csv.DictReader(io.StringIO(outputs["tsv"]), dialect="excel-tab")) == as_text
    assert rows


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("format_", WRITERS)
def test_an_empty_trace_gives_an_empty_table(xenm2p: Run, table: str, format_: str) -> None:
    empty = DEADLOCK[:DEADLOCK.index("events:")] + "events: []\n"
    done = xenm2p("export", "-t", table, "-f", format_, "-", stdin=empty)
    assert (done.status, done.err) == (0, "")


def test_the_events_table_tells_results_and_answers(xenm2p: Run) -> None:
    events = DEADLOCK + (
        "- {time: 6000, kind: lookup, mfn: 0x50010}\n"
        "- {time: 7000, kind: unmap, pfn: 0x8001}\n"
        "- {time: 8000, kind: set_p2m, pfn: 0x8002, mfn: invalid}\n"
        "- {time: 9000, kind: lost, cpu: 1, count: 12}\n"
        "- {time: 9500, kind: map, mfn: 0x50011, pfn: 0x8003, status: -1}\n")
    out = xenm2p("export", "-t", "events", "-f", "jsonl", "-", stdin=events).out
    rows = rows_of(out)
    assert rows[5]["resolved"] == "0x1010" and rows[5]["pfn"] is None
    assert rows[6]["result"] == -22
    assert rows[7]["mfn"] == "invalid" and rows[7]["result"] is None
    assert rows[8]["count"] == 12 and rows[8]["ref"] is None
    assert rows[9]["status"] == -1 and rows[9]["result"] is None
    assert rows[1]["user"] is True and rows[0]["user"] is None
    assert rows[2]["task"] == "qemu-77" and rows[2]["cpu"] == 1


def test_what_would_corrupt_the_list_is_skipped_with_its_reason(xenm2p: Run) -> None:
    twice = DEADLOCK.replace("- {time: 3000, kind: dio_read, pfn: 0x8000, task: qemu-77, cpu: 1}",
                             "- {time: 3000, kind: map, mfn: 0x50011, pfn: 0x8000, user: true}")
    out = xenm2p("export", "-t", "events", "-f", "jsonl", "-", stdin=twice).out
    assert (rows_of(out)[2]["result"], rows_of(out)[2]["reason"]) == ("skip", "list")


def test_plain_folds_to_72_columns(xenm2p: Run, deadlock: Path) -> None:
    for table in TABLES:
        out = xenm2p("export", "-t", table, "-f", "plain", deadlock).out
        lines = [line for line in out.splitlines() if str(deadlock) not in line]
        assert max(map(len, lines)) <= 72, table
        assert out.isascii() and "\t" not in out


def test_a_note_on_standard_error_says_that_no_kernel_is_named(xenm2p: Run) -> None:
    unnamed = DEADLOCK.replace('kernel: "3.4.5"\n', "")
    done = xenm2p("export", "-t", "locks", "-", stdin=unnamed)
    assert done.err == "xenm2p: -: no kernel is named, replayed under local-foreign\n"
    assert xenm2p("export", "-q", "-t", "locks", "-", stdin=unnamed).err == ""


def test_strict_exits_4_where_events_were_lost(xenm2p: Run, lossy: Path) -> None:
    assert xenm2p("export", "-t", "locks", lossy).status == 0
    assert xenm2p("export", "--strict", "-t", "locks", lossy).status == 4


@pytest.mark.parametrize(("options", "events"), [
    (["--from", "1", "--to", "2"], [1, 2]),
    (["--from", "3us"], [2, 3, 4]),
    (["--to", "0.000002s"], [0, 1]),
    (["--from", "2500ns", "--to", "3"], [2, 3]),
    (["--from", "99"], []),
    (["--kind", "map", "--kind", "unmap"], [1, 3]),
    (["--task", "qemu-77"], [2]),
    (["--cpu", "1"], [2]),
    (["--ref", "8"], [1]),
    (["--domid", "0"], [1]),
    (["--pfn", "0x1010"], [0, 1, 3, 4]),  # 1 and 3 change its entry
    (["--pfn", "4112", "--kind", "lock_page"], [0]),
    (["--mfn", "0x50000-0x500ff"], [1, 2, 3]),  # 2 resolves it
])
def test_filters_choose_events(
    xenm2p: Run, deadlock: Path, options: list[str], events: list[int]
) -> None:
    out = xenm2p("export", "-t", "events", "-f", "jsonl", "-k", "3.5", *options, deadlock).out
    assert [row["event"] for row in rows_of(out)] == events


def test_filters_do_not_change_what_is_replayed(xenm2p: Run, deadlock: Path) -> None:
    out = xenm2p("export", "-t", "transitions", "-f", "jsonl", "-k", "3.5", "--from", "3",
                 deadlock).out
    assert [row["old"] for row in rows_of(out)] == ["F:0x50010", "F:0x50010"]


def test_intervals_are_shown_where_they_overlap_the_window(xenm2p: Run, deadlock: Path) -> None:
    def shares(*window: str) -> int:
        out = xenm2p("export", "-t", "shares", "-f", "jsonl", *window, deadlock).out
        return len(rows_of(out))

    assert shares("--from", "2", "--to", "2") == 1
    assert shares("--from", "4") == 0
    assert shares("--to", "0") == 0


@pytest.mark.parametrize("format_", ["json", "jsonl"])
def test_a_cycle_of_waits_is_json_as_well(xenm2p: Run, format_: str) -> None:
    """The events that prove XM102 were numpy's numbers, which json does not know."""
    out = xenm2p("export", "-t", "findings", "-f", format_, TRACES / "lock-cycle.yaml").out
    rows = json.loads(out)["rows"] if format_ == "json" else rows_of(out)
    assert any(row["id"] == "XM102" and len(row["events"]) == 12 for row in rows)
