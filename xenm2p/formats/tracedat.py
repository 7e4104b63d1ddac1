"""trace.dat, the file that trace-cmd records, of versions 6 and 7 -> Trace.

The steps are in the files beside this one: layout, formats, pages, records, calls, and
then assembly.py. Records of the cpus are merged by time as ``trace-cmd report`` does.
"""

from __future__ import annotations

import mmap
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from xenm2p.errors import InputError
from xenm2p.formats.assembly import Capture, assemble
from xenm2p.formats.binary_reader import Loss as FileLoss
from xenm2p.formats.ftrace_calls import CallReader
from xenm2p.formats.ftrace_losses import Loss
from xenm2p.formats.ftrace_ops import CALL_ROLES, MAP_ROLES
from xenm2p.formats.ftrace_sightings import Sighted
from xenm2p.formats.ftrace_tasks import TaskNames
from xenm2p.formats.ftrace_writes import Sightings
from xenm2p.formats.probes import Role
from xenm2p.formats.tracedat_calls import Bytes, call_lines
from xenm2p.formats.tracedat_formats import Symbols, formats_of
from xenm2p.formats.tracedat_layout import MAGIC, Layout, read_layout
from xenm2p.formats.tracedat_records import CpuRecords, Found, RecordReader
from xenm2p.trace import I64, NO_REF, U64, Runs, Trace

_COMMAND = re.compile(rb"^\s*(\d{1,10}) (.*)$", re.MULTILINE)
_STAT = re.compile(r"^(CPU|overrun|dropped events): *(\d{1,18})$", re.MULTILINE)
_TICKS = ("counter", "x86-tsc", "ppc-tb")
_TIME_LIMIT = 1 << 62
_NAMES_SHOWN = 8
_BLANK_ARRAYS = "the probes fetched them"


def looks_like_tracedat(first_bytes: bytes) -> bool:
    """Whether a file that begins so is trace-cmd's."""
    return first_bytes.startswith(MAGIC)


def read_tracedat(source_file: BinaryIO | Path, source: str, *, memory: Runs | None = None,
                  vmemmap_base: int | None = None,
                  losses: list[FileLoss] | None = None) -> Trace:
    """Read trace-cmd's trace.dat into a trace.

    `source` is the name for errors; for `memory` and `vmemmap_base` see
    `assembly.assemble`. A file that is a stream goes to a temporary one first. Where the
    file ends within the data of a cpu that cpu's other events are lost, which is told in
    `losses`, too. Memory is a few times that of the events, plus some pages.

    Raises InputError, naming the byte, for a part that is missing, damaged or compressed
    in a way that cannot be undone, and for a file without any event.
    """
    if isinstance(source_file, Path):
        with source_file.open("rb") as opened:
            return _read_file(opened, source, memory, vmemmap_base, losses)
    with tempfile.TemporaryFile(prefix="xenm2p.") as copy:
        shutil.copyfileobj(source_file, copy, 1 << 20)
        copy.flush()
        return _read_file(copy, source, memory, vmemmap_base, losses)


def _read_file(opened: BinaryIO, source: str, memory: Runs | None, vmemmap_base: int | None,
               losses: list[FileLoss] | None) -> Trace:
    # Views of it are in use until the last of them goes; it is unmapped then.
    data = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    layout = read_layout(data, source)
    formats = formats_of(layout)
    reader = RecordReader(data, layout, formats, Symbols.of(layout.kallsyms))
    cpus = [reader.read(part) for part in layout.cpus]
    merged = _Merged.of(cpus, layout)
    if not len(merged.time):
        others = f"; it also has {_listed(layout.others)}" if layout.others else ""
        raise InputError(f"no event in its main buffer{others}", source=source)
    cut = [replace(loss, first_event=len(cpus[at].time)) for loss in reader.cut
           for at, part in enumerate(layout.cpus) if part.cpu == loss.chunk]
    if losses is not None:
        losses += cut
    try:
        found = merged.capture(cpus, layout)
    except InputError as error:
        raise _located(error) from None
    found.ignored = reader.ignored
    found.notes = [*_notes(layout), *(loss.sentence() for loss in cut)]
    return assemble(found, memory=memory, vmemmap_base=vmemmap_base)


