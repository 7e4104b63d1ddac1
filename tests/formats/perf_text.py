"""perf script's text, line by line and made of ftrace text, for tests that say what they mean."""

from __future__ import annotations

import io
import re

from xenm2p.formats.ftrace import read_ftrace
from xenm2p.formats.ftrace_layouts import PERF
from xenm2p.trace import Runs, Trace

_FTRACE = re.compile(
    rb"(?P<comm>.{16})-(?P<pid>\d+) *(?:\([ \d-]+\) *)?\[(?P<cpu>\d+)\](?: \S+)? +"
    rb"(?P<time>\d+\.\d+): +(?P<event>\w+): *(?P<rest>.*)", re.DOTALL)
_LOST = re.compile(rb"CPU:(?P<cpu>\d+) \[LOST (?P<count>\d+) EVENTS\]")


def perf_line(event: str, task: str = "0.xvda-0-2656", cpu: int = 1, time: float = 1390.727208,
              group: str = "gnt") -> str:
    """One line as perf 6.1 prints a tracepoint's sample, the event's name in 24 columns."""
    comm, _, pid = task.rpartition("-")
    name, _, rest = event.partition(": ")
    blank = " " * (16 - len(comm.encode()))
    full = f"{group}:{name}"
    return f"{blank}{comm} {pid:>5} [{cpu:03}] {time:12.6f}: {full:>24}: {rest}\n"


def as_perf(text: bytes) -> bytes:
    """What perf script prints where ftrace prints `text`; comment lines are left out."""
    lines = []
    for line in text.split(b"\n"):
        found, lost = _FTRACE.match(line), _LOST.match(line)
        if found is not None:
            name = b"gnt:" + found["event"]
            lines.append(b"%s %5d [%s] %12s: %24s: %s\n" % (
                found["comm"], int(found["pid"]), found["cpu"], found["time"], name,
                found["rest"]))
        elif lost is not None:
            lines.append(b"         swapper     0 [%03d]  1390.727208: PERF_RECORD_LOST lost %s\n"
                         % (int(lost["cpu"]), lost["count"]))
    return b"".join(lines)


def read_perf(text: str | bytes, memory: Runs | None = None) -> Trace:
    """The trace that perf script's text gives."""
    data = text.encode() if isinstance(text, str) else text
    return read_ftrace(io.BytesIO(data), "perf.txt", form=PERF, memory=memory)
