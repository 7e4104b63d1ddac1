"""Two replays of one trace in step: the same differences as of the whole outcomes."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build import in_chunks
from tests.engine.histories import histories
from tests.engine.outcome import Outcome, rows_of
from xenm2p.compare.outcomes import Comparison, Step, two_of
from xenm2p.engine import reference, vector
from xenm2p.engine.replay import Options, Table
from xenm2p.kernels import MODELS, KernelModel
from xenm2p.trace import Trace

models = st.sampled_from([*MODELS.values()])
quickly = settings(deadline=None, max_examples=60)
OPTIONS = Options(assume_dio=True, judge_writes=False)


def steps_of(trace: Trace, a: KernelModel, b: KernelModel, chunk: int) -> list[Step]:
    one, other = two_of(in_chunks(trace, chunk))
    with mock.patch.object(vector, "SHORTEST", 3):
        return list(Comparison.of(a, b).steps(
            vector.replay(one, a, OPTIONS), vector.replay(other, b, OPTIONS)))


def only(steps: list[Step], table: str) -> tuple[list[object], list[object]]:
    """The rows of a table that only A and only B have, changed ones among both."""
    sides: tuple[list[object], list[object]] = ([], [])
    for step in steps:
        matched = getattr(step, table)
        for side, segment, alone, both in (
                (sides[0], step.a, matched.only_a, matched.both_a),
                (sides[1], step.b, matched.only_b, matched.both_b)):
            rows: Table = getattr(segment, table)
            side += chain(rows_of(rows.rows(alone)), rows_of(rows.rows(both)))
    return sides


@quickly
@given(histories(), models, models, st.sampled_from([1, 4, 30, 1000]))
def test_transitions_are_those_of_the_whole(
    trace: Trace, a: KernelModel, b: KernelModel, chunk: int
) -> None:
    found = only(steps_of(trace, a, b, chunk), "transitions")
    whole = [Counter(rows_of(Outcome.of(reference.replay(trace, model, OPTIONS), model)
                             .transitions)) for model in (a, b)]
    assert (Counter(found[0]), Counter(found[1])) == (whole[0] - whole[1], whole[1] - whole[0])


@quickly
@given(histories(), models, models, st.sampled_from([1, 4, 30]))
def test_findings_hang_on_no_chunk_size(
    trace: Trace, a: KernelModel, b: KernelModel, chunk: int
) -> None:
    def findings(size: int) -> list[Counter[object]]:
        found: list[Counter[object]] = [Counter(), Counter(), Counter()]
        for step in steps_of(trace, a, b, size):
            for count, table, rows in zip(
                    found, (step.findings_a, step.findings_b, step.findings_a),
                    (step.findings.only_a, step.findings.only_b, step.findings.both_a),
                    strict=True):
                count.update(row[:6] for row in rows_of(table.rows(rows)))
        return found

    assert findings(chunk) == findings(1000)


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
@quickly
@given(trace=histories(), chunk=st.sampled_from([1, 7, 1000]))
def test_one_model_twice_is_the_same(trace: Trace, chunk: int, model: KernelModel) -> None:
    for step in steps_of(trace, model, model, chunk):
        assert step.first_event is None
