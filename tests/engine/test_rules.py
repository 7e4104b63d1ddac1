"""Maps and unmaps by the kernel's rules, each sentence on the smallest trace that shows it."""

from __future__ import annotations

import pytest

from tests.build import MEMORY, foreign, identity
from tests.engine.outcome import Outcome, outcome_of
from tests.engine.steps import (
    FRONTEND,
    LISTS,
    MARKS,
    MFN,
    P2M_ONLY,
    lookup,
    map_,
    set_p2m,
    unmap,
)
from xenm2p.engine.replay import Result, Side, Warn
from xenm2p.kernels import MODELS, bucket_of
from xenm2p.trace import INVALID, MAX_FRAME

TO_P2M_ONLY = [*LISTS, "p2m-only"]


def last_changes(outcome: Outcome) -> list[tuple[str, str, str]]:
    return outcome.changes(len(outcome.result) - 1)


def last_result(outcome: Outcome) -> Result:
    return outcome.results[-1]


# -- map ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_map_makes_the_backend_page_foreign(model: str) -> None:
    outcome = outcome_of([map_(mfn=0x90000)], model)
    assert outcome.results == [Result.OK]
    assert outcome.changes(0) == [("0x8000", "invalid", "F:0x90000")]


@pytest.mark.parametrize("model", MARKS)
def test_map_of_a_local_frame_marks_its_frontend(model: str) -> None:
    outcome = outcome_of([map_()], model)
    assert outcome.changes(0) == [
        ("0x8000", "invalid", "F:0x50010"), ("0x1010", "0x50010", "F:0x50010")]
    assert outcome.transitions.side.tolist() == [Side.BACKEND, Side.FRONTEND]


@pytest.mark.parametrize("model", ["override", *P2M_ONLY])
def test_map_of_a_local_frame_leaves_its_frontend(model: str) -> None:
    assert outcome_of([map_()], model).changes(0) == [("0x8000", "invalid", "F:0x50010")]


def test_without_user_kmap_only_neither_marks_nor_lists() -> None:
    outcome = outcome_of([map_(user=False), set_p2m(FRONTEND, INVALID), lookup()], "kmap-only")
    assert outcome.changes(0) == [("0x8000", "invalid", "F:0x50010")]
    assert outcome.resolved(2) is None


def test_without_user_local_foreign_marks_and_lists() -> None:
    outcome = outcome_of([map_(user=False), lookup()], "local-foreign")
    assert len(outcome.changes(0)) == 2
    assert outcome.resolved(1) == "0x8000"


@pytest.mark.parametrize("model", MARKS)
@pytest.mark.parametrize("entry", [0x50011, identity(MFN), foreign(MFN), INVALID])
def test_a_frontend_is_marked_only_if_it_holds_the_frame_exactly(
    model: str, entry: int
) -> None:
    outcome = outcome_of([set_p2m(FRONTEND, entry), map_()], model)
    assert outcome.changes(1) == [("0x8000", "invalid", "F:0x50010")]


@pytest.mark.parametrize("model", MARKS)
def test_a_frontend_is_marked_once_at_the_first_share(model: str) -> None:
    outcome = outcome_of([map_(), map_(0x8001), map_(0x8002)], model)
    assert [len(outcome.changes(event)) for event in range(3)] == [2, 1, 1]


@pytest.mark.parametrize("model", MARKS)
def test_a_page_that_maps_its_own_frame_changes_once(model: str) -> None:
    """x is the page itself, which by then holds F(mfn): nothing is left to mark."""
    outcome = outcome_of([map_(FRONTEND)], model)
    assert outcome.changes(0) == [("0x1010", "0x50010", "F:0x50010")]


def test_a_private_page_warns_and_is_mapped_all_the_same() -> None:
    # Only kmap-only can map a page twice, where the first map was without user.
    outcome = outcome_of([map_(user=False), map_(mfn=0x90000, user=False)], "kmap-only")
    assert outcome.warnings == [0, Warn.PAGE_PRIVATE]
    assert outcome.changes(1) == [("0x8000", "F:0x50010", "F:0x90000")]


