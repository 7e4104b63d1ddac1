"""`convert`, `check`, `info` and `generate`: trace files in and out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.cli.conftest import DEADLOCK, Run
from xenm2p.formats.detect import read_trace
from xenm2p.formats.workloads import WORKLOADS
from xenm2p.trace import same_trace


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_yaml_to_binary_to_yaml_is_the_same_trace(
    xenm2p: Run, deadlock: Path, tmp_path: Path, compression: str
) -> None:
    binary, back = tmp_path / "a.xm2p", tmp_path / "b.yaml"
    assert xenm2p("convert", deadlock, "--compress", compression, "-o", binary).status == 0
    assert xenm2p("convert", binary, "-o", back).status == 0
    assert same_trace(read_trace(str(deadlock)), read_trace(str(back)))


def test_to_decides_where_the_extension_does_not(
    xenm2p: Run, deadlock: Path, tmp_path: Path
) -> None:
    out = tmp_path / "trace.txt"
    assert xenm2p("convert", deadlock, "--to", "yaml", "-o", out).status == 0
    assert out.read_text().startswith("format: xenm2p-trace\n")


def test_convert_to_standard_output(xenm2p: Run, deadlock: Path) -> None:
    out = xenm2p("convert", deadlock, "--to", "yaml", "-o", "-").out
    assert xenm2p("replay", "-q", "-", stdin=out).status == 1


def test_compressed_input_is_read(xenm2p: Run, deadlock: Path, tmp_path: Path) -> None:
    packed = tmp_path / "trace.gz"
    packed.write_bytes(gzip.compress(deadlock.read_bytes()))
    assert xenm2p("replay", "-q", packed).status == 1


def test_memory_of_a_dump_becomes_part_of_the_trace(xenm2p: Run, tmp_path: Path) -> None:
    traces = Path(__file__).parents[2] / "traces"
    capture = traces / "self-phy-midstart.ftrace.txt.xz"
    dump = traces / "self-phy-midstart.p2m.txt.xz"
    out = tmp_path / "trace.xm2p"
    assert xenm2p("convert", capture, "--memory", dump, "-o", out, "-q").status == 0
    about = json.loads(xenm2p("info", "-f", "json", out).out)
    assert about["memory_frames"] > 100_000


def test_convert_says_what_a_capture_could_not_show(xenm2p: Run, tmp_path: Path) -> None:
    capture = Path(__file__).parents[2] / "traces" / "gntdev-badref.ftrace.txt.xz"
    done = xenm2p("convert", capture, "-o", tmp_path / "a.xm2p")
    assert done.status == 0
    assert "no p2m dump was given" in done.err
    assert xenm2p("convert", "-q", capture, "-o", tmp_path / "b.xm2p").err == ""


def test_convert_strict_exits_4_on_losses(xenm2p: Run, lossy: Path, tmp_path: Path) -> None:
    assert xenm2p("convert", lossy, "-o", tmp_path / "a.xm2p").status == 0
    assert xenm2p("convert", "--strict", lossy, "-o", tmp_path / "b.xm2p").status == 4


def test_info_tells_header_counts_and_span(xenm2p: Run, deadlock: Path) -> None:
    about = json.loads(xenm2p("info", "-f", "json", deadlock).out)
    expected = {
        "schema": "xenm2p/1", "format": "yaml", "kernel": "3.4.5", "model": "override",
        "domain": 0, "memory_rows": 2, "memory_frames": 320, "events": 5, "span_ns": 4000,
        "kinds": {"map": 1, "unmap": 1, "lock_page": 1, "unlock_page": 1, "dio_read": 1},
        "pages": 2, "frames": 1, "tasks": 2, "cpus": 1}
    assert about.items() >= expected.items()


def test_info_in_plain_text(xenm2p: Run, deadlock: Path) -> None:
    lines = xenm2p("info", deadlock).out.splitlines()
    assert "kernel         3.4.5" in lines
    assert "model          override" in lines


@pytest.fixture
def binary(xenm2p: Run, tmp_path: Path) -> Path:
    """Ten chunks of generated events."""
    path = tmp_path / "trace.xm2p"
    done = xenm2p("generate", "same-domain", "--events", 1000, "--chunk-events", 100, "-o", path)
    assert done.status == 0
    return path


def test_check_of_a_whole_file(xenm2p: Run, binary: Path) -> None:
    done = xenm2p("check", "--strict", binary)
    assert done.status == 0
    assert "verdict         whole" in done.out.splitlines()
    assert xenm2p("check", "-q", binary).out == ""


def test_check_tells_where_a_file_is_damaged(xenm2p: Run, binary: Path) -> None:
    data = bytearray(binary.read_bytes())
    data[len(data) // 2] ^= 0x40
    binary.write_bytes(data)
    done = xenm2p("check", "-f", "json", binary)
    report = json.loads(done.out)
    assert (done.status, report["verdict"]) == (3, "damaged")
    assert len(report["damage"]) == 1
    assert report["events"] >= 800
    assert xenm2p("replay", binary).status == 3


def test_check_of_a_file_whose_writer_was_killed(xenm2p: Run, binary: Path) -> None:
    binary.write_bytes(binary.read_bytes()[:-1500])
    done = xenm2p("check", "-f", "json", binary)
    assert (done.status, json.loads(done.out)["verdict"]) == (0, "ends early")
    assert xenm2p("check", "--strict", "-q", binary).status == 4


def test_check_reads_standard_input(xenm2p: Run, binary: Path) -> None:
    done = xenm2p("check", "-", stdin=binary.read_bytes())
    assert done.status == 0
    assert done.out.startswith("-: whole")


def test_check_tells_of_times_that_go_backwards(xenm2p: Run) -> None:
    trace = DEADLOCK.replace("time: 3000", "time: 1500")
    report = json.loads(xenm2p("check", "-f", "json", "-", stdin=trace).out)
    assert (report["backward_times"], report["backwards"]) == (1, "first at event 2")


def test_check_tells_what_the_tracer_lost(xenm2p: Run, lossy: Path) -> None:
    report = json.loads(xenm2p("check", "-f", "json", lossy).out)
    assert report["lost_events"] == 12
    assert xenm2p("check", "--strict", lossy).status == 4


def test_check_of_what_is_no_trace(xenm2p: Run) -> None:
    done = xenm2p("check", "-", stdin="hello\n")
    assert done.status == 3
    assert "unknown format" in done.err


def test_generate_lists_its_workloads(xenm2p: Run) -> None:
    out = xenm2p("generate", "--list").out
    assert [line.split()[0] for line in out.splitlines()] == list(WORKLOADS)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_generate_gives_the_same_trace_for_the_same_seed(
    xenm2p: Run, tmp_path: Path, workload: str
) -> None:
    files = []
    for number, seed in enumerate((7, 7, 8)):
        path = tmp_path / f"{number}.xm2p"
        done = xenm2p("generate", workload, "--events", 500, "--seed", seed, "-o", path)
        assert done.status == 0
        files.append(path.read_bytes())
    assert files[0] == files[1] != files[2]


def test_generate_refuses_what_it_cannot_honour(xenm2p: Run, tmp_path: Path) -> None:
    done = xenm2p("generate", "locks", "--in-flight", 100, "--frames", 10,
                  "-o", tmp_path / "a.xm2p")
    assert done.status == 2
    assert done.err.count("\n") == 1
