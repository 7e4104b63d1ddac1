"""ftrace text: how the lines of each tracer look up to the event's name.

        0.xvda-0-2656    [001] .....  1390.727208: set_p2m: (...)       trace, trace-cmd report
  0.xvda-0-2656      1..... 23753us*: set_p2m: (...)                    options/latency-format
        0.xvda-0    2656   1 0 00000001 00000000 [6badb5c6] 8.038ms (+0.016ms): ..  .. verbose
        0.xvda-0  2656 [001]  1390.727208:    gnt:set_p2m: (...)        perf script

kernel/trace/trace_output.c: trace_print_context prints the command as ``%16s-%-7d``,
trace_print_lat_context as ``%8.8s-%-7d``, or ``%16s %7d`` where it is verbose;
tools/perf/builtin-script.c: perf_sample__fprintf_start as ``%16s %7d``. So the sign between
name and pid is at a fixed byte whatever blanks, dashes and brackets the name has, and the
columns to its right keep their places within a capture. A `Layout` is these places.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Clock(Enum):
    """What the times of a line count."""

    NANOSECONDS = 1
    SINCE_BUFFER = 2  # microseconds since the first event of the buffer
    TICKS = 3  # something else, such as trace_clock's counter and x86-tsc


_TGID = rb"(?:\( *(?:\d+|-+)\) *)?"
# trace_print_time: seconds, or a count of a clock that is not one of nanoseconds; a mark
# after microseconds tells of a long wait. trace-cmd report --ts-diff adds the step.
_TIME = (
    rb"(?P<time>\d{1,20}(?:\.(?:\d{6}|\d{9}))?)(?P<unit>us[^\w:]?)?: +(?:\(\+\d+\) +)?(?=\S)"
)
_NORMAL = (
    rb"-(?P<pid>\d{1,10}) *" + _TGID + rb"\[(?P<cpu>\d{1,5})\]"
    rb"(?:(?: [^\s:\[\]\d][^\s:\[\]]{2,9})?(?P<gap> +)|(?=\d))" + _TIME
)
_LATENCY = (
    rb"-(?P<pid>\d{1,10}) +(?P<cpu>\d{1,5})[^\s\d][^\s:]{2,9}(?P<gap> +)" + _TIME
)
_VERBOSE = (
    rb" +(?P<pid>\d{1,10}) +(?P<cpu>\d{1,5}) [0-9a-f]+ [0-9a-f]{8} [0-9a-f]{8,16}"
    rb" \[(?P<stamp>[0-9a-f]{8,16})\] \d+(?P<unit>\.\d{3}ms)? \(\+\d+(?:\.\d{3}ms)?\): +(?=\S)"
)
# pid/tid with -F +pid; the cpu only where it was sampled; a period with -F +period
_PERF = (
    rb" +(?:-?\d{1,10}/)?(?P<pid>-?\d{1,10}) *(?:\[(?P<cpu>\d{1,5})\])?(?P<gap> +)"
    rb"(?P<time>\d{1,20}\.(?:\d{6}|\d{9})): +(?:\d+ +)?(?=\S)"
)


def _name(width: int) -> bytes:
    return rb"(?P<comm>.{%d})" % width


# A name that lost its leading blanks, or was printed with another width
_ANY_NAME = rb"\s*(?P<comm>\S.*?)"


def _pattern(name: bytes, rest: bytes) -> re.Pattern[bytes]:
    return re.compile(name + rest, re.DOTALL if name is not _ANY_NAME else 0)


@dataclass(frozen=True, slots=True)
class LineForm:
    """The lines of one family of tracers.

    `blank_arrays` says who prints arrays as zeros, and what does keep them. `fixed`
    patterns have columns that keep their places, each with the one of the bytes that name
    the task; `loose` ones are for the few other lines. `looks` is what one line is known
    by. `remarks` begin lines that are kept, `entries` those of call chains.
    `pads_names` says that blanks before an event's name put the names of all in line.
    """

    name: str
    blank_arrays: str
    fixed: tuple[tuple[re.Pattern[bytes], re.Pattern[bytes]], ...]
    loose: tuple[re.Pattern[bytes], ...]
    looks: bytes
    remarks: tuple[bytes, ...]
    entries: tuple[bytes, ...]
    pads_names: bool = False


_PID = rb"-(?P<pid>\d{1,10}) *"
_LINE = rb"[^\n]{1,60}?"


def _anonymous(pattern: bytes) -> bytes:
    return re.sub(rb"\(\?P<\w+>", b"(?:", pattern)


FTRACE = LineForm(
    name="ftrace",
    blank_arrays="trace-cmd report prints them (trace-cmd report -R prints the data, and "
                 "trace.dat itself, which xenm2p reads, has it)",
    fixed=(
        (_pattern(_name(16), _NORMAL), _pattern(_name(16), _PID + _TGID)),
        (_pattern(_name(8), _LATENCY), _pattern(_name(8), _PID)),
    ),
    loose=(_pattern(_ANY_NAME, _NORMAL), _pattern(_name(16), _VERBOSE)),
    looks=_LINE + rb"(?:" + b"|".join(
        _anonymous(each) for each in (_NORMAL, _LATENCY, _VERBOSE)) + rb")",
    remarks=(b"#", b"CPU:", b"cpus=", b"version = "),
    entries=(b" => ", b"=> "),
)
PERF = LineForm(
    name="perf script",
    blank_arrays="perf script prints them (probes that fetch each word on its own, as those "
                 "of xenm2p capture --tool perf, show the data, and trace-cmd's trace.dat "
                 "keeps arrays)",
    fixed=((_pattern(_name(16), _PERF),
            _pattern(_name(16), rb" +(?:-?\d{1,10}/)?(?P<pid>-?\d{1,10}) *")),),
    loose=(_pattern(_ANY_NAME, _PERF),),
    looks=_LINE + _anonymous(_PERF) + rb"(?:[\w.-]+:[\w.-]+: |PERF_RECORD_)",
    remarks=(b"#", b"Processed "),
    entries=(b"\t",),
    pads_names=True,
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the columns of a line stand, in bytes from its begin.

    `exact` are bytes that must be so; `task` the pattern of the first `task_end` bytes;
    the cpu is at `cpu` up to `cpu_end` (both -1 where there is none), with blanks before it
    where `cpu_padded`; `dot` is -1 for times without a fraction; `whole` is where the
    digits before the dot, or `time_end`, may begin. The event begins at `event`, after
    more blanks where `pads_names`.
    """

    exact: tuple[tuple[int, int], ...]
    task: re.Pattern[bytes]
    task_end: int
    cpu: int
    cpu_end: int
    cpu_padded: bool
    whole: int
    dot: int
    time_end: int
    colon: int
    clock: Clock
    event: int
    pads_names: bool

    @property
    def whole_end(self) -> int:
        """The end of the digits before the dot."""
        return self.time_end if self.dot < 0 else self.dot