@pytest.mark.parametrize("model", P2M_ONLY)
@pytest.mark.parametrize("entry", [0x60000, identity(0x8000), foreign(0x90000)])
def test_a_page_that_is_not_ballooned_warns(model: str, entry: int) -> None:
    outcome = outcome_of([set_p2m(0x8000, entry), map_(mfn=0x90001)], model)
    assert outcome.warnings == [0, Warn.NOT_BALLOONED]
    assert last_result(outcome) == Result.OK


@pytest.mark.parametrize("model", LISTS)
def test_the_old_models_do_not_ask_for_ballooned_pages(model: str) -> None:
    outcome = outcome_of([set_p2m(0x8000, 0x60000), map_(mfn=0x90001)], model)
    assert outcome.warnings == [0, 0]


@pytest.mark.parametrize("model", MODELS)
def test_a_failed_map_changes_nothing(model: str) -> None:
    outcome = outcome_of([map_(status=-1), unmap()], model)
    assert outcome.results == [Result.NONE, Result.EINVAL]
    assert len(outcome.transitions) == 0
    assert (outcome.counts.maps, outcome.counts.failed_maps) == (0, 1)


# -- unmap -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", LISTS)
@pytest.mark.parametrize(("held", "restored"), [
    (INVALID, "invalid"), (0x60000, "0x60000"), (identity(0x8000), "0x8000"),
    (foreign(0x90001), "0x90001")])
def test_unmap_restores_the_entry_without_its_bits(
    model: str, held: int, restored: str
) -> None:
    outcome = outcome_of([set_p2m(0x8000, held), map_(mfn=0x90000), unmap()], model)
    assert outcome.changes(2) == [("0x8000", "F:0x90000", restored)]


@pytest.mark.parametrize("model", P2M_ONLY)
def test_unmap_leaves_invalid_from_4_0_on(model: str) -> None:
    outcome = outcome_of([set_p2m(0x8000, 0x60000), map_(mfn=0x90000), unmap()], model)
    assert outcome.changes(2) == [("0x8000", "F:0x90000", "invalid")]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("entry", [INVALID, 0x60000, identity(0x8000)])
def test_unmap_of_what_is_not_foreign_is_einval(model: str, entry: int) -> None:
    outcome = outcome_of([set_p2m(0x8000, entry), unmap()], model)
    assert last_result(outcome) == Result.EINVAL
    assert last_changes(outcome) == []


@pytest.mark.parametrize("model", MARKS)
def test_the_mark_goes_with_the_last_share(model: str) -> None:
    outcome = outcome_of(
        [map_(), map_(0x8001), unmap(0x8000), unmap(0x8001)], model)
    assert outcome.changes(2) == [("0x8000", "F:0x50010", "invalid")]
    assert outcome.changes(3) == [
        ("0x8001", "F:0x50010", "invalid"), ("0x1010", "F:0x50010", "0x50010")]


@pytest.mark.parametrize("model", MARKS)
@pytest.mark.parametrize("entry", [MFN, INVALID, 0x60000, foreign(0x50011)])
def test_a_frontend_is_unmarked_only_if_it_holds_the_mark_exactly(
    model: str, entry: int
) -> None:
    outcome = outcome_of([map_(), set_p2m(FRONTEND, entry), unmap()], model)
    assert outcome.changes(2) == [("0x8000", "F:0x50010", "invalid")]


@pytest.mark.parametrize("model", MARKS)
def test_a_mark_that_no_share_set_is_cleared_by_the_last_unmap(model: str) -> None:
    outcome = outcome_of([map_(), unmap()], model,
                         memory=[*MEMORY, (FRONTEND, foreign(MFN), 1)])
    assert outcome.changes(0) == [("0x8000", "invalid", "F:0x50010")]
    assert outcome.changes(1) == [
        ("0x8000", "F:0x50010", "invalid"), ("0x1010", "F:0x50010", "0x50010")]


