"""Sort a chunk's shares by frame: who is the first, the last, the newest of a frame.

For a plain frame (its frontend page is not mapped or written in the chunk) everything
follows from how many overrides are live: the frontend's entry is marked while there is
one, in the kernels that mark it. Most frames never have two at once; only those that do,
and those that are looked up meanwhile, are followed event by event (`following`).
"""

from __future__ import annotations

import numpy as np

from xenm2p.engine.following import follow
from xenm2p.engine.order import Mask, head_rows, order_of, sort_rows, tail_rows
from xenm2p.engine.overrides import Overrides, Sharing, frontend_entries, no_mask
from xenm2p.engine.replay import NO_EVENT
from xenm2p.engine.tables import Slot, Tables
from xenm2p.kernels import KernelModel


def share(
    tables: Tables, model: KernelModel, overrides: Overrides, first: int, length: int
) -> Sharing | None:
    """Follow the overrides of a chunk of `length` events that begins at event `first`.

    None where a frame's frontend entry is not what its overrides explain.
    """
    by_frame = sort_rows(overrides.frame)
    pos, frame = overrides.pos.take(by_frame.row), by_frame.values()
    end = overrides.end.take(pos)
    is_head = head_rows(by_frame.above)
    frames, first_pos = _kept(is_head, frame, pos)
    overlaps = end[:-1] > pos[1:]
    overlaps &= ~is_head[1:]
    listed = tables.frames.column["listed"].take(frames)
    is_followed = _followed(tables, overrides, frame[1:][overlaps], frames, first_pos, listed)
    local, weird = _local(tables, model, frames, listed)
    old_local, old_weird = _local(tables, model, overrides.old_frame)
    unexplained = np.concatenate([frames[weird], overrides.old_frame[old_weird]])
    if len(unexplained):
        if not model.marks_frontend:
            return None
        is_followed[unexplained] = True
    if len(frames) < len(frame) and not local.all():
        heads = np.flatnonzero(is_head)
        local = np.repeat(local, np.diff(heads, append=len(frame)))
    elif len(frames) < len(frame):
        local = np.ones(len(frame), np.bool_)
    old_end, old_frame = overrides.old_end, overrides.old_frame
    follows = bool(is_followed.any())
    if follows:
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
        made.alias_pos = pos
    if follows and not follow(tables, model, overrides, made, is_followed, first):
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
        return no_mask(), no_mask()
    plain, marked = frontend_entries(tables, frames)
    if model.marks_frontend:
        expected = (tables.frames.column["listed"].take(frames) if listed is None else listed) > 0
    else:
        expected = np.zeros(len(frames), np.bool_)
    weird: Mask = (marked & ~expected) | (plain & expected)
    return plain | marked, weird


def frontends_are_plain(tables: Tables, model: KernelModel, frames: Slot) -> bool:
    """Whether each frame's frontend entry is what the live overrides explain."""
    return not _local(tables, model, frames)[1].any()


def _followed(
    tables: Tables, overrides: Overrides, overlapping: Slot, frames: Slot, first_pos: Slot,
    live: Slot,
) -> Mask:
    """Which frame slots need following.

    Those with two live overrides at once, looked up, or whose page is written; and those
    whose mark may stick, that have a stray, or a share that resolves without a list.

    frames (f,) get overrides in the chunk, at `first_pos` the first, when `live`
    ones were there before it.
    """
    found = [overlapping, _busy(tables, overrides), overrides.writes.frame, overrides.ends.frame,
             overrides.watched, overrides.strays.frame]
    listed = tables.frames.column["listed"]
    found.append(overrides.old_frame[listed.take(overrides.old_frame) > 1])
    busy = np.flatnonzero(live > 0)
    if len(busy):
        found.append(frames[busy[~_all_gone(
            overrides, frames[busy], live[busy], first_pos[busy])]])
    is_followed = np.zeros(tables.frames.used, np.bool_)
    is_followed[np.concatenate(found)] = True
    is_followed[0] = False
    return is_followed


def _all_gone(overrides: Overrides, frames: Slot, live: Slot, first_pos: Slot) -> Mask:
    """Whether all `live` overrides of each of `frames` end before `first_pos`, all (f,)."""
    if not len(overrides.old_frame):
        return np.zeros(len(frames), np.bool_)
    order = order_of(overrides.old_frame, overrides.old_end)
    old = overrides.old_frame.take(order)
    tails = np.flatnonzero(tail_rows(old))
    old_frames, latest = old.take(tails), overrides.old_end.take(order.take(tails))
    ended = np.diff(tails, prepend=-1)
    at = np.minimum(np.searchsorted(old_frames, frames), len(tails) - 1)
    gone: Mask = (old_frames.take(at) == frames) & (ended.take(at) == live)
    return gone & (latest.take(at) < first_pos)


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
    plain, made.query_marked = frontend_entries(tables, asked)
    made.query_local = plain | made.query_marked
