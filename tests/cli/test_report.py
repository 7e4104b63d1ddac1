"""`xenm2p report` as a user types it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import DEADLOCK, LOSSY, Run


def test_a_report_has_all_that_a_mail_needs(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("report", deadlock)
    assert (done.status, done.err) == (1, "")
    lines = done.out.splitlines()
    assert lines[0] == "xen grant mapping: 1 page lock deadlock (Linux 3.4.5)"
    assert f"sha256  {hashlib.sha256(DEADLOCK.encode()).hexdigest()}" in lines
    for said in ("numpy ", "1 collision: 1 deadlock", "b9e0d95c041c",
                 "XM101 lock-collision: deadlock on page 0x1010", "waits for the lock of",
                 "The smallest trace that shows the worst, 3 events of 5", "To see it again:",
                 "xenm2p bisect"):
        assert said in done.out
    assert done.out.isascii()


def test_the_trace_in_it_can_be_cut_out_and_replayed(xenm2p: Run, deadlock: Path) -> None:
    lines = xenm2p("report", deadlock).out.splitlines()
    start = lines.index("  format: xenm2p-trace")
    text = "\n".join(lines[start:lines.index("", start)]) + "\n"
    assert len(yaml.safe_load(text)["events"]) == 3
    assert "1 deadlock" in xenm2p("replay", "-", stdin=text).out


SHIPPED = sorted(Path("traces").glob("*.yaml")) + sorted(Path("traces").glob("*.xm2p"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
@pytest.mark.parametrize("kernel", ["3.4", "3.16", "5.12"])
def test_plain_fits_a_mail_and_its_trace_shows_the_worst(
    xenm2p: Run, path: Path, kernel: str
) -> None:
    out = xenm2p("report", "--kernel", kernel, "--assume-dio", path).out
    lines = out.splitlines()
    assert out.isascii() and max(map(len, lines)) <= 72
    assert lines[1] == ""  # the subject is one line
    if "  format: xenm2p-trace" not in lines:
        assert "No findings" in out
        return
    start = lines.index("  format: xenm2p-trace")
    text = "\n".join(lines[start:lines.index("", start)]) + "\n"
    worst = re.search(r"(XM\d{3})@\d+", out)  # in the command for its story
    assert worst is not None
    assert worst[1] in xenm2p("replay", "--kernel", kernel, "--assume-dio", "-", stdin=text).out


def test_a_name_with_blanks_is_not_folded(xenm2p: Run) -> None:
    odd = DEADLOCK.replace("mount-1042", '"a  very  odd  name  of  a  task-1042"')
    lines = xenm2p("report", "-", stdin=odd).out.splitlines()
    start = lines.index("  format: xenm2p-trace")
    text = "\n".join(lines[start:lines.index("", start)]) + "\n"
    assert yaml.safe_load(text)["events"][0]["task"] == "a  very  odd  name  of  a  task-1042"


PRONE_FIRST = DEADLOCK.replace("events:\n", """events:
- {time: 100, kind: lock_page, pfn: 0x1020, task: mount-1042}
- {time: 200, kind: map, mfn: 0x50020, pfn: 0x8004, user: true, domid: 0, ref: 9, handle: 4}
- {time: 300, kind: unlock_page, pfn: 0x1020, task: mount-1042}
- {time: 400, kind: unmap, pfn: 0x8004, user: true, handle: 4}
""")


@pytest.mark.parametrize("command", ["report", "explain"])
def test_the_worst_of_a_rule_is_told_not_its_first(xenm2p: Run, command: str) -> None:
    # Bug: the story was that of a prone collision, which the trace has before the deadlock.
    out = xenm2p(command, "-", stdin=PRONE_FIRST).out
    assert "XM101 lock-collision: deadlock on page 0x1010" in out
    assert "lock-collision: prone" not in out


def test_the_command_for_the_small_trace_names_a_kernel_that_its_reader_has(
    xenm2p: Run
) -> None:
    out = xenm2p("report", "--kernel", "auto", "traces/gntdev-badref.xm2p").out
    assert "xenm2p replay --kernel 5.12 small.yaml" in out


def test_a_clean_trace_is_reported_as_clean(xenm2p: Run) -> None:
    done = xenm2p("report", "traces/foreign-domain.yaml")
    assert done.status == 0
    assert "no findings" in done.out.splitlines()[0]
    assert "The worst finding" not in done.out


def test_without_the_reduced_trace(xenm2p: Run, deadlock: Path) -> None:
    assert "smallest trace" not in xenm2p("report", "--no-reduce", deadlock).out


@pytest.mark.parametrize("form", ["github", "rst", "jira", "html", "latex"])
def test_in_every_markup(xenm2p: Run, deadlock: Path, form: str) -> None:
    done = xenm2p("report", "-f", form, "--fail-on", "never", deadlock)
    assert (done.status, "lock-collision" in done.out) == (0, True)


def test_standard_input_has_no_hash_and_no_commands(xenm2p: Run) -> None:
    out = xenm2p("report", "-", stdin=DEADLOCK).out
    assert "input   standard input" in out
    assert "sha256" not in out
    assert "To see it again" not in out


def test_losses_count_with_strict(xenm2p: Run, tmp_path: Path) -> None:
    path = tmp_path / "lossy.yaml"
    path.write_text(LOSSY)
    assert xenm2p("report", "-q", "--strict", path).status == 4


def test_unreadable_input_leaves_the_old_report(xenm2p: Run, tmp_path: Path) -> None:
    old = tmp_path / "report.txt"
    old.write_text("old")
    done = xenm2p("report", tmp_path / "none", "--force", "-o", old)
    assert (done.status, old.read_text()) == (3, "old")
