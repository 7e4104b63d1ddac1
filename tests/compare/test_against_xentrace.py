"""A capture against xentrace: every slice, and what the capture lacks."""

from __future__ import annotations

import io
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.build import events_of, trace_of
from tests.compare.recordings import recording, seen_by_xen
from xenm2p.compare.against_xentrace import CrossCheck, cross_check, mapped_in
from xenm2p.compare.clocks import Recording
from xenm2p.formats.ftrace import read_ftrace
from xenm2p.formats.xentrace import Grant, Xentrace, read_xentrace
from xenm2p.trace import INVALID, Events, Kind, Trace

CAPTURES = Path(__file__).parents[1] / "data" / "captures"


@cache
def real() -> tuple[Events, Xentrace]:
    """A capture, and xentrace of the same run: two ring pages more."""
    text = lzma.decompress((CAPTURES / "tcmd-phy-nopersist-report.txt.xz").read_bytes())
    xen = lzma.decompress((CAPTURES / "tcmd-phy-nopersist.xentrace.xz").read_bytes())
    return (read_ftrace(io.BytesIO(text), "report").events(),
            read_xentrace(io.BytesIO(xen), "xentrace"))


def checked(keep: np.ndarray[Any, Any] | None = None, **how: Any) -> CrossCheck:
    """The real capture, or part of it, beside all of xentrace."""
    events, xen = real()
    return cross_check(
        Trace.of_events(events if keep is None else events.rows(keep)), xen, **how)


def test_a_whole_capture_lacks_the_ring_pages_alone() -> None:
    found = checked()
    assert found.clocks is not None
    assert (found.missing_maps, found.missing, found.are_rings) == (2, 4, True)
    assert sum(each.xen_maps for each in found.slices) == 2386
    assert sum(each.maps for each in found.slices) == 2384
    assert 8 <= len(found.slices) <= 22


@pytest.mark.parametrize(("first", "last"), [(5000, 5400), (7000, 7900), (9000, 9001)])
def test_what_is_cut_out_is_missing_in_its_slices(first: int, last: int) -> None:
    events, _ = real()
    keep = np.ones(len(events), np.bool_)
    keep[first:last] = False
    cut = int((events.kind[first:last] <= Kind.UNMAP).sum())
    found = checked(keep)
    assert found.missing == 4 + cut
    assert found.are_rings == (cut == 0)
    begin, end = events.time[first], events.time[last]
    lacking = [each for each in found.slices if each.missing > 2]
    assert all(each.first < end and each.last > begin for each in lacking)


def test_slices_of_a_time_that_is_asked_for() -> None:
    assert len(checked(slice_ns=50_000_000).slices) > len(checked().slices)
    assert checked(slice_ns=50_000_000).missing == 4
    assert len(checked(slice_ns=10**12).slices) == 1
    assert checked(slice_ns=1).missing == 4


def test_what_happened_outside_of_the_capture_is_not_missing() -> None:
    events, _ = real()
    number = np.arange(len(events))
    found = checked((number > 4000) & (number < 9000))
    assert [each.outside for each in found.slices][:: len(found.slices) - 1] == [True, True]
    assert found.missing == 0


def test_without_aligned_clocks_totals_are_compared() -> None:
    rows = [MAP | {"domid": 0}, MAP | {"domid": 0, "pfn": 0x8001}]
    found = cross_check(trace_of(rows), real()[1])
    assert found.clocks is None
    [only] = found.slices
    assert (only.maps, only.xen_maps, found.missing) == (2, 2386, 2384 + 2386)


MAP = {"kind": "map", "pfn": 0x8000, "mfn": 0x50010, "domid": 3, "ref": 8}
UNMAP = {"kind": "unmap", "pfn": 0x8000}


def test_a_page_for_user_space_is_two_records() -> None:
    mapped = mapped_in(trace_of([MAP | {"user": True}, UNMAP | {"user": True}, MAP, UNMAP]))
    assert mapped.weight.tolist() == [2, 2, 1, 1]


def test_failed_maps_and_refused_unmaps_are_no_record() -> None:
    rows = [MAP | {"status": -1}, UNMAP, UNMAP, MAP, UNMAP | {"status": -3}]
    mapped = mapped_in(trace_of(rows))
    assert mapped.kind.tolist() == [Grant.UNMAP, Grant.MAP]


def test_an_unmap_that_wrote_happened_though_its_map_was_lost() -> None:
    undone = {"kind": "p2m_write", "pfn": 0x8000, "mfn": INVALID}
    mapped = mapped_in(trace_of([MAP, UNMAP, undone, UNMAP, undone, UNMAP]))
    assert mapped.kind.tolist() == [Grant.MAP, Grant.UNMAP, Grant.UNMAP]


def test_an_unmap_is_of_the_domain_of_its_map() -> None:
    other = {"kind": "map", "pfn": 0x8001, "mfn": 0x90000, "domid": 4}
    rows = [MAP, other, UNMAP, UNMAP | {"pfn": 0x8001}, UNMAP | {"pfn": 0x8002}]
    assert mapped_in(trace_of(rows)).domid.tolist() == [3, 4, 3, 4, -1]


GRANT = {"kind": "grant", "ref": 8, "domid": 0, "mfn": 0x50010}


@pytest.mark.parametrize(("rows", "unmapped"), [
    pytest.param([GRANT], 1, id="never mapped"),
    pytest.param([GRANT, MAP], 0, id="mapped"),
    pytest.param([GRANT, MAP | {"ref": 9}], 1, id="another is mapped"),
    pytest.param([GRANT, MAP, GRANT], 1, id="granted again"),
    pytest.param([MAP, GRANT], 1, id="mapped before"),
    pytest.param([GRANT, {"kind": "map", "pfn": 1, "mfn": 2}], 0, id="a map of who knows what"),
])
def test_grants_that_no_map_uses(rows: list[dict[str, Any]], unmapped: int) -> None:
    assert mapped_in(trace_of(rows)).unmapped == unmapped


def test_a_trace_with_losses_lacks_more_than_rings() -> None:
    events, xen = real()
    lost = events_of([{"kind": "lost", "count": 3, "cpu": 0, "time": int(events.time[0])}], [])
    found = cross_check(Trace.of_events(Events.concat([lost, events])), xen)
    assert (found.missing, found.are_rings) == (4, False)


def test_two_domains_are_counted_each_for_itself() -> None:
    capture = recording(5, events=1000)
    domid = np.where(np.arange(1000) % 7 == 0, 4, 3).astype(np.uint16)
    xen = seen_by_xen(capture)
    records = Xentrace(xen.time.astype(np.uint64), np.zeros(1000, np.uint16),
                       capture.what.astype(np.uint8), domid, 1000, 0,
                       np.zeros(0, np.uint64), cut=False)
    pages = _pages(capture)
    events = Events.from_columns(
        1000, time=capture.time, kind=capture.what.astype(np.uint8), pfn=pages,
        mfn=pages, domid=domid)
    found = cross_check(Trace.of_events(events), records)
    by_domain = {each: sum(s.xen_maps for s in found.slices if s.domid == each)
                 for each in (3, 4)}
    assert by_domain == {each: int(((capture.what == 0) & (domid == each)).sum())
                         for each in (3, 4)}


def _pages(capture: Recording) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Pages so that every unmap is the first of its page: none is refused."""
    return np.arange(len(capture.time), dtype=np.uint64)
