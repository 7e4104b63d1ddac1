"""The screen of `replay`: what it says, and that it stays one screen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.build import trace_of
from xenm2p.engine.reference import replay
from xenm2p.engine.replay import Options
from xenm2p.findings import RULES
from xenm2p.kernels import KMAP_ONLY, LOCAL_FOREIGN, OVERRIDE, P2M_ONLY, KernelModel
from xenm2p.report.markup import Items, Lines, Rows, Verbatim, render
from xenm2p.report.overview import KEPT, Heading, Overview
from xenm2p.report.plain import MARKUP
from xenm2p.report.screen import MAX_NOTES, cures_after, screen
from xenm2p.report.selection import Selection


def blocks_of(
    rows: list[dict[str, Any]], model: KernelModel = OVERRIDE, notes: tuple[str, ...] = (),
    **heading: Any,
) -> list[Any]:
    trace = trace_of(rows)
    trace.notes += notes
    overview = Overview(model, Selection())
    for segment in replay(trace, model, Options(judge_writes=False)):
        overview.selection.observe(segment, trace)
        overview.add(segment)
    facts = {"kernel_from": "asked", "traced_kernel": None, "what_if": False, "judged": False}
    more = {"findings": ["xenm2p export"], "events": ["xenm2p replay --events"]}
    return list(screen(Heading("t", model, **{**facts, **heading}), overview, trace, more))


def collisions(count: int) -> list[dict[str, Any]]:
    """So many shares of locked pages, read into."""
    rows: list[dict[str, Any]] = []
    for i in range(count):
        rows += [
            {"kind": "lock_page", "pfn": 0x1000 + i, "task": "mount-1"},
            {"kind": "map", "mfn": 0x50000 + i, "pfn": 0x8000 + i, "user": True},
            {"kind": "dio_read", "pfn": 0x8000 + i, "task": "qemu-2"}]
    return rows


def items_of(blocks: list[Any]) -> dict[str, str]:
    return dict(next(block for block in blocks if isinstance(block, Items)).items)


def test_a_clean_replay_says_so() -> None:
    blocks = blocks_of([{"kind": "lookup", "mfn": 0x50010}])
    assert Lines(["No findings."]) in blocks
    assert Verbatim(["xenm2p replay --events"]) in blocks


def test_only_the_first_collisions_are_shown_and_the_others_counted() -> None:
    blocks = blocks_of(collisions(20))
    table = next(block for block in blocks if isinstance(block, Rows))
    assert len(table.rows) == KEPT
    text = render(MARKUP, blocks)
    assert "20 collisions: 20 deadlock" in text
    assert "15 more" in text


def test_the_worst_collisions_come_first() -> None:
    prone = [row for row in collisions(8) if row["kind"] != "dio_read"]
    read = {"kind": "dio_read", "pfn": 0x8007, "task": "qemu-2"}
    table = next(block for block in blocks_of([*prone, read]) if isinstance(block, Rows))
    assert [row[0] for row in table.rows] == ["deadlock"] + ["prone"] * 4
    assert table.rows[0][1] == "0x1007"


def test_a_replay_with_many_findings_is_still_one_screen() -> None:
    text = render(MARKUP, blocks_of(collisions(40), notes=("a note " * 9,) * 3))
    assert len(text.splitlines()) <= 50


def test_notes_are_limited() -> None:
    blocks = blocks_of([], notes=tuple(f"note {i}" for i in range(MAX_NOTES + 3)))
    notes = next(block for block in blocks if isinstance(block, Items)).items
    assert [text for key, text in notes if key == "note"][-1] == "3 more: xenm2p info"


def test_unjudged_writes_are_told_where_there_are_any() -> None:
    write = {"kind": "p2m_write", "pfn": 0x8000, "mfn": 0x50010 | 1 << 63}
    assert "XM501" not in items_of(blocks_of([]))["kernel"]
    assert "--traced-kernel" in items_of(blocks_of([write]))["kernel"]
    assert "not judged (XM501)" in items_of(blocks_of([write], what_if=True))["kernel"]


@pytest.mark.parametrize(("kernel", "text"), [
    (None, "0 events"), ("6.1", "0 events, traced on Linux 6.1"),
    ("p2m-only", "0 events, traced on a p2m-only kernel")])
def test_the_traced_kernel_is_a_version_or_only_a_model(kernel: str | None, text: str) -> None:
    assert items_of(blocks_of([], traced_kernel=kernel))["trace"] == text


def test_a_cure_is_named_only_where_the_kernel_does_not_have_it() -> None:
    rule = RULES["XM101"]
    assert [cure.commit for cure in cures_after(OVERRIDE, rule)] == ["b9e0d95c041c"]
    for model in (LOCAL_FOREIGN, KMAP_ONLY, P2M_ONLY):
        assert cures_after(model, rule) == []
