"""What one story is about: some pages, frames and events, and all rows that concern them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xenm2p.compare.closure import touches
from xenm2p.engine.replay import Segment
from xenm2p.report.selection import Selection
from xenm2p.trace import I64, U64

Mask = NDArray[np.bool_]


def _no_frames() -> U64:
    return np.zeros(0, np.uint64)


@dataclass(slots=True)
class Involved(Selection):
    """Chooses the events on any of `on_pages` or `of_frames`, those that change their
    entries, and the events `numbers`; and the p2m changes of these events."""

    on_pages: U64 = field(default_factory=_no_frames)
    of_frames: U64 = field(default_factory=_no_frames)
    numbers: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def everything(self) -> bool:
        """Never: a story is about something."""
        return False

    def events(self, segment: Segment) -> Mask:
        """The events of the story."""
        first, count = segment.first_event, len(segment.events)
        chosen = touches(segment.events, self.on_pages, self.of_frames)
        changed = segment.transitions.event[np.isin(segment.transitions.pfn, self.on_pages)]
        asked = segment.resolutions.event[np.isin(segment.resolutions.mfn, self.of_frames)]
        for events in (self.numbers, changed, asked):
            here = events[(events >= first) & (events < first + count)]
            chosen[here - first] = True
        return chosen

    def transitions(self, segment: Segment) -> Mask:
        """The changes that the events of the story made."""
        if not len(segment.transitions):
            return np.zeros(0, np.bool_)
        chosen = self.events(segment)
        return chosen[segment.transitions.event - segment.first_event]
