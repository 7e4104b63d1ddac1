"""Sort a chunk by page, so that each unmap stands behind the map that it ends.

On a plain page (`Tables.pages`, column `odd`) a map always leaves the page mapped and an
unmap always leaves it unmapped, whether or not they were well-formed: a double map is
left out (or replaces), a second unmap fails. So what a page was before an event is the
kind of the event before it, unless that one was not carried out: an unmap of a call that
had failed, one that would follow a wild pointer, or any after a set_p2m that wrote over the
entry of the page's share. These are found by repetition: each round settles at least the
earliest event that is still wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.aborting import NEVER, UnmapCalls
from xenm2p.engine.listing import LISTED, MAPPED, Listed, states_after, step_codes
from xenm2p.engine.order import Mask, head_rows, last_before, sort_rows
from xenm2p.engine.pairs import (
    Pairs,
    differing_rows,
    has_any,
    is_kind,
    of_owner,
    owner_users,
    users,
)
from xenm2p.engine.replay import NO_EVENT, Result
from xenm2p.engine.tables import Slot, Tables, buckets_of, foreign
from xenm2p.kernels import KernelModel
from xenm2p.trace import FOREIGN, FRAME_MASK, IDENTITY, INVALID, Events, Kind

# After this many rounds the chunk is left to the rules.
MOST_ROUNDS = 32


def pair(
    tables: Tables, model: KernelModel, chunk: Events, rows: Slot | None, failed: dict[int, int]
) -> Pairs | None:
    """Pair the page events at positions `rows` (None: all of the chunk).

    `failed` are calls that failed before the chunk, as `UnmapCalls.of` takes them. None where
    a page is not plain.
    """
    kind = chunk.kind if rows is None else chunk.kind.take(rows)
    pfn = chunk.pfn if rows is None else chunk.pfn.take(rows)
    # Backend pages are mostly neighbours: then their numbers sort as fast as slots, and
    # slots need to be found once a page only, not once an event.
    by_page = sort_rows(pfn)
    order, head = by_page.row, head_rows(by_page.above)
    pos = order if rows is None else rows.take(order)
    heads = np.flatnonzero(head)
    of_page = tables.page_slots(pfn.take(order.take(heads)))
    column = tables.pages.column
    if column["odd"].take(of_page).any():
        return None
    sorted_kind = kind.take(order)
    is_map = is_kind(sorted_kind, Kind.MAP)
    live = column["map_event"].take(of_page) != NO_EVENT
    before = np.empty(len(order), np.bool_)
    before[1:] = is_map[:-1]
    before[heads] = live
    base = column["p2m"].take(of_page)
    held = live & (base == column["mfn"].take(of_page) | np.uint64(FOREIGN))
    if (live & ~held & foreign(base)).any():
        return None  # a frontend page, marked under a share that has lost its entry
    if model.overrides:
        # An unmapped page that is plain and FOREIGN is a frontend page with its mark.
        base = np.where(foreign(base), base & np.uint64(FRAME_MASK), base)
        base = np.where(held, column["index"].take(of_page), base)
        if ((base != np.uint64(INVALID)) & (base >= np.uint64(IDENTITY))).any():
            return None  # the kernel strips the IDENTITY bit: left to the rules
    elif live.any():
        base = np.where(held, np.uint64(INVALID), base)
    pairs = Pairs(pos, head, heads, of_page, live, is_map, ~is_map, before, base)
    pairs.held = before
    pairs.held_first = held
    pairs.overwritten = of_page.compress(live & ~held)
    if model.overrides_need_user and (len(pairs.overwritten) or _any_stays(tables, pairs)):
        return _settle_listed(tables, model, chunk, pairs, sorted_kind, failed)
    only_pairs = rows is None or bool((sorted_kind <= int(Kind.UNMAP)).all())
    only_pairs &= not len(pairs.overwritten) and not failed and not has_any(chunk.status)
    if only_pairs and not (is_map == before).any():
        pairs.result = np.full(len(order), Result.OK, np.uint8)
        return _check_users(tables, model, chunk, pairs, failed)
    return _settle(tables, model, chunk, pairs, sorted_kind, failed)


def _check_users(
    tables: Tables, model: KernelModel, chunk: Events, pairs: Pairs, failed: dict[int, int]
) -> Pairs | None:
    """A clean chunk stays clean unless an unmap's `user` differs where that matters."""
    if not (model.derefs_kmap_op or model.overrides_need_user):
        return pairs
    if not len(differing_rows(tables, chunk, pairs, "user")):
        return pairs
    return _settle(tables, model, chunk, pairs, chunk.kind.take(pairs.pos), failed)


