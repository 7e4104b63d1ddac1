"""XM401 to XM404: shares that outlive their grant, their handle, their I/O or the trace."""

import pytest

from tests.build import foreign, trace_of
from tests.engine.test_same import assert_same
from tests.findings.replayed import dio_read, find, lock, map_, p2m_write, unlock, unmap
from xenm2p.engine.replay import Options
from xenm2p.findings import Severity
from xenm2p.findings.lifetime import format_duration
from xenm2p.kernels import MODELS


def test_the_live_shares_of_one_grant_are_one_finding():
    rows = [map_(ref=8, domid=3, mfn=0x90000, time=0),
            map_(0x8001, ref=8, domid=3, mfn=0x90000, time=1_000_000_000),
            map_(0x8002, ref=8, domid=4, mfn=0x90001, time=2_000_000_000),
            map_(0x8003, ref=9, domid=3, mfn=0x90002, time=3_200_000_000)]
    first, second, third = find("XM401", rows, "local-foreign")
    assert {f.severity for f in (first, second, third)} == {Severity.WARNING}
    assert (first.event, first.events) == (0, [0, 1])
    assert first.text == (
        "grant 8 of domain 3 still has 2 shares at the end, the oldest since event 0 (3.2 s)")
    assert second.events == [2]
    assert second.text == ("grant 8 of domain 4 is still mapped at page 0x8002 at the end, "
                           "since event 2 (1.2 s)")
    assert third.events == [3]


def test_live_shares_without_a_reference_are_one_finding_a_frame():
    rows = [map_(), map_(0x8001, mfn=0x90000, domid=3), map_(0x8002), map_(0x8003, domid=1)]
    texts = [f.text.split(" at the end")[0] for f in find("XM401", rows, "local-foreign")]
    assert texts == ["frame 0x50010 still has 2 shares",
                     "frame 0x90000 of domain 3 is still mapped at page 0x8001",
                     "frame 0x50010 of domain 1 is still mapped at page 0x8003"]


def test_a_share_whose_page_was_lost_sight_of_is_only_informative():
    rows = [map_(ref=8), {"kind": "lost", "cpu": 0, "count": 1}]
    [found] = find("XM401", rows, "local-foreign")
    assert found.severity == Severity.INFO
    assert found.text.endswith("(unsure: events were lost)")


@pytest.mark.parametrize("rows", [
    pytest.param([map_(ref=8), unmap()], id="unmapped"),
    pytest.param([map_(ref=8, status=-1)], id="never mapped"),
])
def test_no_share_is_left(rows):
    assert find("XM401", rows, "local-foreign") == []


@pytest.mark.parametrize(("ns", "text"), [
    (-5, "-5 ns"), (0, "0 ns"), (999, "999 ns"), (1_000, "1.0 us"), (410_000, "410 us"),
    (3_200_000_000, "3.2 s"), (9_960_000_000, "10 s"), (90_000_000_000, "1.5 min"),
    (7_200_000_000_000, "2.0 h"),
])
def test_durations_as_a_person_says_them(ns, text):
    assert format_duration(ns) == text


def end_grant(ref):
    return {"kind": "end_grant", "ref": ref}


def test_ending_a_grant_that_is_mapped():
    [found] = find("XM402", [map_(ref=8, domid=0), end_grant(8), unmap()], "local-foreign")
    assert (found.severity, found.event, found.events) == (Severity.WARNING, 1, [0, 1])
    assert found.text == (
        'grant 8 ended while one share of it lives, newest at page 0x8000: "g.e. still in use"')


@pytest.mark.parametrize("rows", [
    pytest.param([map_(ref=8, domid=0), unmap(), end_grant(8)], id="unmapped first"),
    pytest.param([map_(ref=8, domid=0), end_grant(9)], id="another grant"),
    pytest.param([map_(ref=8, domid=3, mfn=0x90000), end_grant(8)], id="another domain's"),
])
def test_not_in_use(rows):
    assert find("XM402", rows, "local-foreign") == []


def test_an_unknown_handle():
    [found] = find("XM403", [map_(handle=3), unmap(handle=4)], "p2m-only")
    assert (found.severity, found.events) == (Severity.WARNING, [0, 1])
    assert found.text == (
        "unmap of page 0x8000 with handle 4, which the share of event 0 there does not have")


def test_a_handle_where_nothing_is_mapped():
    [found] = find("XM403", [unmap(handle=4)], "p2m-only")
    assert found.text == "unmap of page 0x8000 with handle 4: nothing is mapped"


@pytest.mark.parametrize("model", MODELS)
def test_a_share_from_before_the_trace_is_adopted_with_a_finding_that_is_no_error(model):
    [found] = find("XM403", [unmap(handle=4)], model, memory=[(0x8000, foreign(0x90000), 1)])
    assert (found.severity, found.events) == (Severity.INFO, [0])
    assert found.text == "unmap of page 0x8000 with handle 4, whose map was not seen"


def test_a_handle_unmapped_twice():
    [found] = find("XM403", [map_(handle=3), unmap(handle=3), unmap(handle=3)], "p2m-only")
    assert found.events == [2]
    assert found.text == "unmap of page 0x8000 with handle 3, which was unmapped already"


@pytest.mark.parametrize("rows", [
    pytest.param([map_(handle=3), unmap(handle=3)], id="its own handle"),
    pytest.param([map_(), unmap(handle=3)], id="the map's handle was not seen"),
    pytest.param([map_(handle=3), unmap()], id="the unmap's handle was not seen"),
    pytest.param([map_(handle=3), unmap(handle=3), map_(handle=3), unmap(handle=3)],
                 id="the handle was given again"),
])
def test_known_handles(rows):
    assert find("XM403", rows, "p2m-only") == []


def test_an_unmap_while_direct_io_waits_for_a_lock():
    [found] = find("XM404", [lock(), map_(), dio_read(), unmap(), unlock()], "override")
    assert (found.severity, found.event, found.events) == (Severity.ERROR, 3, [2, 3])
    assert found.text == ("unmap of page 0x8000 while dio_read 2 is in flight: it reads into "
                          "a frame taken away")


@pytest.mark.parametrize(("rows", "model"), [
    pytest.param([lock(), map_(), dio_read(), unlock(), unmap()], "override",
                 id="the lock was released first"),
    pytest.param([lock(), map_(), unmap(), unlock()], "override", id="no direct I/O"),
    pytest.param([lock(), map_(), dio_read(), unmap(), unlock()], "local-foreign",
                 id="no lock was waited for"),
])
def test_not_in_flight(rows, model):
    assert find("XM404", rows, model) == []


@pytest.mark.parametrize("chunk", [1, 100])
def test_an_unmap_in_flight_is_unsure_where_the_lock_is_from_before_a_loss(chunk: int):
    """XM404 was an error although XM101 of the same lock was unknown."""
    rows = [lock(), map_(), {"kind": "lost", "cpu": 0, "count": 5},
            p2m_write(0x8000, foreign(0x50010)), dio_read(), unmap()]
    for id in ("XM101", "XM404"):
        assert [f.severity for f in find(id, rows, "override")] == [Severity.INFO]
    assert_same(trace_of(rows), MODELS["override"], Options(), chunk, 1)
