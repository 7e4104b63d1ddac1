"""Go through the overrides and lookups of some frames in order: those that have two at
once, that are looked up while they change, or whose frontend entry is written.
"""

from __future__ import annotations

import numpy as np

from xenm2p.engine.order import (
    Mask,
    distinct,
    head_rows,
    newest_live,
    order_of,
    sort_rows,
    tail_rows,
)
from xenm2p.engine.overrides import Left, Overrides, Sharing, Strays, Writes, frontend_entries
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

    False where an event does two things at once to a frame, or where something other than a
    write comes to a marked page.
    """
    length = len(overrides.end)
    begun = np.flatnonzero(is_followed.take(overrides.frame))
    pos, frame = overrides.pos[begun], overrides.frame[begun]
    end = overrides.end[pos]
    over = np.flatnonzero(end < length)
    old = np.flatnonzero(is_followed.take(overrides.old_frame))
    asked = np.flatnonzero(is_followed.take(overrides.query_frame))
    writes = overrides.writes
    ends = overrides.ends
    # Rows: overrides begun, their ends, those of older ones, questions, writes, ends that stick.
    sizes = np.cumsum([len(begun), len(over), len(old), len(asked), len(writes.pos),
                       len(ends.pos)])
    row_pos = np.concatenate([pos, end[over], overrides.old_end[old],
                              overrides.query_pos[asked], writes.pos, ends.pos])
    row_frame = np.concatenate([frame, frame[over], overrides.old_frame[old],
                                overrides.query_frame[asked], writes.frame, ends.frame])
    order = _by_pos(row_pos, length)
    by_frame = sort_rows(row_frame.take(order))
    order = order.take(by_frame.row)
    row_frame, row_pos = by_frame.values(), row_pos.take(order)
    added, changes = order < sizes[0], order < sizes[2]
    removed = changes & ~added
    # Of rows that change nothing the event is 0, which the exclusive or leaves alone.
    event = np.concatenate([pos + first, pos[over] + first, overrides.old_event[old],
                            np.zeros(int(sizes[5] - sizes[2]), np.int64)]).take(order)
    is_query = (order >= sizes[2]) & (order < sizes[3])
    is_end = order >= sizes[4]
    write = None
    if len(writes.pos) or len(ends.pos):
        write = np.where((order >= sizes[3]) & ~is_end, order - sizes[3], -1)
    unmarks = _unmarking(overrides, removed, is_end, order - sizes[4], row_frame, row_pos)
    is_head = head_rows(row_frame)
    heads = np.flatnonzero(is_head)
    frames = row_frame.take(heads)
    group = np.cumsum(is_head, dtype=np.int64)
    group -= 1
    live_pages = _live_overrides(tables, is_followed)
    live_event = tables.pages.column["map_event"][live_pages]
    live_frame = tables.pages.column["frame"][live_pages]
    live_group = np.minimum(np.searchsorted(frames, live_frame), len(frames) - 1)
    kept = frames.take(live_group) == live_frame if len(frames) else np.zeros(0, np.bool_)
    live_event, live_group = live_event[kept], live_group[kept]

    change = added.view(np.int8) - removed.view(np.int8)
    count = np.cumsum(change, dtype=np.int64)
    before_frame = np.concatenate([[0], count[heads[1:] - 1]])
    count += (tables.frames.column["listed"].take(frames) - before_frame).take(group)
    first_xor = np.zeros(len(frames), np.int64)
    np.bitwise_xor.at(first_xor, live_group, live_event)
    xor = np.bitwise_xor.accumulate(event)
    first_xor ^= np.concatenate([[0], xor[heads[1:] - 1]])
    xor ^= first_xor.take(group)

    plain, marked = frontend_entries(tables, frames)
    if not model.marks_frontend and marked.any():
        return False
    first_state = np.where(marked, _MARKED, np.where(plain, _PLAIN, _OTHER))
    listed = tables.frames.column["listed"].take(frames) > 0
    if write is None and model.marks_frontend and (plain & listed | marked & ~listed).any():
        write = np.full(len(group), -1)
    last_unmarks = unmarks & (count == 0)
    if write is None:
        before, after = _quiet_states(model, heads, group, first_state, count)
    else:
        before, after = _states(
            model, writes, heads, group, first_state, change, last_unmarks, write)
    over_rows = np.zeros(0, np.int64)
    is_write = np.zeros(len(group), np.bool_)
    if write is not None:
        is_write = write >= 0
        twice = (row_frame[1:] == row_frame[:-1]) & (row_pos[1:] == row_pos[:-1])
        if (twice & (is_write[1:] | is_write[:-1])).any():
            return False
        hot = is_write & (count != 0)
        made.is_hot = bool(hot.any())
        moves = _of_writes(writes.moves, write)
        moved = moves & (hot | (before == _MARKED) | _of_writes(writes.marked, write))
        if model.marks_frontend and moved.any():
            for at in distinct(group[moved]).tolist():
                stop = heads[at + 1] if at + 1 < len(heads) else len(group)
                span = slice(int(heads[at]), int(stop))
                page = int(tables.frames.column["page"][frames[at]])
                made.left += _move(
                    writes, span, int(first_state[at]), page, int(frames[at]), change,
                    last_unmarks, write, row_pos, before, after, length)
        on_mark = is_write & (before == _MARKED)
        if (on_mark & ~_of_writes(writes.takes, write)).any():
            return False
        # m2p may go from one plain page to another: the share's own page is no alias.
        bare = hot & (after == _PLAIN) & ((before != _PLAIN) | moves)
        made.bare_pos, made.bare_frame = row_pos[bare], row_frame[bare]
        over_rows = np.flatnonzero(on_mark & ~moves)
    second = np.flatnonzero(added & (count == 2))
    made.multi_pos = row_pos.take(second)
    made.multi_other = xor.take(second) ^ event.take(second)
    if model.marks_frontend:
        sets = np.flatnonzero((before == _PLAIN) & (after == _MARKED) & added)
        # Other overrides of the frame resolve otherwise from then on.
        made.is_hot = made.is_hot or bool((count.take(sets) > 1).any())
        if len(overrides.watched):
            turns = np.isin(row_frame, overrides.watched) & (before != after)
            made.is_hot = made.is_hot or bool(turns.any())
            bare = np.flatnonzero(turns & (after == _PLAIN) & ~(is_write & (count != 0)))
            made.bare_pos = np.concatenate([made.bare_pos, row_pos.take(bare)])
            made.bare_frame = np.concatenate([made.bare_frame, row_frame.take(bare)])
        clears = np.flatnonzero((before == _MARKED) & (after == _PLAIN) & unmarks)
        made.set_pos = np.concatenate([made.set_pos, row_pos.take(sets)])
        made.set_end = np.concatenate([
            made.set_end, np.full(len(made.set_pos) - len(made.set_end), length)])
        made.set_frame = np.concatenate([made.set_frame, row_frame.take(sets)])
        made.cleared_pos = np.concatenate([made.cleared_pos, row_pos.take(clears)])
        made.cleared_frame = np.concatenate([made.cleared_frame, row_frame.take(clears)])
        # Where the page itself was written and there is no mark, its own entry stands.
        last = after[tail_rows(row_frame)]
        kept = last == _MARKED
        if len(writes.pos):
            kept |= (last == _PLAIN) & ~np.isin(frames, writes.frame[writes.takes])
        else:
            kept |= last == _PLAIN
        made.entry_frame = np.concatenate([made.entry_frame, frames[kept]])
        made.entry_marked = np.concatenate([made.entry_marked, last[kept] == _MARKED])
    else:
        made.alias_pos = np.concatenate([made.alias_pos, row_pos[added & (after == _PLAIN)]])
    looks = np.flatnonzero(is_query)
    rows = np.concatenate([looks, over_rows])
    newest = _newest_at(
        overrides, rows, live_group, live_event, group, event, added, count, xor, row_pos, first)
    made.over_pos, made.over_newest = row_pos.take(over_rows), newest[len(looks):]
    if len(overrides.strays.frame):
        _find_strays(
            tables, overrides.strays, row_frame.take(looks), row_pos.take(looks), newest)
    at = asked.take(order.take(looks) - sizes[2])
    made.left_marked = np.zeros(len(ends.pos), np.bool_)
    made.left_marked[order[is_end] - sizes[4]] = after[is_end] == _MARKED
    made.query_local[at] = after.take(looks) != _OTHER
    made.query_marked[at] = after.take(looks) == _MARKED
    made.query_newest[at] = newest[: len(looks)]
    return True


def _unmarking(
    overrides: Overrides, removed: Mask, is_end: Mask, end: Slot, frame: Slot, pos: Slot
) -> Mask:
    """Which rows un-mark the frontend, where their frame has no override left.

    `removed` are ends of overrides; where `is_end`, `end` is the place in `overrides.ends`.
    """
    ends, strays = overrides.ends, overrides.strays
    unmarks = removed
    if len(ends.pos):
        unmarks = removed & ~np.isin(pos, ends.pos[ends.was_listed & ~ends.unmarks])
        unmarks[is_end] = ends.unmarks.take(end[is_end])
    for stray in range(len(strays.frame)):
        is_found = (frame == strays.frame[stray]) & (pos > strays.begin[stray])
        unmarks = unmarks & ~(is_found & (pos < strays.end[stray]))
    return unmarks


def _by_pos(pos: Slot, length: int) -> Slot:
    """The order of rows by position in a chunk of `length` events, then as they stand."""
    row_at = np.full(length, -1)
    row_at[pos] = np.arange(len(pos))
    order = row_at.compress(row_at >= 0)
    # Mostly each position has one row; of others, the last one has taken the place.
    return order if len(order) == len(pos) else order_of(pos)


def _of_writes(column: Mask, write: Slot) -> Mask:
    """A column of the writes for each row: `write` is the index into it, -1 for other rows."""
    if not len(column):
        return np.zeros(len(write), np.bool_)
    return (write >= 0) & column.take(write, mode="wrap")


def _quiet_states(
    model: KernelModel, heads: Slot, group: Slot, first_state: Slot, count: Slot
) -> tuple[Slot, Slot]:
    """What `_states` gives where no entry is written, and each is marked as it should be."""
    first = first_state.take(group)
    if not model.marks_frontend:
        return first, first
    after = np.where(count > 0, _MARKED, _PLAIN)
    after[first == _OTHER] = _OTHER
    before = np.empty_like(after)
    before[1:] = after[:-1]
    before[heads] = first_state
    return before, after


def _states(
    model: KernelModel, writes: Writes, heads: Slot, group: Slot, first_state: Slot,
    change: Slot, unmarks: Mask, write: Slot,
) -> tuple[Slot, Slot]:
    """The state of each row's frontend entry before and after it.

    A write makes it plain or other; a begun override marks a plain one, the end of the
    last un-marks it (`unmarks`), and neither does anything to an entry that is not the
    frame's own.
    """
    rows = np.arange(len(group))
    takes = _of_writes(writes.takes, write)
    marked = takes & _of_writes(writes.marked, write)
    plain = takes & _of_writes(writes.plain, write)
    sets = takes
    if model.marks_frontend:
        sets = takes | (change > 0) | unmarks
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
    writes: Writes, rows: slice, state: int, page: int, frame: int, change: Slot, unmarks: Mask,
    write: Slot, pos: Slot, before: Slot, after: Slot, length: int,
) -> list[Left]:
    """Follow one frame whose m2p entry changes while it has overrides, row by row.

    Also where m2p comes to an entry that had a mark before the chunk, which it still has
    if it was not this frame's own since. An entry that m2p leaves keeps its mark. Fills in
    `before` and `after`, and gives the pages that m2p left marked.
    """
    left: dict[int, int] = {}
    owned = {page}
    returned: list[Left] = []
    for row in range(rows.start, rows.stop):
        before[row] = state
        at = int(write[row])
        if change[row] > 0 and state == _PLAIN:
            state = _MARKED
        elif unmarks[row] and state == _MARKED:
            state = _PLAIN
        elif at >= 0 and writes.takes[at]:
            if writes.moves[at]:
                if state == _MARKED:
                    left[page] = int(pos[row])
                page = int(writes.page[at])
            state = _PLAIN if writes.plain[at] else _OTHER
            if writes.moves[at]:
                if page in left:
                    returned.append(Left(page, frame, left.pop(page), int(pos[row])))
                    state = _MARKED
                elif writes.marked[at] and page not in owned:
                    state = _MARKED
                owned.add(page)
        after[row] = state
    return returned + [Left(page, frame, at, length) for page, at in left.items()]


def _newest_at(
    overrides: Overrides, rows: Slot, live_group: Slot, live_event: Slot, group: Slot,
    event: Slot, added: Mask, count: Slot, xor: Slot, row_pos: Slot, first: int,
) -> Slot:
    """The map event of the newest live override at each of `rows`, NO_EVENT where none is."""
    length = len(overrides.end)
    counts = count.take(rows)
    newest = np.where(counts == 1, xor.take(rows), NO_EVENT)
    many = np.flatnonzero(counts > 1)
    if not len(many):
        return newest
    # The last one begun is mostly live, else the one before it, and so on.
    begun = np.flatnonzero(added)
    end = overrides.end.take(row_pos.take(begun))
    last = np.cumsum(added, dtype=np.int64).take(rows.take(many)) - 1
    none_begun = [many[:0] if len(begun) else many]
    while len(begun) and len(many):
        asked, row = rows.take(many), begun.take(last, mode="wrap")
        is_begun = (last >= 0) & (group.take(row) == group.take(asked))
        is_live = is_begun & (end.take(last, mode="wrap") > row_pos.take(asked))
        newest[many.compress(is_live)] = event.take(row.compress(is_live))
        none_begun.append(many.compress(~is_begun))
        is_dead = is_begun & ~is_live
        many, last = many.compress(is_dead), last.compress(is_dead) - 1
    many = np.concatenate(none_begun)
    if not len(many):
        return newest
    still = np.full(len(live_event), length)
    by_event = order_of(overrides.old_event)
    if len(by_event):
        old_event = overrides.old_event.take(by_event)
        place = np.minimum(np.searchsorted(old_event, live_event), len(by_event) - 1)
        hit = old_event.take(place) == live_event
        still[hit] = overrides.old_end.take(by_event.take(place[hit]))
    older, asked = order_of(live_group, live_event), rows.take(many)
    events = live_event.take(older)
    newest[many] = events.take(newest_live(
        live_group.take(older), events, still.take(older), group.take(asked),
        row_pos.take(asked), first))
    return newest


def _find_strays(
    tables: Tables, strays: Strays, frame: Slot, pos: Slot, newest: Slot
) -> None:
    """Put strays into `newest` (q,) where they are newer on the list than the override there.

    The questions are of `frame`, at `pos`, (q,).
    """
    column, live = tables.pages.column, tables.live()
    listed_at = dict(zip(column["map_event"][live].tolist(),
                         column["listed_at"][live].tolist(), strict=True))
    # Those that were listed in the chunk are so since their map.
    place = np.array([listed_at.get(event, event) if event != NO_EVENT else -(1 << 63)
                      for event in newest[: len(pos)].tolist()], np.int64)
    for stray in range(len(strays.frame)):
        found = (frame == strays.frame[stray]) & (pos > strays.begin[stray])
        found &= (pos < strays.end[stray]) & (strays.listed_at[stray] > place)
        rows = np.flatnonzero(found)
        newest[rows], place[rows] = strays.map_event[stray], strays.listed_at[stray]


def _live_overrides(tables: Tables, is_followed: Mask) -> Slot:
    column = tables.pages.column
    live = tables.live()
    live = live[column["listed"][live]]
    followed: Slot = live[is_followed.take(column["frame"][live])]
    return followed
