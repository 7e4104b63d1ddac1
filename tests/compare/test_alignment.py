"""Two runs are aligned by what they have in common, and what differs is found."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.compare.renamed import renamed, replace_columns, run_of, run_of_events, shuffled
from tests.engine.histories import histories, well_formed_histories
from tests.strategies import traces
from tests.test_captures import capture
from tests.test_traces import TRACES
from xenm2p.compare.alignment import Run, align
from xenm2p.compare.identity import unlike_names
from xenm2p.compare.stretches import Op, Stretches, stretches_of
from xenm2p.formats.detect import read_trace
from xenm2p.formats.workloads import WORKLOADS, generate
from xenm2p.trace import Events, Kind, Trace

seeds = st.integers(0, 10**6)
quickly = settings(deadline=None, max_examples=100)
SHIPPED = sorted(str(path) for path in TRACES.iterdir()
                 if path.name.endswith((".yaml", ".xm2p", "ftrace.txt.xz")))


def differences(a: Run, b: Run) -> tuple[Counter[Op], int]:
    """How many events have which fate, and how many names disagree."""
    alignment = align(a, b)
    stretches = stretches_of(a, b, alignment)
    rows_a, rows_b = a.events.rows(alignment.a), b.events.rows(alignment.b)
    names = sum(
        int(mask.sum())
        for _, *masks in unlike_names(rows_a, rows_b, np.argsort(alignment.b))
        for mask in masks)
    return fates(stretches), names


def fates(stretches: Stretches) -> Counter[Op]:
    found: Counter[Op] = Counter()
    for op, count in zip(stretches.op.tolist(), stretches.count.tolist(), strict=True):
        found[Op(op)] += count
    return found


NOTHING: tuple[Counter[Op], int] = (Counter(), 0)


@quickly
@given(histories() | well_formed_histories() | traces(), seeds)
def test_a_renamed_copy_is_the_same(trace: Trace, seed: int) -> None:
    assert differences(run_of(trace), run_of(shuffled(trace, seed))) == NOTHING


@quickly
@given(histories() | traces(), seeds)
def test_a_copy_with_all_domains_renamed_is_the_same(trace: Trace, seed: int) -> None:
    foreign = replace_columns(trace.events(), domid=trace.events().domid | 0x4000)
    assume(not (foreign.domid == trace.domain).any())  # which is itself, and not to be renamed
    a, b = (run_of_events(events, trace) for events in (foreign, renamed(foreign, seed)))
    assert differences(a, b) == NOTHING


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_trace_and_its_copies(name: str) -> None:
    trace = read_trace(name)
    shifted = replace_columns(trace.events(), time=trace.events().time + 10**9)
    for other in (run_of(trace), run_of(shuffled(trace, 1)), run_of_events(shifted, trace)):
        assert differences(run_of(trace), other) == NOTHING


@pytest.mark.parametrize("name", ["self-phy-nopersist-min", "self-phy-balloon",
                                  "v2-lost-trace_pipe", "v12-odd-comms", "gntdev-badref"])
def test_a_capture_and_its_copy(name: str) -> None:
    trace = capture(name)
    assert differences(run_of(trace), run_of(shuffled(trace, 2))) == NOTHING


@st.composite
def cut(draw: st.DrawFn) -> tuple[Trace, int, int, int]:
    trace = draw(histories() | well_formed_histories())
    length = len(trace.events())
    begin = draw(st.integers(0, length))
    return trace, begin, draw(st.integers(begin, length)), draw(seeds)


@quickly
@given(cut())
def test_a_stretch_left_out_is_missing_and_nothing_else(
    case: tuple[Trace, int, int, int]
) -> None:
    trace, begin, end, seed = case
    events = trace.events()
    left = Events.concat([events.rows(slice(0, begin)), events.rows(slice(end, None))])
    whole, rest = run_of(trace), run_of_events(renamed_but_domid(left, seed), trace)
    wanted = Counter({Op.MISSING: end - begin}) if end > begin else Counter()
    assert differences(whole, rest)[0] == wanted
    inserted = Counter({Op.INSERTED: end - begin}) if end > begin else Counter()
    assert differences(rest, whole)[0] == inserted


def renamed_but_domid(events: Events, seed: int) -> Events:
    return replace_columns(renamed(events, seed), domid=events.domid)


@cache
def workload(name: str) -> Trace:
    trace = generate(name, events=6000, seed=3, in_flight=40, frames=1000)
    return Trace.of_events(trace.events(), tasks=trace.tasks)


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("count", [1, 7, 300])
def test_a_stretch_left_out_is_found_where_it_was(name: str, count: int) -> None:
    events = workload(name).events()
    left = Events.concat([events.rows(slice(0, 2000)), events.rows(slice(2000 + count, None))])
    a, b = run_of(workload(name)), run_of_events(renamed_but_domid(left, 5), workload(name))
    found = stretches_of(a, b, align(a, b))
    assert fates(found) == Counter({Op.MISSING: count})
    assert len(found) == 1 and abs(int(found.a[0]) - 2000) <= count


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("count", [1, 20])
def test_a_stretch_that_moved_is_not_missing(name: str, count: int) -> None:
    events = workload(name).events()
    order = np.concatenate([np.arange(2000), np.arange(2000 + count, 4000),
                            np.arange(2000, 2000 + count), np.arange(4000, len(events))])
    moved = run_of_events(renamed_but_domid(events.rows(order), 7), workload(name))
    found, _ = differences(run_of(workload(name)), moved)
    assert found[Op.MOVED] + found[Op.INTERLEAVED] <= count
    assert set(found) <= {Op.MOVED, Op.INTERLEAVED}


@pytest.mark.parametrize("name", WORKLOADS)
def test_two_edits_far_apart(name: str) -> None:
    events = workload(name).events()
    pieces = [slice(0, 1000), slice(1200, 4000), slice(4100, None)]
    left = Events.concat([events.rows(piece) for piece in pieces])
    found, _ = differences(
        run_of(workload(name)), run_of_events(renamed_but_domid(left, 9), workload(name)))
    assert found[Op.MISSING] - found[Op.INSERTED] == 300
    assert found.total() <= 900


@pytest.mark.parametrize(("column", "value"), [("status", -1), ("user", 0)])
def test_one_cell_that_differs_is_a_change_in_place(column: str, value: int) -> None:
    events = workload("same-domain").events()
    cells = getattr(events, column).copy()
    at = np.flatnonzero(events.kind == Kind.MAP)[500]
    cells[at] = value
    other = run_of_events(replace_columns(events, **{column: cells}), workload("same-domain"))
    found = differences(run_of(workload("same-domain")), other)
    assert found == (Counter({Op.CHANGED: 1}), 0)


def test_another_page_once_is_a_name_that_disagrees() -> None:
    events = workload("same-domain").events()
    pages = events.pfn.copy()
    pages[np.flatnonzero(events.kind == Kind.UNMAP)[500]] = 0x123456
    other = run_of_events(replace_columns(events, pfn=pages), workload("same-domain"))
    found, names = differences(run_of(workload("same-domain")), other)
    assert found.total() <= 2 and (names or found)


def test_two_captures_of_one_workload_have_the_same_shares() -> None:
    for name_a, name_b in (("v4-tgid-scalar-fault", "v7-clock-mono"),
                           ("tcmd-phy-nopersist-report", "tcmd-phy-scalar-report")):
        a, b = run_of(capture(name_a)), run_of(capture(name_b))
        alignment = align(a, b)
        # One form of trace-cmd's text has no domains: nothing has changed for that.
        assert Op.CHANGED not in fates(stretches_of(a, b, alignment))
        for kind in (Kind.MAP, Kind.UNMAP, Kind.GRANT):
            paired = alignment.b[a.events.kind[alignment.a] == kind]
            assert len(paired) == (a.events.kind == kind).sum()
            assert kind == Kind.UNMAP or (np.diff(paired) > 0).all()


@quickly
@given(histories(), histories())
def test_any_two_runs_can_be_aligned(one: Trace, other: Trace) -> None:
    a, b = run_of(one), run_of(other)
    alignment = align(a, b)
    assert (np.diff(alignment.a) > 0).all()
    assert len(np.unique(alignment.b)) == len(alignment.b)
    assert (np.diff(alignment.b[~alignment.moved]) > 0).all()
    found = fates(stretches_of(a, b, alignment))
    assert found[Op.MISSING] == len(a) - len(alignment.a)
    assert found[Op.INSERTED] == len(b) - len(alignment.b)
