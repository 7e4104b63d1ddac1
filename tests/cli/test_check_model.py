"""`check --model` and `--kernel auto`: the machine's own writes, as a user asks for them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.cli.conftest import DEADLOCK, Run

TRACES = Path(__file__).parents[2] / "traces"
BADREF = TRACES / "gntdev-badref.ftrace.txt.xz"

# Linux 3.5-3.14 marks the frontend page; the trace does not say what kernel it is of.
MARKED = """\
format: xenm2p-trace
version: 1
memory:
- {pfn: 0x1000, mfn: 0x50000, count: 256}
- {pfn: 0x8000, count: 64}
events:
- {time: 1000, kind: map, mfn: 0x50010, pfn: 0x8000, call: 1}
- {time: 1001, kind: p2m_write, pfn: 0x8000, mfn: F:0x50010}
- {time: 1002, kind: p2m_write, pfn: 0x1010, mfn: F:0x50010}
- {time: 2000, kind: unmap, pfn: 0x8000, call: 2}
- {time: 2001, kind: p2m_write, pfn: 0x8000, mfn: invalid}
- {time: 2002, kind: p2m_write, pfn: 0x1010, mfn: 0x50010}
"""


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """The trace MARKED in a file."""
    path = tmp_path / "marked.yaml"
    path.write_text(MARKED)
    return path


def test_a_capture_agrees_with_its_kernels_model(xenm2p: Run) -> None:
    done = xenm2p("check", "--model", "-f", "json", BADREF)
    report = json.loads(done.out)
    assert done.status == 0
    assert report.items() >= {"model": "p2m-only-continue", "agreement_percent": "100.00",
                              "p2m_writes": 18, "agreed": 18, "unexplained": 0,
                              "never_written": 0, "not_compared": 0}.items()
    assert "models" not in report


def test_another_kernel_explains_less_and_the_first_misses_are_shown(xenm2p: Run) -> None:
    done = xenm2p("check", "--model", "--kernel", "3.4", BADREF)
    assert done.status == 1
    assert "agreement percent  88.88" in done.out.splitlines()
    assert max(map(len, done.out.splitlines()[2:])) <= 72
    assert "     15  0x8ff86  F:0x45ced  invalid    not the model's" in done.out.splitlines()


def test_auto_shows_every_model(xenm2p: Run) -> None:
    done = xenm2p("check", "--model", "--kernel", "auto", "-f", "json", BADREF)
    report = json.loads(done.out)
    assert [row["percent"] for row in report["models"]] == [
        "88.88", "88.88", "88.88", "94.44", "100.00"]
    assert report["model"] == "p2m-only-continue"
    assert xenm2p("check", "--model", "--kernel", "auto", "-f", "csv", BADREF).status == 0


def test_a_trace_that_names_no_kernel_is_compared_with_all(xenm2p: Run, marked: Path) -> None:
    report = json.loads(xenm2p("check", "--model", "-f", "json", marked).out)
    assert (report["model"], len(report["models"])) == ("local-foreign", 5)


@pytest.mark.parametrize("command", ["info", "check"])
@pytest.mark.parametrize("format_", ["csv", "tsv", "github", "jsonl"])
def test_numbers_and_tables_in_every_format(xenm2p: Run, command: str, format_: str) -> None:
    extra = ["--model", "--kernel", "auto"] if command == "check" else []
    done = xenm2p(command, *extra, "-f", format_, BADREF)
    assert done.status == 0
    assert "p2m_write" in done.out or "p2m_write 18" in done.out


def test_nothing_to_compare(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("check", "--model", "-f", "json", deadlock)
    report = json.loads(done.out)
    assert (done.status, report["p2m_writes"], report["agreement_percent"]) == (0, 0, None)


@pytest.mark.parametrize("how", ["file", "stdin", "compressed", "binary stdin"])
def test_replay_under_the_model_that_explains_the_writes(
    xenm2p: Run, marked: Path, tmp_path: Path, how: str
) -> None:
    source: object = "-"
    stdin: bytes = b""
    binary = tmp_path / "marked.xm2p"
    assert xenm2p("convert", marked, "-o", binary).status == 0
    if how == "file":
        source = marked
    elif how == "stdin":
        stdin = marked.read_bytes()
    elif how == "compressed":
        source = tmp_path / "marked.xm2p.gz"
        source.write_bytes(gzip.compress(binary.read_bytes()))
    else:
        stdin = binary.read_bytes()
    done = xenm2p("replay", "--kernel", "auto", source, stdin=stdin)
    assert done.status == 0
    text = " ".join(done.out.split())
    assert "kernel from --kernel auto: local-foreign, as it explains 4 of 4 p2m writes" in text
    assert "4 writes are as the model has them" in text


def test_auto_without_writes_is_the_traced_kernel(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("replay", "--kernel", "auto", deadlock)
    text = " ".join(done.out.split())
    assert "from --kernel auto: no p2m write to choose by; the trace says 3.4.5" in text


def test_auto_with_nothing_to_choose_by(xenm2p: Run, tmp_path: Path) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text(DEADLOCK.replace('kernel: "3.4.5"\n', ""))
    done = xenm2p("replay", "--kernel", "auto", path)
    assert (done.status, done.out) == (2, "")
    assert done.err.endswith("it names no kernel; give --kernel VERSION\n")


def test_the_traced_kernel_cannot_be_auto(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("replay", "--traced-kernel", "auto", deadlock)
    assert done.status == 2
    assert "unknown kernel 'auto'" in done.err
