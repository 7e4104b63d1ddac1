"""Checkpoints: replaying what matters and then the rest gives what replaying all gives."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import events_of_rows, traces
from xenm2p.engine.reference import replay
from xenm2p.engine.replay import NO_EVENT, Options, Segment, Table
from xenm2p.formats.checkpoint import Condenser
from xenm2p.kernels import MODELS
from xenm2p.trace import FOREIGN, INVALID, Events, Kind, Runs, Trace

MEMORY = Runs.of([(0x1000, 0x50000, 256), (0x8000, INVALID, 64)])
EVENT_COLUMNS = {"event", "map_event", "unmap_event", "end_event", "lock_event", "unlock_event",
                 "first_event", "last_event", "dio_event", "other"}


def rows_of(table: Table, numbers: list[int]) -> list[tuple[Any, ...]]:
    """A table's rows, event numbers translated by `numbers`."""
    columns = []
    for field in fields(table):
        column = getattr(table, field.name).tolist()
        if field.name in EVENT_COLUMNS:
            column = [e if e == NO_EVENT else numbers[e] for e in column]
        columns.append(column)
    return list(zip(*columns, strict=True))


def seen_from(trace: Trace, parts: list[Events], model: str, options: Options,
              numbers: list[int]) -> list[Any]:
    """What a replay of two runs of events sees in the second run and at the end."""
    parted = Trace(chunks_of=lambda: iter(parts), memory=trace.memory, m2p=trace.m2p,
                   domain=trace.domain, tasks=trace.tasks)
    seen: list[Any] = []
    for segment in replay(parted, MODELS[model], options):
        if segment.first_event < len(parts[0]):
            continue
        seen += [segment.result.tolist(), segment.warnings.tolist(), segment.counts]
        for field in fields(Segment):
            table = getattr(segment, field.name)
            if isinstance(table, Table):
                seen.append((field.name, rows_of(table, numbers)))
    return seen


def condensed(trace: Trace, end: int, pieces: list[int]) -> tuple[list[int], Events]:
    """The condensed history of the first `end` events, condensed at each of `pieces` too."""
    condenser = Condenser(trace)
    events = trace.events()
    borders = sorted({0, end, *(p for p in pieces if p < end)})
    for begin, stop in pairwise(borders):
        condenser.feed(begin, events.rows(slice(begin, stop)))
        condenser.live()
    live = condenser.live()
    assert live is not None
    return live[0].tolist(), live[1]


def check(trace: Trace, end: int, pieces: list[int], assume_dio: bool = False) -> list[int]:
    """Compare both replays from event `end` on; gives the numbers that were kept."""
    events = trace.events()
    numbers, rows = condensed(trace, end, pieces)
    rest = events.rows(slice(end, None))
    options = Options(assume_dio=assume_dio)
    for model in MODELS:
        everything = seen_from(trace, [events.rows(slice(0, end)), rest], model, options,
                               list(range(len(events))))
        resumed = seen_from(trace, [rows, rest], model, options,
                            numbers + list(range(end, len(events))))
        assert resumed == everything, model
    return numbers


