"""The overrides of a chunk, and what they do: the words between the steps by frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xenm2p.engine.order import Mask
from xenm2p.engine.tables import Slot, Tables
from xenm2p.trace import FOREIGN


def _none() -> Slot:
    return np.zeros(0, np.int64)


def no_mask() -> Mask:
    """A mask of nothing."""
    return np.zeros(0, np.bool_)


@dataclass(slots=True)
class Writes:
    """Events that change, or ask for, the p2m entry of an active frame's frontend page.

    pos, frame, page (w,): where, of which frame, and the frontend page slot, for `moves`
    the one that m2p names from then on. `takes` says whether the entry is another one
    after it, `plain` whether it then is the frame itself, with or without F,
    `marked` whether F(frame).
    """

    pos: Slot = field(default_factory=_none)
    frame: Slot = field(default_factory=_none)
    page: Slot = field(default_factory=_none)
    plain: Mask = field(default_factory=no_mask)
    takes: Mask = field(default_factory=no_mask)
    moves: Mask = field(default_factory=no_mask)
    marked: Mask = field(default_factory=no_mask)


@dataclass(frozen=True, slots=True)
class Left:
    """A marked page slot that m2p names for `frame` no more, since `pos`; until `back`.

    `back` is the length of the chunk where m2p did not come back to it, `frame` 0 for a page
    that was left before the chunk.
    """

    page: int
    frame: int
    pos: int
    back: int


@dataclass(slots=True)
class Ends:
    """Ends of shares, listed or not, of frames whose mark may outlive their overrides.

    pos, frame, row (k,): where, the frame's slot, the row of the pairs. `was_listed` says
    that the share was, `unmarks` that its end un-marks the frontend of a frame that has no
    override then.
    """

    pos: Slot = field(default_factory=_none)
    frame: Slot = field(default_factory=_none)
    row: Slot = field(default_factory=_none)
    was_listed: Mask = field(default_factory=no_mask)
    unmarks: Mask = field(default_factory=no_mask)


@dataclass(slots=True)
class Strays:
    """Shares, not listed, of pages that the search finds for their frame all the same: (x,).

    frame slot, the positions at which the share begins (-1: before the chunk) and ends, the
    event that put the page on its list, which orders the list, and the share's map event.
    """

    frame: Slot = field(default_factory=_none)
    begin: Slot = field(default_factory=_none)
    end: Slot = field(default_factory=_none)
    listed_at: Slot = field(default_factory=_none)
    map_event: Slot = field(default_factory=_none)


@dataclass(slots=True)
class Overrides:
    """The listed shares that begin or end in a chunk.

    Begun in it, ordered by time: pos (a,), frame (a,) slot; `end` (n,) gives for the
    position of a map the position of its end, n if live after the chunk. From before it
    and ended in it: old_frame, old_end, old_event (o,). Looked up: query_pos and
    query_frame (q,), ordered by time, frame 0 for a frame that does not exist. An end that is
    not among `ends` un-marks. watched (h,) are frames with shares that are not listed and
    resolve all the same.
    """

    pos: Slot
    frame: Slot
    end: Slot
    old_frame: Slot
    old_end: Slot
    old_event: Slot
    query_pos: Slot = field(default_factory=_none)
    query_frame: Slot = field(default_factory=_none)
    writes: Writes = field(default_factory=Writes)
    ends: Ends = field(default_factory=Ends)
    watched: Slot = field(default_factory=_none)
    strays: Strays = field(default_factory=Strays)


@dataclass(slots=True)
class Sharing:
    """What the overrides of a chunk did; positions are in the chunk.

    set_pos, set_frame: frontend entries marked. Un-marked are those of set_frame at
    set_end, unless that is `length` or later, and cleared_frame at cleared_pos.
    alias_pos: maps after which the frame resolves to its frontend page. multi_pos: maps
    that made two of one, with multi_other, the other's map event. entry_frame,
    entry_marked: frames whose frontend entry is to be written so after the chunk.
    left_marked (k,): whether the frontend entry is marked after each of `Overrides.ends`.
    For the queries: the newest live override's map event, NO_EVENT for none, whether the
    frontend entry is the frame's own, and whether it is marked.
    """

    length: int
    set_pos: Slot = field(default_factory=_none)
    set_frame: Slot = field(default_factory=_none)
    set_end: Slot = field(default_factory=_none)
    cleared_pos: Slot = field(default_factory=_none)
    cleared_frame: Slot = field(default_factory=_none)
    alias_pos: Slot = field(default_factory=_none)
    multi_pos: Slot = field(default_factory=_none)
    multi_other: Slot = field(default_factory=_none)
    entry_frame: Slot = field(default_factory=_none)
    entry_marked: Mask = field(default_factory=no_mask)
    left_marked: Mask = field(default_factory=no_mask)
    query_newest: Slot = field(default_factory=_none)
    query_local: Mask = field(default_factory=no_mask)
    query_marked: Mask = field(default_factory=no_mask)
    # Frontend entries that change while overrides are live. bare_pos, bare_frame: writes
    # after which the frame resolves to its frontend page, bared_pos the maps and bared_page
    # the older shares' pages of the aliases that this makes; over_pos: events of the page that
    # overwrite a mark, over_newest the newest override's map event then; left: pages that
    # m2p leaves marked; overwritten: those, and older ones, that were written since.
    is_hot: bool = False
    bare_pos: Slot = field(default_factory=_none)
    bare_frame: Slot = field(default_factory=_none)
    bared_pos: Slot = field(default_factory=_none)
    bared_page: Slot = field(default_factory=_none)
    over_pos: Slot = field(default_factory=_none)
    over_newest: Slot = field(default_factory=_none)
    left: list[Left] = field(default_factory=list)
    overwritten: list[int] = field(default_factory=list)

    def clears(self) -> int:
        """How many frontend entries were un-marked."""
        return int(np.count_nonzero(self.set_end < self.length)) + len(self.cleared_pos)

    def all_cleared(self) -> tuple[Slot, Slot]:
        """Positions and frames of all un-marked frontend entries, in no order."""
        ended = np.flatnonzero(self.set_end < self.length)
        return (np.concatenate([self.set_end.take(ended), self.cleared_pos]),
                np.concatenate([self.set_frame.take(ended), self.cleared_frame]))


def frontend_entries(tables: Tables, frames: Slot) -> tuple[Mask, Mask]:
    """Of which frames the frontend entry is the frame, and of which it is marked."""
    column = tables.frames.column
    entry = tables.pages.column["p2m"].take(column["page"].take(frames))
    mfn = column["mfn"].take(frames)
    plain: Mask = entry == mfn
    mfn |= np.uint64(FOREIGN)
    marked: Mask = entry == mfn
    if not frames.all():
        plain &= frames > 0
        marked &= frames > 0
    return plain, marked
