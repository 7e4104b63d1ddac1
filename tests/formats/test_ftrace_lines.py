"""What stands before every event: task, cpu, flags, time, in every form a tracer prints."""

from __future__ import annotations

import pytest

from tests.formats.ftrace_text import events_of, line, read, set_p2m
from xenm2p.errors import InputError
from xenm2p.formats.ftrace import looks_like_ftrace

WRITE = set_p2m(0x8FEFB, 0x43BE6)


def task_and_time(text: str) -> tuple[str | None, int, int]:
    """Task, cpu and time of the one event of a text."""
    trace = read(text)
    events = trace.events()
    assert len(events) == 1
    return trace.task_name(int(events.task[0])), int(events.cpu[0]), int(events.time[0])


@pytest.mark.parametrize("task", [
    "0.xvda-1-1917", "(udev-worker)-3271", "my disk job-4582", "x-1 [000] 2.0:-4583",
    "- --4588", "a#b-4587", "ünicöde dd-4585", "tab\tname-4584", "<idle>-0", "<...>-77",
    "mfn=0x1 pfn=0x2-4590", "set_p2m: pfn=0x-4586", "kworker/0:1-4194304",
])
def test_the_pid_is_after_the_last_dash(task: str) -> None:
    assert task_and_time(line(WRITE, task=task))[0] == task


def test_a_newline_in_a_name_breaks_the_line_in_two() -> None:
    text = line(WRITE, task="new\nline-4589")
    assert text.count("\n") == 2
    trace = read(text)
    assert [trace.task_name(t) for t in trace.events().task.tolist()] == ["new\nline-4589"]
    assert not any("no ftrace events" in note for note in trace.notes)


def test_a_name_of_several_lines_is_one_name() -> None:
    assert task_and_time(line(WRITE, task="a\n\nb\nc-12"))[0] == "a\n\nb\nc-12"


def test_a_broken_line_across_two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenm2p.formats.ftrace_lines.BLOCK_SIZE", 20)
    assert task_and_time(line(WRITE, task="new\nline-4589"))[0] == "new\nline-4589"


def test_every_block_size_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(line(set_p2m(i, i + 1), cpu=i % 2, time=1 + i / 1000) for i in range(20))
    whole = events_of(read(text), "pfn", "mfn", "time", "cpu", "task")
    for size in (1, 7, 100, 1000):
        monkeypatch.setattr("xenm2p.formats.ftrace_lines.BLOCK_SIZE", size)
        assert events_of(read(text), "pfn", "mfn", "time", "cpu", "task") == whole


def test_microseconds_become_nanoseconds_exactly() -> None:
    assert task_and_time(line(WRITE, time=1384.185215))[2] == 1_384_185_215_000


@pytest.mark.parametrize(("stamp", "nanoseconds"), [
    ("    0.000001", 1000),
    ("99999.999999", 99_999_999_999_000),
    ("100000.000000", 100_000_000_000_000),
    ("123456789.123456", 123_456_789_123_456_000),
    ("1234567890.123456", 1_234_567_890_123_456_000),
    (" 1384.185215123", 1_384_185_215_123),  # nine decimals
    ("     1234567", 1_234_567),  # trace_clock counter
    ("1234567890123456", 1_234_567_890_123_456),  # trace_clock x86-tsc
])
def test_every_clock_is_read_exactly(stamp: str, nanoseconds: int) -> None:
    text = f"        0.xvda-0-2656    [001] ..... {stamp}: {WRITE}\n"
    assert task_and_time(text)[2] == nanoseconds
    # the same by layout, after a line of that layout was learnt
    assert read(text * 3).events().time.tolist() == [nanoseconds] * 3


def test_seconds_may_grow_a_digit_within_a_capture() -> None:
    times = read(line(WRITE, time=99999.5) + line(WRITE, time=100000.5)
                 + line(WRITE, time=99999.75)).events().time
    assert times.tolist() == [99_999_500_000_000, 100_000_500_000_000, 99_999_750_000_000]


def test_a_time_beyond_64_bits_is_an_error() -> None:
    text = line(WRITE).replace("1390.727208", "99999999999.727208")
    with pytest.raises(InputError, match=r"capture\.txt:1: .*out of range"):
        read(text)


