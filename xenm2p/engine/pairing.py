"""Sort a chunk by page, so that each unmap stands behind the map that it ends.

On a plain page (`Tables.pages`, column `odd`) a map always leaves the page mapped and an
unmap always leaves it unmapped, whether or not they were well-formed: a double map is
left out (or replaces), a second unmap fails. So what a page was before an event is the
kind of the event before it, unless that one was not carried out: an unmap of a call that
had failed, or one that would follow a wild pointer. These are found by repetition: each
round settles at least the earliest event that is still wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.replay import NO_EVENT, Result
from xenm2p.engine.tables import Slot, Tables, foreign
from xenm2p.kernels import KernelModel
from xenm2p.trace import FRAME_MASK, IDENTITY, INVALID, NO_CALL, U64, Events, Kind

Mask = NDArray[np.bool_]
OF_TABLE = -1  # owner: the share that was live on the page before the chunk

# After this many rounds the chunk is left to the rules.
MOST_ROUNDS = 32


@dataclass(slots=True)
class Pairs:
    """The page events of a chunk in rows, sorted by page and then by position.

    pos (r,) position in the chunk; slot (r,) page; head (r,) first row of its page;
    heads (h,) their rows; is_map, is_unmap (r,) the kind, of what is carried out or not;
    result (r,) uint8; before (r,) whether the page was mapped before the row; owner (r,)
    the row of the map of the share that was live then, OF_TABLE for one from before the
    chunk, and meaningless where `before` is False; base (r,) the entry the page held, or
    will hold, without the share. `aborted_by` gives calls that failed: call -> position.
    `clean` says that every map and unmap succeeded and nothing else is among the rows.
    """

    pos: Slot
    slot: Slot
    head: Mask
    heads: Slot
    is_map: Mask
    is_unmap: Mask
    before: Mask
    owner: Slot
    result: NDArray[np.uint8]
    base: U64
    clean: bool
    failed_calls: dict[int, int]


def sort_by_page(slots: Slot, used: int) -> tuple[Slot, Slot]:
    """Rows of `slots` (n,) ordered by slot, then position: positions and slots, int64."""
    length = len(slots)
    if used <= 1 << 16 and length <= 1 << 16:
        key = (slots.astype(np.uint32) << np.uint32(16)) | np.arange(length, dtype=np.uint32)
        key.sort()
        return (key & np.uint32(0xFFFF)).astype(np.int64), (key >> np.uint32(16)).astype(np.int64)
    wide = (slots.astype(np.int64) << 17) | np.arange(length)
    wide.sort()
    return wide & 0x1FFFF, wide >> 17


def pair(
    tables: Tables, model: KernelModel, chunk: Events, rows: Slot | None, failed: dict[int, int]
) -> Pairs | None:
    """Pair the page events at positions `rows` (None: all of the chunk).

    `failed` holds the calls that failed before the chunk. None where a page is not plain.
    """
    kind = chunk.kind if rows is None else chunk.kind.take(rows)
    pfn = chunk.pfn if rows is None else chunk.pfn.take(rows)
    slots = tables.page_slots(pfn)
    column = tables.pages.column
    order, slot = sort_by_page(slots, tables.pages.used)
    pos = order if rows is None else rows.take(order)
    head = np.empty(len(slot), np.bool_)
    head[:1] = True
    np.not_equal(slot[1:], slot[:-1], out=head[1:])
    heads = np.flatnonzero(head)
    of_page = slot.take(heads)
    if column["odd"].take(of_page).any():
        return None
    sorted_kind = kind.take(order)
    is_map = sorted_kind == Kind.MAP
    live = column["map_event"].take(of_page) != NO_EVENT
    before = np.empty(len(slot), np.bool_)
    before[1:] = is_map[:-1]
    before[heads] = live
    base = column["p2m"].take(of_page)
    if model.overrides:
        # An unmapped page that is plain and FOREIGN is a frontend page with its mark.
        base = np.where(foreign(base), base & np.uint64(FRAME_MASK), base)
        base = np.where(live, column["index"].take(of_page), base)
        if ((base != np.uint64(INVALID)) & (base >= np.uint64(IDENTITY))).any():
            return None  # the kernel strips the IDENTITY bit: left to the rules
    elif live.any():
        base = np.where(live, np.uint64(INVALID), base)
    pairs = Pairs(
        pos, slot, head, heads, is_map, ~is_map, before,
        np.empty(0, np.int64), np.empty(0, np.uint8), base, True, {},
    )
    only_pairs = rows is None or bool((sorted_kind <= Kind.UNMAP).all())
    maps_fail = bool(chunk.status.any())
    if only_pairs and not maps_fail and not failed and not (is_map == before).any():
        owner = np.arange(-1, len(slot) - 1)
        owner[heads] = OF_TABLE
        pairs.owner = owner
        pairs.result = np.full(len(slot), Result.OK, np.uint8)
        return _check_users(tables, model, chunk, pairs, failed)
    return _settle(tables, model, chunk, pairs, sorted_kind, live, failed)


def _check_users(
    tables: Tables, model: KernelModel, chunk: Events, pairs: Pairs, failed: dict[int, int]
) -> Pairs | None:
    """A clean chunk stays clean unless an unmap's `user` differs where that matters."""
    if not (model.derefs_kmap_op or model.overrides_need_user):
        return pairs
    differs = users(chunk, pairs.pos) != owner_users(tables, chunk, pairs)
    if not (pairs.is_unmap & differs).any():
        return pairs
    if model.overrides_need_user:
        return None
    live = tables.pages.column["map_event"].take(pairs.slot.take(pairs.heads)) != NO_EVENT
    kind = chunk.kind.take(pairs.pos)
    return _settle(tables, model, chunk, pairs, kind, live, failed)