def _settle(
    tables: Tables, model: KernelModel, chunk: Events, pairs: Pairs,
    kind: NDArray[np.uint8], failed: dict[int, int],
) -> Pairs | None:
    """Pair rows some of which fail, are left out, or only look at the page."""
    count, is_set = len(pairs), is_kind(kind, Kind.SET_P2M)
    group, starts = _take_sides(chunk, pairs, kind)
    acts = pairs.is_map | pairs.is_unmap
    mapped_first = pairs.live.take(group)
    held_first = pairs.held_first.take(group)
    writes = bool(is_set.any()) or len(pairs.overwritten) > 0
    user = users(chunk, pairs.pos)
    ends_call = model.failed_unmap_ends_call
    aborted, calls = np.zeros(count, np.bool_), None
    if ends_call and failed:
        calls = _calls_of(chunk, pairs, failed)
        aborted = calls.ended_by(aborted) != NEVER
    void = aborted
    for _ in range(MOST_ROUNDS):
        last = last_before(acts & ~void, starts)
        before = np.where(last >= 0, pairs.is_map.take(last, mode="wrap"), mapped_first)
        maps = pairs.is_map & ~before if model.overrides else pairs.is_map
        held = before
        if writes and model.overrides:
            # A page that is listed is neither mapped nor unmapped again without its entry.
            lost = last_before(is_set & before, starts) >= 0
            lost |= mapped_first & ~held_first
            held = before & ~lost
        elif writes:
            last = last_before((acts & ~aborted) | is_set, starts)
            held = np.where(last >= 0, pairs.is_map.take(last, mode="wrap"), held_first)
        pairs.before, pairs.held = before, held
        pairs.owner = last_before(maps, starts)
        skipped = np.zeros(count, np.bool_)
        if model.derefs_kmap_op or model.overrides_need_user:
            skipped = pairs.is_unmap & ~aborted & held & (
                user != owner_users(tables, chunk, pairs))
        if model.overrides_need_user:  # list_del of a page that was mapped without
            skipped &= user
        fails = pairs.is_unmap & ~held & ~aborted
        if ends_call and (calls or fails.any()):
            calls = calls or _calls_of(chunk, pairs, failed)
            aborted = calls.ended_by(fails) != NEVER
        now_void = aborted | skipped | (fails & before)
        if writes and model.overrides:
            now_void |= acts & before & ~held
        settled = np.array_equal(void, now_void)
        void = now_void
        if settled:
            break
    else:
        return None
    pairs.calls = calls
    again = pairs.is_map & before
    if model.overrides_need_user:
        of_map = owner_users(tables, chunk, pairs)
        differs = pairs.is_unmap & before & ~aborted & ~user & of_map
        if (differs | (again & ~(user & of_map)) | (is_set & before)).any():
            return _settle_listed(tables, model, chunk, pairs, kind, failed)
    result = np.zeros(count, np.uint8)
    result[pairs.is_map | pairs.is_unmap] = Result.OK
    if model.overrides:
        result[again] = Result.SKIP_LIST
    result[fails] = Result.EINVAL
    result[skipped] = Result.SKIP_KMAP if model.derefs_kmap_op else Result.SKIP_LIST
    result[aborted] = Result.ABORTED
    pairs.result = result
    return _with_bases(tables, model, chunk, pairs, is_set, group, starts)


def _take_sides(
    chunk: Events, pairs: Pairs, kind: NDArray[np.uint8]
) -> tuple[Slot, Slot]:
    """Say which rows map and unmap; gives the place of their page, and its first row, (r,)."""
    pairs.clean = False
    pairs.is_map = is_kind(kind, Kind.MAP) & ~pairs.failed_maps(chunk)
    pairs.is_unmap = is_kind(kind, Kind.UNMAP)
    group = np.cumsum(pairs.head) - 1
    return group, pairs.heads.take(group)


def _calls_of(chunk: Events, pairs: Pairs, failed: dict[int, int]) -> UnmapCalls:
    return UnmapCalls.of(pairs.is_unmap, pairs.pos, chunk.call.take(pairs.pos), failed)


def _any_stays(tables: Tables, pairs: Pairs) -> bool:
    """Whether a page was on a list before the chunk without a share that put it there."""
    column = tables.pages.column
    listed = column["bucket"].take(pairs.pages) >= 0
    return bool((listed & ~(pairs.live & column["listed"].take(pairs.pages))).any())


