"""Counts of findings as segments pass, and the first of each kind."""

import pytest

from tests.build import trace_of
from tests.findings.replayed import dio_read, lock, map_, unlock, unmap
from tests.findings.segments import collision, fact, segment_of
from xenm2p.engine.reference import replay
from xenm2p.engine.replay import Verdict
from xenm2p.findings import RULES, Severity, Tally, findings_of
from xenm2p.kernels import MODELS

MODEL = MODELS["override"]


def tally_of(*segments, keep=5):
    tally = Tally(MODEL, keep)
    for segment in segments:
        tally.add_segment(segment)
    return tally


def test_nothing_was_found():
    tally = tally_of(segment_of())
    assert (len(tally), tally.worst, tally.rules()) == (0, None, [])


def test_findings_are_counted_by_rule_and_severity():
    tally = tally_of(segment_of([fact(204), fact(204), fact(302)]),
                     segment_of([fact(204), fact(302, unknown=1)]))
    assert tally.of_rule(RULES["XM204"]) == {Severity.INFO: 3}
    assert tally.of_rule(RULES["XM302"]) == {Severity.ERROR: 1, Severity.INFO: 1}
    assert tally.worst == Severity.ERROR
    assert (len(tally), tally.count(at_least=Severity.ERROR)) == (5, 1)


def test_only_the_first_of_a_rule_are_kept():
    segments = [segment_of([fact(204, event=e) for e in range(n, n + 3)]) for n in (0, 3, 6)]
    assert tally_of(*segments).first_of(RULES["XM204"]).event.tolist() == [0, 1, 2, 3, 4]
    assert tally_of(*segments, keep=0).first_of(RULES["XM204"]).event.tolist() == []


def test_a_deadlock_is_shown_before_the_harmless_windows_that_came_first():
    prone = [collision(first_event=e, verdict=Verdict.PRONE) for e in range(9)]
    tally = tally_of(segment_of([], prone), segment_of([], [collision(first_event=20)]))
    assert tally.first_of(RULES["XM101"]).event.tolist() == [20, 0, 1, 2, 3]


def test_what_is_kept_does_not_grow_with_what_was_found():
    tally = tally_of(*[segment_of([fact(203, event=e)] * 100) for e in range(50)])
    assert tally.of_rule(RULES["XM203"]) == {Severity.WARNING: 5000}
    kept = tally.first_of(RULES["XM203"])
    assert len(kept) == 5
    assert all(getattr(kept, name).nbytes <= 5 * 8 for name in kept.dtypes)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_tally_agrees_with_the_findings_themselves(size):
    rows = [lock(), map_(), dio_read(), map_(0x8001), unmap(), unlock(), unmap(), map_()]
    segments = list(replay(trace_of(rows, chunk=size), MODEL))
    tally = tally_of(*segments)
    found = [findings_of(segment, MODEL) for segment in segments]
    assert len(tally) == sum(map(len, found))
    numbers = {number for part in found for number in part.rule.tolist()}
    assert {rule.number for rule in tally.rules()} == numbers


def test_the_worst_rules_come_first():
    tally = tally_of(segment_of([fact(204), fact(203), fact(302), fact(305, unknown=1)]))
    assert [rule.id for rule in tally.worst_rules()] == ["XM302", "XM203", "XM204", "XM305"]
