"""XM101 and XM103: page locks a share runs into, answers that surprise."""

import pytest

from tests.findings.replayed import dio_read, find, lock, map_, unlock, unmap
from xenm2p.engine.replay import Options
from xenm2p.findings import Severity

HOLDER = "mount-1042 holds the lock of page 0x1010 since event 0"


def test_direct_io_that_meets_a_lock_held_all_the_share_long_deadlocks():
    [found] = find("XM101", [lock(), map_(), dio_read(), unmap(), unlock()], "override")
    assert (found.severity, found.event, found.pfn) == (Severity.ERROR, 1, 0x1010)
    assert found.events == [0, 1, 2, 3]
    assert found.text == f"{HOLDER}: dio_read 2 of page 0x8000 deadlocks"


def test_a_lock_still_held_when_the_trace_ends_deadlocks():
    [found] = find("XM101", [lock(), map_(), dio_read()], "override")
    assert (found.severity, found.events) == (Severity.ERROR, [0, 1, 2])


def test_a_lock_released_while_the_share_lives_is_contention():
    [found] = find("XM101", [lock(), map_(), dio_read(), unlock(), unmap()], "override")
    assert found.severity == Severity.WARNING
    assert found.text == f"{HOLDER}: dio_read 2 of page 0x8000 waits for it"


def test_a_lock_taken_after_the_share_began_is_contention():
    [found] = find("XM101", [map_(), lock(), dio_read(), unmap(), unlock()], "override")
    assert found.severity == Severity.WARNING


def test_a_spanning_lock_without_direct_io_is_a_warning():
    [found] = find("XM101", [lock(), map_(), unmap(), unlock()], "override")
    assert found.severity == Severity.WARNING
    assert found.text == f"{HOLDER}: direct I/O on page 0x8000 would deadlock"


def test_a_short_lock_without_direct_io_is_informative():
    [found] = find("XM101", [lock(), map_(), unlock(), unmap()], "override")
    assert found.severity == Severity.INFO
    assert found.text == f"{HOLDER}: direct I/O on page 0x8000 would wait for it"


def test_assumed_direct_io_deadlocks_without_an_event_of_its_own():
    rows = [lock(), map_(), unmap(), unlock()]
    [found] = find("XM101", rows, "override", Options(assume_dio=True))
    assert (found.severity, found.events) == (Severity.ERROR, [0, 1, 2])
    assert found.text == f"{HOLDER}: direct I/O on page 0x8000 would deadlock"


def test_a_loss_makes_a_collision_unknown():
    rows = [lock(), {"kind": "lost", "cpu": 0, "count": 3}, map_(), dio_read(), unmap()]
    [found] = find("XM101", rows, "override")
    assert found.severity == Severity.INFO
    assert found.text == (
        f"{HOLDER}: dio_read 3 of page 0x8000 may meet it (unsure: events were lost)")


@pytest.mark.parametrize("rows", [
    pytest.param([lock(), unlock(), map_(), dio_read(), unmap()], id="lock released before"),
    pytest.param([map_(), unmap(), lock(), dio_read()], id="lock taken after"),
    pytest.param([lock(0x1011), map_(), dio_read(), unmap()], id="another page's lock"),
    pytest.param([lock(), map_(user=False), unmap(user=False)], id="a kernel backend"),
    pytest.param([lock(), map_(mfn=0x90000), dio_read(), unmap()], id="a foreign frame"),
])
def test_no_collision(rows):
    assert find("XM101", rows, "override") == []


@pytest.mark.parametrize("model", ["local-foreign", "kmap-only", "p2m-only"])
def test_the_deadlock_of_2012_is_cured(model):
    assert find("XM101", [lock(), map_(), dio_read(), unmap(), unlock()], model) == []


def test_gup_fast_on_a_marked_frontend_page_answers_the_backends():
    [found] = find("XM103", [map_(), {"kind": "gup_fast", "pfn": 0x1010}], "local-foreign")
    assert (found.severity, found.pfn, found.events) == (Severity.WARNING, 0x1010, [0, 1])
    assert found.text == ("get_user_pages_fast answers backend page 0x8000, not frontend "
                          "page 0x1010 (share of event 0)")


def test_lookup_of_a_marked_frontend_pages_frame_answers_the_backends():
    [found] = find("XM103", [map_(), {"kind": "lookup", "mfn": 0x50010}], "local-foreign")
    assert found.text == ("mfn_to_pfn of 0x50010 answers backend page 0x8000, not frontend "
                          "page 0x1010 (share of event 0)")


@pytest.mark.parametrize(("rows", "model"), [
    pytest.param([map_(), unmap(), {"kind": "gup_fast", "pfn": 0x1010}], "local-foreign",
                 id="the share is gone"),
    pytest.param([map_(), {"kind": "gup_fast", "pfn": 0x1011}], "local-foreign",
                 id="another page"),
    pytest.param([map_(), {"kind": "gup_fast", "pfn": 0x1010}], "override",
                 id="a kernel that does not mark"),
    pytest.param([map_(), {"kind": "gup_fast", "pfn": 0x1010}], "p2m-only",
                 id="a kernel without overrides"),
    pytest.param([map_(mfn=0x90000), {"kind": "lookup", "mfn": 0x90000}], "local-foreign",
                 id="a foreign frame has no frontend page here"),
])
def test_no_hazard(rows, model):
    assert find("XM103", rows, model) == []
