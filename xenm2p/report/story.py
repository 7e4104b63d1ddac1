"""Every event as lines of text, with what it changed: `replay --events`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xenm2p.engine.replay import Segment
from xenm2p.findings import Context
from xenm2p.report import tables
from xenm2p.report.fields import EVENTS, TRANSITIONS, Columns, TableSpec
from xenm2p.report.selection import Selection

INDENT = 9  # how far in stands what belongs to the event above
# What a listing tells of an event beside its number, time and kind, and how.
_DETAILS = ("mfn", "pfn", "user", "domid", "ref", "handle", "status", "count", "task")


def event_lines(segment: Segment, context: Context, selection: Selection) -> Iterator[str]:
    """The segment's events in order, each followed by its p2m transitions."""
    changes: dict[int, list[dict[str, Any]]] = {}
    for row in rows_of(TRANSITIONS, tables.transitions(segment, context, Selection())):
        changes.setdefault(row["event"], []).append(row)
    for event in rows_of(EVENTS, tables.events(segment, context, selection)):
        yield event_line(event)
        for change in changes.get(event["event"], ()):
            yield change_line(change)


def change_line(change: dict[str, Any]) -> str:
    """One row of table `transitions` as a line below its event."""
    bit = f", FOREIGN {change['foreign']}" if change["foreign"] else ""
    return (f"{' ' * INDENT}p2m[{change['pfn']}] {change['old']} -> {change['new']} "
            f"({change['side']}{bit})")


def rows_of(table: TableSpec, columns: Columns) -> Iterator[dict[str, Any]]:
    """The rows of a table, each as its cells by name."""
    names = [field.name for field in table.fields]
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def event_line(event: dict[str, Any]) -> str:
    """One row of table `events` as a line."""
    details = []
    for name in _DETAILS:
        value = event[name]
        if name == "user":
            details += ["user"] if value else []
        elif value is not None and not (name == "status" and value == 0):
            details.append(f"{name} {value}")
    text = f"{event['event']:>6} {seconds(event['time'])} {event['kind']} {' '.join(details)}"
    if event["resolved"] is not None:
        text += f" -> {event['resolved']}"
    if event["result"] is not None:
        text += f" = {event['result']}"
    if event["reason"] is not None:
        text += f" ({event['reason']})"
    return text + "".join(f" warns {warning}" for warning in event["warnings"])


def seconds(nanoseconds: int) -> str:
    """A time as seconds with all nine digits."""
    sign = "-" if nanoseconds < 0 else ""
    return f"{sign}{abs(nanoseconds) // 10**9}.{abs(nanoseconds) % 10**9:09d}"
