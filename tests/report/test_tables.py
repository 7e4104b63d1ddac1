"""Segment tables as columns, and the selection of rows; chunk sizes make no difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.build import trace_of
from xenm2p.engine.reference import replay
from xenm2p.findings import Context
from xenm2p.kernels import LOCAL_FOREIGN, MODELS
from xenm2p.report.fields import TABLES
from xenm2p.report.overview import Heading, Overview
from xenm2p.report.selection import Point, Selection
from xenm2p.report.tables import CLEARED, SEGMENT_TABLES, SET, foreign_changes, spell_frames
from xenm2p.trace import FOREIGN, INVALID, Trace

STORY: list[dict[str, Any]] = [
    {"kind": "lock_page", "pfn": 0x1010, "task": "mount-1", "cpu": 0},
    {"kind": "map", "mfn": 0x50010, "pfn": 0x8000, "user": True, "domid": 0, "ref": 8},
    {"kind": "map", "mfn": 0x50011, "pfn": 0x8001, "user": True, "domid": 1, "ref": 9},
    {"kind": "dio_read", "pfn": 0x8000, "task": "qemu-2", "cpu": 1},
    {"kind": "unmap", "pfn": 0x8000, "user": True},
    {"kind": "unlock_page", "pfn": 0x1010, "task": "mount-1"},
    {"kind": "unmap", "pfn": 0x8002},
    {"kind": "set_p2m", "pfn": 0x1010, "mfn": INVALID},
    {"kind": "lookup", "mfn": 0x50011},
]


def rows_of(
    table: str, selection: Selection | None = None, model: str = "override", chunk: int = 100
) -> list[dict[str, Any]]:
    """A table of STORY, replayed in chunks of so many events."""
    selection = selection or Selection()
    whole = trace_of(STORY)
    events = whole.events()
    trace = Trace(
        chunks_of=lambda: (events.rows(slice(i, i + chunk))
                           for i in range(0, len(events), chunk)),
        memory=whole.memory, m2p=whole.m2p, tasks=whole.tasks)
    context = Context(trace, MODELS[model])
    rows = []
    for segment in replay(trace, context.model):
        selection.observe(segment, trace)
        columns = SEGMENT_TABLES[table](segment, context, selection)
        names = [field.name for field in TABLES[table].fields]
        rows += [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return rows


@pytest.mark.parametrize("table", SEGMENT_TABLES)
@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("selection", [
    {}, {"first": Point(2, False), "last": Point(4, False)}, {"pfns": ((0x1010, 0x1010),)},
    {"first": Point(3000, True)}, {"tasks": ("mount-1",)}, {"mfns": ((0x50010, 0x50010),)},
    {"domids": (0, 1), "kinds": ("map",)}], ids=str)
def test_chunks_make_no_difference(table: str, chunk: int, selection: dict[str, Any]) -> None:
    whole = rows_of(table, Selection(**selection))
    assert rows_of(table, Selection(**selection), chunk=chunk) == whole


def test_a_selection_never_adds_or_changes_a_row() -> None:
    for table in SEGMENT_TABLES:
        everything = rows_of(table)
        for selection in (Selection(cpus=(1,)), Selection(last=Point(3, False))):
            assert all(row in everything for row in rows_of(table, selection))


def test_the_sides_of_a_transition_are_named() -> None:
    rows = rows_of("transitions", model="local-foreign")
    assert [(row["side"], row["foreign"]) for row in rows] == [
        ("backend", "set"), ("frontend", "set"), ("backend", "set"), ("frontend", "set"),
        ("backend", "cleared"), ("frontend", "cleared"), ("write", None)]


def test_a_share_that_lives_at_the_end_has_no_end() -> None:
    live, = (row for row in rows_of("shares") if row["ending"] == "live")
    assert (live["pfn"], live["unmap_event"], live["last_time"]) == ("0x8001", None, None)


def test_a_lock_has_its_task_and_its_release() -> None:
    assert rows_of("locks") == [{
        "lock_event": 0, "unlock_event": 5, "pfn": "0x1010", "task": "mount-1",
        "first_time": 1000, "last_time": 6000}]


def test_a_finding_names_all_the_events_that_prove_it() -> None:
    row, = (row for row in rows_of("findings") if row["id"] == "XM101")
    assert (row["severity"], row["event"], row["events"]) == ("error", 1, [0, 1, 3, 4])
    assert (row["pfn"], row["mfn"]) == ("0x1010", "0x50010")


def test_collisions_are_found_by_their_backend_page_too() -> None:
    for page in (0x1010, 0x8000):
        assert len(rows_of("collisions", Selection(pfns=((page, page),)))) == 1
    assert rows_of("collisions", Selection(pfns=((0x1011, 0x7FFF),))) == []


def test_the_foreign_bit_of_invalid_does_not_count() -> None:
    old = np.array([INVALID, FOREIGN | 5, FOREIGN | 5, 5, INVALID], dtype=np.uint64)
    new = np.array([FOREIGN | 5, INVALID, FOREIGN | 6, INVALID, 5], dtype=np.uint64)
    assert foreign_changes(old, new).tolist() == [SET, CLEARED, 0, 0, 0]


def test_frames_are_spelled_as_the_kernel_prints_them() -> None:
    entries = np.array([INVALID, FOREIGN | 0x1A2B, 1 << 62, 0x12E4, 0], dtype=np.uint64)
    absent = np.array([False, False, False, False, True])
    assert spell_frames(entries, absent) == ["invalid", "F:0x1a2b", "I:0x0", "0x12e4", None]


def test_the_summary_counts_all_events_and_the_selected_findings() -> None:
    def summary(selection: Selection) -> dict[str, Any]:
        trace = trace_of(STORY)
        overview = Overview(LOCAL_FOREIGN, selection)
        for segment in replay(trace, LOCAL_FOREIGN):
            selection.observe(segment, trace)
            overview.add(segment)
        heading = Heading("t", LOCAL_FOREIGN, "", None, what_if=False, judged=False)
        names = [field.name for field in TABLES["summary"].fields]
        return dict(zip(names, (column[0] for column in overview.summary(heading)), strict=True))

    everything, nothing = summary(Selection()), summary(Selection(first=Point(50, False)))
    assert everything["events"] == nothing["events"] == len(STORY)
    assert everything["errors"] > 0
    assert nothing["errors"] == nothing["warnings"] == nothing["infos"] == 0
