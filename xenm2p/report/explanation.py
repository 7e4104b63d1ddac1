"""The story of one finding, event, page, frame or grant, as `xenm2p explain` tells it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from xenm2p.engine.replay import NO_EVENT, Segment, Verdict
from xenm2p.engine.steps import Lookup
from xenm2p.findings import Context, Findings, describe, entries_of, rule_of
from xenm2p.findings.collisions import LOCK_COLLISION, LOCK_CYCLE
from xenm2p.findings.rule import Row
from xenm2p.report import tables
from xenm2p.report.fields import EVENTS, TRANSITIONS, Cell, Columns, Field, TableSpec
from xenm2p.report.involved import Involved
from xenm2p.report.markup import Block, Lines, Verbatim
from xenm2p.report.markup import Heading as Title
from xenm2p.report.story import INDENT, change_line, event_line, rows_of, seconds
from xenm2p.trace import INVALID, format_frame

STORY = TableSpec("story", "one row for each event of a story, with what it changed", (
    *EVENTS.fields,
    Field("proof", Cell.FLAG, "the event proves the finding"),
    Field("changes", Cell.LIST, "p2m entries that it changed, as p2m[PFN] OLD -> NEW"),
))


@dataclass(slots=True)
class Story:
    """The events of a story in order, with their p2m changes; give it every segment."""

    involved: Involved
    context: Context
    proof: frozenset[int] = frozenset()
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, segment: Segment) -> None:
        """Take in the next segment of a replay with details."""
        changes: dict[int, list[dict[str, Any]]] = {}
        for row in rows_of(TRANSITIONS, tables.transitions(
                segment, self.context, self.involved)):
            changes.setdefault(row["event"], []).append(row)
        for row in rows_of(EVENTS, tables.events(segment, self.context, self.involved)):
            row["proof"] = row["event"] in self.proof
            row["transitions"] = changes.get(row["event"], [])
            self.rows.append(row)

    def columns(self) -> Columns:
        """The rows of table `STORY`."""
        names = [each.name for each in EVENTS.fields] + ["proof"]
        columns: Columns = [[row[name] for row in self.rows] for name in names]
        columns.append([[f"p2m[{change['pfn']}] {change['old']} -> {change['new']}"
                         for change in row["transitions"]] for row in self.rows])
        return columns


def finding_blocks(
    found: Findings, context: Context, story: Story, lookup: Lookup | None, limit: int
) -> Iterator[Block]:
    """The story of the finding in row 0 of `found`."""
    rule, row = rule_of(found, 0), Row(found, 0)
    yield Title(f"{rule.id} {rule.name}: {_about(row)}")
    yield Lines([describe(found, 0, context)])
    old, new = entries_of(found, 0)
    changed = []
    if old is not None and new is not None:
        changed = [f"value changed: p2m[{format_frame(row.pfn)}] {format_frame(old)} -> "
                   f"{format_frame(new)}"]
    yield Verbatim([*_accesses(story), *changed], INDENT)
    if lookup is not None:
        yield from lookup_blocks(lookup, context)
    if row.rule == LOCK_COLLISION:
        yield Lines(["Who waits for whom:"])
        yield Verbatim(wait_chain(row, context))
    elif row.rule == LOCK_CYCLE:
        yield Lines(["Who waits for whom:"])
        yield Verbatim(cycle_chain(row, context))
    yield from _cure(found, context)
    yield from story_blocks(story, limit)


def _about(row: Row) -> str:
    if row.rule == LOCK_COLLISION:
        return f"{Verdict(row.verdict).name.lower()} on page {format_frame(row.pfn)}"
    if row.rule == LOCK_CYCLE:
        pages = {wait.pfn for wait in row.cycle}
        tasks = {wait.waiter for wait in row.cycle}
        return f"{len(tasks)} tasks wait for each other over {len(pages)} pages"
    where = "" if row.pfn == INVALID else f" on page {format_frame(row.pfn)}"
    return f"event {row.event}{where}"


def _cure(found: Findings, context: Context) -> Iterator[Block]:
    from xenm2p.report.screen import cures_after

    rule = rule_of(found, 0)
    cures = [f"Linux {change.version} cures it: {change.commit}, {change.subject}"
             for change in cures_after(context.model, rule)]
    yield Lines([*cures, rule.cure])


def _accesses(story: Story) -> Iterator[str]:
    """The proving events, each with its task and processor, and how long after the first."""
    proof = [row for row in story.rows if row["proof"]]
    for row in proof:
        who = "".join((f" by {row['task']}" if row["task"] else "",
                       f" on cpu {row['cpu']}" if row["cpu"] is not None else ""))
        page = f" of page {row['pfn']}" if row["pfn"] else ""
        frame = f" of frame {row['mfn']}" if row["mfn"] and not page else ""
        yield f"{row['kind']}{page}{frame}{who} at event {row['event']}, " + (
            f"{seconds(row['time'])} s" if row is proof[0]
            else f"{duration(row['time'] - proof[0]['time'])} later")


def duration(nanoseconds: int) -> str:
    """A time span as people say it: 42 ns, 1.500 us, 12.000 ms, 3.000 s."""
    size = abs(nanoseconds)
    for unit, scale in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if size >= scale:
            return f"{nanoseconds / scale:.3f} {unit}"
    return f"{nanoseconds} ns"


def _short(nanoseconds: int) -> str:
    """A time span in three digits: 42ns, 1.5us, 12ms, 3.05s."""
    size = abs(nanoseconds)
    for unit, scale in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if size >= scale:
            return f"{nanoseconds / scale:.3g}{unit}"
    return f"{nanoseconds}ns"


def lookup_blocks(lookup: Lookup, context: Context) -> Iterator[Block]:
    """What mfn_to_pfn looked at, and why it answered so."""
    yield Lines([f"mfn_to_pfn({format_frame(lookup.mfn)}) under {context.model.name}:"])
    yield Verbatim(list(_lookup_lines(lookup)), INDENT)


def _lookup_lines(lookup: Lookup) -> Iterator[str]:
    mfn = format_frame(lookup.mfn)
    if lookup.owner == INVALID:
        yield f"m2p[{mfn}] = invalid: no page of this domain is known to own it"
    else:
        page, entry = format_frame(lookup.owner), format_frame(lookup.entry)
        yield f"m2p[{mfn}] = {page}"
        if lookup.entry == lookup.mfn:
            yield f"p2m[{page}] = {entry}, the frame itself: the answer is page {page}"
            return
        yield f"p2m[{page}] = {entry}, not {mfn}: the owner's page is passed over"
    if lookup.searched is None:
        yield "this kernel has no m2p override list"
    elif not lookup.searched:
        yield f"override list {lookup.bucket} is empty"
    for pfn, private in lookup.searched or ():
        page = format_frame(pfn)
        if private == lookup.mfn:
            yield f"override list {lookup.bucket}: page {page} was mapped to it last: the answer"
            return
        yield f"override list {lookup.bucket}: page {page} holds {format_frame(private)}, not it"
    if lookup.identity and lookup.answer is not None:
        yield f"p2m[{mfn}] = I:{mfn}, the identity: the answer is page {mfn}"
    else:
        yield "the answer is no page"


_WAITS, _HELD = "waits for the lock of", "held since event"


def wait_chain(row: Row, context: Context) -> list[str]:
    """The circle of a lock collision: the I/O waits for the lock, its holder for the I/O."""
    reader = "direct I/O" if row.value == NO_EVENT else f"dio_read, event {row.value}"
    page, holder = f"page {format_frame(row.pfn)}", context.task(row.task)
    share = f"share at {format_frame(row.old)}"
    top = f"{reader} --{_WAITS}--> {page}"
    left, right = len(reader) // 2, len(top) - len(page) // 2 - 1
    label = f"{_HELD} {row.lock_event} by "
    middle = f"{'|':>{left + 1}}{label:>{right - left - 1}}|"
    ends = "waits for the end of"
    room = right - len(holder) // 2 - len(share) - len(ends) - 3
    bottom = f"{share} <{'-' * max(2, room // 2)}{ends}{'-' * max(2, room - room // 2)} {holder}"
    legend = f"served by, since event {row.other}"
    chain = [top, f"{'^':>{left + 1}}{'|':>{right - left}}", middle,
             f"{'|':>{left + 1}} {legend:<{max(0, right - left - 2)}}v", bottom]
    if row.verdict != Verdict.DEADLOCK:
        chain.append("(no circle: " + (
            "the lock is released while the share lives)" if row.verdict == Verdict.CONTENTION
            else "no direct I/O was seen)" if row.verdict == Verdict.PRONE
            else "events were lost)"))
    return chain


def cycle_chain(row: Row, context: Context) -> list[str]:
    """The circle of a lock cycle: each task, and below it what it waits for of the next."""
    steps: list[str] = []
    for wait in row.cycle:
        page, backend = format_frame(wait.pfn), format_frame(wait.backend_pfn)
        if wait.for_io:
            why = (f"locked page {page} (event {wait.lock_event}) and waits for",
                   f"the I/O at {backend} (event {wait.dio_event}) of")
        else:
            why = (f"reads into {backend} (event {wait.dio_event}) and so waits for",
                   f"the lock of page {page} (event {wait.lock_event}) of")
        steps += [*(f"  | {line}" for line in why), "  v", context.task(wait.holder)]
    first = context.task(row.cycle[0].waiter)  # who is the last holder too
    width = max(map(len, [*steps, first])) + 2
    return [f"{f'{first} <':-<{width}}+", *(f"{line:<{width}}|" for line in steps[:-1]),
            f"{f'{first} ':-<{width}}+"]


def story_blocks(story: Story, limit: int) -> Iterator[Block]:
    """The events in order; of more than `limit` those around the proof, else the first."""
    if not story.rows:
        return
    shown = _shown(story.rows, limit)
    left = len(story.rows) - sum(shown)
    count = f"{len(story.rows)} events" if len(story.rows) != 1 else "1 event"
    yield Lines([f"The story, {count}:" if not left else
                 f"The story, {sum(shown)} of {count} (--limit 0 shows all):"])
    yield Verbatim(list(_story_lines(story.rows, shown)), INDENT)


def _shown(rows: Sequence[dict[str, Any]], limit: int) -> list[bool]:
    """Which rows to show: the proof, then what stands nearest to it, `limit` in all."""
    if not limit or len(rows) <= limit:
        return [True] * len(rows)
    proof = [i for i, row in enumerate(rows) if row["proof"]] or [0]
    order = sorted(range(len(rows)), key=lambda i: (min(abs(i - p) for p in proof), i))
    chosen = set(order[:limit])
    return [i in chosen for i in range(len(rows))]


def _story_lines(rows: Sequence[dict[str, Any]], shown: Sequence[bool]) -> Iterator[str]:
    before: int | None = None
    gap = 0
    for row, is_shown in zip(rows, shown, strict=True):
        if not is_shown:
            gap += 1
            continue
        if gap:
            yield f"{'...':>8} {gap} events"
            gap = 0
        delta = "" if before is None else f"+{_short(row['time'] - before)}"
        number, time, rest = event_line(row).split(maxsplit=2)
        yield f"{'>' if row['proof'] else ' '}{number:>6} {time} {delta:>8} {rest}"
        before = row["time"]
        for change in row["transitions"]:
            yield " " + change_line(change)
    if gap:
        yield f"{'...':>8} {gap} events"


def event_blocks(
    story: Story, event: int, lookup: Lookup | None, limit: int
) -> Iterator[Block]:
    """The story around one event."""
    row = next(row for row in story.rows if row["event"] == event)
    page = f" of page {row['pfn']}" if row["pfn"] else ""
    yield Title(f"event {event}: {row['kind']}{page}")
    yield Verbatim([*_accesses(story)], INDENT)
    if lookup is not None:
        is_dio = row["kind"] in ("dio_read", "dio_write")
        if is_dio and story.context.model.vma_pages:
            yield Lines(["Direct I/O finds the mapping's own page: since 667a0a06c99d (4.0) the "
                         "mapping carries its pages."])
        else:
            yield from lookup_blocks(lookup, story.context)
    yield from story_blocks(story, limit)


def frame_blocks(story: Story, what: str, limit: int) -> Iterator[Block]:
    """The story of a page, frame or grant."""
    yield Title(f"{what} under {story.context.model.name} "
                f"(Linux {story.context.model.versions})")
    yield from story_blocks(story, limit)
