"""Checkpoints: the earlier events that still matter at some event of a trace.

A condensed history is a part of the earlier events, in order. Replaying the initial memory
and these must leave what replaying all of them leaves, under every kernel model: the p2m
and m2p, the override list and the page flags, live shares and held locks, collision windows
that are not decided, and what later findings look back at (the handle a page had last, the
failed maps, the machine's writes, the last event of each processor and task).

The argument: on a *regular* page each map finds p2m INVALID and is undone by an unmap with
the same `user`; such a pair leaves a p2m entry, a FOREIGN mark and a list as they were,
whatever the model, and whatever other pairs come between. So it may be left out, unless it
is the last of its page (its handle and index stay) or something still open looks at its
frame. What is not regular is kept whole: its page, all shares of the frames that were
mapped there, of frames whose frontend page it is. A condensed history may be condensed
again together with the events that follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xenm2p.formats.binary_layout import MAX_CHUNK_EVENTS
from xenm2p.formats.checkpoint_order import Initial, Order, any_between, last_of_each, member
from xenm2p.trace import (
    FOREIGN,
    FRAME_MASK,
    I64,
    INVALID,
    MAX_FRAME,
    NO_CALL,
    U64,
    Events,
    Kind,
    Trace,
)

Mask = NDArray[np.bool_]

_INVALID = np.uint64(INVALID)
_FOREIGN = np.uint64(FOREIGN)
# Condense when this many events have come since the last time.
_CONDENSE_AFTER = 1 << 18


class Condenser:
    """Condenses a history as it grows; memory is bounded by what is live or ill-formed.

    A history of more than `most` rows is given up: `live` gives None from then on.
    """

    def __init__(self, header: Trace, *, most: int = MAX_CHUNK_EVENTS):
        self._p2m = Initial.p2m(header)
        self._m2p = Initial.m2p(header)
        self._most = most
        self._numbers: list[I64] = []
        self._parts: list[Events] = []
        self._new_rows = 0
        self._is_given_up = False

    def feed(self, first_event: int, events: Events) -> None:
        """Take the next events of the trace, numbered from `first_event` on."""
        if self._is_given_up:
            return
        self._numbers.append(np.arange(first_event, first_event + len(events), dtype=np.int64))
        # A copy: views would hold on to the pages of a mapped file.
        self._parts.append(events.rows(np.arange(len(events))))
        self._new_rows += len(events)
        if self._new_rows >= _CONDENSE_AFTER:
            self._condense()

    def live(self) -> tuple[I64, Events] | None:
        """The numbers and rows of the events so far that still matter, in order."""
        if not self._is_given_up:
            self._condense()
        if self._is_given_up:
            return None
        return self._numbers[0], self._parts[0]

    def _condense(self) -> None:
        events = Events.concat(self._parts)
        numbers = np.concatenate([np.empty(0, np.int64), *self._numbers])
        keep = np.flatnonzero(what_matters(events, self._p2m, self._m2p))
        self._numbers, self._parts = [numbers[keep]], [events.rows(keep)]
        self._new_rows = 0
        if len(keep) > self._most:
            self._is_given_up = True
            self._numbers, self._parts = [], []


def what_matters(events: Events, p2m: Initial, m2p: Initial) -> Mask:
    """Which events of a history matter for what comes after it, a bool per event."""
    if not len(events):
        return np.zeros(0, np.bool_)
    history = _History.of(events, p2m, m2p)
    keep = np.zeros(len(events), np.bool_)
    history.keep_irregular(keep)
    history.keep_shares(keep)
    history.keep_writes(keep)
    keep_locks(events, keep)
    keep_grants(events, keep)
    history.keep_latest(keep)
    history.keep_entries(keep)
    return keep


@dataclass(slots=True)
class _History:
    """A history taken apart. Arrays named *_row(s) hold row numbers of `events`.

    `pages` orders the maps (of status 0), unmaps and set_p2m by page. One entry for each
    map: `map_row`, `frame`, `page`, `frontend` (m2p[frame] then), `undone_row` (its unmap,
    -1 while live), `is_page_last` (no later map of its page).
    """

    events: Events
    p2m: Initial
    pages: Order
    is_irregular: Mask  # by row: on an irregular page (any kind of row that has a page)
    map_row: I64
    undone_row: I64
    frame: U64
    page: U64
    frontend: U64
    is_page_last: Mask
    is_frame_irregular: Mask
    witness: I64  # rows of p2m_write, see _unanchored

    @classmethod
    def of(cls, events: Events, p2m: Initial, m2p: Initial) -> _History:
        kind, n = events.kind, len(events)
        is_map = (kind == Kind.MAP) & (events.status == 0)
        is_page_row = is_map | (kind == Kind.UNMAP) | (kind == Kind.SET_P2M)
        pages = Order.of(events.pfn, is_page_row)
        rows, before = pages.rows, pages.before
        at_map, at_unmap = is_map[rows], kind[rows] == Kind.UNMAP
        at_set = kind[rows] == Kind.SET_P2M
        first_entry = p2m.entries(pages.keys)[pages.group]

        after_map = ~pages.is_first & at_map[before]
        after_set = ~pages.is_first & at_set[before]
        entry_before = np.where(pages.is_first, first_entry, _INVALID)
        entry_before = np.where(after_set, events.mfn[rows[before]], entry_before)
        same_user = events.user[rows] == events.user[rows[before]]
        is_wrong = at_map & (after_map | (entry_before != _INVALID)
                             | (events.mfn[rows] > np.uint64(MAX_FRAME)))
        is_wrong |= at_unmap & ~(after_map & same_user)
        is_wrong |= at_set & after_map
        is_bad_page = pages.any(is_wrong)

        undone = np.full(n, -1, np.int64)
        closes = at_unmap & after_map
        undone[rows[before[closes]]] = rows[closes]
        map_row = np.flatnonzero(is_map)
        frame, page = events.mfn[map_row], events.pfn[map_row]
        end = np.where(undone[map_row] < 0, n, undone[map_row])

        is_set_m2p = kind == Kind.SET_M2P
        frontend = _frontends(events, m2p, is_map, is_set_m2p)

        is_own_frontend = frontend == page
        is_renamed = member(page, events.pfn[is_set_m2p])
        is_set = kind == Kind.SET_P2M
        set_rows = np.flatnonzero(is_set)
        frontend_written = any_between(events.pfn[set_rows], set_rows, frontend, map_row, end, n)
        dio_rows = np.flatnonzero((kind == Kind.DIO_READ) | (kind == Kind.DIO_WRITE))
        is_live = end == n
        # Direct I/O on a kernel backend's share: it resolves from then on.
        has_dio = any_between(events.pfn[dio_rows], dio_rows, page, map_row, end, n)
        is_odd_dio = is_live & has_dio & (events.user[map_row] == 0)

        # Unmaps that may fail with -22 end their calls, for other pages too.
        has_set = pages.any(at_set)[pages.group]
        odd_pages = np.concatenate([page[is_own_frontend | is_renamed],
                                    frontend[frontend_written]])
        is_odd = member(events.pfn[rows], odd_pages)
        was_foreign = (first_entry != _INVALID) & (first_entry & _FOREIGN != 0)
        is_mapped = np.where(pages.is_first, was_foreign,
                             after_map & (events.mfn[rows[before]] <= np.uint64(MAX_FRAME)))
        may_fail = at_unmap & (is_bad_page[pages.group] | is_odd) & (
            ~is_mapped | has_set | is_odd)
        failing = events.call[rows[may_fail]]
        is_in_call = at_unmap & member(events.call[rows], failing[failing != NO_CALL])

        irregular_pages = np.concatenate([
            pages.keys[is_bad_page], odd_pages, page[is_odd_dio],
            events.pfn[rows[is_in_call]]])
        history = cls(events, p2m, pages, np.zeros(n, np.bool_), map_row, undone[map_row], frame,
                      page, frontend, last_of_each(page), np.zeros(len(map_row), np.bool_),
                      np.zeros(0, np.int64))
        irregular_pages = np.concatenate(
            [irregular_pages, history._unanchored(irregular_pages)])
        history.is_irregular = member(events.pfn, irregular_pages)

        # Frames that irregular pages share, name as their frontend, or write.
        is_odd_frame = member(page, irregular_pages) | member(frontend, irregular_pages)
        is_odd_frame |= frontend_written | (p2m.entries(frontend) == (frame | _FOREIGN))
        is_odd_frame |= any_between(events.mfn[is_set_m2p], np.flatnonzero(is_set_m2p), frame,
                                    map_row, end, n)
        written = events.mfn[set_rows]
        written = written[(written & _FOREIGN != 0) & (written != _INVALID)]
        odd_frames = np.concatenate([frame[is_odd_frame], written & np.uint64(FRAME_MASK)])
        odd_frames = np.concatenate([odd_frames, odd_frames & np.uint64(MAX_FRAME)])
        history.is_frame_irregular = member(frame, odd_frames)
        return history

    def _unanchored(self, irregular_pages: U64) -> U64:
        """Pages written on the machine since the last loss, with unknown agreement.

        A p2m_write that agrees with the model re-anchors its page after a loss. On a regular
        page that is no frontend the entry is the same in all models, and one agreeing write
        (a witness) is enough to keep.
        """
        events = self.events
        lost_rows = np.flatnonzero(events.kind == Kind.LOST)
        if not len(lost_rows):
            return np.zeros(0, np.uint64)
        is_write = events.kind == Kind.P2M_WRITE
        is_write[:lost_rows[-1]] = False
        is_page_row = np.zeros(len(events), np.bool_)
        is_page_row[self.pages.rows] = True
        both = Order.of(events.pfn, is_page_row | is_write)
        last = both.last_before(is_page_row[both.rows])
        kind, mfn = events.kind[last], events.mfn[last]
        expected = np.where(kind == Kind.MAP, mfn | _FOREIGN,
                            np.where(kind == Kind.SET_P2M, mfn, _INVALID))
        expected = np.where(last < 0, self.p2m.entries(both.keys)[both.group], expected)
        at_write = is_write[both.rows]
        agrees = at_write & (events.mfn[both.rows] == expected)
        agrees &= ~member(events.pfn[both.rows], np.concatenate([irregular_pages, self.frontend]))
        witness = both.rows[agrees]
        self.witness = witness[last_of_each(events.pfn[witness])]
        written = both.any(at_write)
        return both.keys[written & ~member(both.keys, events.pfn[self.witness])]

    def keep_irregular(self, keep: Mask) -> None:
        """All that was done with irregular pages and frames."""
        kind = self.events.kind
        has_page = (kind == Kind.MAP) | (kind == Kind.UNMAP) | (kind == Kind.SET_P2M)
        has_page |= (kind == Kind.P2M_WRITE) | (kind == Kind.DIO_READ) | (kind == Kind.DIO_WRITE)
        keep |= self.is_irregular & has_page
        self._keep_pairs(keep, self.is_frame_irregular)

    def _keep_pairs(self, keep: Mask, which: Mask) -> None:
        """Maps (a mask over them) and their unmaps."""
        keep[self.map_row[which]] = True
        undone = self.undone_row[which]
        keep[undone[undone >= 0]] = True

    def keep_shares(self, keep: Mask) -> None:
        """Live shares, the last pair of each page, and what windows still look at."""
        events = self.events
        is_live = self.undone_row < 0
        self._keep_pairs(keep, is_live | self.is_page_last)
        has_live = member(self.frame, self.frame[is_live])
        # A held lock may have met a live share through pairs that are undone by now.
        held = events.pfn[held_lock_rows(events)]
        is_met = member(self.frontend, held) | member(self.page, held)
        is_met = member(self.frame, self.frame[is_met]) & has_live
        self._keep_pairs(keep, is_met)
        pages = self.page[is_live & (is_met | self.is_frame_irregular)]
        is_dio = (events.kind == Kind.DIO_READ) | (events.kind == Kind.DIO_WRITE)
        keep |= is_dio & member(events.pfn, pages)

        if (events.kind == Kind.P2M_WRITE).any():
            # The last change of a frontend entry may still wait for its p2m_write: that of
            # the share that ended last, in the models that list only `user` shares too.
            has_frontend = self.frontend != _INVALID
            self._keep_pairs(keep, has_frontend & has_live)
            for which in (~is_live, ~is_live & (events.user[self.map_row] == 1)):
                pairs = np.flatnonzero(has_frontend & which)
                pairs = pairs[np.argsort(self.undone_row[pairs])]
                last = np.zeros(len(self.frame), np.bool_)
                last[pairs[last_of_each(self.frame[pairs])]] = True
                self._keep_pairs(keep, last)

    def keep_writes(self, keep: Mask) -> None:
        """Failed maps that nothing followed, the machine's writes, the last loss."""
        events = self.events
        kind = events.kind
        is_write = kind == Kind.P2M_WRITE
        is_foreign_write = is_write & (events.mfn & _FOREIGN != 0) & (events.mfn != _INVALID)
        is_failed = (kind == Kind.MAP) & (events.status != 0)
        if is_failed.any():
            touches = np.flatnonzero((kind == Kind.MAP) | (kind == Kind.UNMAP) | is_foreign_write)
            last = touches[last_of_each(events.pfn[touches])]
            keep[last[is_failed[last]]] = True

        writes = np.flatnonzero(is_write)
        keep[writes[:1]] = True  # from here on changes wait for their writes
        keep[writes[last_of_each(events.pfn[writes])]] = True
        keep[self.witness] = True
        witnessed = any_between(events.pfn[self.witness], self.witness, self.page, self.map_row,
                                np.where(self.undone_row < 0, len(events), self.undone_row),
                                len(events))
        self._keep_pairs(keep, witnessed)
        keep[np.flatnonzero(kind == Kind.LOST)[-1:]] = True

    def keep_latest(self, keep: Mask) -> None:
        """The last event of all, of each processor and task, and what undoes it."""
        events = self.events
        latest = np.zeros(len(events), np.bool_)
        latest[-1] = True
        for column in (events.cpu, events.task):
            rows = np.flatnonzero(column >= 0)
            latest[rows[last_of_each(column[rows])]] = True
        latest &= ~keep
        kind = events.kind
        is_lock = (kind == Kind.LOCK_PAGE) | (kind == Kind.UNLOCK_PAGE)
        keep |= is_lock & member(events.pfn, events.pfn[latest & is_lock])
        is_failed = (kind == Kind.MAP) & (events.status != 0)
        touches = (kind == Kind.MAP) | (kind == Kind.UNMAP) | (kind == Kind.P2M_WRITE)
        pages = events.pfn[latest & is_failed]
        keep |= touches & member(events.pfn, pages)
        self._keep_pairs(keep, member(self.page, pages))
        # A grant that is kept for its task must not look as if its access went on.
        ends = np.flatnonzero(kind == Kind.END_GRANT)
        ends = ends[last_of_each(events.ref[ends])]
        granted = events.ref[latest & (kind == Kind.GRANT)]
        keep[ends[member(events.ref[ends], granted)]] = True
        is_latest = latest[self.map_row]
        is_closed = self.undone_row >= 0
        is_latest[is_closed] |= latest[self.undone_row[is_closed]]
        self._keep_pairs(keep, is_latest)
        keep |= latest

    def keep_entries(self, keep: Mask) -> None:
        """The set_p2m and set_m2p that hold now or held for a row that is kept."""
        events = self.events
        is_set_m2p = events.kind == Kind.SET_M2P
        renames = np.flatnonzero(is_set_m2p)
        keep[renames[last_of_each(events.mfn[renames])]] = True
        keep[renames[member(events.mfn[renames], self.frame)]] = True

        is_set = events.kind == Kind.SET_P2M
        sets = np.flatnonzero(is_set)
        if not len(sets):
            return
        keep[sets[last_of_each(events.pfn[sets])]] = True
        keep[sets[member(events.pfn[sets], self.frontend)]] = True
        is_witness = np.zeros(len(events), np.bool_)
        is_witness[self.witness] = True
        is_page_row = np.zeros(len(events), np.bool_)
        is_page_row[self.pages.rows] = True
        of_interest = Order.of(events.pfn, is_witness | is_page_row)
        last_set = of_interest.last_before(is_set[of_interest.rows])
        is_kept = keep[of_interest.rows] & ~is_set[of_interest.rows] & (last_set >= 0)
        keep[last_set[is_kept]] = True


