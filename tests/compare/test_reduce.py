"""Reducing a trace to what shows a finding."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.build import trace_of
from tests.engine.histories import histories
from xenm2p.compare.reduce import Reducer, Target, first_target, renumbered
from xenm2p.compare.surroundings import memory_around, runs_of
from xenm2p.engine import reference, vector
from xenm2p.engine.replay import Options, Segment
from xenm2p.findings import Context, describe, findings_of
from xenm2p.findings.wanted import Wanted
from xenm2p.formats.detect import read_trace
from xenm2p.formats.workloads import generate
from xenm2p.kernels import LOCAL_FOREIGN, MODELS, OVERRIDE, P2M_ONLY, KernelModel
from xenm2p.trace import I64, KIND_BY_CODE, Events, Runs, Trace, same_trace

slowly = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def quick(trace: Trace, model: KernelModel) -> Iterator[Segment]:
    return vector.replay(trace, model, Options(details=False))


def exact(trace: Trace, model: KernelModel) -> Iterator[Segment]:
    return reference.replay(trace, model, Options(details=False))


def reducer_for(
    trace: Trace, finding: str, model: KernelModel, *others: KernelModel
) -> Reducer | None:
    target = first_target(Wanted.of(finding), exact(trace, model), model)
    return None if target is None else Reducer(trace, model, target, others, quick, exact)


def rules_of(trace: Trace, model: KernelModel) -> list[int]:
    return sorted({number for segment in exact(trace, model)
                   for number in findings_of(segment, model).rule.tolist()})


def one_less(trace: Trace, numbers: I64) -> Iterator[tuple[Trace, I64]]:
    events = trace.events()
    for i in range(len(events)):
        rows = np.delete(np.arange(len(events)), i)
        yield Trace.of_events(
            events.rows(rows), kernel=trace.kernel, domain=trace.domain, memory=trace.memory,
            m2p=trace.m2p, tasks=trace.tasks), numbers[rows]


def shows(reducer: Reducer, trace: Trace, numbers: I64) -> bool:
    target = reducer.target.among(numbers)
    return target is not None and reducer.shows(trace, target)


def texts(trace: Trace, model: KernelModel, number: int) -> list[str]:
    """What the findings of a rule say, without the numbers of events."""
    context = Context(trace, model)
    return [re.sub(r"(event|dio_read|unmap|map) \d+", r"\1 N", describe(found, row, context))
            for segment in exact(trace, model)
            for found in [findings_of(segment, model)]
            for row in np.flatnonzero(found.rule == number).tolist()]


@slowly
@given(histories(), st.sampled_from([*MODELS.values()]), st.data())
def test_what_is_left_shows_the_finding_and_is_minimal(
    trace: Trace, model: KernelModel, data: st.DataObject
) -> None:
    found = rules_of(trace, model)
    assume(found)
    number = data.draw(st.sampled_from(found))
    reducer = reducer_for(trace, f"XM{number}", model)
    assert reducer is not None
    reduced, numbers = reducer.reduce()
    assert shows(reducer, reduced, numbers)
    assert not any(shows(reducer, *less) for less in one_less(reduced, numbers))
    assert len(numbers) == len(reduced.events())
    kept = trace.events().rows(numbers)
    assert all(np.array_equal(getattr(kept, name), column)
               for name, column in reduced.events().columns().items())


@slowly
@given(histories())
def test_the_same_trace_is_reduced_alike(trace: Trace) -> None:
    found = rules_of(trace, LOCAL_FOREIGN)
    assume(found)
    first, second = (reducer_for(trace, f"XM{found[0]}", LOCAL_FOREIGN) for _ in range(2))
    assert first is not None and second is not None
    assert same_trace(first.reduce()[0], second.reduce()[0])


@slowly
@given(histories(), st.data())
def test_it_stays_away_from_the_other_model(trace: Trace, data: st.DataObject) -> None:
    only = sorted(set(rules_of(trace, OVERRIDE)) - set(rules_of(trace, LOCAL_FOREIGN)))
    assume(only)
    number = data.draw(st.sampled_from(only))
    reducer = reducer_for(trace, f"XM{number}", OVERRIDE, LOCAL_FOREIGN)
    assert reducer is not None
    reduced, _ = reducer.reduce()
    assert number in rules_of(reduced, OVERRIDE)
    assert not reducer.target.in_(
        exact(reduced, LOCAL_FOREIGN), LOCAL_FOREIGN, reducer.target.about)


@slowly
@given(histories())
def test_memory_around_events_is_all_that_they_see(trace: Trace) -> None:
    memory, m2p = runs_of(memory_around(trace, trace.events()))
    less = Trace.of_events(trace.events(), kernel=trace.kernel, domain=trace.domain,
                           memory=memory, m2p=m2p, tasks=trace.tasks)
    for model in MODELS.values():
        assert rules_of(less, model) == rules_of(trace, model)


@slowly
@given(histories(), st.sampled_from([*MODELS.values()]), st.data())
def test_small_numbers_keep_the_finding_or_are_refused(
    trace: Trace, model: KernelModel, data: st.DataObject
) -> None:
    found = rules_of(trace, model)
    assume(found)
    number = data.draw(st.sampled_from(found))
    reducer = reducer_for(trace, f"XM{number}", model)
    assert reducer is not None
    reduced, numbers = reducer.reduce()
    kept = reducer.target.among(numbers)
    assert kept is not None
    moved, target = renumbered(reduced, kept)
    assert moved.events().kind.tolist() == reduced.events().kind.tolist()
    if reducer.shows(moved, target):
        assert number in rules_of(moved, model)
    else:  # only where the numbers mean something: buckets of frames, identity entries
        assert model.overrides or "lookup" in [
            KIND_BY_CODE[kind].name for kind in reduced.events().kind.tolist()]


def test_the_share_of_another_unmap_is_another_finding() -> None:
    # Bug: any unmap of the same page with a wrong handle was taken for the one asked for.
    wrong = {"kind": "unmap", "pfn": 0x8000, "user": True, "handle": 7}
    trace = trace_of([
        wrong,
        {"kind": "map", "mfn": 0x90000, "pfn": 0x8000, "user": True, "handle": 3},
        wrong,
    ])
    reducer = reducer_for(trace, "XM403@2", P2M_ONLY)
    assert reducer is not None
    reduced, numbers = reducer.reduce()
    assert numbers.tolist() == [1, 2]
    assert texts(reduced, P2M_ONLY, 403) == texts(trace, P2M_ONLY, 403)[1:]


def test_a_page_shared_again_and_again_keeps_the_share_asked_for() -> None:
    share = [{"kind": "map", "mfn": 0x50010, "pfn": 0x8000, "user": True},
             {"kind": "unmap", "pfn": 0x8000, "user": True}]
    reducer = reducer_for(trace_of(share * 5), "XM203@6", OVERRIDE)
    assert reducer is not None
    assert reducer.reduce()[1].tolist() == [6]


def test_small_numbers_keep_the_finding() -> None:
    trace = trace_of([
        {"kind": "lock_page", "pfn": 0x1010, "task": "mount-1"},
        {"kind": "map", "mfn": 0x50010, "pfn": 0x8000, "user": True, "ref": 77, "handle": 9},
        {"kind": "dio_read", "pfn": 0x8000, "task": "qemu-2"},
    ])
    reducer = reducer_for(trace, "XM101", OVERRIDE)
    assert reducer is not None
    reduced, numbers = reducer.reduce()
    kept = reducer.target.among(numbers)
    assert kept is not None
    moved, target = renumbered(reduced, kept)
    assert reducer.shows(moved, target)
    events = moved.events()
    assert events.pfn.tolist() == [0x1000, 0x1001, 0x1001]
    assert (events.ref[1], events.handle[1], events.time.tolist()) == (0, 0, [1000, 2000, 3000])
    assert moved.memory.tuples() == [(0x1000, 0x50000, 1)]


def test_many_events_become_a_handful() -> None:
    trace = generate("locks", events=100_000, seed=3, in_flight=200, frames=5000)
    chunks = list(trace.chunks())
    whole = Trace(chunks_of=lambda: iter(chunks), memory=trace.memory, m2p=trace.m2p,
                  tasks=trace.tasks, length=100_000)
    target = first_target(Wanted.of("XM101"), quick(whole, OVERRIDE), OVERRIDE)
    assert isinstance(target, Target)
    reducer = Reducer(whole, OVERRIDE, target, [LOCAL_FOREIGN], quick, exact)
    reduced, _ = reducer.reduce()
    assert len(reduced.events()) <= 5
    assert reducer.replays < 200


def test_a_finding_without_events_needs_none() -> None:
    nothing = Trace.of_events(Events.from_columns(0), memory=Runs.of([]))
    assert reducer_for(nothing, "XM101", OVERRIDE) is None


def test_a_cycle_keeps_the_very_waits_that_it_is_made_of() -> None:
    trace = read_trace("traces/lock-cycle.yaml")
    reducer = reducer_for(trace, "XM102", OVERRIDE, LOCAL_FOREIGN)
    assert reducer is not None
    reduced, numbers = reducer.reduce()
    assert numbers.tolist() == list(reducer.target.events)
    kept = reducer.target.among(numbers)
    assert kept is not None and reducer.shows(*renumbered(reduced, kept))
    assert reducer.target.among(numbers[1:]) is None