@pytest.mark.parametrize("model", MARKS)
def test_unmarking_uses_the_frame_of_the_entry_not_the_private_one(model: str) -> None:
    """The page's entry is rewritten to F of the other frame, which is the one unmarked."""
    outcome = outcome_of([
        map_(), set_p2m(0x8000, foreign(0x50011)), set_p2m(0x1011, foreign(0x50011)), unmap(),
    ], model)
    assert outcome.changes(3) == [
        ("0x8000", "F:0x50011", "invalid"), ("0x1011", "F:0x50011", "0x50011")]


def test_an_unmap_of_an_unlisted_page_with_the_flag_clear_warns() -> None:
    # Only kmap-only gets there: a share without user from before the trace.
    outcome = outcome_of([unmap(user=False)], "kmap-only",
                         memory=[*MEMORY, (0x8000, foreign(0x90000), 1)])
    assert outcome.results == [Result.OK]
    assert outcome.warnings == [Warn.NOT_PAGE_PRIVATE]
    assert outcome.changes(0) == [("0x8000", "F:0x90000", "0x0")]  # index is 0 at first


def test_index_is_not_reset_by_unmap() -> None:
    """The second unmap restores what the first map had saved."""
    outcome = outcome_of([
        set_p2m(0x8000, 0x60000), map_(mfn=0x90000, user=False), unmap(user=False),
        set_p2m(0x8000, foreign(0x90001)), unmap(user=False)], "kmap-only")
    assert outcome.changes(4) == [("0x8000", "F:0x90001", "0x60000")]


# -- lists -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", LISTS)
def test_a_listed_page_is_not_added_again(model: str) -> None:
    outcome = outcome_of([map_(), map_(mfn=0x90000)], model)
    assert last_result(outcome) == Result.SKIP_LIST
    assert last_changes(outcome) == []


@pytest.mark.parametrize("model", LISTS)
def test_an_unlisted_page_is_not_removed(model: str) -> None:
    outcome = outcome_of([unmap()], model, memory=[*MEMORY, (0x8000, foreign(0x90000), 1)])
    assert last_result(outcome) == Result.SKIP_LIST
    assert last_changes(outcome) == []


@pytest.mark.parametrize("model", LISTS)
def test_what_was_skipped_never_happened(model: str) -> None:
    """Neither private frame nor index are those of the skipped map."""
    outcome = outcome_of([map_(mfn=0x90000), map_(mfn=0x90001), lookup(0x90000), unmap()], model)
    assert outcome.resolved(2) == "0x8000"
    assert outcome.changes(3) == [("0x8000", "F:0x90000", "invalid")]
    assert outcome.warnings == [0, 0, 0, 0]


def test_kmap_only_maps_a_listed_page_again_without_user() -> None:
    """Its private frame is then another, so that the search finds it for neither."""
    outcome = outcome_of(
        [map_(mfn=0x90000), map_(mfn=0x90001, user=False), lookup(0x90000), lookup(0x90001)],
        "kmap-only")
    assert outcome.changes(1) == [("0x8000", "F:0x90000", "F:0x90001")]
    assert outcome.resolved(2) is None
    assert bucket_of(0x90000) != bucket_of(0x90001)
    assert outcome.resolved(3) is None


def test_a_page_in_the_bucket_of_its_new_frame_is_found() -> None:
    """The bucket stays the first frame's; a second frame of the same bucket is met there."""
    twin = next(mfn for mfn in range(0x90001, 0xA0000)
                if bucket_of(mfn) == bucket_of(0x90000))
    outcome = outcome_of(
        [map_(mfn=0x90000), map_(mfn=twin, user=False), lookup(twin)], "kmap-only")
    assert outcome.resolved(2) == "0x8000"


def test_kmap_only_leaves_a_page_listed_that_is_unmapped_without_user() -> None:
    outcome = outcome_of(
        [map_(), unmap(user=False), lookup(), map_(mfn=0x90000)], "kmap-only")
    assert outcome.results == [Result.OK, Result.OK, Result.NONE, Result.SKIP_LIST]
    assert outcome.changes(1) == [("0x8000", "F:0x50010", "invalid")]  # the mark stays
    assert outcome.resolved(2) is None  # its private frame is ~0


