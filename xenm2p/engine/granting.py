"""Grants that are ended while they are mapped (XM402)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.order import distinct, newest_live, order_of
from xenm2p.engine.pairs import is_kind
from xenm2p.engine.replay import Fact
from xenm2p.engine.tables import Slot
from xenm2p.engine.work import Work
from xenm2p.trace import NO_DOMID, NO_REF, Kind

Refs = NDArray[np.uint32]


def ended_in_use(work: Work) -> None:
    """XM402: end_grant events while shares of the grant are live."""
    chunk = work.chunk
    queries = np.flatnonzero(is_kind(chunk.kind, Kind.END_GRANT))
    queries = queries[chunk.ref.take(queries) != np.uint32(NO_REF)]
    if not len(queries):
        return
    shares = work.shares
    mine = (shares.domid == NO_DOMID) | (shares.domid == work.observer.domain)
    is_asked = np.flatnonzero(mine & np.isin(shares.ref, chunk.ref.take(queries)))
    live = _live_at(
        shares.ref.take(is_asked), shares.begin.take(is_asked), shares.end.take(is_asked),
        chunk.ref.take(queries), queries)
    hits = np.flatnonzero(live > 0)
    if not len(hits):
        return
    queries, live = queries.take(hits), live.take(hits)
    refs = distinct(chunk.ref.take(queries))
    rows = is_asked.compress(np.isin(shares.ref.take(is_asked), refs))
    rows = rows.take(order_of(shares.event.take(rows)))
    grant, asked = (np.searchsorted(refs, each) for each in (
        shares.ref.take(rows), chunk.ref.take(queries)))
    newest = newest_live(
        grant, shares.event.take(rows), shares.end.take(rows), asked, queries, work.first)
    chosen = rows.take(newest)
    work.facts.add(Fact.ENDED_IN_USE, queries, event=queries + work.first,
                   pfn=shares.pfn[chosen], mfn=shares.mfn[chosen], other=shares.event[chosen],
                   value=live)


def _live_at(ref: Refs, begin: Slot, end: Slot, asked: Refs, pos: Slot) -> Slot:
    """How many shares (s,) of each asked ref (q,) are live at each of `pos`, (q,)."""
    order = order_of(np.concatenate([ref, ref, asked]),
                     np.concatenate([begin, end, pos]))
    step = np.repeat(np.array([1, -1, 0]), [len(ref), len(ref), len(asked)])
    # Within a ref; those before it are all over at its first row, as each has an end.
    live = np.cumsum(step.take(order))
    is_asked = order >= 2 * len(ref)
    counts = np.empty(len(asked), np.int64)
    counts[order.compress(is_asked) - 2 * len(ref)] = live.compress(is_asked)
    return counts
