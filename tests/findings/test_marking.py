"""XM201 to XM205: FOREIGN bits that are wrong, frames that several pages answer for."""

import pytest

from tests.build import foreign
from tests.findings.replayed import find, map_, unmap
from xenm2p.findings import Severity
from xenm2p.trace import INVALID


def set_p2m(pfn, mfn):
    return {"kind": "set_p2m", "pfn": pfn, "mfn": mfn}


def test_an_unmap_that_does_not_unmark_leaves_the_frontend_foreign():
    [found] = find("XM201", [map_(), unmap(user=False)], "kmap-only")
    assert (found.severity, found.pfn, found.events) == (Severity.ERROR, 0x1010, [0, 1])
    assert found.text == (
        "frontend page 0x1010 stays F:0x50010 though the last share of the frame is gone")


@pytest.mark.parametrize("rows", [
    pytest.param([map_(), unmap()], id="un-marked by the last unmap"),
    pytest.param([map_(), map_(0x8001), unmap()], id="a second share lives"),
])
def test_not_stuck(rows):
    assert find("XM201", rows, "kmap-only") == []


def test_a_p2m_write_under_a_share_clears_early():
    [found] = find("XM202", [map_(), set_p2m(0x1010, 0x50010), unmap()], "local-foreign")
    assert (found.severity, found.pfn, found.events) == (Severity.WARNING, 0x1010, [0, 1])
    assert found.entries == (foreign(0x50010), 0x50010)
    assert found.text == (
        "frontend page 0x1010 went F:0x50010 -> 0x50010 while the share of event 0 lives")


@pytest.mark.parametrize("rows", [
    pytest.param([map_(), unmap(), set_p2m(0x1010, INVALID)], id="after the last share"),
    pytest.param([map_(), set_p2m(0x1010, foreign(0x50010)), unmap()], id="the bit stays"),
    pytest.param([map_(), set_p2m(0x1011, 0x50011), unmap()], id="another page"),
])
def test_not_cleared_early(rows):
    assert find("XM202", rows, "local-foreign") == []


def test_the_condition_of_2012_names_its_cure():
    [found] = find("XM203", [map_(), unmap()], "override")
    assert (found.severity, found.pfn, found.events) == (Severity.WARNING, 0x1010, [0])
    assert found.text == ("direct I/O on page 0x8000 gets frontend page 0x1010 of the same "
                          "domain; cured by b9e0d95c041c (3.5)")


def test_a_share_whose_mark_was_cleared_aliases_under_later_kernels_too():
    [found] = find("XM203", [map_(), set_p2m(0x1010, 0x50010), unmap()], "local-foreign")
    assert found.text == ("direct I/O on page 0x8000 gets frontend page 0x1010 of the same "
                          "domain, which is not marked FOREIGN")


@pytest.mark.parametrize(("rows", "model"), [
    pytest.param([map_(mfn=0x90000), unmap()], "override", id="another domain's frame"),
    pytest.param([map_(user=False), unmap(user=False)], "override", id="a kernel backend"),
    pytest.param([map_(), unmap()], "local-foreign", id="marked"),
    pytest.param([map_(), unmap()], "p2m-only", id="the mapping carries its pages"),
])
def test_no_alias(rows, model):
    assert find("XM203", rows, model) == []


def test_two_live_shares_of_a_frame():
    [found] = find("XM204", [map_(), map_(0x8001), unmap(0x8001), unmap()], "local-foreign")
    assert (found.severity, found.pfn, found.events) == (Severity.INFO, 0x8001, [0, 1])
    assert found.text == (
        "frame 0x50010 is shared at event 0 and again at page 0x8001: lookup answers the newest")


@pytest.mark.parametrize(("rows", "model"), [
    pytest.param([map_(), unmap(), map_(0x8001), unmap(0x8001)], "local-foreign",
                 id="one after the other"),
    pytest.param([map_(), map_(0x8001, mfn=0x50011)], "local-foreign", id="two frames"),
    pytest.param([map_(), map_(0x8001)], "p2m-only", id="no override list"),
])
def test_not_shared_twice_at_once(rows, model):
    assert find("XM204", rows, model) == []


def test_a_map_onto_a_page_with_a_frame_loses_it_since_4_0():
    [found] = find("XM205", [map_(0x1020), unmap(0x1020)], "p2m-only")
    assert (found.severity, found.pfn, found.events) == (Severity.WARNING, 0x1020, [0])
    assert found.entries == (0x50020, None)
    assert found.text == (
        "map onto page 0x1020, which held 0x50020 of its own: that frame is lost")


def test_a_map_onto_a_page_with_a_frame_is_harmless_where_unmap_restores_it():
    [found] = find("XM205", [map_(0x1020), unmap(0x1020)], "kmap-only")
    assert found.severity == Severity.INFO
    assert found.text == (
        "map onto page 0x1020, which held 0x50020 of its own; unmap gives it back")


def test_a_map_onto_a_ballooned_page_loses_nothing():
    assert find("XM205", [map_(), unmap()], "p2m-only") == []
