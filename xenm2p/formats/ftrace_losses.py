"""ftrace text: the marks that tracers leave where they lost events."""

from __future__ import annotations

import re
from typing import NamedTuple

from xenm2p.trace import NO_CPU, NO_REF

# trace_pipe; trace-cmd report; kernel/trace/trace.c: test_cpu_buff_start, which speaks only
# of buffers that were overrun; perf script --show-lost-events; what perf says at the end
_LOST = re.compile(
    r"CPU:(?P<cpu>\d{1,4}) \[(?:LOST )?(?:(?P<count>\d{1,18}) )?EVENTS(?: DROPPED)?\]"
    r"|##### CPU (?P<started>\d{1,4}) buffer started ####"
    r"|.*?(?:\[(?P<perf_cpu>\d{1,4})\] +[\d.]+: )?"
    r"PERF_RECORD_LOST(?:_SAMPLES)? lost (?P<perf_count>\d{1,18})"
    r"|Processed \d+ events and lost (?P<chunks>\d+) chunks!")
# What is left in the buffer, and what was written to it
_WRITTEN = re.compile(
    r"# entries-in-buffer/entries-written: (?P<kept>\d{1,18})/(?P<written>\d{1,18})\b.*"
    r"|# latency: \d+ us, #(?P<shown>\d{1,18})/(?P<total>\d{1,18}), CPU#.*")


class Loss(NamedTuple):
    """How many events a tracer lost before a place; NO_REF where that is not known."""

    place: int
    cpu: int
    events: int


def losses_of(remarks: list[tuple[int, str]], first_cpu: int) -> list[Loss]:
    """The losses that remarks, with their places, tell of.

    `first_cpu` is taken for losses of the whole buffer.
    """
    losses = []
    for place, text in remarks:
        written = _WRITTEN.fullmatch(text)
        if written is not None:
            kept, total = (int(n) for n in written.groups() if n is not None)
            if total > kept:
                losses.append(Loss(place, first_cpu, min(total - kept, NO_REF - 1)))
            continue
        lost = _LOST.match(text)
        if lost is not None:
            cpu = lost["cpu"] or lost["started"] or lost["perf_cpu"] or (
                first_cpu if lost["chunks"] else NO_CPU)
            count = lost["count"] or lost["perf_count"]
            losses.append(Loss(place, int(cpu),
                               min(int(count), NO_REF - 1) if count else NO_REF))
    return losses