def _frontends(events: Events, m2p: Initial, is_map: Mask, is_set_m2p: Mask) -> U64:
    """m2p[frame] at each map: by the last set_m2p before it, else by the initial entry."""
    initial = m2p.entries(events.mfn[is_map])
    if not is_set_m2p.any():
        return initial
    frames = Order.of(events.mfn, is_map | is_set_m2p)
    last_set = np.full(len(events), -1, np.int64)
    last_set[frames.rows] = frames.last_before(is_set_m2p[frames.rows])
    last_set = last_set[is_map]
    return np.where(last_set >= 0, events.pfn[last_set], initial)


def held_lock_rows(events: Events) -> I64:
    """The lock_page rows whose lock no later row releases or takes again."""
    rows = np.flatnonzero((events.kind == Kind.LOCK_PAGE) | (events.kind == Kind.UNLOCK_PAGE))
    last = rows[last_of_each(events.pfn[rows])]
    held: I64 = last[events.kind[last] == Kind.LOCK_PAGE]
    return held


def keep_locks(events: Events, keep: Mask) -> None:
    """The locks that are held."""
    keep[held_lock_rows(events)] = True


def keep_grants(events: Events, keep: Mask) -> None:
    """The last grant of each reference whose access did not end."""
    rows = np.flatnonzero((events.kind == Kind.GRANT) | (events.kind == Kind.END_GRANT))
    last = rows[last_of_each(events.ref[rows])]
    keep[last[events.kind[last] == Kind.GRANT]] = True
