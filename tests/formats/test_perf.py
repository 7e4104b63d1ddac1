"""perf script's text: its own columns, then the same events as ftrace text of them."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

import numpy as np
import pytest

from tests.formats.ftrace_text import Grant, events_of, map_call, read, set_p2m
from tests.formats.perf_text import as_perf, perf_line, read_perf
from tests.formats.test_ftrace_calls import as_bytes
from xenm2p.errors import InputError
from xenm2p.formats.detect import format_of
from xenm2p.formats.ftrace import looks_like_perf, read_ftrace
from xenm2p.trace import COLUMNS, NO_CPU, NO_REF, Trace

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
WRITE = set_p2m(0x8FEFB, 0x43BE6)
# Of perf 6.1, on a machine with uprobes of these names; cut short.
HEADER = """\
# ========
# captured on    : Tue Nov 24 10:53:43 2026
# hostname : vm
# os release : 6.1.0-9-amd64
# event : name = xwgnt:set_foreign, , id = { 17, 18 }, type = 2, size = 128
# ========
#
"""


def one_event(text: str) -> tuple[str | None, int, int]:
    """Task, cpu and time of the one event of a text."""
    trace = read_perf(text)
    events = trace.events()
    assert len(events) == 1
    return trace.task_name(int(events.task[0])), int(events.cpu[0]), int(events.time[0])


@pytest.mark.parametrize("start", [
    "        0.xvda-0  2656 [001]  1390.727208:  probe:set_p2m: ",
    "        0.xvda-0  2656 [001]  1390.727208000: p2m:set_p2m: ",  # --ns
    "        0.xvda-0    2656 [001]  1390.727208: gnt:set_p2m: ",  # wider pids since 6.2
    "        0.xvda-0  2650/2656  [001]  1390.727208: gnt:set_p2m: ",  # -F +pid
    "0.xvda-0  2656 [001]  1390.727208:       gnt:set_p2m: ",  # with call chains
    "        0.xvda-0  2656 [001]  1390.727208:          1 gnt:set_p2m: ",  # -F +period
])
def test_every_form_of_line(start: str) -> None:
    arguments = WRITE.partition(": ")[2]
    assert one_event(start + arguments + "\n") == ("0.xvda-0-2656", 1, 1_390_727_208_000)
    assert len(read_perf((start + arguments + "\n") * 3).events()) == 3


def test_without_a_cpu() -> None:
    text = f"        0.xvda-0  2656  1390.727208: gnt:{WRITE}\n"
    assert one_event(text) == ("0.xvda-0-2656", NO_CPU, 1_390_727_208_000)
    idle = text.replace("0.xvda-0  2656", " swapper     0")
    assert read_perf(idle * 2 + text).events().cpu.tolist() == [NO_CPU] * 3


@pytest.mark.parametrize("task", [
    "my disk job-4582", "x 1 [000] 2.0: -12", ":2656-2656", "swapper-0", "a#b-4587", "7 8-9"])
def test_names_with_blanks_and_brackets(task: str) -> None:
    assert one_event(perf_line(WRITE, task=task))[0] == task


def test_call_chains_are_passed_over() -> None:
    chain = ("\tffffffff81021d10 __set_phys_to_machine+0x0 ([kernel.kallsyms])\n"
             "\tffffffff81022010 set_foreign_p2m_mapping+0x140 ([kernel.kallsyms])\n\n")
    trace = read_perf((f"0.xvda-0  2656 [001]  1390.727208: gnt:{WRITE}\n" + chain) * 3)
    assert len(trace.events()) == 3
    assert not any("left out" in note for note in trace.notes)


def test_a_return_is_no_entry() -> None:
    back = "set_p2m_ret: (ffffffff81021d10 <- ffffffff81022010) ret=0x1"
    assert len(read_perf(perf_line(WRITE) + perf_line(back)).events()) == 1
    probe = "set_p2m__return: (ffffffff81021d10 <- ffffffff81022010) ret=0x1"
    assert len(read_perf(perf_line(WRITE) + perf_line(probe, group="probe")).events()) == 1


def test_lost_events() -> None:
    text = (perf_line(WRITE) + "     dd  6506 [003]  1390.8: PERF_RECORD_LOST lost 184\n"
            "              dd  6506 [000]  1390.900000: PERF_RECORD_LOST lost 26\n"
            + perf_line(WRITE, time=1391.0))
    assert events_of(read_perf(text), "cpu", "ref", "time") == [
        ("set_p2m", 1, NO_REF, 1_390_727_208_000), ("lost", 3, 184, 1_391_000_000_000),
        ("lost", 0, 26, 1_391_000_000_000), ("set_p2m", 1, NO_REF, 1_391_000_000_000)]


def test_other_records_are_no_events() -> None:
    other = "         swapper     0 [000]     0.000000: PERF_RECORD_FORK(1:1):(0:0)\n"
    trace = read_perf(other + perf_line(WRITE) + other)
    assert len(trace.events()) == 1
    assert not any("left out" in note for note in trace.notes)


def test_what_perf_says_at_the_end_is_a_loss() -> None:
    text = perf_line(WRITE, cpu=1) + "Processed 1266388 events and lost 20 chunks!\n"
    assert events_of(read_perf(text), "cpu", "ref")[1] == ("lost", 1, NO_REF)


def test_the_header_names_the_kernel() -> None:
    trace = read_perf(HEADER + perf_line(WRITE))
    assert trace.kernel == "p2m-only-continue"
    assert "kernel model p2m-only-continue: the header names Linux 6.1.0-9-amd64" in trace.notes


def test_arrays_of_zeros_name_what_keeps_them() -> None:
    call = map_call(Grant(0x8FE02, 0xBDC01)).partition(" op=")[0]
    zeros = f"{call} op={{{','.join(['0x0'] * 44)}}} page={{{','.join(['0x0'] * 11)}}}"
    trace = read_perf(perf_line(zeros) + perf_line(set_p2m(0x8FE02, 0xBDC01 | 1 << 63)))
    assert [kind for kind, in events_of(trace)] == ["map", "p2m_write"]
    note, = (note for note in trace.notes if "zeros only" in note)
    assert "as perf script prints them" in note
    assert "trace.dat" in note
    assert "capture --tool perf" in note


def test_formats_that_libtraceevent_fails_to_parse() -> None:
    """It prints the fields as they are then, arrays as bytes, and so does trace-cmd."""
    call = as_bytes(map_call(Grant(0x8FE02, 0xBDC01, ref=7)).replace(
        "(set_foreign_p2m_mapping+0x0/0x300)",
        "[FAILED TO PARSE] __probe_ip=18446744071578984144"))
    write = "set_p2m: [FAILED TO PARSE] __probe_ip=18446744071578984144 pfn=589563 mfn=7"
    trace = read_perf(perf_line(call) + perf_line(write))
    assert events_of(trace, "pfn", "mfn", "ref") == [
        ("map", 0x8FE02, 0xBDC01, 7), ("set_p2m", 589563, 7, NO_REF)]


def test_text_without_an_event() -> None:
    with pytest.raises(InputError, match=r"perf\.txt: no perf script event in it"):
        read_perf(HEADER)


@pytest.mark.parametrize("first", [
    HEADER, perf_line(WRITE), "Warning:\nProcessed 3 events\n\n" + perf_line(WRITE),
    "# cmdline : perf record\n" + perf_line(WRITE),
    "     dd  6506 [000]  1390.900000: PERF_RECORD_LOST lost 26\n",
])
def test_it_looks_like_perf(first: str) -> None:
    assert looks_like_perf(first.encode())
    found = format_of(first.encode())
    assert found is not None
    assert found.name == "perf"


@pytest.mark.parametrize("first", [
    "", "format: xenm2p-trace\n", "# comment\n" * 300, "dd 12 [000] 1.5: x: y\n",
    "           true  6273  1737.875305: 250000 task-clock: 7f89a7e680af\n",
    "x" * 8192, "x\n" * 4000,
])
def test_it_does_not_look_like_perf(first: str) -> None:
    assert not looks_like_perf(first.encode())


def ftrace_of(name: str) -> bytes:
    """A capture as ftrace printed it."""
    return lzma.decompress((CAPTURES / f"{name}.txt.xz").read_bytes())


def calls_of(trace: Trace) -> list[int]:
    """The calls of events, numbered as they appear."""
    numbers: dict[int, int] = {}
    return [numbers.setdefault(call, len(numbers)) for call in trace.events().call.tolist()]


def same_events(a: Trace, b: Trace) -> bool:
    """Whether two traces have the same events of the same calls and tasks."""
    names = [[trace.task_name(task) for task in trace.events().task.tolist()] for trace in (a, b)]
    return names[0] == names[1] and calls_of(a) == calls_of(b) and all(
        np.array_equal(getattr(a.events(), column), getattr(b.events(), column))
        for column in COLUMNS if column not in ("task", "call"))


@pytest.mark.parametrize("name", [
    "gntdev-badref", "tcmd-phy-scalar-report", "v2-lost-trace_pipe"])
def test_captures_in_perfs_form_give_the_same_events(name: str) -> None:
    text = ftrace_of(name)
    assert same_events(read_perf(as_perf(text)), read(text))


def test_bytes_are_read_alike_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    text = as_perf(ftrace_of("gntdev-badref"))
    whole = read_perf(text)
    monkeypatch.setattr("xenm2p.formats.ftrace_lines.BLOCK_SIZE", 1000)
    assert same_events(whole, read_perf(text))


def test_ftrace_text_is_not_read_as_perfs() -> None:
    with pytest.raises(InputError):
        read_perf(ftrace_of("gntdev-badref"))
    with pytest.raises(InputError):
        read_ftrace(io.BytesIO(as_perf(ftrace_of("gntdev-badref"))), "x")
