"""The vector engine gives what the reference gives, on every trace."""

from __future__ import annotations

from functools import cache
from itertools import zip_longest
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.build import in_chunks, trace_of
from tests.engine.histories import SEEN_WRITES, histories, history, well_formed_histories
from tests.engine.outcome import Outcome
from tests.strategies import traces
from xenm2p.engine import reference, vector
from xenm2p.engine.replay import Fact, Options, Verdict
from xenm2p.kernels import MODELS, OVERRIDE, KernelModel
from xenm2p.trace import INVALID, Trace

models = st.sampled_from([*MODELS.values()])
chunks = st.sampled_from([1, 2, 3, 7, 50, 1000])
options = st.builds(Options, assume_dio=st.booleans(), judge_writes=st.booleans(),
                    details=st.booleans())
# Down to how few events a chunk is cut before it is left to the rules.
shortest = st.sampled_from([1, 5, vector.SHORTEST])
quickly = settings(deadline=None, max_examples=150,
                   suppress_health_check=[HealthCheck.too_slow])


def first_differences(got: Outcome, wanted: Outcome) -> dict[str, Any]:
    """For each table that is not the same, the first (row number, got, wanted)."""
    tables = {}
    ours, theirs = got.rows(), wanted.rows()
    for name in theirs:
        pairs = enumerate(zip_longest(ours[name], theirs[name]))
        for row, (mine, yours) in pairs:
            if mine != yours:
                tables[name] = (row, mine, yours)
                break
    return tables


def assert_same(trace: Trace, model: KernelModel, how: Options, chunk: int, cut: int) -> None:
    wanted = Outcome.of(reference.replay(trace, model, how), model)
    with mock.patch.object(vector, "SHORTEST", cut):
        got = Outcome.of(vector.replay(trace, model, how, chunk=chunk), model)
    assert first_differences(got, wanted) == {}


@quickly
@given(histories(), models, options, chunks, shortest)
def test_histories(
    trace: Trace, model: KernelModel, how: Options, chunk: int, cut: int
) -> None:
    assert_same(trace, model, how, chunk, cut)


@quickly
@given(well_formed_histories(200), models, options, chunks, shortest)
def test_well_formed_histories(
    trace: Trace, model: KernelModel, how: Options, chunk: int, cut: int
) -> None:
    assert_same(trace, model, how, chunk, cut)


@quickly
@given(traces(), models, options, chunks, shortest)
def test_wild_traces(
    trace: Trace, model: KernelModel, how: Options, chunk: int, cut: int
) -> None:
    assert_same(trace, model, how, chunk, cut)


@settings(quickly, max_examples=50)
@given(histories(), models, options, st.sampled_from([1, 2, 5, 20]))
def test_the_reference_hangs_on_no_chunk_size(
    trace: Trace, model: KernelModel, how: Options, chunk: int
) -> None:
    whole = Outcome.of(reference.replay(trace, model, how), model)
    pieces = Outcome.of(reference.replay(in_chunks(trace, chunk), model, how), model)
    assert first_differences(pieces, whole) == {}


@quickly
@given(well_formed_histories(100), models, st.sampled_from([7, 50, 1000]))
def test_a_well_formed_history_never_needs_the_rules(
    trace: Trace, model: KernelModel, chunk: int
) -> None:
    with mock.patch.object(vector, "replay_chunk") as replay_by_the_rules:
        Outcome.of(vector.replay(trace, model, chunk=chunk), model)
    assert not replay_by_the_rules.called


# Under a model that marks, the machine would have to write the frontend's entries too.
@pytest.mark.parametrize("model", [m for m in MODELS.values() if not m.marks_frontend])
@settings(quickly, max_examples=30)
@given(trace=well_formed_histories(100, kinds=[SEEN_WRITES]))
def test_seen_writes_that_agree_never_need_the_rules(trace: Trace, model: KernelModel) -> None:
    with mock.patch.object(vector, "replay_chunk") as replay_by_the_rules:
        Outcome.of(vector.replay(trace, model, chunk=50), model)
    assert not replay_by_the_rules.called


@cache
def facts_and_verdicts_of_histories() -> set[Fact | Verdict]:
    """What a few hundred of them show, by the reference."""
    seen: set[Fact | Verdict] = set()
    for seed in range(400):
        model = [*MODELS.values()][seed % len(MODELS)]
        outcome = Outcome.of(reference.replay(history(seed, [True] * 60), model), model)
        seen.update(map(Fact, outcome.facts.fact.tolist()), outcome.verdicts)
    return seen


@pytest.mark.parametrize("shown", [*Fact, *Verdict], ids=lambda shown: shown.name)
def test_histories_show_everything(shown: Fact | Verdict) -> None:
    assert shown in facts_and_verdicts_of_histories()


