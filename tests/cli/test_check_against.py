"""`check --against` and `--grants`: what the hypervisor tells, beside a trace."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from xenm2p.formats.detect import read_trace

CAPTURES = Path(__file__).parents[1] / "data" / "captures"


@pytest.fixture
def xentrace(tmp_path: Path) -> Path:
    """A real file of xentrace."""
    path = tmp_path / "xentrace.bin"
    path.write_bytes(lzma.decompress((CAPTURES / "tcmd-phy-nopersist.xentrace.xz").read_bytes()))
    return path


REPORT = CAPTURES / "tcmd-phy-nopersist-report.txt.xz"
MIDSTART = CAPTURES / "self-phy-midstart.txt.xz"
MIDSTART_P2M = CAPTURES / "self-phy-midstart.p2m.txt.xz"
MIDSTART_GRANTS = CAPTURES / "self-phy-midstart.grants.xz"
PERSIST = CAPTURES / "self-phy-persist.txt.xz"
PERSIST_GRANTS = CAPTURES / "self-phy-persist.grants.xz"


def test_against_xentrace(xenm2p: Run, xentrace: Path) -> None:
    done = xenm2p("check", REPORT, "--against", xentrace, "-f", "json")
    report = json.loads(done.out)
    assert done.status == 0
    assert report.items() >= {"against_format": "xentrace", "missing_maps": 2,
                              "missing_unmaps": 2, "against_lost": 0}.items()
    assert report["cycles_per_second"] == pytest.approx(2.6e9, rel=1e-2)
    assert sum(row["xen_maps"] for row in report["slices"]) == 2386


def test_against_xentrace_in_plain_text(xenm2p: Run, xentrace: Path) -> None:
    done = xenm2p("check", REPORT, "--against", xentrace, "--slice", "500ms")
    lines = done.out.splitlines()
    assert any(line.split() == ["from", "s", "domid", "maps", "xen", "maps", "unmaps", "xen",
                                "unmaps", "missing"] for line in lines)
    assert max(map(len, lines[2:])) <= 72
    assert any("ring pages, it seems" in line for line in lines)


def test_a_capture_that_lost_events_exits_with_1(
    xenm2p: Run, xentrace: Path, tmp_path: Path
) -> None:
    lines = lzma.decompress(REPORT.read_bytes()).splitlines(keepends=True)
    cut = tmp_path / "cut.txt"
    cut.write_bytes(b"".join(lines[:9000] + lines[11000:]))
    done = xenm2p("check", cut, "--against", xentrace, "-f", "json")
    report = json.loads(done.out)
    assert done.status == 1
    assert report["missing_maps"] > 100
    assert max(row["missing"] or 0 for row in report["slices"]) > 100


def test_another_run_is_compared_by_totals_only(xenm2p: Run, xentrace: Path) -> None:
    done = xenm2p("check", MIDSTART, "--against", xentrace, "-f", "json")
    report = json.loads(done.out)
    assert done.status == 1
    assert report["clocks"].startswith("not aligned")
    assert len(report["slices"]) == 1


def test_xentrace_as_a_trace_names_the_way(xenm2p: Run, xentrace: Path) -> None:
    done = xenm2p("replay", xentrace)
    assert done.status == 3
    assert "this is a file of xentrace" in done.err
    assert "`xenm2p check TRACE --against FILE`" in done.err


def test_a_grant_dump_as_a_trace_names_the_way(xenm2p: Run) -> None:
    done = xenm2p("replay", PERSIST_GRANTS)
    assert done.status == 3
    assert "--grants" in done.err
    assert "`xenm2p check TRACE --against FILE`" in done.err


def test_against_a_grant_dump(xenm2p: Run) -> None:
    done = xenm2p("check", PERSIST, "--against", PERSIST_GRANTS, "-f", "json")
    report = json.loads(done.out)
    assert done.status == 0
    assert report.items() >= {
        "fits_best": "after 6287 to 7834 events", "agreed_mappings": 825,
        "differing_mappings": 2, "differing_at_the_end": 827}.items()
    assert [row["ref"] for row in report["differences"]] == [8, 31]


@pytest.mark.parametrize(("at", "status", "agreed"), [
    ("7000", 0, 825), ("900s", 1, 528), ("0", 1, 0), ("1ns", 1, 0), ("999999", 1, 0)])
def test_against_a_grant_dump_at_a_moment(
    xenm2p: Run, at: str, status: int, agreed: int
) -> None:
    done = xenm2p("check", PERSIST, "--against", PERSIST_GRANTS, "--at", at, "-f", "json")
    assert (done.status, json.loads(done.out)["agreed_mappings"]) == (status, agreed)


def test_against_a_grant_dump_under_the_model_that_the_writes_choose(xenm2p: Run) -> None:
    done = xenm2p("check", PERSIST, "--against", PERSIST_GRANTS, "--kernel", "auto", "--model",
                  "-f", "json")
    report = json.loads(done.out)
    assert (done.status, report["model"], report["agreed_mappings"]) == (
        0, "p2m-only-continue", 825)


def test_both_from_pipes(xenm2p: Run) -> None:
    """The trace from standard input, as a stream of .xm2p."""
    binary = (CAPTURES.parents[2] / "traces" / "self-phy-midstart.xm2p").read_bytes()
    done = xenm2p("check", "-", "--against", MIDSTART_GRANTS, "-f", "json", stdin=binary)
    assert (done.status, json.loads(done.out)["agreed_mappings"]) == (0, 825)


def test_the_output_is_plain_and_narrow(xenm2p: Run) -> None:
    done = xenm2p("check", PERSIST, "--against", PERSIST_GRANTS)
    assert done.out.isascii()
    assert max(map(len, done.out.splitlines()[2:])) <= 72


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--at", "5"], "--at goes with --against FILE"),
    (["--slice", "5ms"], "--slice goes with --against FILE"),
    (["--slice", "5", "--against", "x"], "is not a time with its unit"),
    (["--slice", "0s", "--against", "x"], "is not a time with its unit"),
    (["--at", "soon", "--against", "x"], "is neither an event number"),
    (["--slice", "5ms", "--against", PERSIST_GRANTS], "--slice goes with a file of xentrace"),
])
def test_options_that_do_not_go_together(
    xenm2p: Run, arguments: list[object], reason: str
) -> None:
    done = xenm2p("check", MIDSTART, *arguments)
    assert (done.status, done.out) == (2, "")
    assert reason in " ".join(done.err.split())


def test_at_with_xentrace(xenm2p: Run, xentrace: Path) -> None:
    done = xenm2p("check", MIDSTART, "--at", "5", "--against", xentrace)
    assert done.status == 2
    assert "--at goes with a grant-table dump" in done.err


@pytest.mark.parametrize("data", [
    b"", b"\0\1\2\3", b"hello\n", b"\x03\xf0\x01 ",
    b"\x03\xf0\x01 \0\0\0\0\xff\xff\xff\x7f" + b"\xff" * 99])
def test_what_is_neither(xenm2p: Run, data: bytes, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(data)
    done = xenm2p("check", MIDSTART, "--against", other)
    assert done.status in (1, 3)
    if done.status == 3:
        assert done.err.startswith(f"xenm2p: {other}")
        assert done.err.count("\n") == 1


def test_grants_and_memory_begin_the_replay(xenm2p: Run) -> None:
    done = xenm2p("replay", MIDSTART, "--memory", MIDSTART_P2M, "--grants", MIDSTART_GRANTS,
                  "--kernel", "3.4")
    text = " ".join(done.out.split())
    assert "825 maps, 825 unmaps" in text
    assert "825 shares and 827 grants were live before the capture" in text
    assert "--grants" in text.split("All findings and events:")[1]
    assert "XM303" not in text


def test_a_dump_tells_the_frames_of_shares_that_a_converted_capture_lacks(
    xenm2p: Run, tmp_path: Path
) -> None:
    out = tmp_path / "trace.xm2p"
    assert xenm2p("convert", "-q", MIDSTART, "-o", out).status == 0
    assert read_trace(str(out)).notes[0].endswith("p2m before the capture (--memory)")
    trace = read_trace(str(out), memory=str(MIDSTART_P2M), grants=str(MIDSTART_GRANTS))
    assert "825 shares and 827 grants were live" in trace.notes[1]
    assert "p2m before the capture (--memory), shares before the capture (--grants); not" in (
        trace.notes[0])
    assert not any("no p2m dump" in note for note in trace.notes)


def test_grants_become_part_of_a_converted_trace(xenm2p: Run, tmp_path: Path) -> None:
    out = tmp_path / "trace.xm2p"
    assert xenm2p("convert", "-q", MIDSTART, "--memory", MIDSTART_P2M, "--grants",
                  MIDSTART_GRANTS, "-o", out).status == 0
    assert read_trace(str(out)).length == 4495
    done = xenm2p("check", out, "--against", MIDSTART_GRANTS, "-f", "json")
    assert (done.status, json.loads(done.out)["agreed_mappings"]) == (0, 825)


def test_notes_are_kept_in_yaml_as_comments(xenm2p: Run, tmp_path: Path) -> None:
    out = tmp_path / "trace.yaml"
    xenm2p("convert", "-q", MIDSTART, "-o", out)
    notes = [line for line in out.read_text().splitlines() if line.startswith("# note: ")]
    assert len(notes) == len(read_trace(str(MIDSTART)).notes)
    assert 'sees: unmaps' in notes[0]
    assert xenm2p("replay", "-q", out).status == 0


def test_a_replay_for_programs_says_what_the_capture_sees(xenm2p: Run, deadlock: Path) -> None:
    lines = xenm2p("replay", "-f", "jsonl", MIDSTART).out.splitlines()
    assert json.loads(lines[1])["sees"].startswith("sees: unmaps, handles, p2m writes")
    lines = xenm2p("export", "-t", "summary", "-f", "jsonl", deadlock).out.splitlines()
    assert json.loads(lines[1])["sees"] is None


def test_info_tells_of_damage(xenm2p: Run, tmp_path: Path) -> None:
    path = tmp_path / "trace.xm2p"
    xenm2p("generate", "same-domain", "--events", 1000, "--chunk-events", 100, "-o", path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    about, checked = (json.loads(xenm2p(command, "-f", "json", path).out)
                      for command in ("info", "check"))
    assert about["damage"] == checked["damage"] != []
    assert about["notes"] == []
