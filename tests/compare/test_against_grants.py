"""Live shares of a replay against a grant-table dump."""

from __future__ import annotations

import io
import lzma
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build import foreign, trace_of
from tests.engine.histories import histories
from tests.formats.test_initial_grants import dump_of
from xenm2p.compare.against_grants import GrantCheck, check_grants
from xenm2p.engine import vector
from xenm2p.engine.replay import NO_EVENT, Options, Shares
from xenm2p.formats.ftrace import read_ftrace
from xenm2p.formats.grantdump import GrantDump, read_grant_dump
from xenm2p.kernels import LOCAL_FOREIGN, P2M_ONLY_CONTINUE, KernelModel
from xenm2p.trace import FOREIGN, INVALID, MAX_FRAME, NO_REF, Trace

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
Row = dict[str, Any]


def shares_of(trace: Trace, model: KernelModel = P2M_ONLY_CONTINUE) -> tuple[Shares, int]:
    """All shares of a replay, and how many events it had."""
    segments = list(vector.replay(trace, model, Options()))
    return (Shares.concat([segment.shares for segment in segments]),
            sum(len(segment.events) for segment in segments))


def checked(trace: Trace, dump: GrantDump, at: int | None = None) -> GrantCheck:
    """A replay of a trace of domain 0 beside a dump."""
    shares, events = shares_of(trace)
    return check_grants(shares, events, dump, 0, at)


def map_(pfn: int, mfn: int, **more: Any) -> Row:
    """A map."""
    return {"kind": "map", "pfn": pfn, "mfn": mfn, "domid": 3, "ref": mfn & 0xFF, **more}


def unmap(pfn: int) -> Row:
    """An unmap."""
    return {"kind": "unmap", "pfn": pfn}


ROWS = [map_(0x8000, 0x90001), map_(0x8001, 0x90002, user=True), unmap(0x8000),
        map_(0x8002, 0x90001), unmap(0x8001), unmap(0x8002)]


@pytest.mark.parametrize(("dump", "best"), [
    ([], (0, 0)), ([(3, 1, 0, 0x90001, 1)], (1, 1)), ([(3, 2, 0, 0x90002, 2)], (3, 3)),
    ([(3, 1, 0, 0x90001, 1), (3, 2, 0, 0x90002, 2)], (2, 2)),
    ([(3, 2, 0, 0x90002, 1)], (0, 0))])
def test_where_the_dump_fits_best(dump: list[Any], best: tuple[int, int]) -> None:
    found = checked(trace_of(ROWS), dump_of(*dump))
    assert found.best_events == best
    assert found.at.events == best[0]
    assert found.at.distance == (1 if dump == [(3, 2, 0, 0x90002, 1)] else 0)


def test_at_a_moment_and_at_the_end() -> None:
    found = checked(trace_of(ROWS), dump_of((3, 1, 0, 0x90001, 1), (3, 7, 0, 0x90007, 1)), at=3)
    assert (found.at.events, found.at.agreed, found.at.distance) == (3, 0, 4)
    assert [(each.ref, each.dump, each.replay, each.never) for each in found.at.differences] == [
        (1, 1, 0, False), (2, 0, 2, False), (7, 1, 0, True)]
    assert (found.end.events, found.end.distance) == (6, 2)
    assert not found.are_rings


def test_what_is_never_mapped_may_be_rings() -> None:
    found = checked(trace_of(ROWS), dump_of((3, 1, 0, 0x90001, 1), (3, 7, 0, 0x90007, 1)))
    assert (found.at.distance, found.are_rings) == (1, True)


def test_other_domains_mappings_are_left_out() -> None:
    found = checked(trace_of(ROWS), dump_of((3, 1, 5, 0x90001, 1)))
    assert (found.dump, found.of_others, found.at.distance) == (0, 1, 0)


def test_maps_without_a_reference_are_compared_by_frame() -> None:
    rows = [map_(0x8000, 0x90001, ref=NO_REF), map_(0x8001, 0x90001, ref=NO_REF)]
    found = checked(trace_of(rows), dump_of((3, 1, 0, 0x90001, 1), (3, 2, 0, 0x90001, 1)))
    assert (found.by_ref, found.best_events, found.at.distance) == (False, (2, 2), 0)
    found = checked(trace_of(rows), dump_of((3, 1, 0, 0x90002, 1), (3, 2, 0, 0x90001, 2)))
    assert [(each.domid, each.ref) for each in found.at.differences] == [(3, 1)]


