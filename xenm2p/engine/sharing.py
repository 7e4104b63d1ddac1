"""Sort a chunk's shares by frame: who is the first, the last, the newest of a frame.

For a plain frame (its frontend page is not mapped or written in the chunk) everything
follows from how many overrides are live: the frontend's entry is marked while there is
one, in the kernels that mark it. Most frames never have two at once; only those that do,
and those that are looked up, are followed event by event (`_follow`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.pairing import head_rows, sort_with_position
from xenm2p.engine.replay import NO_EVENT
from xenm2p.engine.tables import Slot, Tables
from xenm2p.kernels import KernelModel
from xenm2p.trace import FOREIGN

Mask = NDArray[np.bool_]


def _none() -> Slot:
    return np.zeros(0, np.int64)


def _no() -> Mask:
    return np.zeros(0, np.bool_)


@dataclass(slots=True)
class Writes:
    """Events that change, or ask for, the p2m entry of an active frame's frontend page.

    pos, frame (w,); `takes` says whether the entry is written, `plain` whether it then is
    the frame itself.
    """

    pos: Slot = field(default_factory=_none)
    frame: Slot = field(default_factory=_none)
    plain: Mask = field(default_factory=_no)
    takes: Mask = field(default_factory=_no)


@dataclass(slots=True)
class Overrides:
    """The listed shares that begin or end in a chunk.

    Begun in it, ordered by time: pos (a,), frame (a,) slot; `end` (n,) gives for the
    position of a map the position of its end, n if live after the chunk. From before it
    and ended in it: old_frame, old_end, old_event (o,). Looked up: query_pos and
    query_frame (q,), ordered by time, frame 0 for a frame that does not exist.
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


@dataclass(slots=True)
class Sharing:
    """What the overrides of a chunk did; positions are in the chunk.

    set_pos, set_frame: frontend entries marked. Un-marked are those of set_frame at
    set_end, unless that is `length` or later, and cleared_frame at cleared_pos.
    alias_pos: maps after which the frame resolves to its frontend page. multi_pos: maps
    that made two of one, with multi_other, the other's map event. entry_frame,
    entry_marked: frames whose frontend entry is to be written so after the chunk.
    For the queries: live overrides, newest one's map event (NO_EVENT), whether the frame
    is local, and the page slot of the frontend.
    """

    length: int
    set_pos: Slot = field(default_factory=_none)
    set_frame: Slot = field(default_factory=_none)
    set_end: Slot = field(default_factory=_none)
    cleared_pos: Slot = field(default_factory=_none)
    cleared_frame: Slot = field(default_factory=_none)
    alias_pos: Slot = field(default_factory=_none)
    alias_frame: Slot = field(default_factory=_none)
    multi_pos: Slot = field(default_factory=_none)
    multi_other: Slot = field(default_factory=_none)
    entry_frame: Slot = field(default_factory=_none)
    entry_marked: Mask = field(default_factory=_no)
    query_live: Slot = field(default_factory=_none)
    query_newest: Slot = field(default_factory=_none)
    query_local: Mask = field(default_factory=_no)

    def clears(self) -> int:
        """How many frontend entries were un-marked."""
        return int(np.count_nonzero(self.set_end < self.length)) + len(self.cleared_pos)

    def all_cleared(self) -> tuple[Slot, Slot]:
        """Positions and frames of all un-marked frontend entries, in no order."""
        ended = np.flatnonzero(self.set_end < self.length)
        return (np.concatenate([self.set_end.take(ended), self.cleared_pos]),
                np.concatenate([self.set_frame.take(ended), self.cleared_frame]))


def heads_of(values: Slot) -> Slot:
    """The first row of each run of equal `values`."""
    return np.flatnonzero(head_rows(values))


