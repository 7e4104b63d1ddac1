"""ftrace text -> Trace: ``trace``, ``trace-cmd report`` and ``perf script`` with kprobes.

The steps are in the files beside this one: lines, fields, calls, sightings, and then
assembly.py. What the probes mean is in probes.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from xenm2p.errors import InputError
from xenm2p.formats.assembly import Capture, assemble
from xenm2p.formats.ftrace_calls import CallReader
from xenm2p.formats.ftrace_fields import Classifier
from xenm2p.formats.ftrace_layouts import FTRACE, PERF, LineForm
from xenm2p.formats.ftrace_lines import LineReader, Lines
from xenm2p.formats.ftrace_merge import MergedReader
from xenm2p.formats.ftrace_sightings import Sighted, sight
from xenm2p.trace import Runs, Trace

_LOOKS = re.compile(
    rb"# tracer: |# xenm2p-capture: ftrace\n|(?:version = \d+\n)?cpus=\d+\n"
    rb"|(?:[^\n]{0,4096}\n){0,8}?(?:" + FTRACE.looks + rb"|CPU:\d+ \[|##### CPU)"
)
_LOOKS_LIKE_PERF = re.compile(
    rb"# ========\n# captured on|# xenm2p-capture: perf\n"
    rb"|(?:#[^\n]*\n|\n){0,200}(?:[^\n]{0,4096}\n){0,8}?" + PERF.looks
)


def looks_like_ftrace(first_bytes: bytes) -> bool:
    """Whether a file that begins so is ftrace text."""
    return _LOOKS.match(first_bytes) is not None


def looks_like_perf(first_bytes: bytes) -> bool:
    """Whether a file that begins so is what perf script prints of tracepoints."""
    return _LOOKS_LIKE_PERF.match(first_bytes) is not None


def read_ftrace(stream: BinaryIO, source: str, *, form: LineForm = FTRACE,
                memory: Runs | None = None, vmemmap_base: int | None = None) -> Trace:
    """Read ftrace text into a trace.

    `source` is the name for errors, `form` which tracer's text it is; for `memory` and
    `vmemmap_base` see `assembly.assemble`. Memory is a few times that of the events, plus
    a block of text.

    Raises InputError, naming the line, for text without any event, for a known probe's
    line without an argument it needs or with one that is no number, and for lines of more
    than 1 MiB. Lines that are no events are left out, which `Trace.notes` says.
    """
    lines = LineReader(source, form)
    return _read(lines, lines.blocks(stream), memory, vmemmap_base)


def read_ftrace_parts(parts: Sequence[tuple[BinaryIO, str]], *, form: LineForm = FTRACE,
                      memory: Runs | None = None, vmemmap_base: int | None = None) -> Trace:
    """Read files that are parts of one capture, one a cpu, into a trace; see `read_ftrace`.

    `parts` are the open files with their names; their lines are merged by time, of equal
    times in the order of the files. Errors name the file and its line.
    """
    lines = MergedReader.of(parts, form)
    try:
        return _read(lines, lines.blocks(), memory, vmemmap_base)
    except InputError as error:
        raise lines.located(error) from None


def _read(lines: LineReader | MergedReader, blocks: Iterator[Lines], memory: Runs | None,
          vmemmap_base: int | None) -> Trace:
    classifier = Classifier()
    calls = CallReader(lines.source, lines.task_names.idle)
    seen = Sighted()
    for block in blocks:
        sight(block, classifier, calls, seen, lines.source)
    if not lines.events:
        raise InputError(f"no {lines.form.name} event in it", source=lines.source)
    found = Capture(
        origin=f"{lines.form.name} text {lines.source}", tasks=lines.task_names.names,
        idle=lines.task_names.idle, calls=calls.table(), seen=seen, roles=calls.roles,
        header=lines.header, losses=lines.losses(), notes=lines.notes(),
        ignored=classifier.ignored, blank_arrays=calls.blank_arrays,
        blank_arrays_note=lines.form.blank_arrays)
    return assemble(found, memory=memory, vmemmap_base=vmemmap_base)
