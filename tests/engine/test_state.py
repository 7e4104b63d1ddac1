"""What holds at a moment: the same as the rules leave, from wherever the replay starts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.build import trace_of
from tests.engine.histories import histories
from tests.formats.test_checkpoint import tidy_traces
from tests.strategies import traces
from xenm2p.engine.memory import entry_in, m2p_rows, p2m_rows
from xenm2p.engine.observe import Observer
from xenm2p.engine.replay import NO_EVENT, Options
from xenm2p.engine.rules import Entries, Machine, step
from xenm2p.engine.scalar import events_of
from xenm2p.engine.state import Entry, Override, State, state_after
from xenm2p.errors import UsageError
from xenm2p.formats.binary import read_binary, write_binary
from xenm2p.kernels import MODELS, KernelModel
from xenm2p.trace import Events, Trace, event_beyond

quickly = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
models = st.sampled_from([*MODELS.values()])


def by_the_rules(trace: Trace, model: KernelModel, event: int) -> State:
    """What the plain rules leave after `event`, told in the same words."""
    p2m, m2p = partial(entry_in, p2m_rows(trace)), partial(entry_in, m2p_rows(trace))
    machine = Machine(model, Entries(p2m), Entries(m2p))
    observer = Observer(machine, trace.domain, Options())
    time, grants = 0, {}
    rows = trace.events()
    for row in events_of(rows.rows(slice(0, event + 1)), 0):
        observer.observe(row, step(machine, row))
        time = row.time
        if row.kind == 10:
            grants[row.ref] = row.number
        elif row.kind == 11:
            grants.pop(row.ref, None)
    grants.pop(0xFFFFFFFF, None)

    def changed(table: Entries) -> list[Entry]:
        return [Entry(index, began, now) for index, now in sorted(table.items())
                if index != (1 << 64) - 1 and (began := table.initial(index)) != now]

    overrides = [
        Override(bucket, place, pfn, machine.pages[pfn].private_mfn,
                 machine.shares[pfn].map_event if pfn in machine.shares else NO_EVENT)
        for bucket, pages in sorted(machine.overrides.items())
        for place, pfn in enumerate(pages)]
    return State(
        event, time, changed(machine.p2m), changed(machine.m2p), overrides,
        sorted(machine.shares.values(), key=lambda share: share.map_event),
        sorted(observer.watch.held.values(), key=lambda lock: lock.event),
        sorted(grants.values()))


def told(state: State) -> dict[str, object]:
    """A state as plain values, so that two can be compared."""
    return {
        "event": state.event, "time": state.time, "p2m": state.p2m, "m2p": state.m2p,
        "overrides": state.overrides,
        "shares": [(s.map_event, s.pfn, s.mfn, s.domid, s.ref, s.handle, s.user, s.first_time,
                    s.listed) for s in state.shares],
        "locks": [(lock.event, lock.pfn, lock.task, lock.time) for lock in state.locks],
        "grants": [grant if isinstance(grant, int) else grant.event for grant in state.grants],
    }


def as_file(trace: Trace, path: Path, chunk: int) -> Trace:
    """The trace read back from an .xm2p file with many checkpoints."""
    with path.open("wb") as file:
        write_binary(trace, file, chunk_events=chunk)
    return read_binary(path, "x")


@quickly
@given(histories(), models, st.integers(0, 60))
def test_it_is_what_the_rules_leave(trace: Trace, model: KernelModel, event: int) -> None:
    event = min(event, (trace.length or 0) - 1)
    assert told(state_after(trace, model, event)) == told(by_the_rules(trace, model, event))


@quickly
@given(st.one_of(histories(), tidy_traces(60), traces()), models, st.integers(0, 60),
       st.sampled_from([1, 2, 5]))
def test_a_start_at_a_checkpoint_leads_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, trace: Trace, model: KernelModel, event: int,
    chunk: int,
) -> None:
    event = min(event, (trace.length or 0) - 1)
    file = as_file(trace, tmp_path_factory.mktemp("state") / "t.xm2p", chunk)
    assert told(state_after(file, model, event)) == told(by_the_rules(trace, model, event))


ROWS = [
    {"kind": "grant", "ref": 8, "domid": 0, "mfn": 0x50010, "task": "mount-1"},
    {"kind": "lock_page", "pfn": 0x1010, "task": "mount-1"},
    {"kind": "map", "mfn": 0x50010, "pfn": 0x8000, "user": True, "ref": 8},
    {"kind": "map", "mfn": 0x50010, "pfn": 0x8001, "user": True, "ref": 9},
    {"kind": "unlock_page", "pfn": 0x1010, "task": "mount-1"},
    {"kind": "end_grant", "ref": 8},
]


def test_a_moment_has_entries_lists_shares_locks_and_grants():
    state = state_after(trace_of(ROWS), MODELS["local-foreign"], 3)
    assert [entry.index for entry in state.p2m] == [0x1010, 0x8000, 0x8001]
    assert [(each.place, each.pfn) for each in state.overrides] == [(0, 0x8001), (1, 0x8000)]
    assert [share.map_event for share in state.shares] == [2, 3]
    assert [(lock.event, lock.pfn) for lock in state.locks] == [(1, 0x1010)]
    assert [(grant.event, grant.ref) for grant in state.grants] == [(0, 8)]


def test_without_an_event_it_is_the_end():
    state = state_after(trace_of(ROWS), MODELS["override"], None)
    assert (state.event, state.locks, state.grants) == (5, [], [])


def test_before_the_first_event_nothing_has_changed():
    state = state_after(trace_of(ROWS), MODELS["override"], -1)
    assert (state.event, state.p2m, state.shares) == (NO_EVENT, [], [])


def test_an_event_that_is_not_there_is_told():
    with pytest.raises(UsageError, match="no event 6: the trace has 6"):
        state_after(trace_of(ROWS), MODELS["override"], 6)


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(-1, 10), st.sampled_from([1, 3, 7]))
@settings(deadline=None, max_examples=60)
def test_a_time_is_found_by_halves_where_times_ascend(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], time: int, chunk: int
) -> None:
    rows = [{"kind": "lookup", "mfn": 1, "time": at} for at in sorted(steps)]
    trace = trace_of(rows)
    file = as_file(trace, tmp_path_factory.mktemp("state") / "t.xm2p", chunk)
    assert event_beyond(file, time, by_halves=True) == event_beyond(trace, time)


def test_a_time_is_found_in_a_file_that_was_cut(tmp_path: Path) -> None:
    trace = trace_of([{"kind": "lookup", "mfn": 1, "time": at} for at in range(9)])
    path = tmp_path / "cut.xm2p"
    as_file(trace, path, 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert event_beyond(read_binary(path, "x"), 4, by_halves=True) == 5


def test_damage_before_the_moment_is_an_error_not_a_wrong_state(tmp_path: Path) -> None:
    from xenm2p.errors import InputError

    path = tmp_path / "t.xm2p"
    as_file(trace_of(ROWS * 4), path, 4)
    data = bytearray(path.read_bytes())
    reader = read_binary(path, "x")
    assert reader.resume is not None and len(Events.concat(list(reader.resume(0).chunks)))
    data[data.index(b"x2pchnk\n") + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError):
        state_after(read_binary(path, "x"), MODELS["override"], 2)