def share(
    tables: Tables, model: KernelModel, overrides: Overrides, first: int, length: int
) -> Sharing | None:
    """Follow the overrides of a chunk of `length` events that begins at event `first`.

    None where a frame's frontend entry is not what its overrides explain.
    """
    by_frame = sort_with_position(overrides.frame, overrides.pos)
    assert by_frame is not None, "slots fit into 47 bits"
    pos, frame = by_frame.pos, by_frame.values()
    end = overrides.end.take(pos)
    is_head = head_rows(by_frame.above)
    distinct, first_pos = _kept(is_head, frame, pos)
    overlaps = end[:-1] > pos[1:]
    overlaps &= ~is_head[1:]
    listed = tables.frames.column["listed"].take(distinct)
    followed = _followed(tables, overrides, frame[1:][overlaps], distinct, first_pos, listed)
    local = _local(tables, model, distinct, listed)
    old_local = _local(tables, model, overrides.old_frame)
    query_local = _local(tables, model, overrides.query_frame)
    if local is None or old_local is None or query_local is None:
        return None
    if len(distinct) < len(frame) and not local.all():
        heads = np.flatnonzero(is_head)
        local = np.repeat(local, np.diff(heads, append=len(frame)))
    elif len(distinct) < len(frame):
        local = np.ones(len(frame), np.bool_)
    old_end, old_frame = overrides.old_end, overrides.old_frame
    if len(followed):
        is_followed = np.zeros(tables.frames.used, np.bool_)
        is_followed[followed] = True
        local &= ~is_followed.take(frame)
        old_local &= ~is_followed.take(old_frame)
    frame, pos, end = _kept(local, frame, pos, end)
    made = Sharing(length, query_local=query_local)
    if model.marks_frontend:
        made.set_pos, made.set_frame, made.set_end = pos, frame, end
        made.cleared_pos, made.cleared_frame = _kept(old_local, old_end, old_frame)
        live = np.flatnonzero(end >= length)
        made.entry_frame = np.concatenate([made.cleared_frame, frame.take(live)])
        made.entry_marked = np.repeat([False, True], [len(made.cleared_frame), len(live)])
    else:
        made.alias_pos, made.alias_frame = pos, frame
    if len(followed) and not _follow(tables, model, overrides, made, is_followed, first):
        return None
    return made


def _kept(where: Mask, *columns: Slot) -> tuple[Slot, ...]:
    """The rows of `columns` that are in `where`: mostly all, and then nothing is copied."""
    if where.all():
        return columns
    return tuple(column.compress(where) for column in columns)


def _local(
    tables: Tables, model: KernelModel, frames: Slot, listed: Slot | None = None
) -> Mask | None:
    """Which frames have a local frontend page; None where its entry is not as it should be.

    Local means p2m[m2p[mfn]] is mfn, or F(mfn) while an override is live and marks it.
    `listed` are the live overrides of each frame, found here if None.
    """
    if not len(frames):
        return _no()
    column = tables.frames.column
    entry = tables.pages.column["p2m"].take(column["page"].take(frames))
    mfn = column["mfn"].take(frames)
    plain = entry == mfn
    mfn |= np.uint64(FOREIGN)
    marked = entry == mfn
    if model.marks_frontend:
        expected = (column["listed"].take(frames) if listed is None else listed) > 0
    else:
        expected = np.zeros(len(frames), np.bool_)
    if (marked & ~expected).any() or (plain & expected).any():
        return None
    local: Mask = plain | marked
    local[frames == 0] = False
    return local


def frontends_are_plain(tables: Tables, model: KernelModel, frames: Slot) -> bool:
    """Whether each frame's frontend entry is what the live overrides explain."""
    return _local(tables, model, frames) is not None


