"""One trace under several models: counts, identities and the words for what changed."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings

from tests.build import trace_of
from tests.engine.histories import histories
from xenm2p.compare.bisect import UnderModel, findings_under, identified, spans_of
from xenm2p.engine import vector
from xenm2p.findings import RULES, findings_of
from xenm2p.findings.wanted import Wanted
from xenm2p.kernels import MODELS
from xenm2p.report.bisection import words
from xenm2p.trace import Trace

LOCK_COLLISION = RULES["XM101"]


def with_counts(rule: str, *counts: int) -> list[UnderModel]:
    number = RULES[rule].number
    return [UnderModel(model, judged=False, counts=Counter({(number, None): n} if n else {}))
            for model, n in zip(MODELS.values(), counts, strict=True)]


def bisected(trace: Trace, wanted: str | None = None) -> list[UnderModel]:
    return [
        findings_under(model, vector.replay(trace, model), judged=True, keep=True,
                       wanted=None if wanted is None else Wanted.of(wanted))
        for model in MODELS.values()
    ]


def test_words_for_a_cure() -> None:
    assert words(LOCK_COLLISION, with_counts("XM101", 5, 0, 0, 0, 0)) == (
        "5 up to 3.4.9; cured by b9e0d95c041c (3.5, 3.4.10)")


def test_words_for_what_comes_back() -> None:
    found = with_counts("XM101", 5, 0, 2, 0, 0)
    assert words(LOCK_COLLISION, found) == (
        "5 up to 3.4.9; cured by b9e0d95c041c (3.5, 3.4.10); "
        "2 in 3.15-3.19, back by 1429d46df4c5 (3.15); "
        "cured by 667a0a06c99d and 923b2919e2c3 (4.0)")


def test_words_for_what_changes_and_what_stays() -> None:
    assert words(RULES["XM305"], with_counts("XM305", 3, 3, 3, 3, 0)) == (
        "3 up to 5.11; cured by a35f2ef3b737 (5.12)")
    assert words(RULES["XM302"], with_counts("XM302", 2, 2, 2, 1, 1)) == (
        "2 up to 3.19; 1 from 4.0 on, fewer by 667a0a06c99d and 923b2919e2c3 (4.0)")
    assert words(RULES["XM302"], with_counts("XM302", 2, 2, 2, 2, 2)) == (
        "2 under all of them: no kernel change cures it")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories())
def test_counts_are_those_of_each_replay(trace: Trace) -> None:
    for under in bisected(trace):
        ids = Counter(
            number for segment in vector.replay(trace, under.model)
            for number in findings_of(segment, under.model).rule.tolist())
        assert Counter({n: under.count(RULES[f"XM{n}"]) for n in ids}) == ids
        assert sum(under.counts.values()) == ids.total()
        assert sum(map(len, under.identities)) == ids.total()


def test_a_finding_is_the_same_one_under_each_model() -> None:
    # One frame shared twice: lookup answers the newest, under every kernel with a list.
    trace = trace_of([
        {"time": 1, "kind": "map", "mfn": 0x90000, "pfn": 0x8000, "user": True},
        {"time": 2, "kind": "map", "mfn": 0x90000, "pfn": 0x8001, "user": True},
    ])
    found = bisected(trace, "XM204")
    (each,) = identified(found)
    assert (each.rule.id, each.event) == ("XM204", 1)
    assert each.states == ("present", "present", "present", None, None)
    assert [span.count for span in spans_of(RULES["XM204"], found)] == [1, 0]
