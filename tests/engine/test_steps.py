"""One lookup in its steps, against what the replay answered."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.build import foreign, trace_of
from tests.engine.histories import histories
from xenm2p.engine import reference
from xenm2p.engine.steps import Lookup, lookup_steps, machine_at
from xenm2p.kernels import LOCAL_FOREIGN, MODELS, OVERRIDE, P2M_ONLY, KernelModel
from xenm2p.trace import INVALID, Kind, Trace

SHARED = [{"kind": "map", "mfn": 0x50010, "pfn": 0x8000, "user": True}]


def steps(rows: list[dict[str, object]], model: KernelModel, mfn: int) -> Lookup:
    trace = trace_of(rows)
    return lookup_steps(machine_at(trace, model, np.arange(len(rows)), len(rows)), mfn)


def test_the_owner_answers_where_its_entry_is_the_frame() -> None:
    found = steps(SHARED, OVERRIDE, 0x50010)
    assert (found.owner, found.entry, found.answer) == (0x1010, 0x50010, 0x1010)
    assert found.searched is None


def test_a_marked_owner_is_passed_over_for_the_override() -> None:
    found = steps(SHARED, LOCAL_FOREIGN, 0x50010)
    assert (found.entry, found.answer) == (foreign(0x50010), 0x8000)
    assert found.searched == ((0x8000, 0x50010),)


def test_without_a_list_nothing_is_searched() -> None:
    found = steps([{"kind": "map", "mfn": 0x90000, "pfn": 0x8000, "user": True}],
                  P2M_ONLY, 0x90000)
    assert (found.owner, found.searched, found.answer) == (0x200, None, None)


def test_only_events_up_to_the_moment_count() -> None:
    trace = trace_of([*SHARED, {"kind": "unmap", "pfn": 0x8000, "user": True}])
    numbers = np.array([5, 9])
    before = machine_at(trace, LOCAL_FOREIGN, numbers, 5)
    after = machine_at(trace, LOCAL_FOREIGN, numbers, 9)
    assert lookup_steps(before, 0x50010).answer == 0x8000
    assert lookup_steps(after, 0x50010).answer == 0x1010


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories(), st.sampled_from([*MODELS.values()]))
def test_the_answer_is_that_of_the_replay(trace: Trace, model: KernelModel) -> None:
    events = trace.events()
    answers = {event: (mfn, answer) for segment in reference.replay(trace, model)
               for event, mfn, answer in zip(
                   segment.resolutions.event.tolist(), segment.resolutions.mfn.tolist(),
                   segment.resolutions.resolved.tolist(), strict=True)}
    for event in np.flatnonzero(events.kind == Kind.LOOKUP).tolist()[:3]:
        mfn, answer = answers[event]
        machine = machine_at(trace, model, np.arange(len(events)), event)
        found = lookup_steps(machine, mfn)
        assert (INVALID if found.answer is None else found.answer) == answer
