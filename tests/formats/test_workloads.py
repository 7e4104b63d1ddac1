"""Synthetic workloads: exact length, same trace for a seed, well-formed where they say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenm2p.engine.reference import replay
from xenm2p.engine.replay import Fact, Result, Verdict
from xenm2p.errors import UsageError
from xenm2p.formats import workloads_shares
from xenm2p.formats.workloads import WORKLOADS, generate
from xenm2p.formats.workloads_faults import FAULTS
from xenm2p.formats.workloads_shares import CHUNK, Draws, Rings, mixed
from xenm2p.kernels import MODELS
from xenm2p.trace import COLUMNS, INVALID, NO_CALL, Kind, Trace, same_trace

WELL_FORMED = [name for name in WORKLOADS if name != "ill-formed"]
SIZES = [(1, 1), (2, 2), (3, 8), (7, 64), (16, 64), (40, 64), (300, 1000)]


def make(workload: str, events: int = 3000, seed: int = 5, in_flight: int = 40,
         frames: int = 200) -> Trace:
    return generate(workload, events=events, seed=seed, in_flight=in_flight, frames=frames)


def rows(trace: Trace) -> Iterator[dict[str, int]]:
    for chunk in trace.chunks():
        columns = [column.tolist() for column in chunk.columns().values()]
        for values in zip(*columns, strict=True):
            yield dict(zip(COLUMNS, values, strict=True))


def tables(trace: Trace) -> tuple[dict[int, int], dict[int, int]]:
    """p2m and m2p before the first event, entry by entry."""
    p2m: dict[int, int] = {}
    m2p: dict[int, int] = {}
    for pfn, mfn, count in trace.memory.tuples():
        for i in range(count):
            p2m[pfn + i] = mfn if mfn == INVALID else mfn + i
            if mfn != INVALID:
                m2p[mfn + i] = pfn + i
    for mfn, pfn, count in trace.m2p.tuples():
        m2p.update((mfn + i, pfn + i) for i in range(count))
    return p2m, m2p


def test_the_table_names_what_the_design_names() -> None:
    assert list(WORKLOADS) == ["same-domain", "foreign", "multi-share", "persistent",
                               "ballooning", "locks", "ill-formed"]
    assert all(name == spec.name and spec.help for name, spec in WORKLOADS.items())


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("events", [0, 1, 2, 5, 37, 1000, CHUNK + 1])
def test_the_trace_has_exactly_the_events_asked_for(workload: str, events: int) -> None:
    trace = make(workload, events=events)
    assert sum(len(chunk) for chunk in trace.chunks()) == trace.length == events


@pytest.mark.parametrize("workload", WORKLOADS)
def test_one_seed_gives_one_trace_however_often_it_is_read(workload: str) -> None:
    trace = make(workload)
    assert same_trace(trace, make(workload))
    assert same_trace(trace, trace)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_another_seed_gives_another_trace(workload: str) -> None:
    one, other = make(workload, seed=1).events(), make(workload, seed=2).events()
    assert any(not np.array_equal(a, b) for a, b in
               zip(one.columns().values(), other.columns().values(), strict=True))


def test_draws_do_not_depend_on_numpys_own_generators() -> None:
    # Fixed numbers: a change here changes every trace that a bug report names by its seed.
    index = np.arange(4)
    assert Draws(7).below("call", 1000, index).tolist() == [757, 668, 47, 690]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_chunk_size_of_the_reader_changes_nothing(workload: str) -> None:
    trace = make(workload, events=500)
    whole = list(rows(trace))
    for size in (1, 7, 499):
        pieces = list(trace.chunks(size))
        assert max(map(len, pieces)) <= size
        assert [r for piece in pieces for r in rows(Trace.of_events(piece))] == whole


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_the_batches_shares_are_made_in_change_nothing(
    workload: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(workload)
    expected = whole.events()
    monkeypatch.setattr(workloads_shares, "STEPS_PER_BATCH", steps)
    for a, b in zip(whole.events().columns().values(), expected.columns().values(),
                    strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_longer_trace_begins_as_a_shorter_one_until_that_winds_down() -> None:
    # The shares are functions of their number: the length only says how many there are.
    short = make("same-domain", events=20_000).events().rows(slice(0, 19_000))
    long = make("same-domain", events=90_000).events().rows(slice(0, 19_000))
    for a, b in zip(short.columns().values(), long.columns().values(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_chunks_are_even_and_time_goes_on_across_them(workload: str) -> None:
    chunks = list(make(workload, events=3 * CHUNK + 10).chunks())
    assert [len(chunk) for chunk in chunks] == [CHUNK] * 3 + [10]
    time = np.concatenate([chunk.time for chunk in chunks])
    steps = np.diff(time)
    assert steps.min() >= 0
    assert steps.max() < 5000
    is_new_call = np.diff(np.concatenate([chunk.call for chunk in chunks])) != 0
    assert steps[is_new_call].min() > 0


@pytest.mark.parametrize("workload", WELL_FORMED)
@pytest.mark.parametrize(("in_flight", "frames"), SIZES)
def test_a_well_formed_workload_keeps_the_rules(
    workload: str, in_flight: int, frames: int
) -> None:
    trace = make(workload, in_flight=in_flight, frames=frames)
    p2m, m2p = tables(trace)
    live: dict[int, dict[str, int]] = {}
    granted: dict[int, int] = {}
    locked: set[int] = set()
    most = 0
    for row in rows(trace):
        kind, pfn, mfn = Kind(row["kind"]), row["pfn"], row["mfn"]
        if kind == Kind.MAP:
            assert p2m[pfn] == INVALID, "backend pages are ballooned out"
            assert pfn not in live
            assert row["handle"] not in {share["handle"] for share in live.values()}
            assert row["ref"] not in {share["ref"] for share in live.values()}
            is_local = p2m.get(m2p[mfn]) == mfn
            assert is_local == (workload != "foreign")
            live[pfn] = row
            most = max(most, len(live))
        elif kind == Kind.UNMAP:
            share = live.pop(pfn)
            for name in ("handle", "ref", "user", "domid"):
                assert share[name] == row[name]
        elif kind in (Kind.SET_P2M, Kind.SET_M2P):
            table, key, value = ((p2m, pfn, mfn) if kind == Kind.SET_P2M else
                                 (m2p, mfn, pfn))
            table[key] = value
            frame = mfn if mfn != INVALID else None
            assert frame not in {share["mfn"] for share in live.values()}
        elif kind == Kind.LOCK_PAGE:
            assert pfn not in locked
            locked.add(pfn)
        elif kind == Kind.UNLOCK_PAGE:
            locked.remove(pfn)
        elif kind in (Kind.DIO_READ, Kind.DIO_WRITE):
            assert pfn in live
        elif kind == Kind.GRANT:
            assert row["ref"] not in granted
            granted[row["ref"]] = mfn
        elif kind == Kind.END_GRANT:
            del granted[row["ref"]]
            assert row["ref"] not in {share["ref"] for share in live.values()}
    assert not live and not granted and not locked
    assert 0 < most <= in_flight
    assert all(p2m[pfn] == mfn for mfn, pfn in m2p.items() if pfn in p2m) \
        or workload == "foreign"


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_pages_of_a_call_stand_together_and_are_as_many_as_a_request_has(
    workload: str,
) -> None:
    events = make(workload, events=20_000, in_flight=300, frames=1000).events()
    in_call = np.flatnonzero(events.call != NO_CALL)
    calls, first, count = np.unique(events.call[in_call], return_index=True,
                                    return_counts=True)
    last = len(in_call) - 1 - np.unique(events.call[in_call][::-1], return_index=True)[1]
    assert np.array_equal(last - first + 1, count), "nothing of another call in between"
    is_map = events.kind[in_call][first] == Kind.MAP
    assert count[is_map].max() == 11
    most_unmaps = 2 * 32 if workload == "ill-formed" else 32
    assert count[~is_map].max() <= most_unmaps
    assert len(calls) > 20


def test_backend_pages_refs_and_handles_are_used_again_at_once() -> None:
    events = make("same-domain", in_flight=40).events()
    maps = events.rows(events.kind == Kind.MAP)
    for column in (maps.pfn, maps.ref, maps.handle):
        assert len(np.unique(column)) == Rings.pages_for(40) == 64
    assert len(np.unique(maps.mfn)) > 150


def test_multi_share_maps_a_frame_several_times_at_once() -> None:
    live: dict[int, int] = {}
    at_once: Counter[int] = Counter()
    for row in rows(make("multi-share")):
        if row["kind"] == Kind.MAP:
            live[row["pfn"]] = row["mfn"]
            at_once[Counter(live.values())[row["mfn"]]] += 1
        elif row["kind"] == Kind.UNMAP:
            del live[row["pfn"]]
    assert {2, 3, 4, 8} <= set(at_once)


def test_persistent_is_mostly_use_of_maps_that_stay() -> None:
    kinds = Counter(row["kind"] for row in rows(make("persistent")))
    assert kinds[Kind.GRANT] == kinds[Kind.MAP] == kinds[Kind.UNMAP] == 40
    for kind in (Kind.LOOKUP, Kind.GUP_FAST, Kind.DIO_WRITE):
        assert kinds[kind] > 800


def test_ballooning_moves_frames_between_pages() -> None:
    writes = [row for row in rows(make("ballooning")) if row["kind"] == Kind.SET_P2M]
    frames_of_page: dict[int, set[int]] = {}
    for row in writes:
        frames_of_page.setdefault(row["pfn"], set()).add(row["mfn"])
    assert all(INVALID in frames for frames in frames_of_page.values())
    assert any(len(frames) == 3 for frames in frames_of_page.values())


def facts_and_verdicts(workload: str, model: str) -> tuple[Counter[int], Counter[int]]:
    facts: Counter[int] = Counter()
    verdicts: Counter[int] = Counter()
    for segment in replay(make(workload), MODELS[model]):
        facts.update(segment.facts.fact.tolist())
        verdicts.update(segment.collisions.verdict.tolist())
    return facts, verdicts


@pytest.mark.parametrize("workload", WELL_FORMED)
@pytest.mark.parametrize("model", ["p2m-only", "p2m-only-continue"])
def test_a_well_formed_workload_gives_a_modern_kernel_nothing_to_report(
    workload: str, model: str
) -> None:
    assert facts_and_verdicts(workload, model) == (Counter(), Counter())


def test_locks_shows_each_verdict_before_the_cure_and_none_after() -> None:
    verdicts = facts_and_verdicts("locks", "override")[1]
    assert set(verdicts) == {Verdict.DEADLOCK, Verdict.CONTENTION, Verdict.PRONE}
    assert facts_and_verdicts("locks", "local-foreign")[1] == Counter()


def test_same_domain_shows_the_2012_condition_before_the_cure_and_not_after() -> None:
    assert set(facts_and_verdicts("same-domain", "override")[0]) == {Fact.LOCAL_ALIAS}
    assert facts_and_verdicts("same-domain", "local-foreign")[0] == Counter()


def test_ill_formed_has_every_fault() -> None:
    trace = make("ill-formed", events=20_000)
    facts = Counter(fact for segment in replay(trace, MODELS["local-foreign"])
                    for fact in segment.facts.fact.tolist())
    assert {Fact.DOUBLE_MAP, Fact.UNMAP_NOT_FOREIGN, Fact.LIST_CORRUPTION,
            Fact.KMAP_MISMATCH, Fact.ABORTED_CALL, Fact.NOT_BALLOONED, Fact.ENDED_IN_USE,
            Fact.HANDLE} <= set(facts)
    kinds = Counter(row["kind"] for row in rows(trace))
    assert kinds[Kind.SET_M2P] > 0 and kinds[Kind.SET_P2M] > 0
    assert len(FAULTS) == 12


@pytest.mark.parametrize("model", MODELS)
def test_faults_do_not_pile_up(model: str) -> None:
    # Each fault heals: the last quarter is no worse than twice the first.
    trace = make("ill-formed", events=40_000)
    result = np.concatenate([s.result for s in replay(trace, MODELS[model])])
    is_bad = (result != Result.OK) & (result != Result.NONE)
    first, last = is_bad[:10_000].mean(), is_bad[30_000:].mean()
    assert 0 < last < max(2 * first, 0.02)
    assert last < 0.1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"workload": "samedomain"}, "did you mean 'same-domain'"),
        ({"events": -1}, "0 or more"),
        ({"seed": -1}, "0 or more"),
        ({"seed": 1 << 64}, "below 2\\*\\*64"),
        ({"in_flight": 0}, "0 shares in flight: must be 1 to 1048576"),
        ({"in_flight": 1 << 23, "frames": 1 << 24}, "must be 1 to 1048576"),
        ({"frames": 1 << 40}, "64 to 2147483648"),
        ({"in_flight": 200}, "200 frames: with 200 shares in flight it must be 224"),
    ],
)
def test_numbers_that_cannot_be_honoured_are_refused(
    wrong: dict[str, int | str], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        make(**({"workload": "same-domain"} | wrong))


@given(st.integers(0, 1 << 40), st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_mixing_keeps_each_block_to_itself(first: int, block: int, seed: int) -> None:
    index = np.arange(first * block, first * block + 3 * block)
    result = mixed(Draws(seed), "x", index, block)
    assert sorted(result.tolist()) == index.tolist()
    assert np.array_equal(result // block, index // block)


@given(st.integers(1, 400), st.sampled_from(sorted(WELL_FORMED)), st.integers(0, 2**64 - 1))
@settings(max_examples=40, deadline=None)
def test_no_more_shares_than_asked_for_are_ever_live(
    in_flight: int, workload: str, seed: int
) -> None:
    trace = make(workload, events=4000, seed=seed, in_flight=in_flight,
                 frames=Rings.pages_for(in_flight))
    kind = trace.events().kind
    live = np.cumsum((kind == Kind.MAP).astype(int) - (kind == Kind.UNMAP))
    assert live.max() <= in_flight
    assert live[-1] == 0
