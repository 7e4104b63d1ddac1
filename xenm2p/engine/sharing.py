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

    pos, frame, page (w,): where, of which frame, and the frontend page slot, for `moves`
    the one that m2p names from then on. `takes` says whether the entry is another one
    after it, `plain` whether it then is the frame itself, `marked` whether F(frame).
    """

    pos: Slot = field(default_factory=_none)
    frame: Slot = field(default_factory=_none)
    page: Slot = field(default_factory=_none)
    plain: Mask = field(default_factory=_no)
    takes: Mask = field(default_factory=_no)
    moves: Mask = field(default_factory=_no)
    marked: Mask = field(default_factory=_no)


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
    alias_frame: Slot = field(default_factory=_none)
    multi_pos: Slot = field(default_factory=_none)
    multi_other: Slot = field(default_factory=_none)
    entry_frame: Slot = field(default_factory=_none)
    entry_marked: Mask = field(default_factory=_no)
    query_newest: Slot = field(default_factory=_none)
    query_local: Mask = field(default_factory=_no)
    query_marked: Mask = field(default_factory=_no)
    # Frontend entries that change while overrides are live. bare_pos, bare_frame: writes
    # after which the frame resolves to its frontend page, bared_pos the maps and bared_page
    # the older shares' pages of the aliases that this makes; over_pos: events of the page that
    # overwrite a mark, over_newest the newest override's map event then; left: pages that
    # m2p leaves marked, as (page slot, frame slot, position), frame -1 where it came back.
    is_hot: bool = False
    bare_pos: Slot = field(default_factory=_none)
    bare_frame: Slot = field(default_factory=_none)
    bared_pos: Slot = field(default_factory=_none)
    bared_page: Slot = field(default_factory=_none)
    over_pos: Slot = field(default_factory=_none)
    over_newest: Slot = field(default_factory=_none)
    left: list[tuple[int, int, int]] = field(default_factory=list)

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
    local, weird = _local(tables, model, distinct, listed)
    old_local, old_weird = _local(tables, model, overrides.old_frame)
    unexplained = np.concatenate([distinct[weird], overrides.old_frame[old_weird]])
    if len(unexplained):
        if not model.marks_frontend:
            return None
        followed = np.union1d(followed, unexplained)
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
    made = Sharing(length)
    _ask_quiet(tables, overrides, made)
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
) -> tuple[Mask, Mask]:
    """Which frames have a local frontend page, and which have an entry not as it should be.

    Local means p2m[m2p[mfn]] is mfn, or F(mfn) while an override is live and marks it.
    `listed` are the live overrides of each frame, found here if None.
    """
    if not len(frames):
        return _no(), _no()
    plain, marked = _entries(tables, frames)
    if model.marks_frontend:
        expected = (tables.frames.column["listed"].take(frames) if listed is None else listed) > 0
    else:
        expected = np.zeros(len(frames), np.bool_)
    weird: Mask = (marked & ~expected) | (plain & expected)
    return plain | marked, weird


def _entries(tables: Tables, frames: Slot) -> tuple[Mask, Mask]:
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


def frontends_are_plain(tables: Tables, model: KernelModel, frames: Slot) -> bool:
    """Whether each frame's frontend entry is what the live overrides explain."""
    return not _local(tables, model, frames)[1].any()


def _followed(
    tables: Tables, overrides: Overrides, overlapping: Slot, distinct: Slot, first_pos: Slot,
    live: Slot,
) -> Slot:
    """The frames that need following: two live overrides at once, or looked up.

    distinct (f,) frames get overrides in the chunk, at `first_pos` the first, when `live`
    ones were there before it.
    """
    found = [overlapping, _busy(tables, overrides), overrides.writes.frame]
    listed = tables.frames.column["listed"]
    found.append(overrides.old_frame[listed.take(overrides.old_frame) > 1])
    busy = np.flatnonzero(live > 0)
    if len(busy):
        old_frames, ended = np.unique(overrides.old_frame, return_counts=True)
        latest = np.zeros(len(old_frames) + 1, np.int64)
        np.maximum.at(latest, np.searchsorted(old_frames, overrides.old_frame),
                      overrides.old_end)
        at = np.minimum(np.searchsorted(old_frames, distinct[busy]), max(len(old_frames) - 1, 0))
        known = old_frames[at] == distinct[busy] if len(old_frames) else np.zeros(len(busy), bool)
        gone = known & (ended[at] == live[busy]) if len(old_frames) else known
        found.append(distinct[busy[~(gone & (latest[at] < first_pos[busy]))]])
    followed = np.concatenate(found)
    return np.unique(followed[followed > 0]) if len(followed) else followed


