"""Go through the overrides and lookups of some frames in order: those that have two at
once, that are looked up while they change, or whose frontend entry is written.
"""

from __future__ import annotations

import numpy as np

from xenm2p.engine.overrides import (
    Mask,
    Overrides,
    Sharing,
    Writes,
    frontend_entries,
    heads_of,
)
from xenm2p.engine.pairing import sort_with_position
from xenm2p.engine.replay import NO_EVENT
from xenm2p.engine.tables import Slot, Tables
from xenm2p.kernels import KernelModel

# What a frontend entry is to its frame: something else, the frame, or the frame with F.
_OTHER, _PLAIN, _MARKED = 0, 1, 2


def follow(
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

    plain, marked = frontend_entries(tables, distinct)
    if not model.marks_frontend and marked.any():
        return False
    is_write = write >= 0
    twice = (row_frame[1:] == row_frame[:-1]) & (row_pos[1:] == row_pos[:-1])
    if (twice & (is_write[1:] | is_write[:-1])).any():
        return False
    first_state = np.where(marked, _MARKED, np.where(plain, _PLAIN, _OTHER))
    before, after = _states(model, writes, heads, group, first_state, change, count, write)
    hot = is_write & (count != 0)
    made.is_hot = bool(hot.any())
    moves = _of_writes(writes.moves, write)
    moved = hot & moves
    if model.marks_frontend and moved.any():
        for at in np.unique(group[moved]).tolist():
            stop = heads[at + 1] if at + 1 < len(heads) else len(group)
            rows = slice(int(heads[at]), int(stop))
            page = int(tables.frames.column["page"][distinct[at]])
            made.left += _move(
                writes, rows, int(first_state[at]), page, int(distinct[at]), change, count,
                write, row_pos, before, after)
    on_mark = is_write & (before == _MARKED)
    if (on_mark & ~_of_writes(writes.takes, write)).any():
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
    overwritten = on_mark & ~moves
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


def _of_writes(column: Mask, write: Slot) -> Mask:
    """A column of the writes for each row: `write` is the index into it, -1 for other rows."""
    if not len(column):
        return np.zeros(len(write), np.bool_)
    return (write >= 0) & column.take(write, mode="wrap")


def _states(
    model: KernelModel, writes: Writes, heads: Slot, group: Slot, first_state: Slot,
    change: Slot, count: Slot, write: Slot,
) -> tuple[Slot, Slot]:
    """The state of each row's frontend entry before and after it.

    A write makes it plain or other; a begun override marks a plain one, the end of the
    last un-marks it, and neither does anything to an entry that is not the frame's own.
    """
    rows = np.arange(len(group))
    takes = _of_writes(writes.takes, write)
    marked = takes & _of_writes(writes.marked, write)
    plain = takes & _of_writes(writes.plain, write) | marked
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