@pytest.mark.parametrize("is_user", [True, False])
def test_override_would_follow_a_wild_kmap_pointer(is_user: bool) -> None:
    outcome = outcome_of([map_(user=is_user), unmap(user=not is_user), unmap(user=is_user)],
                         "override")
    assert outcome.results == [Result.OK, Result.SKIP_KMAP, Result.OK]
    assert outcome.changes(1) == []


@pytest.mark.parametrize("model", ["local-foreign", *P2M_ONLY])
def test_other_models_do_not_mind_another_user(model: str) -> None:
    assert last_result(outcome_of([map_(), unmap(user=False)], model)) == Result.OK


# -- calls -------------------------------------------------------------------------------


CALL = [map_(0x8000), map_(0x8002), unmap(0x8000, call=7), unmap(0x8001, call=7),
        unmap(0x8002, call=7)]


@pytest.mark.parametrize("model", TO_P2M_ONLY)
def test_an_unmap_that_fails_ends_its_call(model: str) -> None:
    outcome = outcome_of(CALL, model)
    assert outcome.results[2:] == [Result.OK, Result.EINVAL, Result.ABORTED]
    assert outcome.changes(4) == []


def test_from_5_12_on_the_call_goes_on() -> None:
    outcome = outcome_of(CALL, "p2m-only-continue")
    assert outcome.results[2:] == [Result.OK, Result.EINVAL, Result.OK]
    assert outcome.changes(4) == [("0x8002", "F:0x50010", "invalid")]


@pytest.mark.parametrize("model", TO_P2M_ONLY)
def test_other_calls_go_on(model: str) -> None:
    outcome = outcome_of(
        [map_(0x8000), map_(0x8002), unmap(0x8001, call=7), unmap(0x8000, call=8),
         unmap(0x8002)], model)
    assert outcome.results[3:] == [Result.OK, Result.OK]


@pytest.mark.parametrize("model", TO_P2M_ONLY)
def test_unmaps_without_a_call_are_each_for_themselves(model: str) -> None:
    outcome = outcome_of([map_(), unmap(0x8001), unmap()], model)
    assert outcome.results[1:] == [Result.EINVAL, Result.OK]


@pytest.mark.parametrize("model", TO_P2M_ONLY)
def test_maps_of_a_call_that_ended_are_done(model: str) -> None:
    outcome = outcome_of([unmap(call=7), map_(call=7)], model)
    assert outcome.results == [Result.EINVAL, Result.OK]


@pytest.mark.parametrize("model", LISTS)
def test_what_is_skipped_does_not_end_its_call(model: str) -> None:
    """Left out as if never called: it did not fail either."""
    outcome = outcome_of(
        [map_(0x8001), unmap(0x8000, call=7), unmap(0x8001, call=7)], model,
        memory=[*MEMORY, (0x8000, foreign(0x90000), 1)])
    assert outcome.results == [Result.OK, Result.SKIP_LIST, Result.OK]


# -- the frame `invalid`, and frames of more than 52 bits --------------------------------


@pytest.mark.parametrize("model", ["override", "local-foreign"])
def test_an_invalid_frame_leaves_the_page_invalid(model: str) -> None:
    outcome = outcome_of([map_(mfn=INVALID), unmap()], model)
    assert outcome.results == [Result.OK, Result.EINVAL]  # F(~0) is INVALID, not foreign
    assert len(outcome.transitions) == 0


@pytest.mark.parametrize("model", ["kmap-only", *P2M_ONLY])
def test_from_3_15_on_an_invalid_frame_has_52_bits(model: str) -> None:
    outcome = outcome_of([map_(mfn=INVALID), unmap()], model)
    assert outcome.changes(0) == [("0x8000", "invalid", "F:0xfffffffffffff")]
    assert outcome.changes(1) == [("0x8000", "F:0xfffffffffffff", "invalid")]
    assert outcome.shares.mfn.tolist() == [MAX_FRAME]
