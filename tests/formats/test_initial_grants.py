"""Shares and grants from before a trace, out of a grant-table dump."""

from __future__ import annotations

import io
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.build import foreign, trace_of
from xenm2p.engine import reference
from xenm2p.engine.replay import Counts, Fact, Facts, Options, Result
from xenm2p.formats.ftrace import read_ftrace
from xenm2p.formats.grantdump import GrantDump, read_grant_dump
from xenm2p.formats.initial_grants import with_initial_grants
from xenm2p.formats.p2mdump import read_p2m_dump
from xenm2p.kernels import MODELS
from xenm2p.trace import INVALID, KIND_BY_CODE, NO_HANDLE, NO_REF, Trace

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
PAGE, FRAME = 0x8000, 0x50010
Row = dict[str, Any]


def dump_of(*rows: tuple[int, int, int, int, int]) -> GrantDump:
    """A dump of (granter, ref, mapper, mfn, pins) rows."""
    table = np.array(rows, np.uint64).reshape(len(rows), 5)
    return GrantDump(table[:, 0].astype(np.uint16), table[:, 1].astype(np.uint32),
                     table[:, 2].astype(np.uint16), table[:, 3], table[:, 4].astype(np.int64))


OURS = (0, 8, 0, FRAME, 1)
UNMAP = {"kind": "unmap", "pfn": PAGE, "time": 5000}


def begun(rows: list[Row], dump: GrantDump, *pages: tuple[int, int]) -> Trace:
    """A trace over FOREIGN `pages`, (pfn, frame), begun with what a dump has live."""
    memory = [(0x1000, 0x50000, 256), (0x8000, INVALID, 64),
              *((pfn, foreign(frame), 1) for pfn, frame in pages)]
    return with_initial_grants(trace_of(rows, memory=memory, chunk=1), dump)


def events(trace: Trace) -> list[tuple[str, int, int, int, int, int]]:
    """(kind, pfn, mfn, domid, ref, user) of each event."""
    found = trace.events()
    return [(KIND_BY_CODE[kind].name, *cells) for kind, *cells in zip(
        *(getattr(found, name).tolist()
          for name in ("kind", "pfn", "mfn", "domid", "ref", "user")), strict=True)]


def test_a_grant_and_its_share_become_the_first_events() -> None:
    trace = begun([UNMAP], dump_of(OURS), (PAGE, FRAME))
    assert events(trace)[:2] == [("grant", INVALID, FRAME, 0, 8, 0),
                                 ("map", PAGE, FRAME, 0, 8, 0)]
    assert trace.length == 3
    assert trace.events().time.tolist() == [5000] * 3
    assert trace.events().handle.tolist() == [NO_HANDLE] * 3


@pytest.mark.parametrize("model", MODELS)
def test_the_replay_then_ends_what_it_began(model: str) -> None:
    trace = begun([UNMAP], dump_of(OURS), (PAGE, FRAME))
    segments = list(reference.replay(trace, MODELS[model], Options()))
    assert [r for s in segments for r in s.result.tolist()] == [Result.NONE, Result.OK, Result.OK]
    assert not sum(len(segment.facts) for segment in segments)


def test_without_a_p2m_only_the_grants_are_known() -> None:
    trace = begun([UNMAP], dump_of(OURS))
    assert [kind for kind, *_ in events(trace)] == ["grant", "unmap"]
    assert "at which pages 1 grants are mapped is not known without a p2m dump (--memory)" in (
        trace.notes)


def test_a_page_mapped_twice_is_of_user_space() -> None:
    trace = begun([UNMAP], dump_of((3, 8, 0, 0x90000, 2)), (PAGE, 0x90000))
    assert events(trace)[0] == ("map", PAGE, 0x90000, 3, 8, 1)


