"""XM501 and XM502: where what was seen on the machine and the replay part."""

import pytest

from tests.build import foreign
from tests.findings.replayed import find, map_, p2m_write, unmap
from xenm2p.engine.replay import Options
from xenm2p.findings import Severity
from xenm2p.trace import INVALID

LOST = {"kind": "lost", "cpu": 1, "count": 17}


def test_a_write_that_the_model_does_not_explain():
    [found] = find("XM501", [p2m_write(0x8000, 0x1234)], "local-foreign")
    assert (found.severity, found.pfn, found.events) == (Severity.ERROR, 0x8000, [0])
    assert found.entries == (INVALID, 0x1234)
    assert found.text == "the machine wrote 0x1234 to page 0x8000, where the model has invalid"


def test_a_change_that_the_machine_never_wrote():
    rows = [p2m_write(0x8009, INVALID), map_(mfn=0x90000), unmap(), p2m_write(0x8000, INVALID)]
    [found] = find("XM501", rows, "local-foreign")
    assert (found.event, found.pfn) == (1, 0x8000)
    assert found.entries == (INVALID, foreign(0x90000))
    assert found.text == (
        "the model turned page 0x8000 invalid -> F:0x90000, the machine never wrote it")


AGREEING = [map_(mfn=0x90000), p2m_write(0x8000, foreign(0x90000)),
            unmap(), p2m_write(0x8000, INVALID)]


def test_writes_that_the_model_made_too_agree():
    assert find("XM501", AGREEING, "local-foreign") == []


def test_a_trace_without_writes_has_nothing_to_compare():
    assert find("XM501", [map_(), unmap()], "local-foreign") == []


def test_a_what_if_replay_does_not_judge_writes():
    rows = [p2m_write(0x8000, 0x1234)]
    assert find("XM501", rows, "local-foreign", Options(judge_writes=False)) == []


def test_lost_events_are_told_with_their_count_and_processor():
    [found] = find("XM502", [map_(cpu=1), LOST], "local-foreign")
    assert (found.severity, found.event, found.events) == (Severity.WARNING, 1, [0, 1])
    assert found.text == (
        "the tracer lost 17 events on cpu 1 after event 0: pages touched there are unsure")


def test_one_lost_event_is_one():
    [found] = find("XM502", [LOST | {"count": 1}], "local-foreign")
    assert found.text == "the tracer lost 1 event on cpu 1: pages touched there are unsure"


def test_a_gap_in_time_is_no_loss():
    rows = [map_(cpu=1, time=0), unmap(cpu=1, time=10**15)]
    assert find("XM502", rows, "local-foreign") == []


@pytest.mark.parametrize(("anchor", "severity"), [
    ([], Severity.INFO),
    ([p2m_write(0x1010, foreign(0x50010))], Severity.WARNING),
])
def test_a_write_that_agrees_makes_a_page_sure_again(anchor, severity):
    rows = [map_(), LOST, *anchor, {"kind": "gup_fast", "pfn": 0x1010}]
    [found] = find("XM103", rows, "local-foreign")
    assert found.severity == severity
    assert found.text.endswith("(unsure: events were lost)") == (severity == Severity.INFO)
