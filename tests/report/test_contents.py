"""What `info` and `check` count."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.build import trace_of
from xenm2p.report.contents import Contents, Distinct
from xenm2p.trace import FOREIGN, INVALID


def contents_of(rows: list[dict[str, object]], chunk: int = 100) -> Contents:
    contents = Contents()
    for events in trace_of(rows).chunks(chunk):
        contents.add(events)
    return contents


def test_p2m_entries_of_one_frame_are_one_frame_and_invalid_is_none() -> None:
    contents = contents_of([{"kind": "set_p2m", "pfn": 1, "mfn": entry}
                            for entry in (5, 5 | FOREIGN, INVALID)])
    assert (len(contents.frames), len(contents.pages)) == (1, 1)


def test_times_that_go_backwards_are_counted_across_chunks() -> None:
    rows = [{"kind": "lookup", "mfn": 1, "time": time} for time in (10, 20, 15, 15, 5, 30)]
    for chunk in (1, 2, 100):
        contents = contents_of(rows, chunk)
        assert (contents.backwards, contents.first_back) == (2, 2)
        assert (contents.first_time, contents.last_time) == (5, 30)


def test_lost_events_are_summed_where_the_tracer_told() -> None:
    contents = contents_of([{"kind": "lost", "cpu": 0, "count": 12},
                            {"kind": "lost", "cpu": 1, "count": 30},
                            {"kind": "map", "mfn": 1, "pfn": 2, "ref": 99}])
    assert contents.lost == 42
    assert contents.has_losses


@given(st.lists(st.lists(st.integers(0, 1 << 40), max_size=5), max_size=6))
def test_distinct_values_are_those_of_a_set(parts: list[list[int]]) -> None:
    distinct = Distinct(np.zeros(0, dtype=np.uint64))
    for part in parts:
        distinct.add(np.array(part, dtype=np.uint64))
    assert len(distinct) == len({value for part in parts for value in part})