@dataclass(slots=True)
class _Merged:
    """The records of all cpus in the order of their times, those of equal times by cpu.

    `ranks` are, for each cpu, the ranks of its records in that order. A record that is
    earlier than the one before it of its cpu stays behind it, as in the buffer.
    """

    ranks: list[I64]
    time: I64
    cpu: NDArray[np.int16]
    task: NDArray[np.int32]
    names: TaskNames

    @classmethod
    def of(cls, cpus: list[CpuRecords], layout: Layout) -> _Merged:
        """Merge the records of all cpus."""
        times = [_nanoseconds(each.time, layout) for each in cpus]
        keys = [np.maximum.accumulate(time) for time in times]
        key = np.concatenate([np.zeros(0, np.int64), *keys])
        order = np.argsort(key, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        bounds = np.cumsum([0, *(len(time) for time in times)])
        cpu = np.concatenate([np.zeros(0, np.int16), *(
            np.full(len(each.time), each.cpu, np.int16) for each in cpus)])
        pid = np.concatenate([np.zeros(0, np.int32), *(each.pid for each in cpus)])
        names = TaskNames()
        task = _tasks(pid[order], layout.cmdlines, names)
        time = np.concatenate([np.zeros(0, np.int64), *times])
        return cls([rank[a:b] for a, b in pairwise(bounds)], time[order], cpu[order], task,
                   names)

    def capture(self, cpus: list[CpuRecords], layout: Layout) -> Capture:
        """The events of all cpus, sorted by what they mean."""
        seen = Sighted()
        calls = CallReader(layout.source, self.names.idle)
        groups: dict[tuple[bytes, int], list[tuple[Found, I64]]] = {}
        for each, ranks in zip(cpus, self.ranks, strict=True):
            for found in each.found:
                if found.raw is not None:
                    key = found.head.text, found.event.number
                    groups.setdefault(key, []).append((found, ranks[found.row]))
                else:
                    self._sight(found, ranks[found.row], seen)
        whole = [_together(parts) for parts in groups.values()]
        for found, _ in whole:
            name = found.head.text.decode("latin-1")
            seen.functions.setdefault(name, len(seen.functions))
        raw = [(found.head, found.event, ranks, found.raw) for found, ranks in whole
               if found.raw is not None]
        for lines, heads in call_lines(raw, self.time, self.cpu, self.task):
            calls.read(lines, heads)
        return Capture(
            origin=f"trace-cmd {layout.source}", tasks=self.names.names, idle=self.names.idle,
            calls=calls.table(), seen=seen, roles=calls.roles, header=_header(layout),
            losses=self._losses(cpus, layout), blank_arrays=calls.blank_arrays,
            blank_arrays_note=_BLANK_ARRAYS)

    def _sight(self, found: Found, ranks: I64, seen: Sighted) -> None:
        head = found.head
        assert head.probe is not None
        role = head.probe.role
        if role is Role.WAIT and not head.returns:
            seen.waits += len(ranks)
            return
        if head.returns:
            if role in CALL_ROLES:
                seen.returns.append((self._sightings(ranks, 0, ()), role in MAP_ROLES))
            return
        name = head.text.decode("latin-1")
        function = seen.functions.setdefault(name, len(seen.functions))
        seen.rows[role].append(self._sightings(ranks, function, found.columns))

    def _sightings(self, ranks: I64, source: int, values: tuple[U64, ...]) -> Sightings:
        return Sightings(2 * ranks + 1, self.time[ranks], self.cpu[ranks], self.task[ranks],
                         np.full(len(ranks), source, np.int64), values)

    def _losses(self, cpus: list[CpuRecords], layout: Layout) -> list[Loss]:
        """Losses that the pages mark, and those that only the tracer's counts tell of."""
        overrun, dropped = _counts(layout.stats)
        losses = []
        for each, ranks in zip(cpus, self.ranks, strict=True):
            first = 2 * int(ranks[0]) if len(ranks) else 0
            after = 2 * int(ranks[-1]) + 2 if len(ranks) else 2 * len(self.time)
            losses += [Loss(2 * int(ranks[row]) if row < len(ranks) else after, each.cpu, events)
                       for row, events in each.losses]
            marked = [events for _, events in each.losses]
            unmarked = overrun.get(each.cpu, 0) - sum(marked)
            if unmarked > 0 and NO_REF not in marked:
                losses.append(Loss(first, each.cpu, min(unmarked, NO_REF - 1)))
            if dropped.get(each.cpu, 0):  # the buffer was full, and new events had no room
                losses.append(Loss(after, each.cpu, min(dropped[each.cpu], NO_REF - 1)))
        return losses


def _together(parts: list[tuple[Found, I64]]) -> tuple[Found, I64]:
    """Records of one head of several cpus and batches, with their ranks."""
    found = parts[0][0]
    raw: Bytes = np.concatenate([part.raw for part, _ in parts if part.raw is not None])
    return replace(found, raw=raw), np.concatenate([ranks for _, ranks in parts])


def _nanoseconds(count: U64, layout: Layout) -> I64:
    """Times from what the clock counted, with the offset that trace-cmd was to add."""
    if layout.mult:
        mult, shift = np.uint64(layout.mult), np.uint64(layout.shift)
        low, high = count & np.uint64(0xFFFFFFFF), count >> np.uint64(32)
        count = ((low * mult) >> shift) + (
            (high * mult) << np.uint64(32 - layout.shift) if layout.shift <= 32
            else (high * mult) >> np.uint64(layout.shift - 32))
    if len(count):
        least, most = int(count.min()) + layout.offset, int(count.max()) + layout.offset
        if least < -_TIME_LIMIT or most > _TIME_LIMIT:
            raise InputError("a time is more than a trace can have: the ring buffer's pages are "
                             "damaged", source=layout.source)
    offset = np.uint64(layout.offset % (1 << 64))
    return (count + offset).view(np.int64)


def _tasks(pid: NDArray[np.int32], cmdlines: bytes, names: TaskNames) -> NDArray[np.int32]:
    """Task numbers of pids, which are numbered as they appear."""
    commands = {int(number): name for number, name in _COMMAND.findall(cmdlines)}
    pids, first, which = np.unique(pid, return_index=True, return_inverse=True)
    number = np.zeros(len(pids), np.int32)
    for row in np.argsort(first).tolist():
        each = int(pids[row])
        command = b"<idle>" if each == 0 else commands.get(each, b"<...>")
        number[row] = names.number(command, b"%d" % each)
    return number[which]


def _counts(stats: list[str]) -> tuple[dict[int, int], dict[int, int]]:
    """By cpu, how many events were overwritten, and how many had no room."""
    overrun, dropped = {}, {}
    for text in stats:
        found = {name: int(value) for name, value in _STAT.findall(text)}
        if "CPU" in found:
            overrun[found["CPU"]] = found.get("overrun", 0)
            dropped[found["CPU"]] = found.get("dropped events", 0)
    return overrun, dropped


def _header(layout: Layout) -> list[str]:
    """The kernel's version, as a header's comment line has it: uname's third word."""
    words = layout.uname.split()
    return [f"# release: {words[2]}"] if len(words) > 2 else []


def _notes(layout: Layout) -> list[str]:
    notes = []
    if layout.others:
        notes.append(f"the file also has {_listed(layout.others)}, which are not read")
    if layout.clock in _TICKS and not layout.mult:
        notes.append("times are counts without a unit, as of trace_clock x86-tsc or counter: "
                     "they are taken for nanoseconds")
    if layout.is_shifted:
        notes.append("times are those of this machine: the shift to another's clock, which the "
                     "file has, is not applied")
    return notes


def _listed(names: list[str]) -> str:
    shown = ", ".join(ascii(name) for name in names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"the buffers {shown}" + (f" and {more} more" if more > 0 else "")


def _located(error: InputError) -> InputError:
    """An error of the reader of calls, whose places are those of merged records."""
    if not isinstance(error.place, int):
        return error
    return InputError(error.reason, source=error.source, place=f"event {error.place // 2}")
