"""Pages that the override search finds for a frame though another put them on its list.

That is so where a page that has stayed listed (`listing`) is mapped without kmap_ops to a
frame of the same list: one in a thousand is, or the same frame as before.
"""

from __future__ import annotations

import numpy as np

from xenm2p.engine.overrides import Strays
from xenm2p.engine.tables import Slot, buckets_of
from xenm2p.engine.work import Work
from xenm2p.trace import U64


def strays_of(work: Work) -> Strays:
    """The strays that are live at some moment of the chunk."""
    if not work.model.overrides_need_user:
        return Strays()
    pairs, tables, chunk = work.pairs, work.tables, work.chunk
    column, live = tables.pages.column, tables.live()
    live = live[(column["bucket"].take(live) >= 0) & ~column["listed"].take(live)]
    old = live[buckets_of(column["mfn"].take(live)) == column["bucket"].take(live)]
    row = old[:0] if pairs.listed is None else pairs.listed.stray
    if not len(old) and not len(row):
        return Strays()
    end_of = np.full(tables.pages.used, len(chunk))
    end_of[pairs.slots_of(work.old)] = pairs.pos.take(work.old)
    pos = pairs.pos.take(row)
    listed_at = column["listed_at"].take(pairs.slots_of(row))
    if pairs.listed is not None:
        listed_by = pairs.listed.stray_by
        listed_at = np.where(
            listed_by >= 0, pairs.pos.take(listed_by, mode="wrap") + work.first, listed_at)
    mfn: U64 = np.concatenate([column["mfn"].take(old), chunk.mfn.take(pos)])
    order: Slot = np.concatenate([column["listed_at"].take(old), listed_at])
    return Strays(
        tables.frame_slots(mfn), np.concatenate([np.full(len(old), -1), pos]),
        np.concatenate([end_of.take(old), work.end.take(pos)]), order,
        np.concatenate([column["map_event"].take(old), pos + work.first]))