def test_the_reads_of_two_pages_in_one_chunk_are_told_apart():
    """A read was lost where the pages' numbers and their slots are not in the same order."""
    trace = trace_of([
        {"kind": "map", "pfn": 0x8005, "mfn": 0x50001, "user": True},
        {"kind": "lock_page", "pfn": 0x1001, "task": "mount-1"},
        {"kind": "dio_read", "pfn": 0x8005, "task": "qemu-2"},
        {"kind": "dio_read", "pfn": 0x8004, "task": "qemu-3"},
    ])
    wanted = Outcome.of(reference.replay(trace, OVERRIDE), OVERRIDE)
    got = Outcome.of(vector.replay(trace, OVERRIDE, chunk=2), OVERRIDE)
    assert first_differences(got, wanted) == {}
    assert wanted.rows()["collisions"]


@pytest.mark.parametrize("chunk", [1, 2, 4, 6])
def test_m2p_comes_back_to_a_page_left_marked_while_a_kernel_backend_shares_it(
    chunk: int
) -> None:
    """The share's end leaves the mark (XM201), though m2p was elsewhere when it began."""
    trace = trace_of([
        {"kind": "map", "mfn": 0x50010, "pfn": 0x8000, "user": True},
        {"kind": "set_m2p", "mfn": 0x50010, "pfn": 0x1020},
        {"kind": "unmap", "pfn": 0x8000, "user": True},
        {"kind": "map", "mfn": 0x50010, "pfn": 0x8001},
        {"kind": "set_m2p", "mfn": 0x50010, "pfn": 0x1010},
        {"kind": "unmap", "pfn": 0x8001},
    ])
    for model in MODELS.values():
        assert_same(trace, model, Options(), chunk, 1)
    assert_same(history(707, [True] * 120), MODELS["kmap-only"], Options(), 1000, 1)


@pytest.mark.parametrize("chunk", [2, 100])
def test_m2p_leaves_a_page_twice_and_comes_back_in_one_chunk(chunk: int) -> None:
    """The page was taken for marked as it was before the chunk, and so not marked again."""
    trace = trace_of([
        {"kind": "map", "mfn": 0x50010, "pfn": 0x8000, "user": True},
        {"kind": "set_m2p", "mfn": 0x50010, "pfn": 0x1020},
        {"kind": "set_m2p", "mfn": 0x50010, "pfn": 0x1010},
        {"kind": "unmap", "pfn": 0x8000, "user": True},
        {"kind": "set_m2p", "mfn": 0x50010, "pfn": 0x1020},
        {"kind": "set_m2p", "mfn": 0x50010, "pfn": 0x1010},
        {"kind": "map", "mfn": 0x50010, "pfn": 0x8001, "user": True},
    ])
    for model in MODELS.values():
        assert_same(trace, model, Options(), chunk, 1)
    assert_same(history(100749, [True] * 240), MODELS["kmap-only"], Options(), 1000, 1)


def assert_same_without_the_rules(trace: Trace, model: KernelModel, chunk: int) -> Outcome:
    """Gives what both engines say."""
    wanted = Outcome.of(reference.replay(trace, model), model)
    with mock.patch.object(vector, "replay_chunk") as replay_by_the_rules:
        got = Outcome.of(vector.replay(trace, model, chunk=chunk), model)
    assert not replay_by_the_rules.called
    assert first_differences(got, wanted) == {}
    return wanted


KMAP_MIXED = {
    "listed pages outlive their shares": [
        {"kind": "map", "mfn": 0x50001, "pfn": 0x8000, "user": True},
        {"kind": "unmap", "pfn": 0x8000},
        {"kind": "map", "mfn": 0x50002, "pfn": 0x8000, "user": True},
        {"kind": "map", "mfn": 0x50002, "pfn": 0x8000},
        {"kind": "lookup", "mfn": 0x50001},
        {"kind": "unmap", "pfn": 0x8000, "user": True},
        {"kind": "map", "mfn": 0x50001, "pfn": 0x8001, "user": True},
        {"kind": "unmap", "pfn": 0x8001, "user": True},
    ],
    "a page is found for the frame that listed it once": [
        {"kind": "map", "mfn": 0x50001, "pfn": 0x8000, "user": True},
        {"kind": "unmap", "pfn": 0x8000},
        {"kind": "map", "mfn": 0x50001, "pfn": 0x8000},
        {"kind": "lookup", "mfn": 0x50001},
        {"kind": "map", "mfn": 0x50001, "pfn": 0x8001, "user": True},
        {"kind": "lookup", "mfn": 0x50001},
        {"kind": "unmap", "pfn": 0x8001, "user": True},
        {"kind": "lookup", "mfn": 0x50001},
        {"kind": "unmap", "pfn": 0x8000},
        {"kind": "lookup", "mfn": 0x50001},
    ],
    "direct I/O on a kernel backend's share": [
        {"kind": "map", "mfn": 0x50001, "pfn": 0x8000, "user": True},
        {"kind": "map", "mfn": 0x50001, "pfn": 0x8001},
        {"kind": "dio_read", "pfn": 0x8001, "task": "qemu-1"},
        {"kind": "unmap", "pfn": 0x8000, "user": True},
        {"kind": "dio_read", "pfn": 0x8001, "task": "qemu-1"},
        {"kind": "unmap", "pfn": 0x8001},
        {"kind": "map", "mfn": 0x50002, "pfn": 0x8002, "user": True},
        {"kind": "unmap", "pfn": 0x8002},
    ],
    "shares replaced by another": [
        {"kind": "map", "mfn": 0x50001, "pfn": 0x8000, "user": True},
        {"kind": "map", "mfn": 0x50002, "pfn": 0x8000},
        {"kind": "map", "mfn": 0x50003, "pfn": 0x8001},
        {"kind": "map", "mfn": 0x50004, "pfn": 0x8001, "user": True},
        {"kind": "unmap", "pfn": 0x8001, "user": True},
        {"kind": "unmap", "pfn": 0x8000, "user": True},
        {"kind": "map", "mfn": 0x50001, "pfn": 0x8000},
        {"kind": "unmap", "pfn": 0x8000},
    ],
}


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("name", KMAP_MIXED)
def test_kmap_ops_that_come_and_go_never_need_the_rules(name: str, chunk: int) -> None:
    """A page that stayed listed once sent every chunk after it to the rules."""
    trace, model = trace_of(KMAP_MIXED[name]), MODELS["kmap-only"]
    wanted = assert_same_without_the_rules(trace, model, chunk)
    assert Fact.STUCK_FOREIGN in wanted.facts.fact