def _followed(
    tables: Tables, overrides: Overrides, overlapping: Slot, distinct: Slot, first_pos: Slot,
    live: Slot,
) -> Slot:
    """The frames that need following: two live overrides at once, or looked up.

    distinct (f,) frames get overrides in the chunk, at `first_pos` the first, when `live`
    ones were there before it.
    """
    found = [overlapping, overrides.query_frame, overrides.writes.frame]
    listed = tables.frames.column["listed"]
    old_frames, ended = np.unique(overrides.old_frame, return_counts=True)
    found.append(old_frames[listed.take(old_frames) > 1])
    busy = np.flatnonzero(live > 0)
    if len(busy):
        latest = np.zeros(len(old_frames) + 1, np.int64)
        np.maximum.at(latest, np.searchsorted(old_frames, overrides.old_frame),
                      overrides.old_end)
        at = np.minimum(np.searchsorted(old_frames, distinct[busy]), max(len(old_frames) - 1, 0))
        known = old_frames[at] == distinct[busy] if len(old_frames) else np.zeros(len(busy), bool)
        gone = known & (ended[at] == live[busy]) if len(old_frames) else known
        found.append(distinct[busy[~(gone & (latest[at] < first_pos[busy]))]])
    followed = np.concatenate(found)
    return np.unique(followed[followed > 0]) if len(followed) else followed


