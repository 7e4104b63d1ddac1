"""`xenm2p explain` as a user types it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.cli.conftest import DEADLOCK, Run


def test_a_deadlock_has_both_accesses_the_lookup_and_the_circle(
    xenm2p: Run, deadlock: Path
) -> None:
    done = xenm2p("explain", deadlock)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "XM101 lock-collision: deadlock on page 0x1010"
    assert "  lock_page of page 0x1010 by mount-1042 at event 0, 0.000001000 s" in lines
    assert "  dio_read of page 0x8000 by qemu-77 on cpu 1 at event 2, 2.000 us later" in lines
    assert "  p2m[0x1010] = 0x50010, the frame itself: the answer is page 0x1010" in lines
    assert "  dio_read, event 2 --waits for the lock of--> page 0x1010" in lines
    assert "held since event 0 by" in done.out
    assert any(line.startswith("  share at 0x8000 <--") and line.endswith(" mount-1042")
               for line in lines)
    assert "b9e0d95c041c" in done.out
    assert max(map(len, lines)) <= 72


def test_the_proof_is_marked_in_the_story(xenm2p: Run, deadlock: Path) -> None:
    out = xenm2p("explain", deadlock, "XM101@1").out
    story = out[out.index("The story, 5 events:"):]
    marked = [line.split()[1] for line in story.splitlines() if line.startswith("  >")]
    assert marked == ["0", "1", "2", "3"]
    assert "p2m[0x8000] invalid -> F:0x50010 (backend, FOREIGN set)" in story


def test_finding_and_trace_come_in_either_order(xenm2p: Run, deadlock: Path) -> None:
    assert (xenm2p("explain", "XM101", deadlock).out == xenm2p("explain", deadlock, "XM101").out
            == xenm2p("explain", deadlock, "lock-collision").out)


def test_an_override_that_answers(xenm2p: Run) -> None:
    out = xenm2p("explain", "traces/gup-fast-hazard.yaml", "XM103").out
    assert "p2m[0x1020] = F:0x50020, not 0x50020: the owner's page is passed over" in out
    assert "page 0x8000 was mapped to it last: the answer" in out


@pytest.mark.parametrize(("words", "title"), [
    (["--event", "2"], "event 2: dio_read of page 0x8000"),
    (["--pfn", "0x8000"], "page 0x8000 under override (Linux 2.6.38-3.4.9)"),
    (["--mfn", "0x50010"], "frame 0x50010 under override (Linux 2.6.38-3.4.9)"),
    (["--ref", "8"], "grant 8 under override (Linux 2.6.38-3.4.9)"),
    (["--ref", "8", "--domid", "0"], "grant 8 of domain 0 under override (Linux 2.6.38-3.4.9)"),
])
def test_other_stories(xenm2p: Run, deadlock: Path, words: list[str], title: str) -> None:
    done = xenm2p("explain", deadlock, *words)
    assert (done.status, done.out.splitlines()[0]) == (0, title)


def test_a_grants_story_has_its_unmap_though_that_names_no_ref(
    xenm2p: Run, deadlock: Path
) -> None:
    out = xenm2p("explain", deadlock, "--ref", "8").out
    assert "The story, 2 events:" in out
    assert " unmap pfn 0x8000" in out


def test_direct_io_since_4_0_finds_its_own_page(xenm2p: Run, deadlock: Path) -> None:
    out = xenm2p("explain", deadlock, "--event", "2", "-k", "6.1").out
    assert "667a0a06c99d" in out
    assert "mfn_to_pfn" not in out


@pytest.mark.parametrize(("words", "says"), [
    (["XM302"], "no XM302 under override; found: XM101 (1)"),
    (["--pfn", "0x99"], "no event on page 0x99"),
    (["--mfn", "0x99"], "no event on frame 0x99"),
    (["--ref", "99"], "no event of grant reference 99"),
    (["--event", "5"], "no event 5: the trace has 5"),
])
def test_what_is_not_there(xenm2p: Run, deadlock: Path, words: list[str], says: str) -> None:
    done = xenm2p("explain", deadlock, *words)
    assert (done.status, done.out) == (1, "")
    assert says in done.err


def test_a_clean_trace_has_no_worst_finding(xenm2p: Run) -> None:
    done = xenm2p("explain", "traces/foreign-domain.yaml")
    assert done.status == 1
    assert "it has no findings" in done.err


@pytest.mark.parametrize("words", [
    ["XM101", "--event", "1"], ["--pfn", "1", "--mfn", "2"], ["--domid", "0"], ["XM1O1"],
    ["--pfn", "x"],
])
def test_usage_errors(xenm2p: Run, deadlock: Path, words: list[str]) -> None:
    assert xenm2p("explain", deadlock, *words).status == 2


def test_a_long_story_is_cut_around_the_proof(xenm2p: Run, deadlock: Path) -> None:
    out = xenm2p("explain", deadlock, "--event", "2", "--limit", "1").out
    assert "The story, 1 of 3 events (--limit 0 shows all):" in out
    assert "... 1 events" in out


def test_rows_for_programs(xenm2p: Run, deadlock: Path) -> None:
    lines = xenm2p("explain", "-f", "jsonl", deadlock).out.splitlines()
    header, *rows = map(json.loads, lines)
    assert (header["table"], len(rows)) == ("story", 5)
    assert rows[1]["changes"] == ["p2m[0x8000] invalid -> F:0x50010"]
    assert [row["proof"] for row in rows] == [True, True, True, True, False]
    cells = list(csv.DictReader(io.StringIO(xenm2p("explain", "-f", "csv", deadlock).out)))
    assert [row["event"] for row in cells] == ["0", "1", "2", "3", "4"]


def test_standard_input(xenm2p: Run) -> None:
    assert "deadlock on page 0x1010" in xenm2p("explain", "-", stdin=DEADLOCK).out


CYCLE = Path(__file__).parents[2] / "traces" / "lock-cycle.yaml"


def test_a_cycle_is_drawn_from_the_task_that_closes_it_back_to_it(xenm2p: Run) -> None:
    done = xenm2p("explain", CYCLE, "XM102")
    lines = done.out.splitlines()
    assert done.status == 0
    assert lines[0] == "XM102 lock-cycle: 4 tasks wait for each other over 4 pages"
    tasks = [line.split()[0] for line in lines[lines.index("Who waits for whom:") + 2:]
             if line.endswith(("|", "+")) and "-" in line.split()[0]]
    assert tasks == ["qemu-988", "mount-1042", "qemu-987", "sync-1100", "qemu-988"]
    assert max(map(len, lines)) <= 72


def test_a_cycle_is_found_by_any_of_its_pages(xenm2p: Run) -> None:
    for page in ("0x1010", "0x1020", "0x1030", "0x1040", "0x8001"):
        done = xenm2p("export", "-t", "findings", "-f", "csv", "--pfn", page, CYCLE)
        assert "XM102" in done.out, page
    assert "XM102" not in xenm2p("export", "-t", "findings", "--pfn", "0x1050", CYCLE).out


def test_a_cycle_reduces_to_its_proof(xenm2p: Run, tmp_path: Path) -> None:
    small = tmp_path / "small.yaml"
    assert xenm2p("reduce", "--finding", "XM102", CYCLE, "-o", small).status == 0
    assert "kind: unmap" not in small.read_text()
    assert "XM102" in xenm2p("export", "-t", "findings", small).out
