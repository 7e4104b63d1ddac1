"""The plain way to read captures: a loop over lines, a regular expression, a few dicts.

What the readers of xenm2p are measured against. It gives the same events of captures without
losses that were taken with xenm2p's own probes, and is as quick as such a loop gets: patterns
are compiled, and lines of no interest are left at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

FOREIGN, INVALID = 1 << 63, (1 << 64) - 1
VMEMMAP = 0xFFFFEA0000000000

# kind, time, cpu, task, pfn, mfn, ref, handle
Event = tuple[str, int, int, str, int | None, int | None, int | None, int | None]
# time, cpu, task, event, its fields; of a call its pages and how many it has in their place
Line = tuple[int, int, str, str, dict[str, str]]
CallLine = tuple[int, int, str, str, list["Page"], int]

_FTRACE = re.compile(
    r"(.{16})-(\d+) +(?:\([ \d-]+\) )?\[(\d+)\] +(?:[^\s\d]\S+ +)?(\d+)\.(\d{6}): +(\w+): +(.*)")
_PERF = re.compile(r"(.{16}) +(\d+) \[(\d+)\] +(\d+)\.(\d{6}): +\w+:(\w+): +(.*)")
_FIELD = re.compile(r"(\w+)=(\{[^}]*\}|ARRAY\[[^\]]*\]|\S+)")
WANTED = frozenset({
    "set_p2m", "set_foreign", "clear_foreign", "unmap_refs", "grant_access", "update_entry",
    "end_access", "mm_filemap_add_to_page_cache", "folio_unlock"})


def text_lines(text: Iterable[str], pattern: re.Pattern[str]) -> Iterator[Line]:
    """The events of ftrace's or perf's text."""
    for row in text:
        match = pattern.match(row)
        if match is None or match[6] not in WANTED:
            continue
        comm, pid, cpu, second, fraction, event, rest = match.groups()
        yield (int(second) * 10**9 + int(fraction) * 1000, int(cpu),
               f"{comm.lstrip()}-{pid}", event, dict(_FIELD.findall(rest)))


def words_of(text: str) -> list[int]:
    """The numbers of an array."""
    if text.startswith("ARRAY["):
        octets = bytes.fromhex(text[6:-1].replace(", ", ""))
        return [int.from_bytes(octets[i : i + 8], "little") for i in range(0, len(octets), 8)]
    return [int(word, 16) for word in text[1:-1].split(",")]


@dataclass
class Page:
    """One page of a call, as far as its line shows it."""

    pfn: int | None
    mfn: int | None = None
    ref: int | None = None
    handle: int | None = None
    status: int = 0


def pages_of(event: str, fields: dict[str, str], count: int) -> list[Page]:
    """The pages of a call from its arrays or from fields of their own."""
    is_map = event == "set_foreign"
    if "op" in fields:
        ops, pages = words_of(fields["op"]), words_of(fields["page"])
        found = []
        for i in range(min(count, len(pages))):
            pfn = (pages[i] - VMEMMAP) // 64
            if is_map:
                _, ref, answer, address = ops[4 * i : 4 * i + 4]
                found.append(Page(pfn, address >> 12, ref >> 32, answer >> 32,
                                  answer >> 16 & 0xFFFF))
            else:
                answer = ops[3 * i + 2]
                found.append(Page(pfn, None, None, answer & 0xFFFFFFFF, answer >> 32 & 0xFFFF))
        return found
    found = []
    for i in range(count):
        pointer = int(fields.get(f"p{i}", "0"), 16)
        if not pointer:
            break
        page = Page((pointer - VMEMMAP) // 64, handle=int(fields[f"h{i}"]))
        if is_map:
            page.mfn, page.ref = int(fields[f"a{i}"], 16) >> 12, int(fields[f"r{i}"])
        found.append(page)
    return found


@dataclass
class Call:
    """A call whose writes are still to come."""

    pages: dict[int | None, Page]
    room: int


@dataclass
class Reader:
    """What a loop over lines keeps from one to the next, by task; cpus have idle tasks."""

    events: list[Event] = field(default_factory=list)
    open: dict[tuple[str, bool], Call] = field(default_factory=dict)
    refs: dict[str, dict[str, str]] = field(default_factory=dict)
    granted: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def take(self, lines: Iterable[Line]) -> list[Event]:
        """All events of some lines."""
        for time, cpu, task, event, fields in lines:
            lane = f"{task}@{cpu}" if task.endswith("-0") else task
            if event == "set_p2m":
                self.write(time, cpu, task, lane, int(fields["pfn"], 16), int(fields["mfn"], 16))
            elif event in ("set_foreign", "clear_foreign"):
                lent = self.refs.pop(lane, {}) if event == "clear_foreign" else {}
                pages = pages_of(event, lent | fields, int(fields["count"]))
                self.call(time, cpu, task, lane, event, pages, int(fields["count"]))
            elif event == "unmap_refs":
                self.refs[lane] = fields
            elif event == "end_access":
                self.add("end_grant", time, cpu, task, ref=int(fields["ref"]))
            elif event in ("grant_access", "update_entry"):
                self.grant(time, cpu, task, lane, event, fields)
            elif event == "folio_unlock":
                self.add("unlock_page", time, cpu, task,
                         (int(fields["folio"], 16) - VMEMMAP) // 64)
            else:
                self.add("lock_page", time, cpu, task, int(fields["pfn"], 16))
        return self.events

    def add(self, kind: str, time: int, cpu: int, task: str, pfn: int | None = None,
            mfn: int | None = None, ref: int | None = None, handle: int | None = None) -> None:
        """One event."""
        self.events.append((kind, time, cpu, task, pfn, mfn, ref, handle))

    def grant(self, time: int, cpu: int, task: str, lane: str, event: str,
              fields: dict[str, str]) -> None:
        """A grant, which two probes may show."""
        what = fields["ref"], fields["domid"], fields["frame"]
        if event == "update_entry" and self.granted.pop(lane, None) == what:
            return
        if event == "grant_access":
            self.granted[lane] = what
        if int(fields.get("flags", "1"), 0) & 3 == 1:
            self.add("grant", time, cpu, task, None, int(fields["frame"], 16),
                     int(fields["ref"]))

    def call(self, time: int, cpu: int, task: str, lane: str, event: str, pages: list[Page],
             count: int) -> None:
        """A call after its hypercall."""
        is_map = event == "set_foreign"
        for page in pages:
            mfn = page.mfn if not page.status else None
            self.add("map" if is_map else "unmap", time, cpu, task, page.pfn, mfn, page.ref,
                     page.handle)
        self.open[lane, is_map] = Call({page.pfn: page for page in pages if not page.status},
                                       count - len(pages))

    def write(self, time: int, cpu: int, task: str, lane: str, pfn: int, entry: int) -> None:
        """A p2m write, of a call or of nobody who maps."""
        is_map = entry >= FOREIGN and entry != INVALID
        call = self.open.get((lane, is_map))
        kind = "set_p2m"
        if call is not None and call.pages.pop(pfn, None) is not None:
            kind = "p2m_write"
        elif call is not None and call.room > 0:
            call.room -= 1
            kind = "p2m_write"
            self.add("map" if is_map else "unmap", time, cpu, task, pfn,
                     entry & ~FOREIGN if is_map else None)
        self.add(kind, time, cpu, task, pfn, entry)


def json_lines(text: Iterable[str]) -> Iterator[Line | CallLine]:
    """The events of bpftrace's lines; a call comes with its pages."""
    waiting: tuple[int, int, str, str, int] | None = None
    pages: list[Page] = []
    for row in text:
        found = json.loads(row)
        name = found.get("probe")
        if name is None:
            continue
        task = f"{found['comm']}-{found['pid']}"
        if name in ("set_foreign_page", "clear_foreign_page"):
            is_map = name == "set_foreign_page"
            pages.append(Page(
                (int(found["page"], 16) - VMEMMAP) // 64,
                int(found["dev_bus_addr"], 16) >> 12 if is_map else None, found.get("ref"),
                found["handle"], found["status"]))
            continue
        if waiting is not None:
            yield (*waiting[:4], pages, waiting[4])
            waiting, pages = None, []
        if name in ("set_foreign", "clear_foreign"):
            waiting = found["time"], found["cpu"], task, name, found["count"]
        elif name in WANTED and name != "unmap_refs":
            yield (found["time"], found["cpu"], task, name,
                   {key: str(value) for key, value in found.items()})
    if waiting is not None:
        yield (*waiting[:4], pages, waiting[4])


def read_ftrace(text: str) -> list[Event]:
    """The events of ftrace's text."""
    return Reader().take(text_lines(text.splitlines(), _FTRACE))


def read_perf(text: str) -> list[Event]:
    """The events of perf script's text."""
    return Reader().take(text_lines(text.splitlines(), _PERF))


def read_bpftrace(text: str) -> list[Event]:
    """The events of bpftrace's lines."""
    reader = Reader()
    for line in json_lines(text.splitlines()):
        if len(line) == 5:
            reader.take([line])
        else:
            time, cpu, task, event, pages, count = line
            lane = f"{task}@{cpu}" if task.endswith("-0") else task
            reader.call(time, cpu, task, lane, event, pages, count)
    return reader.events


READERS: dict[str, Callable[[str], list[Event]]] = {
    "ftrace": read_ftrace, "perf": read_perf, "bpftrace": read_bpftrace}