def test_two_pages_of_one_grant_and_two_grants_of_one_frame() -> None:
    two_pages = begun([UNMAP], dump_of((0, 8, 0, FRAME, 2)), (PAGE, FRAME), (PAGE + 1, FRAME))
    assert [row[4:] for row in events(two_pages)[1:3]] == [(8, 0), (8, 0)]
    two_grants = begun([UNMAP], dump_of(OURS, (0, 9, 0, FRAME, 1)), (PAGE, FRAME),
                       (PAGE + 1, FRAME))
    assert [row[3:5] for row in events(two_grants)[2:4]] == [(0, NO_REF)] * 2


def test_what_other_domains_map_of_ours_is_a_grant_only() -> None:
    trace = begun([UNMAP], dump_of((0, 8, 5, FRAME, 1), (6, 8, 5, 0x90000, 1)))
    assert events(trace)[0] == ("grant", INVALID, FRAME, 5, 8, 0)
    assert len(trace.events()) == 2


def test_pages_and_dump_that_do_not_fit_are_left_and_told() -> None:
    trace = begun([UNMAP], dump_of((0, 8, 0, FRAME, 3)), (PAGE, FRAME), (PAGE + 1, 0x50020))
    assert [kind for kind, *_ in events(trace)] == ["grant", "unmap"]
    assert any(note.startswith("1 FOREIGN pages are of no grant") for note in trace.notes)
    assert any(note.startswith("1 FOREIGN pages are of frames") for note in trace.notes)


def test_what_the_trace_maps_or_grants_first_was_not_live_before() -> None:
    rows = [{"kind": "grant", "ref": 8, "domid": 0, "mfn": FRAME},
            {"kind": "map", "pfn": PAGE, "mfn": FRAME, "ref": 8}, UNMAP]
    trace = begun(rows, dump_of(OURS), (PAGE, FRAME))
    assert [kind for kind, *_ in events(trace)] == ["grant", "map", "unmap"]
    assert any(note.startswith("nothing in the grant dump was live") for note in trace.notes)


def test_a_reference_that_is_ended_first_was_granted_before() -> None:
    rows = [{"kind": "end_grant", "ref": 8}, {"kind": "grant", "ref": 8, "domid": 0, "mfn": 1}]
    assert [kind for kind, *_ in events(begun(rows, dump_of(OURS)))] == [
        "grant", "end_grant", "grant"]


def test_an_empty_trace_and_an_empty_dump() -> None:
    assert len(begun([], dump_of(OURS)).events()) == 1
    assert events(begun([UNMAP], dump_of())) == events(trace_of([UNMAP]))


def data_of(name: str) -> io.BytesIO:
    """A file of the captures."""
    return io.BytesIO(lzma.decompress((CAPTURES / f"{name}.xz").read_bytes()))


def real(name: str) -> Trace:
    """A capture with both of its dumps."""
    dump = read_p2m_dump(data_of(f"{name}.p2m.txt"), name)
    trace = read_ftrace(data_of(f"{name}.txt"), name, memory=dump)
    return with_initial_grants(trace, read_grant_dump(data_of(f"{name}.grants"), name))


def test_a_capture_from_the_middle_knows_its_shares() -> None:
    trace = real("self-phy-midstart")
    assert trace.notes[1].startswith("825 shares and 827 grants were live before the capture")
    assert any(note.startswith("2 grants of the dump are at no FOREIGN page: rings")
               for note in trace.notes)
    for model in MODELS.values():
        segments = list(reference.replay(trace, model, Options()))
        facts = Facts.concat([segment.facts for segment in segments])
        counts = sum((segment.counts for segment in segments), Counts())
        assert (counts.maps, counts.unmaps) == (825, 825)
        assert counts.writes_agreed == 825  # also of kernels with an override list
        assert not np.isin(facts.fact, (Fact.HANDLE, Fact.LIST_CORRUPTION)).any()
        # Kernels that mark the frontend write entries that this machine did not.
        is_as_traced = not model.marks_frontend or model.overrides_need_user
        assert is_as_traced != (Fact.MODEL_MISMATCH in facts.fact)


def test_dumps_from_within_the_capture_add_nothing() -> None:
    trace = real("self-phy-persist")
    assert trace.notes[1].startswith("nothing in the grant dump was live")
    assert trace.length == len(trace.events())