def test_adopted_shares_of_unknown_frames_may_be_any() -> None:
    memory = [(0x8000, FOREIGN | MAX_FRAME, 1), (0x8001, foreign(0x90001), 1)]
    found = checked(trace_of([unmap(0x8000), unmap(0x8001)], memory=memory),
                    dump_of((3, 1, 0, 0x90001, 1), (3, 2, 0, 0x90002, 1)))
    assert (found.best_events, found.at.unknown, found.at.distance) == ((0, 0), 1, 0)
    assert (found.end.unknown, found.end.distance) == (0, 2)


def test_nothing_at_all() -> None:
    found = checked(trace_of([]), dump_of())
    assert (found.best_events, found.at.distance, found.are_rings) == ((0, 0), 0, False)


@settings(max_examples=60, deadline=None)
@given(trace=histories(), dice=st.randoms(use_true_random=False))
def test_the_plain_count_says_the_same(trace: Trace, dice: Any) -> None:
    """At every moment the distance is that of counting each grant's live shares."""
    shares, events = shares_of(trace, LOCAL_FOREIGN)
    pins: Counter[tuple[int, ...]] = Counter()
    for i in range(len(shares)):
        if dice.random() < 0.5:
            pins[int(shares.domid[i]), int(shares.ref[i]), int(shares.mfn[i])] += 1
    dump = dump_of(*((domid, ref, 0, mfn, count) for (domid, ref, mfn), count in pins.items()))
    has_frame = [i for i in range(len(shares))
                 if int(shares.mfn[i]) not in (MAX_FRAME, FOREIGN | MAX_FRAME, INVALID)]
    by_ref = bool(has_frame) and all(shares.ref[i] != NO_REF for i in has_frame)
    for at in range(events + 1):
        count: Counter[tuple[int, ...]] = Counter()
        unknown = 0
        for i in range(len(shares)):
            begun = shares.map_event[i] == NO_EVENT or shares.map_event[i] < at
            ended = shares.end_event[i] != NO_EVENT and shares.end_event[i] < at
            weight = 1 + int(shares.user[i]) if begun and not ended else 0
            if i in has_frame:
                key = (int(shares.domid[i]), int(shares.ref[i]), int(shares.mfn[i]))
                count[key if by_ref else key[2:]] += weight
            else:
                unknown += weight
        wanted: Counter[tuple[int, ...]] = Counter()
        for key, number in pins.items():
            wanted[key if by_ref else key[2:]] += number
        keys = set(count) | set(wanted)
        extra = sum(max(count[key] - wanted[key], 0) for key in keys)
        missing = sum(max(wanted[key] - count[key], 0) for key in keys)
        found = check_grants(shares, events, dump, 0, at)
        assert found.at.distance == extra + abs(missing - unknown)
        assert found.at.distance >= check_grants(shares, events, dump, 0).at.distance


@cache
def real(name: str) -> tuple[Shares, int, GrantDump]:
    """A capture's shares, its number of events, and its grant-table dump."""
    text, grants = (io.BytesIO(lzma.decompress((CAPTURES / f"{name}.{kind}.xz").read_bytes()))
                    for kind in ("txt", "grants"))
    return *shares_of(read_ftrace(text, name)), read_grant_dump(grants, name)


@pytest.mark.parametrize(("name", "agreed", "rings", "best"), [
    ("self-phy-persist", 825, 2, (6287, 7834)),
    ("self-phy-nopersist-min", 1, 2, (25570, 25571)),
    ("domu-phy-nopersist", 4, 1, (3, 4)),
])
def test_the_live_shares_are_those_of_the_hypervisor(
    name: str, agreed: int, rings: int, best: tuple[int, int]
) -> None:
    found = check_grants(*real(name), 0)
    assert (found.at.agreed, found.at.distance, found.best_events) == (agreed, rings, best)
    assert (found.are_rings, found.by_ref) == (True, True)
    assert np.all([each.never for each in found.at.differences])


def test_shares_from_before_the_capture_are_as_many_as_the_hypervisor_had() -> None:
    found = check_grants(*real("self-phy-midstart"), 0)
    assert (found.at.unknown, found.at.distance, found.best_events) == (825, 2, (0, 366))