# Name: seed, number of events, model, events in a chunk.
FOUND_BY_SEED = {
    "a frontend page is unmapped while a kernel backend's share resolves":
        (801921, 240, "kmap-only", 1000),
    "m2p comes back to a marked page that is un-marked before the chunk is over":
        (407966, 240, "local-foreign", 7),
    "a frontend marked anew while an older share lives, its lock taken after":
        (402808, 240, "local-foreign", 1000),
    "m2p comes to a page that a failed unmap has left a share on":
        (501938, 240, "kmap-only", 1000),
    "the rules take a listed share's mark over, another share living on":
        (401763, 240, "kmap-only", 1000),
    "a page on the list of the invalid frame is unmapped and stays there":
        (507100, 240, "kmap-only", 1000),
    "set_p2m marks a page by hand": (200250, 120, "kmap-only", 1000),
    "set_p2m marks a page that a share is live on": (403557, 240, "kmap-only", 1000),
}


@pytest.mark.parametrize("name", FOUND_BY_SEED)
def test_histories_that_were_once_told_apart(name: str) -> None:
    seed, length, model, chunk = FOUND_BY_SEED[name]
    for kept in range(length // 4, length + 1, length // 4):
        for cut in (1, 5):
            assert_same(history(seed, [True] * kept), MODELS[model], Options(), chunk, cut)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_a_share_that_lost_its_entry_never_needs_the_rules(
    model: KernelModel, chunk: int
) -> None:
    """set_p2m on a mapped page leaves the share without a way to be unmapped."""
    trace = trace_of([
        {"kind": "map", "mfn": 0x90001, "pfn": 0x8000, "user": True},
        {"kind": "set_p2m", "pfn": 0x8000, "mfn": 0x60000},
        {"kind": "gup_fast", "pfn": 0x8000},
        {"kind": "unmap", "pfn": 0x8000, "user": True, "call": 1},
        {"kind": "unmap", "pfn": 0x8001, "user": True, "call": 1},
        {"kind": "dio_read", "pfn": 0x8000, "task": "qemu-1"},
        {"kind": "map", "mfn": 0x90002, "pfn": 0x8000},
        {"kind": "map", "mfn": 0x90003, "pfn": 0x8000, "user": True},
        {"kind": "set_p2m", "pfn": 0x8000, "mfn": INVALID},
        {"kind": "unmap", "pfn": 0x8000, "user": True},
        {"kind": "map", "mfn": 0x90004, "pfn": 0x8000},
        {"kind": "unmap", "pfn": 0x8000},
    ])
    assert_same_without_the_rules(trace, model, chunk)


def test_m2p_goes_from_a_shares_own_page_to_another_plain_one() -> None:
    """The share becomes an alias (XM203), though its frame's entry was plain before as well."""
    trace = trace_of([
        {"kind": "set_m2p", "mfn": 0x50000, "pfn": 0x8000},
        {"kind": "map", "mfn": 0x50000, "pfn": 0x8000, "user": True},
        {"kind": "set_p2m", "pfn": 0x8000, "mfn": 0x50000},
        {"kind": "set_m2p", "mfn": 0x50000, "pfn": 0x1000},
    ])
    for model in MODELS.values():
        for chunk in (1, 3, 4):
            assert_same(trace, model, Options(), chunk, 1)
