"""XM102: cycles of waits over several pages, and what nearly is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build import trace_of
from tests.engine.test_same import assert_same
from tests.findings.replayed import Found, findings_in, lock, map_, unmap
from tests.strategies import events_of_rows
from xenm2p.engine.replay import Options
from xenm2p.findings import Severity
from xenm2p.formats.detect import read_trace
from xenm2p.kernels import MODELS
from xenm2p.trace import INVALID, Kind, Runs, Trace

SHIPPED = Path(__file__).parents[2] / "traces" / "lock-cycle.yaml"

# mount has locked and granted 0x1010; qemu, which writes it, reads into the page of 0x1020,
# whose lock mount took while that was shared.
CYCLE = [
    map_(0x8001, 0x50020),
    lock(0x1010),
    map_(0x8000, 0x50010),
    lock(0x1020),
    {"kind": "dio_write", "pfn": 0x8000, "task": "qemu-77"},
    {"kind": "dio_read", "pfn": 0x8001, "task": "qemu-77"},
]


def cycles(rows: list[dict[str, object]], model: str = "override") -> list[Found]:
    return [found for found in findings_in(trace_of(rows), model) if found.id == "XM102"]


def test_a_cycle_over_two_pages_is_an_error_at_the_io_that_closes_it():
    (found,) = cycles(CYCLE)
    assert (found.severity, found.event, found.pfn) == (Severity.ERROR, 5, 0x1020)
    assert found.events == [0, 1, 2, 3, 4, 5]
    assert found.text == (
        "qemu-77 waits for the lock of page 0x1020 held by mount-1042, which waits for direct "
        "I/O on locked page 0x1010 by qemu-77")


def test_either_io_may_close_it():
    (found,) = cycles([*CYCLE[:4], CYCLE[5], CYCLE[4]])
    assert (found.event, found.pfn) == (5, 0x1010)


def test_it_is_told_once_however_often_the_io_is_repeated():
    assert len(cycles([*CYCLE, CYCLE[5], CYCLE[4], CYCLE[5]])) == 1


@pytest.mark.parametrize("model", [name for name in MODELS if name != "override"])
def test_no_other_kernel_leads_the_read_to_the_lock(model):
    assert cycles(CYCLE, model) == []


UNLOCK = {"kind": "unlock_page", "task": "mount-1042"}


@pytest.mark.parametrize("near", [
    pytest.param([*CYCLE[:5], UNLOCK | {"pfn": 0x1020}, CYCLE[5]], id="lock released before"),
    pytest.param([*CYCLE[:5], UNLOCK | {"pfn": 0x1010}, CYCLE[5]], id="page unlocked before"),
    pytest.param([*CYCLE[:5], unmap(0x8000), CYCLE[5]], id="io over before"),
    pytest.param([*CYCLE[:3], *CYCLE[4:]], id="not locked"),
    pytest.param([*CYCLE[:5], CYCLE[5] | {"kind": "dio_write"}], id="a write asks for no lock"),
    pytest.param([*CYCLE[:5], CYCLE[5] | {"task": "qemu-78"}], id="two threads, a chain"),
    pytest.param([CYCLE[0], CYCLE[2], CYCLE[1], *CYCLE[3:]], id="locked after it was shared"),
    pytest.param([lock(0x1010), map_(0x8000, 0x50010),
                  {"kind": "dio_read", "pfn": 0x8000, "task": "qemu-77"}],
                 id="one page alone, XM101"),
])
def test_what_nearly_is_a_cycle(near):
    assert cycles(near) == []


def test_a_loss_after_the_locks_makes_it_unsure():
    (found,) = cycles([*CYCLE[:5], {"kind": "lost", "count": 3}, CYCLE[5]])
    assert found.severity == Severity.INFO
    assert found.text.endswith("(unsure: events were lost)")


def test_the_shipped_trace_has_a_cycle_of_four_tasks_and_four_pages():
    trace = read_trace(str(SHIPPED))
    found = findings_in(trace, "override")
    (cycle,) = [each for each in found if each.id == "XM102"]
    assert cycle.event == 11
    for name in ("qemu-987", "qemu-988", "mount-1042", "sync-1100"):
        assert name in cycle.text
    # No page deadlocks alone, and the cure ends it.
    assert [each.id for each in found if each.severity == Severity.ERROR] == ["XM102"]
    assert not [each for each in findings_in(read_trace(str(SHIPPED)), "local-foreign")
                if each.severity == Severity.ERROR]


@st.composite
def contended(draw: st.DrawFn) -> Trace:
    """Few pages, shared with one another's locks held, and much direct I/O by few tasks."""
    rows: list[dict[str, int]] = []
    for time in range(draw(st.integers(5, 60))):
        page = draw(st.integers(0, 3))
        kind = draw(st.sampled_from(
            [Kind.MAP, Kind.UNMAP, *[Kind.LOCK_PAGE] * 2, Kind.UNLOCK_PAGE,
             *[Kind.DIO_READ] * 3, *[Kind.DIO_WRITE] * 2]))
        row = {"kind": int(kind), "time": time, "task": draw(st.integers(-1, 2))}
        if kind in (Kind.LOCK_PAGE, Kind.UNLOCK_PAGE):
            row["pfn"] = draw(st.sampled_from([0x1000, 0x1000, 0x1000, 0x8000])) + page
        else:
            row["pfn"] = 0x8000 + page
        if kind in (Kind.MAP, Kind.UNMAP):
            row |= {"user": 1, "mfn": 0x50000 + draw(st.sampled_from([page, page, 0]))}
            row |= {"mfn": INVALID} if kind == Kind.UNMAP else {}
        rows.append(row)
    return Trace.of_events(
        events_of_rows(rows), tasks=["a", "b", "c"],
        memory=Runs.of([(0x1000, 0x50000, 16), (0x8000, INVALID, 16)]))


@settings(deadline=None, max_examples=150)
@given(contended(), st.sampled_from([*MODELS.values()][:3]), st.sampled_from([1, 3, 1000]))
def test_both_engines_see_the_same_cycles(trace, model, chunk):
    assert_same(trace, model, Options(), chunk, 1)


def test_the_proof_of_a_shipped_cycle_is_all_its_locks_maps_and_io():
    (cycle,) = [each for each in findings_in(read_trace(str(SHIPPED)), "override")
                if each.id == "XM102"]
    assert np.array_equal(cycle.events, np.arange(12))
