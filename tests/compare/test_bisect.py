"""One trace under several models: counts, identities and the words for what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.build import in_chunks, trace_of
from tests.engine.histories import histories
from xenm2p.compare.bisect import UnderModel, identified, spans_of
from xenm2p.compare.together import replay_together
from xenm2p.engine import vector
from xenm2p.engine.replay import Segment
from xenm2p.findings import RULES, findings_of
from xenm2p.findings.wanted import Wanted
from xenm2p.kernels import MODELS, KernelModel
from xenm2p.report.bisection import words
from xenm2p.trace import Events, Trace

LOCK_COLLISION = RULES["XM101"]


def with_counts(rule: str, *counts: int) -> list[UnderModel]:
    number = RULES[rule].number
    return [UnderModel(model, judged=False, counts=Counter({(number, None): n} if n else {}))
            for model, n in zip(MODELS.values(), counts, strict=True)]


def bisected(trace: Trace, wanted: str | None = None) -> list[UnderModel]:
    asked = None if wanted is None else Wanted.of(wanted)
    found = [UnderModel(model, judged=True, wanted=asked, keep=True)
             for model in MODELS.values()]
    for under in found:
        for segment in vector.replay(trace, under.model):
            under.add(segment)
    return found


def test_words_for_a_cure() -> None:
    assert words(LOCK_COLLISION, with_counts("XM101", 5, 0, 0, 0, 0)) == (
        "5 up to 3.4.9; cured by b9e0d95c041c (3.5, 3.4.10)")


def test_words_for_what_comes_back() -> None:
    found = with_counts("XM101", 5, 0, 2, 0, 0)
    assert words(LOCK_COLLISION, found) == (
        "5 up to 3.4.9; cured by b9e0d95c041c (3.5, 3.4.10); "
        "2 in 3.15-3.19, back by 1429d46df4c5 (3.15), since when maps for the kernel alone are "
        "neither listed nor marked; "
        "cured by 667a0a06c99d and 923b2919e2c3 (4.0)")


def test_words_for_what_changes_and_what_stays() -> None:
    assert words(RULES["XM305"], with_counts("XM305", 3, 3, 3, 3, 0)) == (
        "3 up to 5.11; cured by a35f2ef3b737 (5.12)")
    assert words(RULES["XM302"], with_counts("XM302", 2, 2, 2, 1, 1)) == (
        "2 up to 3.19; 1 from 4.0 on, fewer by 667a0a06c99d and 923b2919e2c3 (4.0), since when "
        "user mappings carry their pages, there is no override list and GUP-fast keeps off "
        "granted pages")
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


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories(), st.integers(1, 9))
def test_one_pass_for_all_models_gives_what_each_replay_gives(trace: Trace, size: int) -> None:
    whole = in_chunks(trace, size)
    stream = whole.chunks_of()
    once = replace(whole, chunks_of=lambda: stream, once=True)
    found = [UnderModel(model, judged=True, keep=True) for model in MODELS.values()]
    replays = [partial(_replayed, model=under.model) for under in found]
    for place, segment in replay_together(once, replays):
        found[place].add(segment)
    for together, alone in zip(found, bisected(trace), strict=True):
        assert together.counts == alone.counts
        assert together.marks == alone.marks
        assert identified([together]) == identified([alone])


def _replayed(trace: Trace, model: KernelModel) -> Iterator[Segment]:
    return vector.replay(trace, model)


def test_no_replay_runs_far_ahead_of_the_others() -> None:
    events = trace_of([{"kind": "grant", "ref": 1, "domid": 0, "mfn": 1}] * 50).events()
    given_out = 0

    def chunks() -> Iterator[Events]:
        nonlocal given_out
        for i in range(50):
            given_out += 1
            yield events.rows(slice(i, i + 1))

    done = [0, 0, 0]
    replays = [partial(_replayed, model=MODELS[name])
               for name in ("override", "p2m-only", "local-foreign")]
    for place, segment in replay_together(Trace(chunks_of=chunks), replays):
        done[place] += len(segment.events)
        assert given_out - min(done) <= 2
    assert done == [50, 50, 50]


def test_what_changes_though_as_many_are_found_is_told() -> None:
    # Bug: two others in place of two were taken for the same two.
    found = with_counts("XM203", 2, 2, 2, 0, 0)
    for under, mark in zip(found, (7, 8, 8, 0, 0), strict=True):
        under.marks[203] = mark
    assert words(RULES["XM203"], found).startswith(
        "2 up to 3.4.9; 2 in 3.5-3.19, changed by b9e0d95c041c (3.5, 3.4.10), since when")


def test_the_same_findings_have_the_same_mark_in_any_order_and_no_others() -> None:
    rows = [{"kind": "map", "mfn": 0x90000 + i, "pfn": 0x8000, "user": True} for i in range(3)]
    found, other = bisected(trace_of(rows), "XM301"), bisected(trace_of(rows[:2]), "XM301")
    rule = RULES["XM301"]
    assert found[0].mark(rule) == found[1].mark(rule) != other[0].mark(rule) != 0
