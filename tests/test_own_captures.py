"""Captures that the scripts of `xenm2p capture` took themselves: one workload, three tracers.

A PV dom0, Linux 6.12.100 (Debian) on Xen 4.17.7 under QEMU. A process grants frames of its own
domain (gntalloc) and maps them (gntdev), 1, 3, 11, 12, 16 and 40 at a time; probes that
fetch whole arrays, or a few fields of each page, know eleven pages of a call.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from xenm2p.engine.reference import replay
from xenm2p.engine.replay import Counts, Fact, Options
from xenm2p.formats.detect import read_trace
from xenm2p.kernels import MODELS
from xenm2p.trace import INVALID, NO_REF, Kind, Trace

CAPTURES = Path(__file__).parent / "data" / "captures"
CALLS = [1, 3, 11, 12, 16, 40]
FILES = {"ftrace": "own-ftrace.txt.xz", "perf": "own-perf.txt.xz",
         "bpftrace": "own-bpftrace.jsonl.xz"}
TOOLS = pytest.mark.parametrize("tool", FILES)


@cache
def capture(tool: str) -> Trace:
    return read_trace(str(CAPTURES / FILES[tool]))


@TOOLS
def test_every_call_has_all_its_pages(tool: str) -> None:
    events = capture(tool).events()
    for kind in (Kind.MAP, Kind.UNMAP):
        calls = Counter(events.call[events.kind == kind].tolist())
        assert list(calls.values()) == CALLS
    maps = events.rows(events.kind == Kind.MAP)
    assert maps.user.all() and not maps.status.any()


@TOOLS
def test_every_frame_that_is_mapped_is_the_one_that_its_reference_grants(tool: str) -> None:
    events = capture(tool).events()
    granted: dict[int, int] = {}
    checked = 0
    for kind, ref, mfn in zip(events.kind.tolist(), events.ref.tolist(), events.mfn.tolist(),
                              strict=True):
        if kind == Kind.GRANT:
            granted[ref] = mfn
        elif kind == Kind.MAP and ref != NO_REF:
            assert granted[ref] == mfn
            checked += 1
    assert checked == sum(CALLS if tool == "bpftrace" else (min(n, 11) for n in CALLS))


@TOOLS
def test_every_write_of_the_machine_is_the_models(tool: str) -> None:
    trace = capture(tool)
    assert trace.kernel == "p2m-only-continue"
    counts, facts = Counts(), []
    for segment in replay(trace, MODELS[trace.kernel], Options()):
        counts = counts + segment.counts
        facts += segment.facts.fact.tolist()
    assert counts.foreign_set == counts.foreign_cleared == sum(CALLS)
    assert counts.writes_agreed == counts.writes_foreign + counts.writes_invalid == 2 * sum(CALLS)
    assert not {Fact.MODEL_MISMATCH, Fact.DOUBLE_MAP, Fact.LEAKED_SHARE} & set(facts)
    assert counts.lost == 0


@TOOLS
def test_the_header_tells_the_kernel_and_returns_are_known(tool: str) -> None:
    notes = capture(tool).notes
    assert any("the header names Linux 6.12.100+deb12-amd64" in note for note in notes)
    assert not any("of other probes" in note or "struct page" in note for note in notes)


@TOOLS
def test_page_locks_are_of_pages_that_there_are(tool: str) -> None:
    events = capture(tool).events()
    pfns = events.pfn[events.kind == Kind.UNLOCK_PAGE]
    assert len(pfns) > 20
    assert (pfns < np.uint64(0x60000)).all()  # 1.25 GiB of memory, and ballooned pages
    assert not (pfns == np.uint64(INVALID)).any()