@pytest.mark.parametrize("form", [
    "        0.xvda-0-2656    [001] .....  1390.727208: ",
    "        0.xvda-0-2656    [001] d.h2.  1390.727208: ",
    "        0.xvda-0-2656    [001] ....   1390.727208: ",  # four flags, before 5.14
    "        0.xvda-0-2656    [001] d..h1.2  1390.727208: ",  # RT patches
    "        0.xvda-0-2656    [001]   1390.727208: ",  # options/irq-info off
    "        0.xvda-0-2656    (   2656) [001] .....  1390.727208: ",  # record-tgid
    "        0.xvda-0-2656    (-------) [001] .....  1390.727208: ",
    "        0.xvda-0-2656  [001]  1390.727208: ",  # trace-cmd report
    "0.xvda-0-2656 [001] 1390.727208: ",  # pasted without its blanks
])
def test_every_header_form(form: str) -> None:
    assert task_and_time(form + WRITE + "\n") == ("0.xvda-0-2656", 1, 1_390_727_208_000)


# As Linux 6.18 printed them; options/irq-info off, and the kernel of 2.6.38 without flags.
@pytest.mark.parametrize(("form", "nanoseconds"), [
    ("           <...>-6399    [001] ...1. 4697363197989: ", 4_697_363_197_989),  # x86-tsc
    ("           <...>-6399    [001]           41: ", 41),  # counter
    ("           <...>-6399  [001]1878564269596: ", 1_878_564_269_596),  # report --raw-ts
    ("           <...>-6399  [001]  1878.564269: (+3263)  ", 1_878_564_269_000),  # --ts-diff
    ("           <...>-6399  [001]  1878.564269:          ", 1_878_564_269_000),
    ("   <...>-6399      1...1. 23753us*: ", 23_753_000),  # options/latency-format
    ("   <...>-6399      1...1.    3us : ", 3000),
    ("   <...>-6399      1d.... 1234us!: ", 1_234_000),  # 2.6.38-5.13
    ("   <...>-6399      1...1. 41716158: ", 41_716_158),  # .. with a clock that is no time
    ("   <...>-6399      1.....  1878.564270: ", 1_878_564_270_000),  # report -l
    ("   <...>-6399      1.....  1878.564269596: ", 1_878_564_269_596),
    ("           <...>    6399   1 0 00000001 00000000 [6badb5c6] 8.038ms (+10.816ms): ",
     0x6BADB5C6 * 1000),  # options/verbose
    ("           <...>    6399   1 0 00000001 00000000 [00000445d4008471] 4171 (+0): ",
     0x445D4008471),
])
def test_every_clock_and_width(form: str, nanoseconds: int) -> None:
    assert task_and_time(form + WRITE + "\n") == ("<...>-6399", 1, nanoseconds)
    assert looks_like_ftrace((form + WRITE + "\n").encode())
    events = read((form + WRITE + "\n") * 3).events()
    assert events.time.tolist() == [nanoseconds] * 3
    assert events.cpu.tolist() == [1] * 3


def test_a_step_of_time_is_told_from_an_event() -> None:
    stepped = "           <...>-6399  [001]  1878.564269: (+3263)  "
    plain = "           <...>-6399  [001]  1878.564269: "
    assert len(read((stepped + WRITE + "\n" + plain + WRITE + "\n") * 3).events()) == 6


def test_latency_format_counts_microseconds() -> None:
    text = f"# tracer: nop\n  xvda-0-2656      1d.h2.  12345us+: {WRITE}\n"
    assert task_and_time(text) == ("xvda-0-2656", 1, 12_345_000)
    assert any(note.startswith("latency format: times are micros") for note in read(text).notes)


LATENCY_HEADER = """\
# tracer: nop
#
# nop latency trace v1.1.5 on 6.1.0-9-amd64
# --------------------------------------------------------------------
# latency: 0 us, #2/14, CPU#1 | (M:PREEMPT(none) VP:0, KP:0, SP:0 HP:0 #P:2)
#    -----------------
"""


def test_the_header_of_the_latency_format_names_the_kernel_and_the_loss() -> None:
    trace = read(LATENCY_HEADER + f"  xvda-0-2656      1d.h2.  12345us+: {WRITE}\n")
    assert trace.kernel == "p2m-only-continue"
    assert any("the header names Linux 6.1.0-9-amd64" in note for note in trace.notes)
    assert events_of(trace, "cpu", "ref")[0] == ("lost", 1, 12)