def _busy(tables: Tables, overrides: Overrides) -> Slot:
    """The frames that are looked up, and get or lose an override or a frontend here."""
    if not len(overrides.query_frame):
        return overrides.query_frame
    is_busy = np.zeros(tables.frames.used, np.bool_)
    for frames in (overrides.frame, overrides.old_frame, overrides.writes.frame):
        is_busy[frames] = True
    return overrides.query_frame.compress(is_busy.take(overrides.query_frame))


def _ask_quiet(tables: Tables, overrides: Overrides, made: Sharing) -> None:
    """Answer the queries as if nothing happened to their frames before them in the chunk."""
    asked = overrides.query_frame
    if not len(asked):
        return
    column = tables.pages.column
    live = tables.live()
    live = live.compress(column["listed"].take(live))
    newest = np.full(tables.frames.used, NO_EVENT)
    np.maximum.at(newest, column["frame"].take(live), column["map_event"].take(live))
    made.query_newest = newest.take(asked)
    plain, made.query_marked = _entries(tables, asked)
    made.query_local = plain | made.query_marked


def _follow(
    tables: Tables, model: KernelModel, overrides: Overrides, made: Sharing,
    is_followed: Mask, first: int,
) -> bool:
    """Go through the followed frames' overrides and lookups in order, and add to `made`.

    False where an event does two things at once to a frame, or asks a marked entry.
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
    by_both = sort_with_position((row_frame << 17) | row_pos)
    order = np.lexsort((row_pos, row_frame)) if by_both is None else by_both.pos
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

    plain, marked = _entries(tables, distinct)
    if not model.marks_frontend and marked.any():
        return False
    is_write = write >= 0
    twice = (row_frame[1:] == row_frame[:-1]) & (row_pos[1:] == row_pos[:-1])
    if (twice & (is_write[1:] | is_write[:-1])).any():
        return False
    first_state = np.where(marked, _MARKED, np.where(plain, _PLAIN, _OTHER))
    states = _states(model, writes, heads, group, first_state, change, count, write)
    before, after = states
    hot = is_write & (count != 0)
    made.is_hot = bool(hot.any())
    moved = hot & writes.moves.take(write, mode="wrap") if len(writes.pos) else hot
    if model.marks_frontend and moved.any():
        for at in np.unique(group[moved]).tolist():
            stop = heads[at + 1] if at + 1 < len(heads) else len(group)
            rows = slice(int(heads[at]), int(stop))
            page = int(tables.frames.column["page"][distinct[at]])
            made.left += _move(
                writes, rows, int(first_state[at]), page, int(distinct[at]), change, count,
                write, row_pos, before, after)
    if (is_write & (before == _MARKED) & ~writes.takes.take(write, mode="wrap")).any() if (
        len(writes.pos)) else False:
        return False
    added, removed = change > 0, change < 0
    made.multi_pos = row_pos[added & (count == 2)]
    made.multi_other = (xor ^ event)[added & (count == 2)]
    bare = hot & (after == _PLAIN) & (before != _PLAIN)
    made.bare_pos, made.bare_frame = row_pos[bare], row_frame[bare]
    if model.marks_frontend:
        sets = (before == _PLAIN) & (after == _MARKED) & added
        clears = (before == _MARKED) & (after == _PLAIN) & removed
        made.set_pos = np.concatenate([made.set_pos, row_pos[sets]])
        made.set_end = np.concatenate([
            made.set_end, np.full(len(made.set_pos) - len(made.set_end), length)])
        made.set_frame = np.concatenate([made.set_frame, row_frame[sets]])
        made.cleared_pos = np.concatenate([made.cleared_pos, row_pos[clears]])
        made.cleared_frame = np.concatenate([made.cleared_frame, row_frame[clears]])
        tails = np.append(heads[1:] - 1, len(row_frame) - 1)
        # Where the page itself was written and there is no mark, its own entry stands.
        last = after[tails]
        kept = (last == _MARKED) | (
            (last == _PLAIN) & ~np.isin(distinct, writes.frame[writes.takes]))
        made.entry_frame = np.concatenate([made.entry_frame, distinct[kept]])
        made.entry_marked = np.concatenate([made.entry_marked, last[kept] == _MARKED])
    else:
        aliases = added & (after == _PLAIN)
        made.alias_pos = np.concatenate([made.alias_pos, row_pos[aliases]])
        made.alias_frame = np.concatenate([made.alias_frame, row_frame[aliases]])
    overwritten = is_write & (before == _MARKED) & ~moves_of(writes, write)
    newest = _newest_at(
        overrides, np.flatnonzero(overwritten | (query >= 0)), live_group, live_event, group,
        event, added, count, xor, row_pos, first)
    made.over_pos, made.over_newest = row_pos[overwritten], newest[overwritten]
    looks = np.flatnonzero(query >= 0)
    at = query[looks]
    made.query_local[at] = after[looks] != _OTHER
    made.query_marked[at] = after[looks] == _MARKED
    made.query_newest[at] = newest[looks]
    return True


# What a frontend entry is to its frame: something else, the frame, or the frame with F.
_OTHER, _PLAIN, _MARKED = 0, 1, 2


def moves_of(writes: Writes, write: Slot) -> Mask:
    """Which rows are m2p changes; `write` gives the index into `writes`, -1 for other rows."""
    if not len(writes.pos):
        return np.zeros(len(write), np.bool_)
    return (write >= 0) & writes.moves.take(write, mode="wrap")


def _states(
    model: KernelModel, writes: Writes, heads: Slot, group: Slot, first_state: Slot,
    change: Slot, count: Slot, write: Slot,
) -> tuple[Slot, Slot]:
    """The state of each row's frontend entry before and after it.

    A write makes it plain or other; a begun override marks a plain one, the end of the
    last un-marks it, and neither does anything to an entry that is not the frame's own.
    """
    rows = np.arange(len(group))
    takes = np.zeros(len(group), np.bool_)
    plain = marked = takes
    if len(writes.pos):
        takes = (write >= 0) & writes.takes.take(write, mode="wrap")
        marked = takes & writes.marked.take(write, mode="wrap")
        plain = takes & writes.plain.take(write, mode="wrap") | marked
    sets = takes
    if model.marks_frontend:
        sets = takes | (change > 0) | ((change < 0) & (count == 0))
    last_write = np.maximum.accumulate(np.where(takes, rows, -1))
    last_set = np.maximum.accumulate(np.where(sets, rows, -1))
    start = heads[group]
    written = last_write >= start
    local = np.where(written, plain.take(last_write), first_state[group] != _OTHER)
    marks = np.where(last_set >= start, (change.take(last_set) > 0) | marked.take(last_set),
                     first_state[group] == _MARKED)
    after = np.where(local, np.where(marks, _MARKED, _PLAIN), _OTHER)
    before = np.empty_like(after)
    before[1:] = after[:-1]
    before[heads] = first_state
    return before, after


def _move(
    writes: Writes, rows: slice, state: int, page: int, frame: int, change: Slot, count: Slot,
    write: Slot, pos: Slot, before: Slot, after: Slot,
) -> list[tuple[int, int, int]]:
    """Follow one frame whose m2p entry changes while it has overrides, row by row.

    An entry that m2p leaves keeps its mark. Fills in `before` and `after`, and gives the
    pages left marked: (page slot, frame slot, position); frame -1 where m2p came back.
    """
    left: dict[int, int] = {}
    returned: list[tuple[int, int, int]] = []
    for row in range(rows.start, rows.stop):
        before[row] = state
        at = int(write[row])
        if change[row] > 0 and state == _PLAIN:
            state = _MARKED
        elif change[row] < 0 and count[row] == 0 and state == _MARKED:
            state = _PLAIN
        elif at >= 0 and writes.takes[at]:
            if writes.moves[at]:
                if state == _MARKED:
                    left[page] = int(pos[row])
                page = int(writes.page[at])
            state = _PLAIN if writes.plain[at] else _MARKED if writes.marked[at] else _OTHER
            if writes.moves[at] and page in left:
                returned.append((page, -1, left.pop(page)))
                state = _MARKED
        after[row] = state
    return returned + [(page, frame, at) for page, at in left.items()]


def _newest_at(
    overrides: Overrides, rows: Slot, live_group: Slot, live_event: Slot, group: Slot,
    event: Slot, added: Mask, count: Slot, xor: Slot, row_pos: Slot, first: int,
) -> Slot:
    """The map event of the newest live override at each of `rows`, NO_EVENT elsewhere."""
    length = len(overrides.end)
    newest = np.full(len(group), NO_EVENT)
    single = rows[count[rows] == 1]
    newest[single] = xor[single]
    many = rows[count[rows] > 1]
    if not len(many):
        return newest
    still = np.full(len(live_event), length)
    by_event = np.argsort(overrides.old_event)
    if len(by_event):
        place = np.searchsorted(overrides.old_event[by_event], live_event)
        place = np.minimum(place, len(by_event) - 1)
        hit = overrides.old_event[by_event][place] == live_event
        still[hit] = overrides.old_end[by_event][place[hit]]
    newest[many] = _newest(
        np.concatenate([live_group, group[added]]),
        np.concatenate([live_event, event[added]]),
        np.concatenate([still, overrides.end[row_pos[added]]]),
        group[many], row_pos[many], first)
    return newest


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
