"""From the tables of a segment to findings: columns, severities, order, words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build import events_of, in_chunks, trace_of
from tests.findings.replayed import findings_in, lock, map_, p2m_write, unlock, unmap
from tests.findings.segments import collision, fact, segment_of, share, wait
from tests.strategies import traces
from xenm2p.engine.replay import NO_EVENT, Options, Result, Verdict
from xenm2p.findings import (
    RULES,
    Context,
    Severity,
    describe,
    findings_of,
    proving_events,
    rule_of,
)
from xenm2p.findings.judge import UNSURE
from xenm2p.kernels import MODELS

LOCAL_FOREIGN = MODELS["local-foreign"]


def ids(found):
    return [rule_of(found, row).id for row in range(len(found))]


def test_a_segment_without_observations_has_no_findings():
    assert len(findings_of(segment_of(), LOCAL_FOREIGN)) == 0


def test_columns_that_no_rule_asks_for_are_not_stored():
    segment = segment_of([fact(204)] * 1000)
    found = findings_of(segment, LOCAL_FOREIGN)
    assert found.task.strides == found.maps.strides == (0,)
    assert np.shares_memory(found.event, segment.facts.event)


@pytest.mark.parametrize("number", sorted(
    rule.number for rule in RULES.values() if rule.number not in (101, 102, 401)))
def test_an_unsure_fact_is_informative_and_says_so(number):
    segment = segment_of([fact(number, unknown=1)])
    found = findings_of(segment, MODELS["override"])
    assert found.severity.tolist() == [Severity.INFO]
    context = Context(trace_of([]), MODELS["override"])
    assert describe(found, 0, context).endswith(UNSURE)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_rule_has_one_line_of_text_for_its_barest_fact(rule, model):
    segment = (segment_of(collisions=[collision()]) if rule.number == 101
               else segment_of(cycles=[wait()]) if rule.number == 102
               else segment_of([fact(rule.number)]))
    found = findings_of(segment, model)
    text = describe(found, 0, Context(trace_of([]), model))
    assert text and "\n" not in text and text == text.strip()
    assert proving_events(found, 0) == [0]


@pytest.mark.parametrize(("verdict", "spans", "severity"), [
    (Verdict.DEADLOCK, 1, Severity.ERROR),
    (Verdict.CONTENTION, 0, Severity.WARNING),
    (Verdict.PRONE, 1, Severity.WARNING),
    (Verdict.PRONE, 0, Severity.INFO),
    (Verdict.UNKNOWN, 1, Severity.INFO),
])
def test_a_collision_is_as_bad_as_its_verdict(verdict, spans, severity):
    segment = segment_of([], [collision(verdict=verdict, lock_spans_share=spans)])
    assert findings_of(segment, LOCAL_FOREIGN).severity.tolist() == [severity]


def test_a_task_the_trace_cannot_name_is_a_task():
    found = findings_of(segment_of([], [collision()]), LOCAL_FOREIGN)
    assert describe(found, 0, Context(trace_of([]), LOCAL_FOREIGN)).startswith("a task holds")


@pytest.mark.parametrize(("result", "severity"), [
    (Result.OK, Severity.ERROR), (Result.SKIP_LIST, Severity.WARNING)])
def test_a_double_map_is_an_error_where_it_was_done(result, severity):
    segment = segment_of([fact(301, event=7)], events=events_of([map_()], []), first_event=7,
                         result=[result])
    assert findings_of(segment, LOCAL_FOREIGN).severity.tolist() == [severity]


def test_a_fact_about_an_event_of_an_earlier_segment_keeps_its_order():
    segment = segment_of([fact(501, event=2, value=1), fact(502, event=7, value=3)],
                         events=events_of([{"kind": "lost", "cpu": 4, "count": 3}], []),
                         first_event=7)
    found = findings_of(segment, LOCAL_FOREIGN)
    assert ids(found) == ["XM501", "XM502"]
    assert found.cpu.tolist() == [-1, 4]


def test_leaks_of_a_grant_are_grouped_whatever_the_order_of_the_rows():
    facts = [fact(401, event=e, mfn=0x50010, value=100 - e) for e in (5, 3, 9, 4)]
    shares = [share(map_event=e, domid=1, ref=r) for e, r in ((9, 8), (3, 8), (4, 7), (5, 8))]
    found = findings_of(segment_of(facts, (), shares), LOCAL_FOREIGN)
    assert [proving_events(found, row) for row in range(2)] == [[3, 5, 9], [4]]
    assert (found.ref.tolist(), found.value.tolist()) == ([8, 7], [97, 96])


def test_one_sure_share_makes_a_leak_sure():
    facts = [fact(401, event=1, unknown=1), fact(401, event=2), fact(401, event=3, unknown=1)]
    shares = [share(map_event=1, ref=8), share(map_event=2, ref=8), share(map_event=3, ref=9)]
    found = findings_of(segment_of(facts, (), shares), LOCAL_FOREIGN)
    assert found.severity.tolist() == [Severity.WARNING, Severity.INFO]


def test_what_the_end_of_the_trace_decides_comes_by_id():
    segment = segment_of([fact(501, event=1, value=1), fact(401, event=9)], [collision()])
    assert ids(findings_of(segment, LOCAL_FOREIGN)) == ["XM101", "XM401", "XM501"]


def test_a_collision_comes_when_its_lock_is_released():
    rows = [lock(), map_(), map_(0x8001), unlock(), map_(0x8002), unmap()]
    for size in (1, 2, 6):
        found = findings_in(trace_of(rows, chunk=size), "override")
        assert [f.id for f in found][:5] == ["XM203", "XM203", "XM204", "XM101", "XM101"]


def test_a_missing_write_comes_when_the_page_changes_again():
    rows = [p2m_write(0x8009, (1 << 64) - 1), lock(), map_(), unlock(), unmap()]
    for size in (1, 2, 5):
        found = findings_in(trace_of(rows, chunk=size), "override")
        assert [f.id for f in found] == ["XM203", "XM101", "XM501"]


KINDS_THAT_MEET = ["map", "unmap", "lock_page", "unlock_page", "dio_read", "p2m_write",
                   "set_p2m", "lookup", "gup_fast", "grant", "end_grant", "lost"]


@settings(max_examples=60, deadline=None)
@given(traces(max_events=30, kinds=KINDS_THAT_MEET), st.sampled_from(list(MODELS)),
       st.booleans(), st.integers(1, 7))
def test_the_findings_do_not_depend_on_the_chunk_size(trace, model, assume_dio, size):
    options = Options(assume_dio=assume_dio)
    assert findings_in(in_chunks(trace, size), model, options) == findings_in(
        trace, model, options)


def test_proving_events_are_ascending_without_repeats_or_absences():
    row = collision(first_event=9, map_event=9, lock_event=4, last_event=NO_EVENT, dio_event=12)
    found = findings_of(segment_of([], [row]), LOCAL_FOREIGN)
    assert proving_events(found, 0) == [4, 9, 12]
    assert all(type(event) is int for event in proving_events(found, 0))


def test_findings_are_a_table_that_can_be_cut_and_joined():
    found = findings_of(segment_of([fact(204, event=e) for e in range(4)]), LOCAL_FOREIGN)
    both = type(found).concat([found.rows(np.array([3])), found.rows(slice(0, 1))])
    assert both.event.tolist() == [3, 0]
