"""Losses that leave no mark but show in the writes, and the line that says what was seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.build import events_of, foreign
from xenm2p.formats.capture_gaps import with_proven_losses
from xenm2p.formats.capture_sight import MEMORY, SHARES, now_seen, sees
from xenm2p.trace import INVALID, KIND_BY_CODE, NO_CPU, NO_REF, Events

PAGE = 0x8000
Row = dict[str, Any]


def map_(call: int, pfn: int = PAGE, mfn: int = 0x50010) -> list[Row]:
    """A map and the write it made."""
    return [{"kind": "map", "pfn": pfn, "mfn": mfn, "call": call},
            {"kind": "p2m_write", "pfn": pfn, "mfn": foreign(mfn), "call": call}]


def unmap(call: int, pfn: int = PAGE) -> list[Row]:
    """An unmap and the write it made."""
    return [{"kind": "unmap", "pfn": pfn, "call": call},
            {"kind": "p2m_write", "pfn": pfn, "mfn": INVALID, "call": call}]


def lossy(rows: list[Row]) -> Events:
    """The events with the losses that they prove."""
    return with_proven_losses(events_of(rows, [])).events


def kinds(events: Events) -> list[str]:
    """The kinds in order."""
    return [KIND_BY_CODE[kind].name for kind in events.kind.tolist()]


def test_maps_and_unmaps_in_turn_prove_nothing() -> None:
    rows = [*map_(1), *unmap(2), *map_(3), *map_(4, 0x8001), *unmap(5, 0x8001), *unmap(6)]
    gaps = with_proven_losses(events_of(rows, []))
    assert (kinds(gaps.events), gaps.writes) == ([row["kind"] for row in rows], 0)


def test_an_unmap_of_what_was_unmapped_proves_that_a_map_is_missing() -> None:
    found = lossy([*map_(1), *unmap(2), *unmap(3)])
    assert kinds(found) == ["map", "p2m_write", "unmap", "p2m_write", "lost", "unmap",
                            "p2m_write"]
    assert (found.cpu[4], found.ref[4], found.time[4]) == (NO_CPU, NO_REF, found.time[5])


def test_the_loss_stands_before_the_whole_call_that_proves_it() -> None:
    both = [unmap(3, 0x8001), unmap(3)]
    call = [row for event in (0, 1) for row in (both[0][event], both[1][event])]
    found = lossy([*map_(1), *map_(1, 0x8001), *unmap(2), *call])
    assert kinds(found)[6:] == ["lost", "unmap", "unmap", "p2m_write", "p2m_write"]


def test_one_call_proves_one_loss() -> None:
    rows = [*map_(1), *map_(1, 0x8001), *unmap(2), *unmap(2, 0x8001), *unmap(3),
            *unmap(3, 0x8001)]
    gaps = with_proven_losses(events_of(rows, []))
    assert (kinds(gaps.events).count("lost"), gaps.writes) == (1, 2)


def test_a_map_over_a_mapped_page_proves_that_an_unmap_is_missing() -> None:
    gaps = with_proven_losses(events_of([*map_(1), *map_(2)], []))
    assert kinds(gaps.events) == ["map", "p2m_write", "lost", "map", "p2m_write"]
    assert gaps.writes == 1


def unwritten(rows: list[Row], others: int = 20) -> list[str]:
    """The kinds of what begins with `rows`, among maps and unmaps that all wrote."""
    more = [row for n in range(others) for row in (*map_(90 + n), *unmap(190 + n))]
    return kinds(lossy([row | {"task": "x"} for row in rows + more]))[: len(rows) + 1]


def test_a_map_whose_write_is_missing_where_others_have_theirs() -> None:
    both = [map_(1)[0], map_(1, 0x8001)[0], map_(1)[1]]
    assert unwritten([*both, *unmap(2), *unmap(2, 0x8001)])[:4] == [
        "map", "map", "p2m_write", "lost"]


def test_an_unmap_whose_write_is_missing_where_others_have_theirs() -> None:
    assert unwritten([*map_(1), unmap(2)[0], *map_(3, 0x8001)])[:4] == [
        "map", "p2m_write", "unmap", "lost"]


def test_a_map_over_a_share_without_a_write_of_its_own() -> None:
    assert unwritten([*map_(1), map_(2)[0], *map_(3, 0x8001)])[:5] == [
        "map", "p2m_write", "lost", "map", "lost"]


@pytest.mark.parametrize("rows", [
    pytest.param([{"kind": "map", "pfn": 1, "mfn": INVALID, "status": -1, "call": 1}],
                 id="a map that failed"),
    pytest.param([unmap(1, 0x8001)[0]], id="an unmap of what was never mapped"),
    pytest.param([{"kind": "map", "pfn": 1, "mfn": 2}], id="a map of no call"),
])
def test_no_write_was_to_be_expected(rows: list[Row]) -> None:
    assert "lost" not in unwritten(rows)


def test_no_write_at_all_is_a_kernel_that_makes_none() -> None:
    assert "lost" not in unwritten([map_(n)[0] for n in range(9)], others=0)


def test_the_last_call_of_a_task_may_be_cut_off() -> None:
    rows = [row for n in range(20) for row in (*map_(n), *unmap(40 + n))] + [map_(99)[0]]
    assert "lost" not in kinds(lossy([row | {"task": "x"} for row in rows]))


@pytest.mark.parametrize("entry", [foreign(0x50010), INVALID])
def test_a_write_whose_map_or_unmap_is_missing(entry: int) -> None:
    before = map_(1) if entry == INVALID else []
    assert unwritten([*before, {"kind": "set_p2m", "pfn": PAGE, "mfn": entry}])[-2:] == [
        "lost", "set_p2m"]


def test_writes_without_any_call_are_no_losses() -> None:
    rows = [{"kind": "set_p2m", "pfn": n, "mfn": foreign(n)} for n in range(20)]
    assert "lost" not in kinds(lossy(rows))


def test_a_ballooned_page_may_be_written_twice() -> None:
    rows = [{"kind": "set_p2m", "pfn": PAGE, "mfn": INVALID}] * 2
    assert "lost" not in kinds(lossy(rows))


def test_a_write_of_no_call_is_placed_before_its_own_unmap() -> None:
    rows = [*map_(1), *unmap(2),
            {"kind": "unmap", "pfn": PAGE}, {"kind": "p2m_write", "pfn": PAGE, "mfn": INVALID}]
    assert kinds(lossy(rows))[4:] == ["lost", "unmap", "p2m_write"]


def test_no_event_and_no_write() -> None:
    assert len(lossy([])) == 0
    assert kinds(lossy([{"kind": "lookup", "mfn": 1}])) == ["lookup"]


def test_what_a_capture_sees() -> None:
    rows = [*map_(1), {"kind": "grant", "ref": 8, "domid": 0, "mfn": 1},
            {"kind": "lock_page", "pfn": 1, "task": "dd-1"}]
    assert sees(events_of(rows, []), has_memory=True) == (
        "sees: maps, p2m writes, grants, page locks (as pages enter the page cache), p2m before "
        "the capture (--memory); not: unmaps, refs, handles, ends of grants, unlocks, direct I/O")


def test_refs_and_handles_are_those_of_maps_and_unmaps() -> None:
    map_row = {"kind": "map", "pfn": PAGE, "mfn": 1, "ref": 8}
    unmap_row = {"kind": "unmap", "pfn": PAGE, "handle": 3}
    assert "refs, handles" in sees(events_of([map_row, unmap_row], []), has_memory=False)


def test_a_hundred_thousand_pages_are_quick() -> None:
    pages = np.arange(100_000, dtype=np.uint64)
    writes = Events.from_columns(
        200_000, kind=np.full(200_000, 12, np.uint8), pfn=np.concatenate([pages, pages]),
        mfn=np.full(200_000, INVALID, np.uint64))
    gaps = with_proven_losses(writes)
    assert (len(gaps.events), gaps.writes) == (300_000, 100_000)


LINE = "sees: maps, unmaps; not: refs, p2m before the capture (--memory)"


def test_a_dump_that_is_given_later_is_seen_as_well() -> None:
    notes = [LINE, "no p2m dump was given (--memory): no frame is known", "other"]
    assert now_seen(notes, MEMORY) == [
        "sees: maps, unmaps, p2m before the capture (--memory); not: refs", "other"]
    assert now_seen(now_seen(notes, MEMORY), MEMORY) == now_seen(notes, MEMORY)
    assert now_seen(["other"], MEMORY) == ["other"]
    assert now_seen([], SHARES) == []
    assert now_seen(["sees: maps; not: " + MEMORY], MEMORY) == [f"sees: maps, {MEMORY}"]


UNWRITTEN = [map_(1)[0], map_(2)[0], unmap(3)[0], unmap(4)[0]]


def test_calls_without_writes_where_calls_are_known_to_be_missing() -> None:
    """Nothing makes the replay sure again, so that one loss is enough."""
    gaps = with_proven_losses(events_of(UNWRITTEN, []), lacks_calls=True)
    assert kinds(gaps.events) == ["map", "lost", "map", "unmap", "unmap"]


def test_calls_without_writes_that_are_all_there_are_as_they_are() -> None:
    assert "lost" not in kinds(lossy(UNWRITTEN))
    whole = with_proven_losses(events_of([UNWRITTEN[0], UNWRITTEN[2]], []), lacks_calls=True)
    assert "lost" not in kinds(whole.events)
