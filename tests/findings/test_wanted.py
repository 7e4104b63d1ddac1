"""A finding as a user names it."""

from __future__ import annotations

import io

import pytest

from tests.cli.conftest import DEADLOCK
from xenm2p.engine import vector
from xenm2p.errors import UsageError
from xenm2p.findings import findings_of
from xenm2p.findings.wanted import Wanted
from xenm2p.formats.yaml import read_yaml
from xenm2p.kernels import OVERRIDE


@pytest.mark.parametrize("text", ["XM101", "xm101", "lock-collision", "Lock-Collision"])
def test_a_rule_goes_by_id_or_name(text: str) -> None:
    wanted = Wanted.of(text)
    assert (wanted.rule.id, wanted.event) == ("XM101", None)


def test_an_event_may_follow() -> None:
    assert str(Wanted.of("lock-collision@17")) == "XM101@17"


@pytest.mark.parametrize("text", ["XM999", "lock-colision", "", "XM101@", "XM101@x", "@3"])
def test_anything_else_is_refused_with_the_nearest(text: str) -> None:
    with pytest.raises(UsageError, match="unknown finding") as caught:
        Wanted.of(text)
    if text == "lock-colision":
        assert "did you mean 'lock-collision'" in str(caught.value)


@pytest.mark.parametrize(
    ("event", "is_proof"), [(0, True), (1, True), (2, True), (3, True), (4, False)])
def test_an_event_chooses_what_it_proves(event: int, is_proof: bool) -> None:
    trace = read_yaml(io.BytesIO(DEADLOCK.encode()), "t")
    rows = [len(Wanted.of(f"XM101@{event}").rows(findings_of(segment, OVERRIDE)))
            for segment in vector.replay(trace, OVERRIDE)]
    assert (sum(rows) == 1) is is_proof