@st.composite
def tidy_traces(draw: st.DrawFn, n: int = 30) -> Trace:
    """Mostly well-formed traces: maps of free pages, unmaps of mapped ones, locks, writes."""
    free = [0x8000, 0x8001, 0x8002]
    mapped: list[tuple[int, int, int]] = []
    rows: list[dict[str, int]] = []
    for i in range(draw(st.integers(0, n))):
        what = draw(st.sampled_from(
            ["map", "map", "unmap", "unmap", "lock", "unlock", "dio", "write", "set", "odd"]))
        mfn = draw(st.sampled_from([0x50000, 0x50001, 0x90000]))
        page = draw(st.sampled_from([0x1000, 0x1001, 0x8000, 0x8001]))
        row = {"time": 10 * i, "task": draw(st.sampled_from([-1, 0, 1])),
               "cpu": draw(st.sampled_from([-1, 0, 1]))}
        if what == "map" and free:
            pfn, user = free.pop(0), draw(st.integers(0, 3)) > 0
            mapped.append((pfn, mfn, user))
            row |= {"kind": Kind.MAP, "pfn": pfn, "mfn": mfn, "user": user, "handle": i % 3}
        elif what == "unmap" and mapped:
            pfn, mfn, user = mapped.pop(draw(st.integers(0, len(mapped) - 1)))
            free.append(pfn)
            row |= {"kind": Kind.UNMAP, "pfn": pfn, "user": user, "handle": i % 3,
                    "call": draw(st.sampled_from([-1, 1, 2]))}
        elif what == "lock":
            row |= {"kind": Kind.LOCK_PAGE, "pfn": page}
        elif what == "unlock":
            row |= {"kind": Kind.UNLOCK_PAGE, "pfn": page}
        elif what == "dio":
            row |= {"kind": Kind.DIO_READ, "pfn": page}
        elif what == "write":
            entry = draw(st.sampled_from([INVALID, mfn, mfn | FOREIGN]))
            row |= {"kind": Kind.P2M_WRITE, "pfn": page, "mfn": entry}
        elif what == "set" and (page in free or page < 0x8000):
            entry = draw(st.sampled_from([INVALID, INVALID, mfn]))
            row |= {"kind": Kind.SET_P2M, "pfn": page, "mfn": entry}
        elif what == "odd":
            row |= draw(st.sampled_from([
                {"kind": Kind.LOST, "ref": 7, "cpu": 0},
                {"kind": Kind.MAP, "pfn": 0x8001, "mfn": mfn, "status": -1},
                {"kind": Kind.SET_M2P, "pfn": page, "mfn": mfn},
                {"kind": Kind.UNMAP, "pfn": page, "user": 1, "call": 2},
                {"kind": Kind.LOOKUP, "mfn": mfn},
            ]))
        else:
            continue
        rows.append(row)
    return Trace.of_events(events_of_rows(rows), tasks=["a", "b"], memory=MEMORY, m2p=draw(
        st.sampled_from([Runs.of([]), Runs.of([(0x90000, 0x8001, 1)])])))


@settings(deadline=None, max_examples=80)
@given(traces(), st.integers(0, 40), st.lists(st.integers(1, 40), max_size=3), st.booleans())
def test_any_trace_resumes_as_if_from_the_beginning(
    trace: Trace, end: int, pieces: list[int], assume_dio: bool
) -> None:
    check(trace, min(end, len(trace.events())), pieces, assume_dio=assume_dio)


@settings(deadline=None, max_examples=120)
@given(tidy_traces(), st.integers(0, 30), st.lists(st.integers(1, 30), max_size=3), st.booleans())
def test_a_mostly_well_formed_trace_resumes_as_if_from_the_beginning(
    trace: Trace, end: int, pieces: list[int], assume_dio: bool
) -> None:
    check(trace, min(end, len(trace.events())), pieces, assume_dio=assume_dio)


# What is left out, and what is not ----------------------------------------------------


def mapped(pfn: int, mfn: int, **more: int) -> dict[str, int]:
    return {"kind": Kind.MAP, "pfn": pfn, "mfn": mfn, "user": 1} | more


def unmapped(pfn: int, **more: int) -> dict[str, int]:
    return {"kind": Kind.UNMAP, "pfn": pfn, "user": 1} | more


LAST = {"kind": Kind.LOOKUP, "mfn": 0x50099}  # the last event of all is always kept
P, Q, F, G = 0x8000, 0x8001, 0x50000, 0x50001


