"""The trace: its tables of columns and kinds, events in chunks, frames as text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import trace_of
from tests.strategies import events, traces
from xenm2p.trace import (
    COLUMNS,
    FOREIGN,
    IDENTITY,
    INVALID,
    KIND_BY_CODE,
    KINDS,
    MAX_FRAME,
    ColumnSpec,
    Events,
    Kind,
    KindSpec,
    Runs,
    Trace,
    format_frame,
    is_foreign,
    same_trace,
    strip_bits,
)

THREE = [
    {"kind": "map", "pfn": 0x8000, "mfn": 0x50010, "user": True},
    {"kind": "lookup", "mfn": 0x50010},
    {"kind": "lock_page", "pfn": 0x1010, "task": "mount-1042"},
]

# -- the tables that everything else is made from ----------------------------------------


def test_every_kind_has_one_row_and_keeps_its_number() -> None:
    assert [spec.kind for spec in KIND_BY_CODE] == list(Kind) == list(range(14))
    assert {name: int(spec.kind) for name, spec in KINDS.items()} == {
        "map": 0, "unmap": 1, "set_p2m": 2, "set_m2p": 3, "lookup": 4, "lock_page": 5,
        "unlock_page": 6, "dio_read": 7, "dio_write": 8, "gup_fast": 9, "grant": 10,
        "end_grant": 11, "p2m_write": 12, "lost": 13}


@pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)
def test_a_kind_has_known_columns_help_and_no_key_twice(spec: KindSpec) -> None:
    assert set(spec.keys.values()) <= set(COLUMNS)
    assert len(set(spec.keys.values())) == len(spec.keys)
    assert not spec.needs.keys() & spec.takes.keys()
    assert spec.help


@pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)
def test_every_kind_may_have_time_cpu_and_task(spec: KindSpec) -> None:
    assert {"time", "cpu", "task"} <= spec.keys.keys()


def test_locks_and_direct_io_need_a_task() -> None:
    assert {name for name, spec in KINDS.items() if "task" in spec.needs} == {
        "lock_page", "unlock_page", "dio_read", "dio_write"}


def test_the_count_of_lost_events_is_kept_in_ref() -> None:
    assert KINDS["lost"].keys["count"] == "ref"


def test_events_have_the_columns_of_the_table_in_its_order() -> None:
    none = Events.from_columns(0)
    assert list(none.columns()) == list(COLUMNS)
    assert {n: c.dtype for n, c in none.columns().items()} == {
        name: spec.dtype for name, spec in COLUMNS.items()}


@pytest.mark.parametrize("spec", COLUMNS.values(), ids=COLUMNS)
def test_an_absent_cell_fits_its_column(spec: ColumnSpec) -> None:
    column = Events.from_columns(1).columns()[spec.name]
    assert column.tolist() == [spec.absent]


# -- events ------------------------------------------------------------------------------


def test_rows_at_a_slice_are_views_at_a_mask_copies() -> None:
    whole = trace_of(THREE).events()
    assert np.shares_memory(whole.rows(slice(1, 3)).pfn, whole.pfn)
    masked = whole.rows(whole.kind == Kind.LOOKUP)
    assert masked.mfn.tolist() == [0x50010]
    assert not np.shares_memory(masked.pfn, whole.pfn)


@given(events(max_events=20), st.integers(0, 20))
def test_pieces_put_together_are_the_whole(whole: Events, cut: int) -> None:
    pieces = Events.concat([whole.rows(slice(None, cut)), whole.rows(slice(cut, None))])
    for name, column in whole.columns().items():
        assert np.array_equal(getattr(pieces, name), column)
        assert getattr(pieces, name).dtype == COLUMNS[name].dtype


def test_no_pieces_are_no_events() -> None:
    assert len(Events.concat([])) == 0


def test_columns_not_given_are_absent() -> None:
    two = Events.from_columns(2, pfn=np.array([1, 2]))
    assert two.pfn.tolist() == [1, 2]
    assert two.mfn.tolist() == [INVALID, INVALID]
    assert two.call.tolist() == [-1, -1]


@given(traces(max_events=20), st.integers(1, 25))
def test_chunks_are_bounded_not_empty_and_in_order(trace: Trace, size: int) -> None:
    chunks = list(trace.chunks(size))
    assert all(1 <= len(chunk) <= size for chunk in chunks)
    whole = trace.events()
    assert np.array_equal(Events.concat(chunks).time, whole.time)
    assert sum(map(len, chunks)) == len(whole) == trace.length


def test_a_trace_can_be_read_twice() -> None:
    trace = trace_of(THREE)
    assert [len(c) for c in trace.chunks(2)] == [len(c) for c in trace.chunks(2)] == [2, 1]


def test_a_task_has_a_name_where_it_is_known() -> None:
    trace = trace_of(THREE)
    assert trace.task_name(0) == "mount-1042"
    assert trace.task_name(-1) is None
    assert trace.task_name(1) is None


def test_runs_give_back_their_rows() -> None:
    rows = [(0x1000, 0x50000, 256), (0x8000, INVALID, 64)]
    assert Runs.of(rows).tuples() == rows
    assert len(Runs.of([])) == 0


# -- when two traces say the same ----------------------------------------------------------


@given(traces(max_events=10))
def test_a_trace_says_the_same_as_itself_in_other_chunks(trace: Trace) -> None:
    whole = trace.events()
    pieces = [whole.rows(slice(i, i + 1)) for i in range(len(whole))]
    other = Trace(lambda: iter(pieces), trace.kernel, trace.domain, trace.origin,
                  trace.memory, trace.m2p, trace.tasks)
    assert same_trace(trace, other)


def test_tasks_are_the_same_by_name_not_by_number() -> None:
    a, b = trace_of(THREE), trace_of(THREE)
    renumbered = b.events()
    renumbered.task[2] = 1
    assert same_trace(a, Trace.of_events(renumbered, memory=b.memory, m2p=b.m2p,
                                         tasks=["other-1", "mount-1042"]))


@pytest.mark.parametrize("header", [
    {"kernel": "3.4.5"}, {"domain": 1}, {"origin": "dom0"}, {"memory": []}, {"m2p": []}])
def test_another_header_is_another_trace(header: dict[str, object]) -> None:
    assert not same_trace(trace_of(THREE), trace_of(THREE, **header))


@pytest.mark.parametrize("name", [name for name in COLUMNS if name != "task"])
def test_another_cell_is_another_trace(name: str) -> None:
    trace = trace_of(THREE)
    changed = Events.concat([trace.events()])
    column = getattr(changed, name)
    column[1] ^= column.dtype.type(1)
    assert not same_trace(
        trace, Trace.of_events(changed, memory=trace.memory, m2p=trace.m2p, tasks=trace.tasks))


def test_one_event_less_is_another_trace() -> None:
    assert not same_trace(trace_of(THREE), trace_of(THREE[:2]))


# -- frame entries ---------------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "text"), [
    (INVALID, "invalid"), (0, "0x0"), (0x1A2B, "0x1a2b"), (0x1A2B | FOREIGN, "F:0x1a2b"),
    (0x1A2B | IDENTITY, "I:0x1a2b"), (MAX_FRAME | FOREIGN, "F:0xfffffffffffff"),
    # The F bit is the one the kernel looks at first; what is below it is shown as it is.
    (FOREIGN | IDENTITY | 5, "F:0x4000000000000005"),
])
def test_a_frame_is_written_as_the_kernel_prints_it(entry: int, text: str) -> None:
    assert format_frame(entry) == text


@pytest.mark.parametrize(("entry", "foreign"), [
    (INVALID, False), (5, False), (5 | IDENTITY, False), (5 | FOREIGN, True),
    (INVALID - 1, True)])
def test_invalid_has_all_bits_and_is_not_foreign(entry: int, foreign: bool) -> None:
    assert is_foreign(entry) is foreign


@pytest.mark.parametrize(("entry", "frame"), [
    (INVALID, INVALID), (5, 5), (5 | FOREIGN, 5), (5 | IDENTITY, 5),
    (5 | FOREIGN | IDENTITY, 5)])
def test_stripping_bits_leaves_invalid_invalid(entry: int, frame: int) -> None:
    assert strip_bits(entry) == frame