def _settle_listed(
    tables: Tables, model: KernelModel, chunk: Events, pairs: Pairs,
    kind: NDArray[np.uint8], failed: dict[int, int],
) -> Pairs | None:
    """Pair rows of pages that stay listed without a share, or are mapped while mapped."""
    group, starts = _take_sides(chunk, pairs, kind)
    user = users(chunk, pairs.pos)
    bucket = tables.pages.column["bucket"].take(pairs.pages)
    is_set = is_kind(kind, Kind.SET_P2M)
    first = np.where(pairs.held_first, np.uint8(MAPPED), np.uint8(0))
    first |= np.where(bucket >= 0, np.uint8(LISTED), np.uint8(0))
    first = first.take(group)
    calls = _calls_of(chunk, pairs, failed)
    aborted = calls.ended_by(np.zeros(len(pairs), np.bool_)) != NEVER
    for _ in range(MOST_ROUNDS):
        after = states_after(
            step_codes(pairs.is_map, pairs.is_unmap & ~aborted, is_set, user), starts, first)
        state = np.where(pairs.head, first, np.roll(after, 1))
        pairs.held = state & MAPPED != 0
        fails = pairs.is_unmap & ~pairs.held & ~aborted
        void = aborted
        aborted = calls.ended_by(fails) != NEVER
        if np.array_equal(void, aborted):
            break
    else:
        return None
    pairs.calls = calls
    is_listed = state & LISTED != 0
    skipped = user & ~aborted & (
        pairs.is_map & is_listed | pairs.is_unmap & pairs.held & ~is_listed)
    pairs.result = np.zeros(len(pairs), np.uint8)
    pairs.result[pairs.is_map | pairs.is_unmap] = Result.OK
    pairs.result[fails] = Result.EINVAL
    pairs.result[skipped] = Result.SKIP_LIST
    pairs.result[aborted] = Result.ABORTED
    begins = pairs.is_map & ~skipped
    last = last_before((pairs.is_map | pairs.is_unmap) & (pairs.result == Result.OK), starts)
    pairs.before = np.where(
        last >= 0, pairs.is_map.take(last, mode="wrap"), pairs.live.take(group))
    pairs.owner = last_before(begins, starts)
    lists = begins & user
    listed_by, mfn = last_before(lists, starts), chunk.mfn.take(pairs.pos)
    its_bucket = buckets_of(mfn)
    stands_in = np.where(listed_by >= 0, its_bucket.take(listed_by, mode="wrap"),
                         bucket.take(group))
    stray = np.flatnonzero(begins & ~user & is_listed & (stands_in == its_bucket))
    tails = pairs.tails
    pairs.listed = Listed(
        after.take(tails) & LISTED != 0,
        np.where(lists.take(tails), tails, listed_by.take(tails)), stray, listed_by.take(stray))
    return _with_bases(tables, model, chunk, pairs, is_set, group, starts)


def _with_bases(
    tables: Tables, model: KernelModel, chunk: Events, pairs: Pairs, is_set: Mask, group: Slot,
    starts: Slot,
) -> Pairs | None:
    """Fill in what each page holds beside the share, through set_p2m and, 4.0 on, unmap.

    A map onto a mapped page, which is not left out where pages are listed for user space
    alone, saves the frame of the share that it replaces.
    """
    if not is_set.any() and pairs.listed is None and (model.overrides or not (
            pairs.base != np.uint64(INVALID)).any()):
        pairs.base = pairs.base.take(group)
        return pairs
    base = pairs.base.take(group)
    last = np.full(len(base), -1)
    if is_set.any() or pairs.listed is not None:
        entries = chunk.mfn.take(pairs.pos)
        value = entries[is_set]
        if foreign(value).any():
            return None
        overwrites = is_set & pairs.held
        if overwrites.any():
            pairs.overwritten = np.concatenate(
                [pairs.overwritten, pairs.slot.compress(overwrites)])
        if model.overrides and (value[value != np.uint64(INVALID)] >= np.uint64(IDENTITY)).any():
            return None
        saves = is_set
        if pairs.listed is not None:
            replaces = pairs.is_map & pairs.held & (pairs.result == Result.OK)
            replaced = of_owner(pairs, entries, tables.pages.column["mfn"])
            entries = np.where(replaces, replaced, entries)
            saves = is_set | replaces
        last = last_before(saves, starts)
        base = np.where(last >= 0, entries.take(last, mode="wrap"), base)
        if pairs.listed is not None:
            base = np.where(replaces, entries, base)
    if not model.overrides:
        ended = last_before(pairs.is_unmap & (pairs.result == Result.OK), starts)
        base[(ended >= 0) & (ended > last)] = INVALID
    pairs.base = base
    return pairs
