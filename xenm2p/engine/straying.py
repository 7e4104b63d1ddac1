"""Pages that the override search finds for a frame though another put them on its list.

That is so where a page that has stayed listed (`listing`) is mapped without kmap_ops to a
frame of the same list: one in a thousand is, or the same frame as before.
"""

from __future__ import annotations

import numpy as np

from xenm2p.engine.overrides import Strays
from xenm2p.engine.tables import Slot, buckets_of
from xenm2p.engine.work import Work


def strays_of(work: Work) -> Strays:
    """The strays that are live at some moment of the chunk."""
    if not work.model.overrides_need_user:
        return Strays()
    pairs, column, live = work.pairs, work.tables.pages.column, work.tables.live()
    live = live[(column["bucket"].take(live) >= 0) & ~column["listed"].take(live)]
    old = live[buckets_of(column["mfn"].take(live)) == column["bucket"].take(live)]
    row = old[:0] if pairs.listed is None else pairs.listed.stray
    if not len(old) and not len(row):
        return Strays()
    pos = pairs.pos.take(row)
    listed_at = column["listed_at"].take(pairs.slots_of(row))
    if pairs.listed is not None:
        listed_by = pairs.listed.stray_by
        listed_at = np.where(
            listed_by >= 0, pairs.pos.take(listed_by, mode="wrap") + work.first, listed_at)
    order: Slot = np.concatenate([column["listed_at"].take(old), listed_at])
    shares = work.shares
    at = np.concatenate([np.searchsorted(shares.old, old),
                         len(shares.old) + np.searchsorted(work.begun, pos)])
    return Strays(work.tables.frame_slots(shares.mfn[at]), shares.begin[at], shares.end[at],
                  order, shares.event[at])
