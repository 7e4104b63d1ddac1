"""What mfn_to_pfn answers, and what plain writes do: the kernel's rules, sentence by sentence."""

from __future__ import annotations

import pytest

from tests.build import MEMORY, foreign, identity
from tests.engine.outcome import outcome_of
from tests.engine.steps import (
    FRONTEND,
    LISTS,
    MARKS,
    MFN,
    P2M_ONLY,
    lookup,
    map_,
    set_m2p,
    set_p2m,
    unmap,
)
from xenm2p.engine.replay import Result, Side
from xenm2p.kernels import MODELS, bucket_of
from xenm2p.trace import FOREIGN, INVALID

# -- lookup ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_an_owner_that_holds_the_frame_is_the_answer(model: str) -> None:
    outcome = outcome_of([lookup()], model)
    assert outcome.resolved(0) == "0x1010"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("entry", [INVALID, foreign(MFN), identity(MFN), 0x50011])
def test_an_owner_that_does_not_hold_it_exactly_is_not(model: str, entry: int) -> None:
    outcome = outcome_of([set_p2m(FRONTEND, entry), lookup()], model)
    assert outcome.resolved(1) is None


def test_override_answers_the_frontend_of_a_local_frame() -> None:
    """The condition of 2012."""
    assert outcome_of([map_(), lookup()], "override").resolved(1) == "0x1010"


@pytest.mark.parametrize("model", MARKS)
def test_the_mark_lets_the_override_answer(model: str) -> None:
    assert outcome_of([map_(), lookup()], model).resolved(1) == "0x8000"


@pytest.mark.parametrize("model", P2M_ONLY)
def test_without_overrides_a_foreign_frame_has_no_page(model: str) -> None:
    assert outcome_of([map_(mfn=0x90000), lookup(0x90000)], model).resolved(1) is None


@pytest.mark.parametrize("model", LISTS)
def test_the_search_finds_the_newest_share(model: str) -> None:
    outcome = outcome_of([
        map_(0x8000, 0x90000), map_(0x8001, 0x90000), lookup(0x90000),
        unmap(0x8001), lookup(0x90000), unmap(0x8000), lookup(0x90000)], model)
    assert [outcome.resolved(event) for event in (2, 4, 6)] == ["0x8001", "0x8000", None]


@pytest.mark.parametrize("model", LISTS)
def test_frames_of_one_bucket_are_told_apart(model: str) -> None:
    twin = next(mfn for mfn in range(0x90001, 0xA0000)
                if bucket_of(mfn) == bucket_of(0x90000))
    outcome = outcome_of(
        [map_(0x8000, 0x90000), map_(0x8001, twin), lookup(0x90000), lookup(twin)], model)
    assert [outcome.resolved(event) for event in (2, 3)] == ["0x8000", "0x8001"]


@pytest.mark.parametrize("model", MODELS)
def test_an_identity_frame_is_its_own_page(model: str) -> None:
    outcome = outcome_of([lookup(0xF0000)], model,
                         memory=[*MEMORY, (0xF0000, identity(0xF0000), 4)])
    assert outcome.resolved(0) == "0xf0000"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("entry", [0xF0000, identity(0xF0001), foreign(0xF0000), INVALID])
def test_any_other_entry_is_no_identity(model: str, entry: int) -> None:
    outcome = outcome_of([set_p2m(0xF0000, entry), lookup(0xF0000)], model)
    assert outcome.resolved(1) is None


@pytest.mark.parametrize("model", LISTS)
def test_an_override_comes_before_identity(model: str) -> None:
    outcome = outcome_of([map_(mfn=0xF0000), lookup(0xF0000)], model,
                         memory=[*MEMORY, (0xF0000, identity(0xF0000), 1)])
    assert outcome.resolved(1) == "0x8000"


@pytest.mark.parametrize("model", MODELS)
def test_the_invalid_frame_has_no_page(model: str) -> None:
    assert outcome_of([lookup(INVALID)], model).resolved(0) is None


# -- writes ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("entry", "text"), [
    (0x60000, "0x60000"), (foreign(0x90000), "F:0x90000"), (identity(0x8000), "I:0x8000")])
def test_set_p2m_writes_that_entry_and_nothing_else(model: str, entry: int, text: str) -> None:
    outcome = outcome_of([set_p2m(0x8000, entry)], model)
    assert outcome.changes(0) == [("0x8000", "invalid", text)]
    assert outcome.transitions.side.tolist() == [Side.WRITE]
    assert outcome.results == [Result.NONE]


@pytest.mark.parametrize("model", MODELS)
def test_set_p2m_of_the_same_entry_is_no_change(model: str) -> None:
    assert len(outcome_of([set_p2m(FRONTEND, MFN)], model).transitions) == 0


@pytest.mark.parametrize("model", MARKS)
def test_set_p2m_ends_no_share_and_takes_no_page_off_its_list(model: str) -> None:
    outcome = outcome_of([map_(mfn=0x90000), set_p2m(0x8000, INVALID), lookup(0x90000)], model)
    assert outcome.resolved(2) == "0x8000"
    assert outcome.shares.end_event.tolist() == [-1]


@pytest.mark.parametrize("model", MODELS)
def test_set_p2m_names_no_owner(model: str) -> None:
    """p2m[0x8000] = 0x70000 leaves m2p[0x70000] as it was."""
    assert outcome_of([set_p2m(0x8000, 0x70000), lookup(0x70000)], model).resolved(1) is None


@pytest.mark.parametrize("model", MODELS)
def test_set_m2p_names_an_owner_and_changes_no_p2m_entry(model: str) -> None:
    outcome = outcome_of(
        [set_p2m(0x8000, 0x70000), set_m2p(0x70000, 0x8000), lookup(0x70000),
         set_m2p(0x70000, INVALID), lookup(0x70000)], model)
    assert outcome.changes(1) == outcome.changes(3) == []
    assert [outcome.resolved(event) for event in (2, 4)] == ["0x8000", None]


@pytest.mark.parametrize("model", MARKS)
def test_a_share_that_got_its_owner_late_is_unmarked_by_nobody(model: str) -> None:
    outcome = outcome_of(
        [map_(mfn=0x90000), set_p2m(FRONTEND, 0x90000), set_m2p(0x90000, FRONTEND), unmap()],
        model)
    assert outcome.changes(3) == [("0x8000", "F:0x90000", "invalid")]


@pytest.mark.parametrize("model", MODELS)
def test_a_write_seen_on_the_machine_is_not_applied(model: str) -> None:
    outcome = outcome_of(
        [{"kind": "p2m_write", "pfn": 0x8000, "mfn": 0x90000 | FOREIGN}, unmap()], model)
    assert outcome.results == [Result.NONE, Result.EINVAL]
    assert len(outcome.transitions) == 0
