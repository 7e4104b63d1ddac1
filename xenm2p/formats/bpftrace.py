"""bpftrace's JSON lines, of programs as `xenm2p capture --tool bpftrace` writes -> Trace.

The format is described in xenm2p-trace(5). bpftrace prints what it finds in the buffers of
the cpus, one buffer after the other: the events are put in the order of their times first.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import BinaryIO

import numpy as np

from xenm2p.errors import InputError
from xenm2p.formats.assembly import Capture, assemble
from xenm2p.formats.bpftrace_calls import ABSENT, OVERRIDE_ROLES, call_table
from xenm2p.formats.bpftrace_json import CALL_FIELDS
from xenm2p.formats.bpftrace_lines import RecordReader, Rows
from xenm2p.formats.ftrace_fields import missing
from xenm2p.formats.ftrace_losses import Loss
from xenm2p.formats.ftrace_ops import CALL_ROLES, MAP_ROLES
from xenm2p.formats.ftrace_sightings import Sighted
from xenm2p.formats.ftrace_writes import Sightings
from xenm2p.formats.probes import PROBES, Probe, Role, probe_of_event
from xenm2p.trace import I64, INVALID, NO_CPU, NO_REF, Runs, Trace

_PAGE = "_page"
_LOOKS = re.compile(
    rb'(?:(?!\{)[^\n]{0,400}\n){0,8}\{ ?"(?:'
    rb'xenm2p" ?: ?"capture"|time" ?: ?"?\d[^\n]{1,80}"probe"|probe" ?: ?"|'
    rb'type" ?: ?"(?:attached_probes|printf|lost_events)")')


def looks_like_bpftrace(first_bytes: bytes) -> bool:
    """Whether a file that begins so is what a bpftrace program of ours prints."""
    return _LOOKS.match(first_bytes) is not None


def read_bpftrace(stream: BinaryIO, source: str, *, memory: Runs | None = None,
                  vmemmap_base: int | None = None) -> Trace:
    """Read bpftrace's JSON lines into a trace.

    `source` is the name for errors; for `memory` and `vmemmap_base`, which goes before the
    header's, see `assembly.assemble`. Memory is a few
    times that of the events, plus a block of text.

    Raises InputError, naming the line, for text without any event, for objects that are
    none, and for values that are missing, of a wrong type or out of range. Other lines are
    left out, which `Trace.notes` says.
    """
    reader = RecordReader(source)
    parts: dict[str, list[Rows]] = defaultdict(list)
    ignored: Counter[str] = Counter()
    for rows in reader.blocks(stream):
        if meaning_of(rows.probe) is None:
            ignored[rows.probe] += len(rows.place)
        else:
            parts[rows.probe].append(_checked(rows, source))
    if not reader.events:
        raise InputError("no event of a bpftrace program in it", source=source)
    found = [_joined(of_probe) for of_probe in parts.values()]
    order = _Order.of(found)
    capture = _sorted(order.ranked(found), reader)
    capture.ignored = ignored
    capture.losses = [order.loss(*loss) for loss in reader.losses]
    base = reader.header.vmemmap_base if vmemmap_base is None else vmemmap_base
    return assemble(capture, memory=memory, vmemmap_base=base)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What records of a name mean: a probe's event, its return, or one page of its call."""

    probe: Probe
    returns: bool
    is_page: bool

    @property
    def is_call(self) -> bool:
        """Whether its pages have records of their own."""
        return self.probe.role in CALL_ROLES and not self.probe.needs

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields without which such a record means nothing."""
        if self.returns or self.probe.role in (Role.WAIT, Role.MARKER):
            return ()
        if self.is_call:
            return ("call", "index") if self.is_page else ("call", "count")
        return self.probe.needs


@lru_cache(maxsize=1000)
def meaning_of(name: str) -> Meaning | None:
    """What records with this name mean, None for nothing that is known."""
    found = probe_of_event(name)
    if found is not None:
        return Meaning(*found, is_page=False)
    page = probe_of_event(name.removesuffix(_PAGE)) if name.endswith(_PAGE) else None
    if page is None or page[1] or page[0].role not in CALL_ROLES or page[0].needs:
        return None
    return Meaning(page[0], returns=False, is_page=True)


def _checked(rows: Rows, source: str) -> Rows:
    """Rows with the fields named as the catalogue names them. Raises InputError."""
    meaning = meaning_of(rows.probe)
    assert meaning is not None
    numbers = dict(rows.numbers)
    for key in (*meaning.needs, *meaning.probe.wants):
        known = next((name for name in meaning.probe.names_of(key) if name in numbers), None)
        if known is not None:
            numbers[key] = numbers[known]
        elif key in meaning.needs:
            raise missing(rows.probe, key, rows.numbers, source, int(rows.place.min()))
    return replace(rows, numbers=numbers)


def _joined(parts: list[Rows]) -> Rows:
    """Rows of one probe; what some of them do not have is absent there."""
    numbers = {}
    for key in {key: None for part in parts for key in part.numbers}:
        absent = ABSENT.get(key, INVALID)
        numbers[key] = np.concatenate([
            part.numbers.get(key, np.full(len(part.place), absent, np.uint64))
            for part in parts])
    return Rows(parts[0].probe, np.concatenate([part.place for part in parts]),
                np.concatenate([part.time for part in parts]),
                np.concatenate([part.cpu for part in parts]),
                np.concatenate([part.task for part in parts]), numbers)


@dataclass(frozen=True, slots=True)
class _Order:
    """All lines with an event, sorted, and the rank by time of each.

    The place of the n-th event by time is ``2 * n + 1``, that of what stands before it
    ``2 * n``.
    """

    lines: I64
    rank: I64

    @classmethod
    def of(cls, found: list[Rows]) -> _Order:
        """The order of the events in all rows."""
        lines = np.concatenate([np.zeros(0, np.int64), *(rows.place for rows in found)])
        times = np.concatenate([np.zeros(0, np.int64), *(rows.time for rows in found)])
        by_line = np.argsort(lines, kind="stable")
        by_time = np.argsort(times[by_line], kind="stable")
        rank = np.empty_like(by_time)
        rank[by_time] = np.arange(len(by_time))
        return cls(lines[by_line], rank)

    def ranked(self, found: list[Rows]) -> list[Rows]:
        """The rows, each sorted by time, with places in place of lines."""
        ranked = []
        for rows in found:
            place = 2 * self.rank[np.searchsorted(self.lines, rows.place)] + 1
            order = np.argsort(place)
            ranked.append(Rows(
                rows.probe, place[order], rows.time[order], rows.cpu[order], rows.task[order],
                {key: column[order] for key, column in rows.numbers.items()}))
        return ranked

    def loss(self, line: int, cpu: int | None, events: int) -> Loss:
        """A loss, before the event that the next line has."""
        following = int(np.searchsorted(self.lines, line))
        rank = int(self.rank[following]) if following < len(self.rank) else len(self.rank)
        return Loss(2 * rank, NO_CPU if cpu is None else cpu, min(events, NO_REF - 1))


def _sorted(found: list[Rows], reader: RecordReader) -> Capture:
    """The events sorted by what they mean."""
    seen = Sighted()
    calls: dict[Role, Rows] = {}
    pages: dict[Role, Rows] = {}
    for number, rows in enumerate(found):
        meaning = meaning_of(rows.probe)
        assert meaning is not None
        role = meaning.probe.role
        if meaning.returns:
            if role in CALL_ROLES:
                seen.returns.append((_sightings(rows, number, ()), role in MAP_ROLES))
        elif role in CALL_ROLES:
            (pages if meaning.is_page else calls)[role] = rows
        elif role is Role.WAIT:
            seen.waits += len(rows.place)
        elif role is not Role.MARKER:
            keys = (*meaning.probe.needs, *meaning.probe.wants)
            seen.rows[role].append(_sightings(rows, number, keys))
    header = [] if reader.header.kernel is None else [f"# kernel: {reader.header.kernel}"]
    return Capture(
        origin=f"bpftrace {reader.source}", tasks=reader.task_names.names,
        idle=reader.task_names.idle, calls=call_table(calls, pages), seen=seen,
        roles=set(calls) | set(pages), header=header, notes=reader.notes())


def _sightings(rows: Rows, source: int, keys: tuple[str, ...]) -> Sightings:
    values = tuple(rows.numbers.get(key, np.full(len(rows.place), INVALID, np.uint64))
                   for key in keys)
    return Sightings(rows.place, rows.time, rows.cpu, rows.task,
                     np.full(len(rows.place), source, np.int64), values)


def table() -> list[tuple[str, str, str]]:
    """What records there are, for the manual: name, fields needed, fields that may be there."""
    rows = []
    for probe in PROBES:
        if probe.role is Role.MARKER:
            continue
        call = Meaning(probe, returns=False, is_page=False)
        more = set(CALL_FIELDS) if call.is_call else (
            {*probe.wants, *({"kmap_op"} if probe.role in OVERRIDE_ROLES else ())})
        rows.append((probe.event, " ".join(call.needs), _others(more, call.needs)))
        if call.is_call:
            page = Meaning(probe, returns=False, is_page=True)
            rows.append((probe.event + _PAGE, " ".join(page.needs), "page and the op's fields"))
    return rows


def _others(fields: set[str], needed: tuple[str, ...]) -> str:
    return " ".join(sorted(key for key in fields if key not in needed))