def _follow(
    tables: Tables, model: KernelModel, overrides: Overrides, made: Sharing,
    is_followed: Mask, first: int,
) -> bool:
    """Go through the followed frames' overrides and lookups in order, and add to `made`.

    False where a frontend entry is written while an override of its frame is live.
    """
    length = len(overrides.end)
    begun = np.flatnonzero(is_followed.take(overrides.frame))
    pos, frame = overrides.pos[begun], overrides.frame[begun]
    end = overrides.end[pos]
    over = np.flatnonzero(end < length)
    old = np.flatnonzero(is_followed.take(overrides.old_frame))
    asked = np.flatnonzero(is_followed.take(overrides.query_frame))
    writes = overrides.writes
    sizes = [len(begun), len(over), len(old), len(asked), len(writes.pos)]
    row_frame = np.concatenate([frame, frame[over], overrides.old_frame[old],
                                overrides.query_frame[asked], writes.frame])
    row_pos = np.concatenate([pos, end[over], overrides.old_end[old],
                              overrides.query_pos[asked], writes.pos])
    event = np.concatenate([pos + first, pos[over] + first, overrides.old_event[old],
                            np.zeros(sum(sizes[3:]), np.int64)])
    change = np.repeat(np.array([1, -1, -1, 0, 0]), sizes)
    query = np.concatenate([np.full(sum(sizes[:3]), -1), asked, np.full(len(writes.pos), -1)])
    write = np.concatenate([np.full(sum(sizes[:4]), -1), np.arange(len(writes.pos))])
    order = np.lexsort((row_pos, row_frame))
    row_frame, row_pos, event = row_frame[order], row_pos[order], event[order]
    change, query, write = change[order], query[order], write[order]
    heads = heads_of(row_frame)
    distinct = row_frame[heads]
    group = np.zeros(len(row_frame), np.int64)
    group[heads[1:]] = 1
    group = np.cumsum(group)
    live_pages = _live_overrides(tables, is_followed)
    live_event = tables.pages.column["map_event"][live_pages]
    live_group = np.searchsorted(distinct, tables.pages.column["frame"][live_pages])
    kept = (live_group < len(distinct)) & (
        distinct[np.minimum(live_group, len(distinct) - 1)]
        == tables.pages.column["frame"][live_pages])
    live_pages, live_event, live_group = live_pages[kept], live_event[kept], live_group[kept]

    count = np.cumsum(change)
    before_group = np.concatenate([[0], count[heads[1:] - 1]])
    count += (tables.frames.column["listed"][distinct] - before_group)[group]
    first_xor = np.zeros(len(distinct), np.int64)
    np.bitwise_xor.at(first_xor, live_group, live_event)
    xor = np.bitwise_xor.accumulate(np.where(change != 0, event, 0))
    xor_before = np.concatenate([[0], xor[heads[1:] - 1]])
    xor = xor ^ (first_xor ^ xor_before)[group]

    local = _local(tables, model, distinct)
    if local is None:
        return False
    row_local = local[group]
    if len(writes.pos):
        at = write >= 0
        twice = (row_frame[1:] == row_frame[:-1]) & (row_pos[1:] == row_pos[:-1])
        if (at & (count != 0)).any() or (twice & (change[1:] != change[:-1])).any():
            return False
        taken = at & writes.takes.take(write, mode="wrap")
        last = np.maximum.accumulate(np.where(taken, np.arange(len(at)), -1))
        here = last >= heads[group]
        row_local = np.where(here, writes.plain.take(write.take(last), mode="wrap"), row_local)
    added, removed = change > 0, change < 0
    made.multi_pos = row_pos[added & (count == 2)]
    made.multi_other = (xor ^ event)[added & (count == 2)]
    if model.marks_frontend:
        sets = added & (count == 1) & row_local
        clears = removed & (count == 0) & row_local
        made.set_pos = np.concatenate([made.set_pos, row_pos[sets]])
        made.set_end = np.concatenate([
            made.set_end, np.full(len(made.set_pos) - len(made.set_end), length)])
        made.set_frame = np.concatenate([made.set_frame, row_frame[sets]])
        made.cleared_pos = np.concatenate([made.cleared_pos, row_pos[clears]])
        made.cleared_frame = np.concatenate([made.cleared_frame, row_frame[clears]])
        tails = np.append(heads[1:] - 1, len(row_frame) - 1)
        # Where the page itself was written and no override is live, its own entry stands.
        marked = count[tails] > 0
        kept = row_local[tails] & (marked | ~np.isin(distinct, writes.frame[writes.takes]))
        made.entry_frame = np.concatenate([made.entry_frame, distinct[kept]])
        made.entry_marked = np.concatenate([made.entry_marked, marked[kept]])
    else:
        aliases = added & row_local
        made.alias_pos = np.concatenate([made.alias_pos, row_pos[aliases]])
        made.alias_frame = np.concatenate([made.alias_frame, row_frame[aliases]])
    if not len(asked):
        return True
    made.query_live = np.zeros(len(overrides.query_pos), np.int64)
    made.query_newest = np.full(len(overrides.query_pos), NO_EVENT)
    looks = np.flatnonzero(query >= 0)
    at = query[looks]
    made.query_local[at] = row_local[looks]
    made.query_live[at] = count[looks]
    single = count[looks] == 1
    made.query_newest[at[single]] = xor[looks[single]]
    many = looks[count[looks] > 1]
    if len(many):
        still = np.full(len(live_event), length)
        ended_at = np.argsort(overrides.old_event)
        place = np.searchsorted(overrides.old_event[ended_at], live_event)
        place = np.minimum(place, max(len(ended_at) - 1, 0))
        if len(ended_at):
            hit = overrides.old_event[ended_at][place] == live_event
            still[hit] = overrides.old_end[ended_at][place[hit]]
        made.query_newest[query[many]] = _newest(
            np.concatenate([live_group, group[added]]),
            np.concatenate([live_event, event[added]]),
            np.concatenate([still, overrides.end[row_pos[added]]]),
            group[many], row_pos[many], first)
    return True


def _live_overrides(tables: Tables, is_followed: Mask) -> Slot:
    column = tables.pages.column
    live = tables.live()
    live = live[column["listed"][live]]
    followed: Slot = live[is_followed.take(column["frame"][live])]
    return followed


def _newest(
    group: Slot, event: Slot, end: Slot, asked_group: Slot, asked_pos: Slot, first: int
) -> Slot:
    """The newest share of each asked group that lives at the asked position."""
    order = np.lexsort((event, group))
    group, event, end = group[order], event[order], end[order]
    low, top = int(event.min()), int(event.max())
    span = top - low + 2
    asked_event = np.minimum(asked_pos + first, top + 1)
    at = np.searchsorted(group * span + event - low, asked_group * span + asked_event - low) - 1
    while True:
        dead = np.flatnonzero(end[at] <= asked_pos)
        if not len(dead):
            break
        at[dead] -= 1
    newest: Slot = event.take(at)
    return newest
