"""The tables of a replay and their columns: names, types and meaning, in one place.

The machine formats, ``export``'s man page and the README take the columns from here. The
first columns of each table are fixed; new ones are only ever added after them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

SCHEMA = "xenm2p/1"

# One table's rows as columns of Python values (int, str, bool, list of str or int, None
# for absent), all of one length, in the order of the table's fields.
Columns: TypeAlias = list[list[Any]]


class Cell(Enum):
    """What a column holds; the reporters choose a cell's spelling by it."""

    NUMBER = "number"
    FRAME = "frame"  # 0x1a2b, F:0x1a2b, I:0x1a2b, invalid: never needs escaping
    WORD = "word"  # one of a few names
    TEXT = "text"  # anything, task names for example
    FLAG = "flag"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Field:
    """One column: its name, what its cells hold, and its meaning for the manual.

    `rare`: a flag so seldom true that text tables leave the column out where it never is.
    """

    name: str
    cell: Cell
    help: str
    rare: bool = False


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table: its name, what a row is, and its columns."""

    name: str
    help: str
    fields: tuple[Field, ...]


def _number(name: str, help: str) -> Field:
    return Field(name, Cell.NUMBER, help)


def _frame(name: str, help: str) -> Field:
    return Field(name, Cell.FRAME, help)


def _word(name: str, help: str) -> Field:
    return Field(name, Cell.WORD, help)


def _text(name: str, help: str) -> Field:
    return Field(name, Cell.TEXT, help)


def _flag(name: str, help: str) -> Field:
    return Field(name, Cell.FLAG, help)


def _list(name: str, help: str) -> Field:
    return Field(name, Cell.LIST, help)


EVENTS = TableSpec("events", "one row an event, with what the kernel's function returned", (
    _number("event", "number of the event, from 0"),
    _number("time", "nanoseconds"),
    _word("kind", "event kind, as in xenm2p-trace(5)"),
    _frame("pfn", "page of the event"),
    _frame("mfn", "machine frame, or p2m entry written"),
    _word("result", "0, -22, skip (would have corrupted kernel memory and was left out) or "
                    "aborted (an earlier unmap of its call failed)"),
    _word("reason", "why it was skipped: list or kmap"),
    _frame("resolved", "page that mfn_to_pfn found, for lookup, gup_fast and direct I/O"),
    _list("warnings", "kernel warnings: PagePrivate, !PagePrivate, not-ballooned"),
    _flag("user", "mapped for user space (kmap_ops given)"),
    _number("domid", "the other domain"),
    _number("ref", "grant reference"),
    _number("handle", "grant handle"),
    _number("status", "GNTST_* status of the hypercall"),
    _number("call", "events of one gnttab_(un)map_refs call share it"),
    _number("cpu", "processor"),
    _text("task", "task name"),
    _number("count", "number of events lost, for lost"),
))

TRANSITIONS = TableSpec("transitions", "one row for each p2m entry that an event changed", (
    _number("event", "number of the event that changed it"),
    _number("time", "nanoseconds"),
    _frame("pfn", "page whose p2m entry changed"),
    _frame("old", "entry before"),
    _frame("new", "entry after"),
    _word("foreign", "set or cleared: what happened to the FOREIGN bit; absent: nothing"),
    _word("side", "backend (the page mapped or unmapped), frontend (the owner's page) or "
                  "write (set_p2m)"),
))

COLLISIONS = TableSpec("collisions", "one row for each time a mapping meets a held page lock", (
    _word("verdict", "deadlock, contention, prone or unknown"),
    _number("first_event", "event after which the share resolves to the locked page"),
    _number("last_event", "event that ended it; absent: the trace ended first"),
    _frame("pfn", "the locked page"),
    _frame("mfn", "the shared frame"),
    _frame("backend_pfn", "the share's own backend page"),
    _number("map_event", "event that mapped the share"),
    _number("lock_event", "event that took the lock"),
    _text("lock_task", "task that holds the lock"),
    _number("dio_event", "first direct I/O read seen in the window"),
    _flag("lock_spans_share", "the lock was held before the share began and after it ended"),
))

FINDINGS = TableSpec("findings", "one row for each thing that is wrong", (
    _word("id", "rule, XM101 and so on; ids never change meaning"),
    _word("name", "the rule's name"),
    _word("severity", "error, warning or info"),
    _number("event", "event that it is about; rows come in the order they were decided"),
    _list("events", "all the events that prove it"),
    _frame("pfn", "page"),
    _frame("mfn", "machine frame"),
    _text("text", "one line that says it"),
    _frame("old", "p2m entry before"),
    _frame("new", "p2m entry after"),
    Field("unknown", Cell.FLAG, "events were lost around it, so that it is not sure",
          rare=True),
))

SHARES = TableSpec("shares", "one row for each mapping of a grant, when it ends", (
    _number("map_event", "event that mapped it; absent: mapped before the trace"),
    _number("unmap_event", "event that ended it; absent: live at the end of the trace"),
    _frame("mfn", "the shared frame"),
    _frame("pfn", "backend page"),
    _number("domid", "the domain that granted it"),
    _number("ref", "grant reference"),
    _number("handle", "grant handle"),
    _flag("user", "mapped for user space (kmap_ops given)"),
    _number("first_time", "nanoseconds; absent: mapped before the trace"),
    _number("last_time", "nanoseconds; absent: live at the end of the trace"),
    _word("ending", "unmap, replaced (mapped over) or live"),
))

LOCKS = TableSpec("locks", "one row for each time a page lock was held", (
    _number("lock_event", "event that took it"),
    _number("unlock_event", "event that released it; absent: not seen"),
    _frame("pfn", "the locked page"),
    _text("task", "task that took it"),
    _number("first_time", "nanoseconds"),
    _number("last_time", "nanoseconds; absent: no release seen"),
))

SUMMARY = TableSpec("summary", "one row for the whole replay", (
    _text("trace", "name of the trace as given"),
    _word("model", "kernel model of the replay"),
    _text("traced_kernel", "kernel that the trace was taken on, where known"),
    _flag("what_if", "the model is not that of the traced kernel"),
    _number("events", "events replayed"),
    _number("maps", "maps done"),
    _number("unmaps", "unmaps done"),
    _number("failed_maps", "maps whose hypercall failed"),
    _number("foreign_set", "p2m entries that became FOREIGN"),
    _number("foreign_cleared", "p2m entries that ceased to be FOREIGN"),
    _number("frontend_set", "of foreign_set, those of frontend pages"),
    _number("frontend_cleared", "of foreign_cleared, those of frontend pages"),
    _number("writes_foreign", "p2m writes seen on the machine with a FOREIGN entry"),
    _number("writes_invalid", "p2m writes seen on the machine with INVALID"),
    _number("writes_agreed", "p2m writes seen on the machine that the model made too"),
    _number("locks", "page locks taken"),
    _number("lost", "events the tracer lost, where it told how many"),
    _number("deadlocks", "collisions with verdict deadlock"),
    _number("contentions", "collisions with verdict contention"),
    _number("prone", "collisions with verdict prone"),
    _number("unknown", "collisions with verdict unknown"),
    _number("errors", "findings of severity error"),
    _number("warnings", "findings of severity warning"),
    _number("infos", "findings of severity info"),
    _text("sees", "what a capture could and could not see"),
))

DIFF = TableSpec("diff", "one row for each thing that differs between two runs", (
    _word("op", "missing (in A only), inserted (in B only), changed, moved (also among events "
                "of its own kind) or interleaved (among events of other kinds)"),
    _word("table", "what it is a row of: events, names, results, transitions, resolutions, "
                   "collisions, findings, shares, locks or summary"),
    _text("what", "kinds of the events, id of the finding, and so on"),
    _number("event_a", "number of the first event in A"),
    _number("event_b", "number of the first event in B"),
    _number("count", "how many events, or rows, it stands for"),
    _text("a", "what A has, in words"),
    _text("b", "what B has, in words"),
))

TABLES: dict[str, TableSpec] = {
    spec.name: spec
    for spec in (EVENTS, TRANSITIONS, COLLISIONS, FINDINGS, SHARES, LOCKS, SUMMARY)
}

# Tables of what holds at one moment (`xenm2p state`).
STATE_TABLES: dict[str, TableSpec] = {
    spec.name: spec for spec in (
        TableSpec("p2m", "p2m entries that are not as they began", (
            _frame("pfn", "page"),
            _frame("began", "entry before the first event"),
            _frame("entry", "entry now"),
        )),
        TableSpec("m2p", "m2p entries that are not as they began", (
            _frame("mfn", "machine frame"),
            _frame("began", "page before the first event"),
            _frame("entry", "page now"),
        )),
        TableSpec("overrides", "pages on the m2p override lists, each list newest first", (
            _number("bucket", "hash bucket, 0 to 1023"),
            _number("place", "place in the list, 0 is the newest"),
            _frame("pfn", "backend page"),
            _frame("mfn", "the page's private, which a search compares"),
            _number("map_event", "map of the page's live share; absent: it has none"),
        )),
        TableSpec("shares", "live shares", (
            _number("map_event", "event that mapped it"),
            _frame("pfn", "backend page"),
            _frame("mfn", "the shared frame"),
            _number("domid", "the domain that granted it"),
            _number("ref", "grant reference"),
            _number("handle", "grant handle"),
            _flag("user", "mapped for user space (kmap_ops given)"),
            _number("time", "nanoseconds, of the map"),
        )),
        TableSpec("locks", "page locks that are held", (
            _number("lock_event", "event that took it"),
            _frame("pfn", "the locked page"),
            _text("task", "task that took it"),
            _number("time", "nanoseconds, when it was taken"),
        )),
        TableSpec("grants", "grants whose access has not ended", (
            _number("event", "event that granted it"),
            _number("ref", "grant reference"),
            _number("domid", "the domain it is granted to"),
            _frame("mfn", "the granted frame"),
            _text("task", "task that granted it"),
            _number("time", "nanoseconds, of the grant"),
        )),
    )
}
SIGN = _word("sign", "of two moments compared: - held at the first only, + at the second only")
