"""After an event only the shares of some frames are looked at again; it misses none."""

from __future__ import annotations

from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.histories import histories
from tests.engine.outcome import Outcome as WhatIsSeen
from tests.strategies import traces
from xenm2p.engine import observe, reference
from xenm2p.engine.replay import Options
from xenm2p.engine.rules import Event, Machine, Outcome
from xenm2p.kernels import MODELS, KernelModel
from xenm2p.trace import Trace


def frames_of_all_shares(machine: Machine, event: Event, did: Outcome) -> set[int]:
    return {share.mfn for share in machine.shares.values()}


@settings(deadline=None, max_examples=100)
@given(histories(80) | traces(), st.sampled_from([*MODELS.values()]), st.booleans())
def test_looking_at_every_share_after_every_event_shows_no_more(
    trace: Trace, model: KernelModel, assume_dio: bool
) -> None:
    options = Options(assume_dio=assume_dio)
    shown = WhatIsSeen.of(reference.replay(trace, model, options), model).rows()
    with mock.patch.object(observe, "frames_affected", frames_of_all_shares):
        everything = WhatIsSeen.of(reference.replay(trace, model, options), model).rows()
    assert shown == everything
