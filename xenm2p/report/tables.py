"""Segment tables as columns of printable values, in the order of `fields.TABLES`.

Cells are made a column at a time: each distinct value is spelled once, so that a million
transitions cost no per-row formatting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.replay import (
    NO_EVENT,
    NO_TIME,
    WARNING_NAMES,
    Ending,
    Result,
    Segment,
    Side,
    Verdict,
)
from xenm2p.findings import (
    Context,
    Severity,
    describe,
    findings_of,
    proving_events,
    rule_of,
)
from xenm2p.report.fields import Columns
from xenm2p.report.selection import Selection
from xenm2p.trace import (
    COLUMNS,
    FOREIGN,
    INVALID,
    KIND_BY_CODE,
    U64,
    Column,
    Kind,
    Trace,
    format_frame,
)

RESULTS: dict[int, int | str | None] = {
    Result.NONE: None, Result.OK: 0, Result.EINVAL: -22, Result.SKIP_LIST: "skip",
    Result.SKIP_KMAP: "skip", Result.ABORTED: "aborted"}
REASONS = {Result.SKIP_LIST: "list", Result.SKIP_KMAP: "kmap"}
SET, CLEARED = 1, 2
FOREIGN_WORDS = {SET: "set", CLEARED: "cleared"}

RESULT_CELLS = [RESULTS[code] for code in Result]
REASON_CELLS = [REASONS.get(code) for code in Result]
_FOREIGN_CELLS = [FOREIGN_WORDS.get(code) for code in range(3)]
_SIDE_CELLS = [side.name.lower() for side in Side]
_VERDICT_CELLS = [verdict.name.lower() for verdict in Verdict]
_ENDING_CELLS = [ending.name.lower() for ending in Ending]
_SEVERITY_CELLS = [severity.name.lower() for severity in Severity]
_FLAG_CELLS = [False, True]
_KIND_CELLS = [spec.name for spec in KIND_BY_CODE]
WARNING_CELLS = [
    [name for bit, name in WARNING_NAMES.items() if mask & bit]
    for mask in range(1 << len(WARNING_NAMES))
]
# _HAS[column][kind]: whether events of that kind have that column; `ref` carries the
# count of `lost`, which is not a grant reference.
_HAS = {
    name: np.array([name in spec.keys for spec in KIND_BY_CODE], dtype=bool)
    for name in COLUMNS
}


def spell(codes: Column, cells: list[Any]) -> list[Any]:
    """Small numbers as the words of `cells`."""
    return [cells[code] for code in codes.tolist()]


def spell_frames(entries: U64, absent: NDArray[np.bool_] | None = None) -> list[str | None]:
    """Frames and p2m entries as text; None where `absent`."""
    values = entries.tolist()
    text = {value: format_frame(value) for value in set(values)}
    if absent is None or not absent.any():
        return [text[value] for value in values]
    return [None if gone else text[value]
            for value, gone in zip(values, absent.tolist(), strict=True)]


def numbers_but(values: Column, absent: int | NDArray[np.bool_]) -> list[int | None]:
    """Numbers; None where they are the absent number, or where the mask says so."""
    gone = values == absent if isinstance(absent, int) else absent
    if not gone.any():
        return list(values.tolist())
    return [None if empty else value
            for value, empty in zip(values.tolist(), gone.tolist(), strict=True)]


def task_names(tasks: Column, trace: Trace) -> list[str | None]:
    """Task indices as names."""
    return [trace.task_name(task) for task in tasks.tolist()]


def foreign_changes(old: U64, new: U64) -> NDArray[np.uint8]:
    """For each change of an entry: SET, CLEARED, or 0 where the FOREIGN bit stayed."""
    was, becomes = _has_foreign(old), _has_foreign(new)
    change = np.zeros(len(old), dtype=np.uint8)
    change[becomes & ~was] = SET
    change[was & ~becomes] = CLEARED
    return change


def _has_foreign(entries: U64) -> NDArray[np.bool_]:
    foreign: NDArray[np.bool_] = entries >= np.uint64(FOREIGN)
    foreign &= entries != np.uint64(INVALID)
    return foreign


def events(segment: Segment, context: Context, selection: Selection) -> Columns:
    """The table `events`."""
    every = segment.events
    chosen = _chosen(selection, selection.events, segment)
    rows = every.rows(chosen)
    number = np.arange(len(every), dtype=np.int64)[chosen] + segment.first_event
    lacks = {name: ~has[rows.kind] for name, has in _HAS.items()}
    no_value = {
        name: lacks[name] | (getattr(rows, name) == COLUMNS[name].absent)
        for name in ("domid", "ref", "handle", "call", "cpu")
    }
    count_known = ((rows.kind == Kind.LOST) & (rows.ref != COLUMNS["ref"].absent))
    resolved = np.full(len(every), INVALID, dtype=np.uint64)
    resolved[segment.resolutions.event - segment.first_event] = segment.resolutions.resolved
    resolved = resolved[chosen]
    return [
        number.tolist(),
        rows.time.tolist(),
        spell(rows.kind, _KIND_CELLS),
        spell_frames(rows.pfn, lacks["pfn"]),
        spell_frames(rows.mfn, lacks["mfn"]),
        spell(segment.result[chosen], RESULT_CELLS),
        spell(segment.result[chosen], REASON_CELLS),
        spell_frames(resolved, resolved == np.uint64(INVALID)),
        spell(segment.warnings[chosen], WARNING_CELLS),
        [None if gone else bool(user)
         for user, gone in zip(rows.user.tolist(), lacks["user"].tolist(), strict=True)],
        numbers_but(rows.domid, no_value["domid"]),
        numbers_but(rows.ref, no_value["ref"]),
        numbers_but(rows.handle, no_value["handle"]),
        numbers_but(rows.status, lacks["status"]),
        numbers_but(rows.call, no_value["call"]),
        numbers_but(rows.cpu, no_value["cpu"]),
        task_names(rows.task, context.trace),
        numbers_but(rows.ref, ~count_known),
    ]


def transitions(segment: Segment, context: Context, selection: Selection) -> Columns:
    """The table `transitions`."""
    rows = segment.transitions.rows(_chosen(selection, selection.transitions, segment))
    return [
        rows.event.tolist(),
        segment.events.time[rows.event - segment.first_event].tolist(),
        spell_frames(rows.pfn),
        spell_frames(rows.old),
        spell_frames(rows.new),
        spell(foreign_changes(rows.old, rows.new), _FOREIGN_CELLS),
        spell(rows.side, _SIDE_CELLS),
    ]


def collisions(segment: Segment, context: Context, selection: Selection) -> Columns:
    """The table `collisions`."""
    rows = segment.collisions.rows(_chosen(selection, selection.collisions, segment))
    return [
        spell(rows.verdict, _VERDICT_CELLS),
        rows.first_event.tolist(),
        numbers_but(rows.last_event, NO_EVENT),
        spell_frames(rows.pfn),
        spell_frames(rows.mfn),
        spell_frames(rows.backend_pfn),
        numbers_but(rows.map_event, NO_EVENT),
        numbers_but(rows.lock_event, NO_EVENT),
        task_names(rows.lock_task, context.trace),
        numbers_but(rows.dio_event, NO_EVENT),
        spell(rows.lock_spans_share, _FLAG_CELLS),
    ]


def shares(segment: Segment, context: Context, selection: Selection) -> Columns:
    """The table `shares`."""
    rows = segment.shares.rows(_chosen(selection, selection.shares, segment))
    return [
        numbers_but(rows.map_event, NO_EVENT),
        numbers_but(rows.end_event, NO_EVENT),
        spell_frames(rows.mfn),
        spell_frames(rows.pfn),
        numbers_but(rows.domid, COLUMNS["domid"].absent),
        numbers_but(rows.ref, COLUMNS["ref"].absent),
        numbers_but(rows.handle, COLUMNS["handle"].absent),
        spell(rows.user, _FLAG_CELLS),
        numbers_but(rows.first_time, NO_TIME),
        numbers_but(rows.last_time, NO_TIME),
        spell(rows.ending, _ENDING_CELLS),
    ]


def locks(segment: Segment, context: Context, selection: Selection) -> Columns:
    """The table `locks`."""
    rows = segment.locks.rows(_chosen(selection, selection.locks, segment))
    return [
        numbers_but(rows.lock_event, NO_EVENT),
        numbers_but(rows.unlock_event, NO_EVENT),
        spell_frames(rows.pfn),
        task_names(rows.task, context.trace),
        numbers_but(rows.first_time, NO_TIME),
        numbers_but(rows.last_time, NO_TIME),
    ]


def findings(segment: Segment, context: Context, selection: Selection) -> Columns:
    """The table `findings`."""
    found = findings_of(segment, context.model)
    if not selection.everything:
        found = found.rows(selection.findings(found))
    rules = [rule_of(found, row) for row in range(len(found))]
    invalid = np.uint64(INVALID)
    return [
        [rule.id for rule in rules],
        [rule.name for rule in rules],
        spell(found.severity, _SEVERITY_CELLS),
        found.event.tolist(),
        [proving_events(found, row) for row in range(len(found))],
        spell_frames(found.pfn, found.pfn == invalid),
        spell_frames(found.mfn, found.mfn == invalid),
        [describe(found, row, context) for row in range(len(found))],
        spell_frames(found.old, np.array(["old" not in r.entries for r in rules], dtype=bool)),
        spell_frames(found.new, np.array(["new" not in r.entries for r in rules], dtype=bool)),
        spell(found.unknown, _FLAG_CELLS),
    ]


SegmentTable = Callable[[Segment, Context, Selection], Columns]
SEGMENT_TABLES: dict[str, SegmentTable] = {
    "events": events, "transitions": transitions, "collisions": collisions,
    "findings": findings, "shares": shares, "locks": locks}


def _chosen(
    selection: Selection, mask_of: Callable[[Segment], NDArray[np.bool_]], segment: Segment
) -> slice | Column:
    """The rows to show: a slice, which costs nothing, where nothing is filtered out."""
    return slice(None) if selection.everything else mask_of(segment)
