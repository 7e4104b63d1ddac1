"""Chunks that the vector engine leaves to the rules: from the tables to a machine and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from xenm2p.engine.locks import Lock, Window
from xenm2p.engine.observe import Observer, Unwritten
from xenm2p.engine.order import distinct
from xenm2p.engine.replay import NO_EVENT, Segment
from xenm2p.engine.rules import Entries, Event, Machine, Page, Share, resolve, step
from xenm2p.engine.storing import store_stuck
from xenm2p.engine.tables import Slot, Tables, foreign
from xenm2p.kernels import KernelModel
from xenm2p.trace import FOREIGN, FRAME_MASK, INVALID, MAX_FRAME, Events, Kind


class Pages(defaultdict[int, Page]):
    """Struct pages, taken out of the tables when first asked for."""

    def __init__(self, tables: Tables):
        super().__init__(Page)
        self.tables = tables

    def __missing__(self, pfn: int) -> Page:
        slot = int(self.tables.pages.find(np.array([pfn], np.uint64))[0])
        page = _pages(self.tables, np.array([slot]))[0] if slot else Page()
        self[pfn] = page
        return page


def events_of(chunk: Events, first: int) -> Iterator[Event]:
    """The rows of a chunk as `Event`s, numbered from `first`."""
    columns = [column.tolist() for column in chunk.columns().values()]
    for i, (time, kind, pfn, mfn, user, *rest) in enumerate(zip(*columns, strict=True)):
        yield Event(first + i, time, kind, pfn, mfn, bool(user), *rest)


def replay_chunk(observer: Observer, chunk: Events, first: int) -> Segment:
    """One chunk by the rules, event by event."""
    results = np.zeros(len(chunk), np.uint8)
    warnings = np.zeros(len(chunk), np.uint8)
    for event in events_of(chunk, first):
        outcome = step(observer.machine, event)
        results[event.number - first] = outcome.result
        warnings[event.number - first] = outcome.warnings
        observer.observe(event, outcome)
    return observer.segment(first, chunk, results, warnings)


def _pages(tables: Tables, slots: Slot) -> list[Page]:
    """The struct pages of slots."""
    column = tables.pages.column
    names = ("private", "private_mfn", "index", "bucket", "map_user")
    rows = zip(*(column[name].take(slots).tolist() for name in names), strict=True)
    return [
        Page(private, private_mfn, index, None if bucket < 0 else bucket, map_user)
        for private, private_mfn, index, bucket, map_user in rows
    ]


def _look_ahead(tables: Tables, machine: Machine, chunk: Events) -> None:
    """Take out at once what the events of a chunk will ask for one by one."""
    mfns = distinct(chunk.mfn[chunk.mfn <= np.uint64(MAX_FRAME)])
    frames = tables.frame_slots(mfns)  # may make the columns grow
    owners = tables.frames.column["m2p"].take(frames)
    machine.m2p.update(zip(mfns.tolist(), owners.tolist(), strict=True))
    pfns = distinct(np.concatenate([chunk.pfn, owners]))
    pfns = pfns[pfns != np.uint64(INVALID)]
    slots = tables.page_slots(pfns)
    entries = tables.pages.column["p2m"].take(slots)
    machine.p2m.update(zip(pfns.tolist(), entries.tolist(), strict=True))
    machine.pages.update(zip(pfns.tolist(), _pages(tables, slots), strict=True))


def take_out(
    tables: Tables, model: KernelModel, observer: Observer, chunk: Events | None = None
) -> None:
    """Give `observer` a machine that holds what the tables hold, ready for `chunk`."""

    def p2m(pfn: int) -> int:
        if pfn == INVALID:
            return INVALID
        slot = tables.page_slots(np.array([pfn], np.uint64))[0]  # may make the columns grow
        return int(tables.pages.column["p2m"][slot])

    def m2p(mfn: int) -> int:
        if mfn == INVALID:
            return INVALID
        frame = tables.frame_slots(np.array([mfn], np.uint64))[0]
        return int(tables.frames.column["m2p"][frame])

    machine = Machine(model, Entries(p2m), Entries(m2p), Pages(tables))
    machine.failed_calls = observer.machine.failed_calls
    observer.machine = machine
    if chunk is not None:
        _look_ahead(tables, machine, chunk)
    column = tables.pages.column
    used = tables.pages.used
    listed = np.flatnonzero(column["bucket"][:used] >= 0)
    newest_first = listed[np.argsort(-column["listed_at"][listed], kind="stable")]
    for bucket, pfn in zip(column["bucket"][newest_first].tolist(),
                           column["pfn"][newest_first].tolist(), strict=True):
        machine.overrides.setdefault(bucket, []).append(pfn)
    listed_pfns = column["pfn"][listed].tolist()
    machine.pages.update(zip(listed_pfns, _pages(tables, listed), strict=True))
    names = ("map_event", "mfn", "pfn", "domid", "ref", "handle", "user", "first_time",
             "listed", "resolvable", "aliased")
    live = tables.live()
    live = live[np.argsort(column["map_event"][live], kind="stable")]
    for values in zip(*(column[name][live].tolist() for name in names), strict=True):
        machine.begin_share(Share(*values))
    _take_out_locks(tables, observer)
    observer.last_handle = _sparse(tables, "last_handle")
    observer.failed_map = _sparse(tables, "failed_map")
    observer.anchored = _sparse(tables, "anchored")
    observer.unwritten = {}
    waiting = np.flatnonzero(column["unwritten"][:used] != NO_EVENT)
    for slot in waiting.tolist():
        event = Event(
            int(column["unwritten"][slot]), 0, int(Kind.MAP), int(column["pfn"][slot]), INVALID,
            False, 0, 0, 0, 0, int(column["unwritten_call"][slot]), 0,
            int(column["unwritten_task"][slot]),
        )
        observer.unwritten[int(column["pfn"][slot])] = Unwritten(
            event, int(column["unwritten_old"][slot]), int(column["unwritten_new"][slot]))


def _take_out_locks(tables: Tables, observer: Observer) -> None:
    """The locks that are held and the windows that are open; those that only wait for a
    verdict have stayed in the observer."""
    column, used, watch = tables.pages.column, tables.pages.used, observer.watch
    machine = observer.machine
    held = np.flatnonzero(column["lock_event"][:used] != NO_EVENT)
    names = ("lock_event", "pfn", "lock_task", "lock_time")
    watch.held = {
        lock.pfn: lock
        for lock in (Lock(*row) for row in zip(
            *(column[name][held].tolist() for name in names), strict=True))
    }
    for window in watch.undecided:
        window.share = machine.shares[window.share.pfn]
        window.lock = watch.held[window.lock.pfn]
    watch.open = {}
    opened = np.flatnonzero(column["window_first"][:used] != NO_EVENT)
    for pfn, first, dio in zip(*(column[name][opened].tolist() for name in (
            "pfn", "window_first", "window_dio")), strict=True):
        share = machine.shares[pfn]
        resolved = resolve(machine, share)
        assert resolved is not None
        window = Window(share, watch.held[resolved], first, dio_event=dio)
        watch.open[pfn] = window
        watch.undecided.append(window)


def _put_back_locks(tables: Tables, observer: Observer, slots: dict[int, int]) -> None:
    column, used, watch = tables.pages.column, tables.pages.used, observer.watch
    for name in ("lock_event", "window_first", "window_dio"):
        column[name][:used] = NO_EVENT
    for lock in watch.held.values():
        slot = slots[lock.pfn]
        column["lock_event"][slot] = lock.event
        column["lock_task"][slot] = lock.task
        column["lock_time"][slot] = lock.time
    for pfn, window in watch.open.items():
        column["window_first"][slots[pfn]] = window.first_event
        column["window_dio"][slots[pfn]] = window.dio_event
    opened = set(map(id, watch.open.values()))
    watch.undecided = [window for window in watch.undecided if id(window) not in opened]


def _sparse(tables: Tables, name: str) -> dict[int, int]:
    column = tables.pages.column
    absent = tables.pages.specs[name][1]
    slots = np.flatnonzero(column[name][: tables.pages.used] != absent)
    return dict(zip(column["pfn"][slots].tolist(), column[name][slots].tolist(), strict=True))


def put_back(tables: Tables, observer: Observer) -> None:
    """Write what the machine and the observer hold into the tables."""
    machine = observer.machine
    written = np.array([*machine.p2m, *machine.pages, *machine.shares, *observer.anchored,
                        *observer.last_handle, *observer.failed_map, *observer.watch.held,
                        *_frontends(tables, machine)], np.uint64)
    written = distinct(written[written != np.uint64(INVALID)])
    written_slots = tables.page_slots(written)
    slots = dict(zip(written.tolist(), written_slots.tolist(), strict=True))
    column = tables.pages.column
    pfns = [pfn for pfn in machine.p2m if pfn != INVALID]
    at = [slots[pfn] for pfn in pfns]
    column["p2m"][at] = np.array([machine.p2m[pfn] for pfn in pfns], np.uint64)
    pages = [(slots[pfn], page) for pfn, page in machine.pages.items() if pfn != INVALID]
    at = [slot for slot, _ in pages]
    for name in ("private", "private_mfn", "index", "map_user"):
        values = [getattr(page, name) for _, page in pages]
        column[name][at] = np.array(values, column[name].dtype)
    column["bucket"][at] = [-1 if page.bucket is None else page.bucket for _, page in pages]
    order = 0
    for newest_first in machine.overrides.values():
        for pfn in reversed(newest_first):
            order += 1
            column["listed_at"][slots[pfn]] = order - (1 << 62)
    known = _put_back_frames(tables, machine)
    were_listed = np.flatnonzero(tables.frames.column["listed"][: tables.frames.used])
    _put_back_shares(tables, machine, slots)
    for name, kept in (("last_handle", observer.last_handle),
                       ("failed_map", observer.failed_map), ("anchored", observer.anchored)):
        column[name][: tables.pages.used] = tables.pages.specs[name][1]
        column[name][[slots[pfn] for pfn in kept]] = [*kept.values()]
    column["unwritten"][: tables.pages.used] = NO_EVENT
    for pfn, change in observer.unwritten.items():
        slot = int(tables.page_slots(np.array([pfn], np.uint64))[0])
        column["unwritten"][slot] = change.event.number
        column["unwritten_old"][slot] = change.old
        column["unwritten_new"][slot] = change.new
        column["unwritten_task"][slot] = change.event.task
        column["unwritten_call"][slot] = change.event.call
    _put_back_locks(tables, observer, slots)
    marks = _judge_pages(tables, machine.model, written_slots)
    if machine.model.marks_frontend:
        stuck = np.flatnonzero(tables.frames.column["stuck"][: tables.frames.used])
        store_stuck(tables, np.concatenate([known, marks, stuck, were_listed]))


def _frontends(tables: Tables, machine: Machine) -> list[int]:
    """The pages that m2p names, or named before, for the frames that the machine knows."""
    mfns = np.array([mfn for mfn in machine.m2p if mfn != INVALID], np.uint64)
    frames = tables.frame_slots(mfns)
    pages: list[int] = tables.frames.column["m2p"][frames].tolist()
    return [*pages, *machine.m2p.values()]


def _put_back_frames(tables: Tables, machine: Machine) -> Slot:
    """Gives the slots of the frames that the machine knows."""
    mfns = np.array([mfn for mfn in machine.m2p if mfn != INVALID], np.uint64)
    frames = tables.frame_slots(mfns)
    tables.set_m2p(frames, np.array([machine.m2p[m] for m in mfns.tolist()], np.uint64))
    return frames


def _put_back_shares(tables: Tables, machine: Machine, slots: dict[int, int]) -> None:
    column, frame_column = tables.pages.column, tables.frames.column
    column["map_event"][: tables.pages.used] = NO_EVENT
    frame_column["listed"][: tables.frames.used] = 0
    shares = list(machine.shares.values())
    at = np.array([slots[share.pfn] for share in shares], np.int64)
    for name in ("map_event", "mfn", "domid", "ref", "handle", "user", "first_time", "listed",
                 "resolvable", "aliased"):
        values = [getattr(share, name) for share in shares]
        column[name][at] = np.array(values, column[name].dtype)
    mfns = np.array([share.mfn for share in shares], np.uint64)
    column["frame"][at] = frames = tables.frame_slots(mfns)
    frame_column = tables.frames.column
    np.add.at(frame_column["listed"], frames, column["listed"][at].astype(np.int32))


def _judge_pages(tables: Tables, model: KernelModel, slots: Slot) -> Slot:
    """Say of each page whether it is plainly unmapped or plainly mapped, or odd.

    Gives the frames that pages are FOREIGN for without a share of them.
    """
    column = tables.pages.column
    pfn, entry, mfn, private_mfn, bucket = (
        column[name].take(slots) for name in ("pfn", "p2m", "mfn", "private_mfn", "bucket"))
    is_private, listed = column["private"].take(slots), column["listed"].take(slots)
    is_foreign, is_live = foreign(entry), column["map_event"].take(slots) != NO_EVENT
    listed &= is_live
    # On an override list as its share is, or without it (`listing`).
    is_listed_plainly = (bucket >= 0) == listed
    if model.overrides_need_user:
        is_listed_plainly |= ~listed & (is_live | (private_mfn == np.uint64(INVALID)))
    plainly_free = ~is_private & is_listed_plainly & (~is_foreign | model.marks_frontend)
    plainly_mapped = (entry == mfn | np.uint64(FOREIGN)) | ~is_foreign  # set_p2m wrote over it
    if model.overrides:
        plainly_mapped &= is_private & (private_mfn == mfn) & is_listed_plainly
        plainly_mapped &= ~foreign(column["index"].take(slots)) & (mfn != np.uint64(INVALID))
        plainly_mapped &= column["map_user"].take(slots) == column["user"].take(slots)
    # A page that maps its own frame is its frontend too: un-marking changes it.
    own = is_live & (tables.frames.column["m2p"].take(column["frame"].take(slots)) == pfn)
    column["odd"][slots] = own | ~np.where(is_live, plainly_mapped, plainly_free)
    column["left"][slots] = False
    marked = np.flatnonzero(is_foreign & ~(is_live & (entry == mfn | np.uint64(FOREIGN))))
    frame = tables.frame_slots(entry[marked] & np.uint64(FRAME_MASK))  # may make columns grow
    is_left = tables.frames.column["m2p"].take(frame) != pfn[marked]
    tables.pages.column["left"][slots[marked]] = is_left & ~is_live[marked]
    return frame
