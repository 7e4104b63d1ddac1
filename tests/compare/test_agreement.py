"""Model against machine: writes that the model makes too, and which model explains them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from tests.build import foreign, trace_of
from tests.engine.histories import histories
from xenm2p.compare.agreement import JUDGING, Agreement, agreement_of, choose
from xenm2p.engine import reference, vector
from xenm2p.kernels import (
    KMAP_ONLY,
    LOCAL_FOREIGN,
    MODELS,
    OVERRIDE,
    P2M_ONLY,
    P2M_ONLY_CONTINUE,
    KernelModel,
)
from xenm2p.trace import INVALID, Trace

PAGE, FRONTEND, FRAME = 0x8000, 0x1010, 0x50010
Row = dict[str, Any]

MAP = {"kind": "map", "pfn": PAGE, "mfn": FRAME, "call": 1}
UNMAP = {"kind": "unmap", "pfn": PAGE, "call": 2}


def write(entry: int, pfn: int = PAGE) -> Row:
    """A p2m write seen on the machine."""
    return {"kind": "p2m_write", "pfn": pfn, "mfn": entry}


def found(rows: list[Row], model: KernelModel, keep: int = 5) -> Agreement:
    """The agreement of some events with a model."""
    return agreed(trace_of(rows), model, keep)


def agreed(trace: Trace, model: KernelModel, keep: int = 5) -> Agreement:
    """The agreement of a trace with a model, by the vector engine."""
    return agreement_of(
        trace, model, lambda trace, model: vector.replay(trace, model, JUDGING), keep=keep)


# What a machine writes that marks its frontend page (3.5-3.14), and one that does not.
MARKED = [MAP, write(foreign(FRAME)), write(foreign(FRAME), FRONTEND),
          UNMAP, write(INVALID), write(FRAME, FRONTEND)]
UNMARKED = [MAP, write(foreign(FRAME)), UNMAP, write(INVALID)]


def test_every_write_is_the_models() -> None:
    one = found(MARKED, LOCAL_FOREIGN)
    assert (one.agreed, one.unexplained, one.unwritten) == (4, 0, 0)
    assert (one.writes, one.misses, one.percent()) == (4, 0, "100.00")
    assert len(one.first) == 0


def test_writes_that_the_model_does_not_make() -> None:
    one = found(MARKED, P2M_ONLY)
    # The last write gives the frontend page the entry that this model never changed.
    assert (one.agreed, one.unexplained, one.unwritten) == (3, 1, 0)
    assert one.first.pfn.tolist() == [FRONTEND]
    assert one.percent() == "75.00"


def test_changes_that_the_machine_never_wrote() -> None:
    again = [row | {"call": row["call"] + 2} if "call" in row else row for row in UNMARKED]
    one = found(UNMARKED + again, LOCAL_FOREIGN)
    assert one.agreed == 4
    assert one.unwritten >= 2
    assert set(one.first.pfn.tolist()) == {FRONTEND}


def test_misses_around_a_loss_are_unsure() -> None:
    lost = {"kind": "lost", "cpu": 0, "count": 3}
    one = found([*UNMARKED, lost, write(foreign(0x51))], P2M_ONLY)
    assert (one.unexplained, one.unsure) == (1, 1)


def test_only_the_first_misses_are_kept() -> None:
    rows = [write(foreign(frame)) for frame in range(1, 9)]
    assert len(found(rows, P2M_ONLY, keep=3).first) == 3
    assert found(rows, P2M_ONLY, keep=3).unexplained == 8


def test_a_hundred_percent_is_never_rounded_up_to() -> None:
    none = found([], P2M_ONLY).first
    assert Agreement(P2M_ONLY, 999_999, 1, 0, 0, none).percent() == "99.99"
    assert Agreement(P2M_ONLY, 0, 1, 0, 0, none).percent() == "0.00"
    assert Agreement(P2M_ONLY, 0, 0, 0, 0, none).percent() == "100.00"


def chosen(rows: list[Row], traced: KernelModel | None = None) -> tuple[str, str]:
    """The model that explains the writes, and why."""
    choice = choose([found(rows, model) for model in MODELS.values()], traced)
    assert choice is not None
    return choice.model.name, choice.why


def test_the_writes_choose_a_model_whatever_the_trace_says() -> None:
    name, why = chosen(MARKED, OVERRIDE)
    assert name == "local-foreign"
    assert why == ("it explains 4 of 4 p2m writes, more than override, which the trace names")


def test_of_equals_the_traced_kernels_own() -> None:
    name, why = chosen(UNMARKED, P2M_ONLY)
    assert name == "p2m-only"
    assert why.endswith("it is the traced kernel's own")


def test_of_equals_the_newest_where_no_kernel_is_known() -> None:
    name, why = chosen(UNMARKED)
    assert name == "p2m-only-continue"
    assert why.endswith(
        "of equals (override, local-foreign, kmap-only, p2m-only) it is the newest")


def test_nothing_chooses_without_writes() -> None:
    assert choose([found([MAP, UNMAP], model) for model in MODELS.values()], KMAP_ONLY) is None


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=20, deadline=None)
@given(trace=histories())
def test_both_engines_agree_on_the_agreement(name: str, trace: Trace) -> None:
    model = MODELS[name]
    by_reference = agreement_of(
        trace, model, lambda trace, model: reference.replay(trace, model, JUDGING), keep=9)
    by_vector = agreed(trace, model, keep=9)
    for column in ("agreed", "unexplained", "unwritten", "unsure"):
        assert getattr(by_reference, column) == getattr(by_vector, column)
    assert by_reference.first.event.tolist() == by_vector.first.event.tolist()


def test_the_kernel_of_a_replay_explains_its_own_writes_best() -> None:
    assert chosen(MARKED)[0] == "local-foreign"
    assert chosen(MARKED, P2M_ONLY_CONTINUE)[0] == "local-foreign"