def users(chunk: Events, pos: Slot) -> Mask:
    """Which of the events at `pos` have kmap_ops."""
    return chunk.user.take(pos).view(np.bool_)


def owner_users(tables: Tables, chunk: Events, pairs: Pairs) -> Mask:
    """The `user` of each row's live share; meaningless where there is none."""
    return of_owner(pairs, users(chunk, pairs.pos), tables.pages.column["user"])


def of_owner(pairs: Pairs, sorted_column: NDArray, table: NDArray) -> NDArray:  # type: ignore[type-arg]
    """What each row's live share has in a column, given sorted as the rows and as table."""
    values = sorted_column.take(pairs.owner, mode="wrap")
    old = np.flatnonzero(pairs.owner == OF_TABLE)
    values[old] = table.take(pairs.slot.take(old))
    return values


def last_before(where: Mask, starts: Slot) -> Slot:
    """For each row the last row before it, on its page, that is in `where`; else -1."""
    rows = np.where(where, np.arange(len(where)), -1)
    np.maximum.accumulate(rows, out=rows)
    last = np.empty_like(rows)
    last[:1] = -1
    last[1:] = rows[:-1]
    last[last < starts] = -1
    return last


def _settle(
    tables: Tables, model: KernelModel, chunk: Events, pairs: Pairs,
    kind: NDArray[np.uint8], live: Mask, failed: dict[int, int],
) -> Pairs | None:
    """Pair rows some of which fail, are left out, or only look at the page."""
    pairs.clean = False
    count = len(pairs.slot)
    group = np.cumsum(pairs.head) - 1
    starts = pairs.heads.take(group)
    is_set = kind == Kind.SET_P2M
    acts = kind <= Kind.UNMAP
    acts[acts] = (kind[acts] == Kind.UNMAP) | (chunk.status.take(pairs.pos[acts]) == 0)
    pairs.is_map = acts & (kind == Kind.MAP)
    pairs.is_unmap = acts & (kind == Kind.UNMAP)
    mapped_first = live.take(group)
    user = users(chunk, pairs.pos)
    call = chunk.call.take(pairs.pos)
    ends_call = model.failed_unmap_ends_call
    aborted = pairs.is_unmap & np.isin(call, list(failed)) if ends_call and failed else (
        np.zeros(count, np.bool_))
    void = aborted
    for _ in range(MOST_ROUNDS):
        last = last_before(acts & ~void, starts)
        before = np.where(last >= 0, pairs.is_map.take(last, mode="wrap"), mapped_first)
        maps = pairs.is_map & ~before if model.overrides else pairs.is_map
        pairs.before = before
        pairs.owner = last_before(maps, starts)
        skipped = np.zeros(count, np.bool_)
        if model.derefs_kmap_op:
            skipped = pairs.is_unmap & ~aborted & before & (
                user != owner_users(tables, chunk, pairs))
        fails = pairs.is_unmap & ~before & ~aborted
        if ends_call:
            aborted, pairs.failed_calls = _aborted(pairs, call, fails, failed)
        settled = np.array_equal(void, aborted | skipped)
        void = aborted | skipped
        if settled:
            break
    else:
        return None
    again = pairs.is_map & before
    if model.overrides_need_user:
        of_map = owner_users(tables, chunk, pairs)
        differs = pairs.is_unmap & before & ~aborted & (user != of_map)
        if (differs | (again & ~(user & of_map))).any():
            return None  # a page stays listed without a share, or loses one while listed
    result = np.zeros(count, np.uint8)
    result[pairs.is_map | pairs.is_unmap] = Result.OK
    if model.overrides:
        result[again] = Result.SKIP_LIST
    result[fails] = Result.EINVAL
    result[skipped] = Result.SKIP_KMAP
    result[aborted] = Result.ABORTED
    pairs.result = result
    return _with_bases(model, chunk, pairs, is_set, group, starts)


def _aborted(
    pairs: Pairs, call: Slot, fails: Mask, failed: dict[int, int]
) -> tuple[Mask, dict[int, int]]:
    """Which unmaps come after one that failed in their call, and where calls failed first."""
    bad = np.flatnonzero(fails & (call != NO_CALL))
    aborted = pairs.is_unmap & np.isin(call, list(failed)) if failed else (
        np.zeros(len(call), np.bool_))
    if not len(bad):
        return aborted, {}
    bad = bad[np.argsort(pairs.pos[bad])]
    calls, first = np.unique(call[bad], return_index=True)
    failed_at = pairs.pos[bad[first]]
    of_call = np.minimum(np.searchsorted(calls, call), len(calls) - 1)
    later = (calls[of_call] == call) & (pairs.pos > failed_at[of_call])
    where = dict(zip(calls.tolist(), failed_at.tolist(), strict=True))
    return aborted | (pairs.is_unmap & later), where


def _with_bases(
    model: KernelModel, chunk: Events, pairs: Pairs, is_set: Mask, group: Slot, starts: Slot
) -> Pairs | None:
    """Fill in what each page holds beside the share, through set_p2m and, 4.0 on, unmap."""
    base = pairs.base.take(group)
    if is_set.any():
        entries = chunk.mfn.take(pairs.pos)
        value = entries[is_set]
        if (is_set & pairs.before).any() or foreign(value).any():
            return None
        if model.overrides and (value[value != np.uint64(INVALID)] >= np.uint64(IDENTITY)).any():
            return None
        last = last_before(is_set, starts)
        base = np.where(last >= 0, entries.take(last, mode="wrap"), base)
    else:
        last = np.full(len(base), -1)
    if not model.overrides:
        ended = last_before(pairs.is_unmap & (pairs.result == Result.OK), starts)
        base[(ended >= 0) & (ended > last)] = INVALID
    pairs.base = base
    return pairs
