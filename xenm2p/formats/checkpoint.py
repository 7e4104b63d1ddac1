"""Checkpoints: the earlier events that still matter at some event of a trace."""

from __future__ import annotations

import numpy as np

from xenm2p.trace import I64, Events, Trace


class Condenser:
    """Keeps all events."""

    def __init__(self, header: Trace):
        self._numbers: list[I64] = []
        self._parts: list[Events] = []

    def feed(self, first_event: int, events: Events) -> None:
        self._numbers.append(np.arange(first_event, first_event + len(events), dtype=np.int64))
        self._parts.append(events)

    def live(self) -> tuple[I64, Events]:
        return np.concatenate([np.empty(0, np.int64), *self._numbers]), Events.concat(self._parts)
