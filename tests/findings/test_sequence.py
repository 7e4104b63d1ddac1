"""XM301 to XM306: maps and unmaps that do not fit together."""

import pytest

from tests.build import foreign
from tests.findings.replayed import find, map_, p2m_write, unmap
from xenm2p.findings import Severity
from xenm2p.trace import INVALID


def test_a_map_over_a_live_share_replaces_it():
    [found] = find("XM301", [map_(), map_(mfn=0x90000), unmap()], "p2m-only")
    assert (found.severity, found.pfn, found.events) == (Severity.ERROR, 0x8000, [0, 1])
    assert found.text == ("map of frame 0x90000 over page 0x8000: the share of event 0 is "
                          "replaced and never unmapped")


def test_a_map_over_a_listed_page_is_left_out_and_corrupts_the_list():
    rows = [map_(), map_(mfn=0x90000), unmap()]
    [double] = find("XM301", rows, "local-foreign")
    assert double.severity == Severity.WARNING
    assert double.text == ("map of frame 0x90000 over page 0x8000, where the share of event 0 "
                           "lives; left out")
    [corruption] = find("XM303", rows, "local-foreign")
    assert (corruption.severity, corruption.events) == (Severity.ERROR, [0, 1])
    assert corruption.text == ("map at page 0x8000, which is on the override list already, "
                               "would corrupt it: left out")


def test_a_map_of_an_invalid_frame_that_corrupts_the_list_is_still_called_a_map():
    [found] = find("XM303", [map_(), map_(mfn=INVALID)], "local-foreign")
    assert found.text.startswith("map at page 0x8000")


@pytest.mark.parametrize("model", ["local-foreign", "p2m-only"])
@pytest.mark.parametrize("rows", [
    pytest.param([map_(), unmap(), map_(mfn=0x90000), unmap()], id="unmapped in between"),
    pytest.param([map_(), map_(status=-1), unmap()], id="the second map failed"),
    pytest.param([map_(), map_(0x8001), unmap(), unmap(0x8001)], id="another page"),
])
def test_no_double_map(rows, model):
    assert find("XM301", rows, model) == find("XM303", rows, model) == []


def test_an_unmap_of_a_page_that_is_not_foreign_fails():
    [found] = find("XM302", [unmap(0x1010)], "local-foreign")
    assert (found.severity, found.events) == (Severity.ERROR, [0])
    assert found.entries == (0x50010, None)
    assert found.text == ("unmap of page 0x1010, whose entry is 0x50010, not FOREIGN: -22, "
                          "nothing is undone")


def test_an_unmap_of_a_mapped_page_is_well_formed():
    assert find("XM302", [map_(), unmap()], "local-foreign") == []


def test_an_unmap_with_user_of_a_page_mapped_without_corrupts_the_list():
    [found] = find("XM303", [map_(user=False), unmap()], "kmap-only")
    assert (found.severity, found.events) == (Severity.ERROR, [0, 1])
    assert found.text == ("unmap of page 0x8000, which is not on the override list, would "
                          "corrupt it: left out")


def test_an_unmap_of_a_share_from_before_the_trace_may_be_well_formed():
    [found] = find("XM303", [unmap()], "local-foreign", memory=[(0x8000, foreign(0x90000), 1)])
    assert (found.severity, found.events) == (Severity.WARNING, [0])
    assert found.text == ("unmap of page 0x8000, whose map was not seen, so that it is not on "
                          "the override list: left out")


def test_an_unmap_without_user_of_a_page_mapped_without_keeps_the_list():
    assert find("XM303", [map_(user=False), unmap(user=False)], "kmap-only") == []


@pytest.mark.parametrize(("model", "severity", "meaning"), [
    ("override", Severity.ERROR, "wild pointer; left out"),
    ("local-foreign", Severity.INFO, "harmless here"),
    ("kmap-only", Severity.ERROR, "its override stays listed for good"),
    ("p2m-only", Severity.INFO, "harmless here"),
])
def test_an_unmap_whose_user_differs_from_its_maps(model, severity, meaning):
    [found] = find("XM304", [map_(), unmap(user=False)], model)
    assert (found.severity, found.events) == (severity, [0, 1])
    assert found.text == (
        f"unmap without user of page 0x8000, mapped with it at event 0: {meaning}")


@pytest.mark.parametrize("user", [True, False])
def test_an_unmap_with_its_maps_user_does_not_differ(user):
    assert find("XM304", [map_(user=user), unmap(user=user)], "override") == []


FAILING_CALL = [map_(), unmap(0x8009, call=2), unmap(call=2)]


def test_unmaps_after_a_failing_one_of_their_call_are_not_done():
    [found] = find("XM305", FAILING_CALL, "local-foreign")
    assert (found.severity, found.pfn, found.events) == (Severity.ERROR, 0x8000, [1, 2])
    assert found.entries == (foreign(0x50010), None)
    assert found.text == (
        "unmap of page 0x8000 not done, as unmap 1 of its call failed: stays F:0x50010")


def test_an_unmap_not_done_of_a_page_that_is_not_foreign_leaves_nothing_behind():
    [found] = find("XM305", [unmap(0x8009, call=2), unmap(call=2)], "local-foreign")
    assert found.severity == Severity.INFO
    assert found.text.endswith("stays invalid")


@pytest.mark.parametrize(("rows", "model"), [
    pytest.param(FAILING_CALL, "p2m-only-continue", id="a kernel that goes on"),
    pytest.param([map_(), unmap(0x8009, call=2), unmap(call=3)], "local-foreign",
                 id="another call"),
    pytest.param([map_(), unmap(call=2), unmap(0x8009, call=2)], "local-foreign",
                 id="the failing one is the last"),
])
def test_not_aborted(rows, model):
    assert find("XM305", rows, model) == []


def test_a_failed_map_that_the_machine_kept():
    rows = [map_(status=-1), p2m_write(0x8000, foreign(0x50010))]
    [found] = find("XM306", rows, "p2m-only")
    assert (found.severity, found.pfn, found.events) == (Severity.ERROR, 0x8000, [0, 1])
    assert found.entries == (None, foreign(0x50010))
    assert found.text == (
        "map 0 of page 0x8000 failed, yet the machine wrote F:0x50010: not its frame")


@pytest.mark.parametrize("rows", [
    pytest.param([map_(), p2m_write(0x8000, foreign(0x50010))], id="the map succeeded"),
    pytest.param([map_(status=-1), p2m_write(0x8000, INVALID)], id="the page was cleared"),
    pytest.param([map_(status=-1), p2m_write(0x8001, foreign(0x50010))], id="another page"),
    pytest.param([map_(status=-1), map_(), p2m_write(0x8000, foreign(0x50010))],
                 id="a second attempt succeeded"),
])
def test_not_kept(rows):
    assert find("XM306", rows, "p2m-only") == []