@pytest.mark.parametrize("rows, kept", [
    pytest.param([mapped(P, F), unmapped(P)] * 4, [6, 7, 8], id="the last pair of a page"),
    pytest.param([mapped(P, F), unmapped(P), mapped(P, G)], [2, 3], id="a live share"),
    pytest.param([mapped(P, F), mapped(Q, F), unmapped(P), mapped(P, G)], [1, 3, 4],
                 id="a share whose frame is live elsewhere"),
    pytest.param([{"kind": Kind.LOCK_PAGE, "pfn": Q}, mapped(P, F), mapped(Q, F), unmapped(Q),
                  mapped(Q, F), unmapped(Q)], [0, 1, 2, 3, 4, 5, 6],
                 id="pairs that a held lock met while another share lives"),
    pytest.param([mapped(P, F), unmapped(P), mapped(P, F, user=0), unmapped(P)],
                 [0, 1, 2, 3, 4], id="all of a page with a kmap mismatch"),
    pytest.param([mapped(P, F), mapped(P, F), unmapped(P), mapped(P, F), unmapped(P)],
                 [0, 1, 2, 3, 4, 5], id="all of a page mapped twice"),
    pytest.param([{"kind": Kind.LOCK_PAGE, "pfn": P}, {"kind": Kind.UNLOCK_PAGE, "pfn": P},
                  {"kind": Kind.LOCK_PAGE, "pfn": P}], [2, 3], id="a held lock"),
    pytest.param([{"kind": Kind.SET_P2M, "pfn": 0x1000, "mfn": F + i} for i in range(4)],
                 [3, 4], id="the last write of a page that is no frontend"),
    pytest.param([{"kind": Kind.SET_P2M, "pfn": 0x1000, "mfn": G},
                  {"kind": Kind.SET_P2M, "pfn": 0x1000, "mfn": F}, mapped(P, F)],
                 [0, 1, 2, 3], id="all writes of a share's frontend page"),
    pytest.param([{"kind": Kind.SET_P2M, "pfn": 0x1001, "mfn": INVALID},
                  mapped(0x1001, 0x90000), unmapped(0x1001)] + [mapped(0x1001, 0x90000),
                  unmapped(0x1001)] * 3, [0, 7, 8, 9], id="a page ballooned out for mapping"),
    pytest.param([mapped(P, F, status=-1), mapped(P, F, status=-1)], [1, 2],
                 id="a failed map that nothing followed"),
    pytest.param([mapped(P, F, status=-1), mapped(P, F), unmapped(P)], [1, 2, 3],
                 id="no failed map that another followed"),
    pytest.param([mapped(P, F, cpu=1), unmapped(P), mapped(P, F), unmapped(P)],
                 [0, 1, 2, 3, 4], id="a processor's last event, with what undoes it"),
    pytest.param([mapped(P, F), {"kind": Kind.DIO_READ, "pfn": P}], [0, 2],
                 id="no direct I/O that met no lock"),
    pytest.param([{"kind": Kind.LOCK_PAGE, "pfn": 0x1000}, mapped(P, F),
                  {"kind": Kind.DIO_READ, "pfn": P}], [0, 1, 2, 3],
                 id="direct I/O that met a held lock"),
    pytest.param([{"kind": Kind.LOST, "cpu": 0, "ref": 1}, {"kind": Kind.LOST, "cpu": 0}],
                 [1, 2], id="the last loss"),
    pytest.param([{"kind": Kind.GRANT, "ref": 8, "domid": 0, "mfn": F},
                  {"kind": Kind.GRANT, "ref": 9, "domid": 0, "mfn": F},
                  {"kind": Kind.END_GRANT, "ref": 8}], [1, 3], id="a grant that did not end"),
])
def test_what_matters(rows: list[dict[str, int]], kept: list[int]) -> None:
    trace = Trace.of_events(events_of_rows([*rows, LAST]), memory=MEMORY)
    assert check(trace, len(rows) + 1, []) == kept


def test_a_failing_unmap_keeps_the_pages_of_its_call() -> None:
    rows = [mapped(P, F), unmapped(Q, call=7), unmapped(P, call=7), mapped(P, G), unmapped(P)]
    trace = Trace.of_events(events_of_rows(rows), memory=MEMORY)
    assert check(trace, 5, []) == [0, 1, 2, 3, 4]


def test_a_page_written_after_a_loss_keeps_one_witness() -> None:
    pair = [mapped(P, F), {"kind": Kind.P2M_WRITE, "pfn": P, "mfn": F | FOREIGN}, unmapped(P),
            {"kind": Kind.P2M_WRITE, "pfn": P, "mfn": INVALID}]
    rows = [{"kind": Kind.LOST, "cpu": 0}, *pair * 5]
    trace = Trace.of_events(events_of_rows(rows), memory=MEMORY)
    assert check(trace, 21, []) == [0, 2, 17, 19, 20]


def test_long_histories_condense_to_what_is_live() -> None:
    condenser = Condenser(Trace.of_events(Events.from_columns(0), memory=MEMORY))
    pairs = 50_000
    pages = np.repeat(0x8000 + np.arange(pairs) % 32, 2)
    kind = np.tile([int(Kind.MAP), int(Kind.UNMAP)], pairs)
    events = Events.from_columns(2 * pairs, kind=kind, pfn=pages, mfn=0x50000 + pages % 256)
    for i in range(5):
        condenser.feed(2 * pairs * i, events)
    live = condenser.live()
    assert live is not None and len(live[0]) == 64


def test_a_history_of_which_too_much_matters_is_given_up() -> None:
    condenser = Condenser(Trace.of_events(Events.from_columns(0)), most=10)
    kind = np.full(20, int(Kind.MAP))
    condenser.feed(0, Events.from_columns(20, kind=kind, pfn=np.arange(20), mfn=np.arange(20)))
    assert condenser.live() is None
    condenser.feed(20, Events.from_columns(1))
    assert condenser.live() is None
