"""Captures as text: MB a second of processor time, and how many times a plain loop's.

    python -m tests.benchmarks ftrace [--megabytes N] [--form NAME]

Each capture is repeated, its times going on, until it has as many megabytes (100), and is
then read by xenm2p and by the plain readers of plain_readers.py, which give the same events:
that is checked on the capture itself before. Memory is what a reading process has more at its
peak than before, the text itself not counted.
"""

from __future__ import annotations

import argparse
import io
import lzma
import multiprocessing
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.plain_readers import READERS, Event
from tests.formats.bpftrace_text import as_bpftrace
from tests.formats.perf_text import as_perf
from xenm2p.formats.bpftrace import read_bpftrace
from xenm2p.formats.ftrace import read_ftrace
from xenm2p.formats.ftrace_layouts import PERF
from xenm2p.trace import INVALID, KIND_BY_CODE, NO_HANDLE, NO_REF, Trace

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
_SECONDS = re.compile(rb"(?<=[ \]])(\d+)(?=\.\d{6}: )")
_NANOSECONDS = re.compile(rb'(?<=\{"time":)(\d+)')


@dataclass(frozen=True)
class Form:
    """One form of text: a capture, what makes the form of it, and the readers."""

    capture: str
    make: Callable[[bytes], bytes]
    read: Callable[[bytes], Trace]
    plain: str


def _ftrace(data: bytes) -> Trace:
    return read_ftrace(io.BytesIO(data), "benchmark")


def _perf(data: bytes) -> Trace:
    return read_ftrace(io.BytesIO(data), "benchmark", form=PERF)


def _bpftrace(data: bytes) -> Trace:
    return read_bpftrace(io.BytesIO(data), "benchmark")


FORMS = {
    "trace": Form("self-phy-nopersist-min", bytes, _ftrace, "ftrace"),
    "trace, page locks": Form("self-qdisk-pagelock", bytes, _ftrace, "ftrace"),
    "report -R": Form("tcmd-phy-nopersist-report-R", bytes, _ftrace, "ftrace"),
    "report, scalars": Form("tcmd-phy-scalar-report", bytes, _ftrace, "ftrace"),
    "perf script": Form("tcmd-phy-scalar-report", as_perf, _perf, "perf"),
    "bpftrace": Form("self-qdisk-pagelock", as_bpftrace, _bpftrace, "bpftrace"),
}


def repeated(text: bytes, size: int, form: Form) -> bytes:
    """The text again and again, later each time, until it has about `size` bytes."""
    pattern, unit = ((_NANOSECONDS, 10**9) if form.plain == "bpftrace" else (_SECONDS, 1))
    times = [int(found) for found in pattern.findall(text)]
    span = (max(times) - min(times)) // unit + 1
    copies = [text]
    for copy in range(1, max(1, size // len(text))):
        shift = copy * span * unit
        copies.append(pattern.sub(lambda found, by=shift: b"%d" % (int(found[1]) + by), text))
    return b"".join(copies)


def events_of(trace: Trace) -> list[Event]:
    """The events of a trace as the plain readers give them."""
    events = trace.events()

    def known(column: str, absent: int) -> list[int | None]:
        return [None if value == absent else value
                for value in getattr(events, column).tolist()]

    has_entry = ("p2m_write", "set_p2m")
    kinds = [KIND_BY_CODE[kind].name for kind in events.kind.tolist()]
    mfn = [value if kind in has_entry else unknown for kind, value, unknown in zip(
        kinds, events.mfn.tolist(), known("mfn", INVALID), strict=True)]
    return list(zip(
        kinds, events.time.tolist(), events.cpu.tolist(),
        [trace.task_name(task) or "" for task in events.task.tolist()],
        known("pfn", INVALID), mfn, known("ref", NO_REF), known("handle", NO_HANDLE),
        strict=True))


def check(form: Form, text: bytes) -> int:
    """Hold both readers' events against each other; returns how many there are."""
    ours = Counter(events_of(form.read(text)))
    theirs = Counter(READERS[form.plain](text.decode("utf-8", "backslashreplace")))
    different = (ours - theirs) + (theirs - ours)
    if different:
        raise AssertionError(f"{form.capture}: {different.total()} events differ, "
                             f"such as {next(iter(different))}")
    return ours.total()


def measured(work: Callable[[Any], object], text: Any) -> tuple[float, int]:
    """Seconds of processor time and MiB at the peak, of `work` in a process of its own."""
    def run(pipe: Any) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.process_time()
        work(text)
        seconds = time.process_time() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pipe.send((seconds, (peak - before) // 1024))

    ours, others = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=run, args=(others,))
    process.start()
    result: tuple[float, int] = ours.recv()
    process.join()
    return result


def main(arguments: list[str]) -> list[dict[str, str]]:
    """Rows of the table; the ratio is to the plain reader on the same text."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks ftrace")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--form", choices=list(FORMS))
    options, _ = parser.parse_known_args(arguments)
    rows = []
    for name, form in FORMS.items():
        if options.form not in (None, name):
            continue
        text = form.make(lzma.decompress((CAPTURES / f"{form.capture}.txt.xz").read_bytes()))
        check(form, text)
        text = repeated(text, options.megabytes * 10**6, form)
        seconds, memory = measured(form.read, text)
        decoded = text.decode("utf-8", "backslashreplace")
        plain, _ = measured(READERS[form.plain], decoded)
        size = len(text) / 1e6
        rows.append({
            "form": name, "MB": f"{size:.0f}", "lines/s": f"{text.count(10) / seconds:,.0f}",
            "MB/s": f"{size / seconds:.0f}", "MiB": f"{memory}",
            "plain MB/s": f"{size / plain:.1f}", "ratio": f"{plain / seconds:.1f}",
        })
    return rows


if __name__ == "__main__":
    for row in main(sys.argv[1:]):
        print(row)