def layout_of(match: re.Match[bytes], task: re.Pattern[bytes], form: LineForm) -> Layout | None:
    """The layout of a line that a fixed pattern matched; None where columns touch."""
    time, begin, end = match["time"], match.start("time"), match.end("time")
    if not match["gap"]:
        return None
    digits, _, fraction = time.partition(b".")
    dot = begin + len(digits) if fraction else -1
    is_us = "unit" in match.re.groupindex and match["unit"] is not None
    # %5lu.%06lu, %4lldus or %12llu
    width = max(len(digits), 5 if fraction else 4 if is_us else 12)
    whole = max((dot if fraction else end) - width, match.start("gap") + 1)
    name_end = match.end("comm")
    colon = match.string.index(b":", end)
    exact = [name_end, whole - 1, colon, colon + 1, *range(end, end + 2 * is_us)]
    cpu, cpu_end, cpu_padded = -1, -1, False
    task_end = whole - 1
    if match["cpu"] is not None:
        cpu, cpu_end = match.span("cpu")
        if match.string[cpu - 1 : cpu] == b"[":
            exact += [cpu - 1, cpu_end, cpu_end + 1]
            task_end = cpu - 1
        else:
            cpu, cpu_padded = max(cpu_end - 3, match.end("pid") + 1), True
            task_end = cpu
            exact.append(cpu - 1)
    return Layout(
        exact=tuple((at, match.string[at]) for at in sorted(exact)), task=task,
        task_end=task_end, cpu=cpu, cpu_end=cpu_end, cpu_padded=cpu_padded, whole=whole,
        dot=dot, time_end=end, colon=colon, clock=_clock(match),
        event=colon + 2 if form.pads_names else match.end(), pads_names=form.pads_names)


def _clock(match: re.Match[bytes]) -> Clock:
    groups = match.groupdict()
    if "stamp" in groups:
        return Clock.TICKS if groups["unit"] is None else Clock.NANOSECONDS
    if b"." in groups["time"]:
        return Clock.NANOSECONDS
    return Clock.TICKS if groups.get("unit") is None else Clock.SINCE_BUFFER


def time_of(match: re.Match[bytes]) -> tuple[int, Clock]:
    """The time of a line in nanoseconds, and what it counts."""
    groups, clock = match.groupdict(), _clock(match)
    if "stamp" in groups:
        # The absolute time, in microseconds where the clock counts nanoseconds
        stamp = int(groups["stamp"], 16)
        return stamp if clock is Clock.TICKS else stamp * 1000, clock
    whole, _, fraction = groups["time"].partition(b".")
    if clock is Clock.NANOSECONDS:
        return int(whole) * 10**9 + int(fraction) * 10 ** (9 - len(fraction)), clock
    return int(whole) * (1000 if clock is Clock.SINCE_BUFFER else 1), clock