@pytest.mark.parametrize(("stamp", "is_told"), [
    ("1390.727208", False), ("4697363197989", True), ("          41", True)])
def test_a_clock_that_does_not_count_nanoseconds_is_told(stamp: str, is_told: bool) -> None:
    text = f"        0.xvda-0-2656    [001] ..... {stamp}: {WRITE}\n" * 2
    assert is_told == any("x86-tsc or counter" in note for note in read(text).notes)


def test_digits_of_a_pasted_time_are_never_taken_for_flags() -> None:
    assert task_and_time(f"x-1 [000] 1390.727208: {WRITE}\n")[2] == 1_390_727_208_000


def test_stack_traces_are_passed_over() -> None:
    stack = line("kernel_stack: <stack trace >") + " => set_foreign_p2m_mapping\n"
    trace = read(line(WRITE) + line("<stack trace>") + " => __set_phys_to_machine\n" + stack)
    assert len(trace.events()) == 1
    assert not any("no ftrace events" in note for note in trace.notes)


def test_options_fields() -> None:
    """options/fields prints every number twice, in hex and decimal."""
    text = line("set_p2m: __probe_ip=0xffffffff81021d10 (-2130568944) pfn=0x8fefb (589563) "
                "mfn=0x43be6 (277478)")
    assert events_of(read(text * 2), "pfn", "mfn") == [("set_p2m", 0x8FEFB, 0x43BE6)] * 2


def test_more_than_999_cpus() -> None:
    assert task_and_time(line(WRITE, cpu=1023))[1] == 1023


@pytest.mark.parametrize("first", ["00001", "99999"])
def test_a_cpu_that_cannot_be_is_an_error(first: str) -> None:
    text = line(WRITE).replace("[001]", f"[{first}]") + line(WRITE).replace("[001]", "[99999]")
    with pytest.raises(InputError, match=r"capture\.txt:[12]: cpu 99999"):
        read(text)


def test_windows_line_ends_are_read() -> None:
    trace = read(line(WRITE).replace("\n", "\r\n") * 2)
    assert events_of(trace, "pfn", "mfn") == [("set_p2m", 0x8FEFB, 0x43BE6)] * 2


def test_lines_that_are_no_events_are_left_out_and_counted() -> None:
    trace = read("some words\n" + line(WRITE) + "other words\n")
    assert len(trace.events()) == 1
    assert ("2 lines are no ftrace events and were left out, the first is line 1"
            in trace.notes)


def test_a_last_line_without_an_end_may_be_cut_and_is_left_out() -> None:
    trace = read(line(WRITE) + line(WRITE)[:-3])
    assert len(trace.events()) == 1
    assert any("cut short" in note for note in trace.notes)


def test_text_without_an_event_is_an_error() -> None:
    with pytest.raises(InputError, match=r"capture\.txt: no ftrace event"):
        read("# tracer: nop\n#\n")


def test_a_line_without_end_is_refused_in_bounded_memory() -> None:
    with pytest.raises(InputError, match=r"capture\.txt:2: a line of more than 1048576 bytes"):
        read(line(WRITE) + "x" * 10_000_000)


def test_a_long_line_is_refused() -> None:
    with pytest.raises(InputError, match=r"capture\.txt:2: a line of more than"):
        read(line(WRITE) + "x" * 2_000_000 + "\n")


@pytest.mark.parametrize("first", [
    "# tracer: nop\n#\n", "cpus=2\n", line(WRITE), "CPU:1 [LOST 4 EVENTS]\n" + line(WRITE),
    "cpus=2\nCPU:1 [4805 EVENTS DROPPED]\n", "##### CPU 0 buffer started ####\n",
    "           a\nb-12      [000] .....  1.000000: x: y\n",
])
def test_it_looks_like_ftrace(first: str) -> None:
    assert looks_like_ftrace(first.encode())


@pytest.mark.parametrize("first", [
    b"", b"format: xenm2p-trace\nversion: 1\n", b"\x7fELF\0\0", b"PERFILE2", b"# comment\nx: 1\n",
    b"xvda 2656 [001] 1390.727208: probe:set_p2m: (ffffffff81021d10) pfn=0x1\n",
    b"# Linux p2m (xen_p2m_addr) size=0xc0000 entries\n", b"-" * 4096, b" " * 4096,
])
def test_it_does_not_look_like_ftrace(first: bytes) -> None:
    assert not looks_like_ftrace(first)
