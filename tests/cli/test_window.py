"""--from on a binary trace: entered at a checkpoint, with the rows of a whole replay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.conftest import Run
from tests.engine.histories import histories
from tests.formats.test_checkpoint import tidy_traces
from tests.strategies import traces
from xenm2p.cli.session import ReplayRequest, Session, heading_of
from xenm2p.findings import Context
from xenm2p.formats.binary import read_binary, write_binary
from xenm2p.kernels import MODELS
from xenm2p.report.selection import Point, Selection
from xenm2p.report.tables import SEGMENT_TABLES
from xenm2p.trace import Trace

REQUEST = ReplayRequest(
    kernel="override", traced_kernel=None, memory=None, vmemmap_base=None, merge=(), grants=None,
    assume_dio=False, engine="vector", strict=False, quiet=True, progress=False)


def rows(trace: Trace, request: ReplayRequest, table: str, selection: Selection) -> list[object]:
    """The table's rows as `export` makes them."""
    session = Session(request, heading_of("t", trace, request), trace, selection, [])
    context = Context(trace, session.heading.model)
    found: list[object] = []
    for segment in session.segments_of_window(table):
        columns = SEGMENT_TABLES[table](segment, context, selection)
        found += zip(*(map(repr, column) for column in columns), strict=True)
    return found


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(histories(), tidy_traces(60), traces()), st.sampled_from([*MODELS]),
    st.sampled_from([*SEGMENT_TABLES]), st.integers(0, 70), st.integers(0, 40), st.booleans(),
    st.sampled_from([(), ((0x1000, 0x1001),), ((0x8000, 0x8000),)]), st.sampled_from([1, 2, 5]),
    st.booleans(), st.booleans())
def test_a_window_has_the_rows_of_a_whole_replay(
    tmp_path_factory: pytest.TempPathFactory, trace: Trace, model: str, table: str, first: int,
    length: int, by_time: bool, pfns: tuple[tuple[int, int], ...], chunk: int, assume_dio: bool,
    is_open: bool,
) -> None:
    path = tmp_path_factory.mktemp("window") / "t.xm2p"
    with path.open("wb") as file:
        write_binary(trace, file, chunk_events=chunk)
    request = replace(REQUEST, kernel=model, assume_dio=assume_dio)

    def selection() -> Selection:
        begin = Point(10 * first if by_time else first, by_time)
        end = None if is_open else Point(begin.value + length, by_time)
        return Selection(first=begin, last=end, pfns=pfns)

    entered, whole = read_binary(path, "t"), read_binary(path, "t")
    whole.resume = None
    assert rows(entered, request, table, selection()) == rows(whole, request, table, selection())


def test_it_does_not_read_what_is_long_before(
    xenm2p: Run, tmp_path: Path
) -> None:
    path = tmp_path / "t.xm2p"
    xenm2p("generate", "same-domain", "--events", 4000, "--chunk-events", 100, "--in-flight", 4,
           "-o", path)
    wanted = xenm2p("export", "-t", "transitions", "--from", 3500, "--to", 3600, "--strict", path)
    read = []
    original = Trace.chunks

    def watched(self: Trace, size: int = 1 << 16) -> object:
        for events in original(self, size):
            read.append(len(events))
            yield events

    with mock.patch.object(Trace, "chunks", watched):
        got = xenm2p("export", "-t", "transitions", "--from", 3500, "--to", 3600, path)
    assert got == wanted
    assert sum(read) < 1000
