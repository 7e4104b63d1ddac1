"""Grants that are ended while they are mapped (XM402)."""

from __future__ import annotations

import numpy as np

from xenm2p.engine.order import distinct, newest_live, order_of
from xenm2p.engine.pairing import is_kind
from xenm2p.engine.replay import Fact
from xenm2p.engine.work import Work
from xenm2p.trace import NO_DOMID, NO_REF, Kind


def ended_in_use(work: Work) -> None:
    """XM402: end_grant events while shares of the grant are live."""
    chunk = work.chunk
    queries = np.flatnonzero(is_kind(chunk.kind, Kind.END_GRANT))
    queries = queries[chunk.ref.take(queries) != np.uint32(NO_REF)]
    if not len(queries):
        return
    asked = distinct(chunk.ref.take(queries))
    shares = work.shares
    domain = work.observer.domain
    mine = (shares.domid == NO_DOMID) | (shares.domid == domain)
    place = np.minimum(np.searchsorted(asked, shares.ref), len(asked) - 1)
    mine &= asked[place] == shares.ref
    ref, begin_at, end_at = shares.ref[mine], shares.begin[mine], shares.end[mine]
    group = np.searchsorted(asked, ref)
    # Live at a query: begun before it less ended before it, counted within the grant.
    span = len(chunk) + 2
    asked_group = np.searchsorted(asked, chunk.ref.take(queries))
    begun = np.sort(group * span + begin_at + 1)
    ended = np.sort(group * span + end_at + 1)
    at = asked_group * span + queries + 1
    live = np.searchsorted(begun, at) - np.searchsorted(ended, at)
    hits = np.flatnonzero(live > 0)
    if not len(hits):
        return
    by_event = order_of(shares.event[mine])
    newest = newest_live(group.take(by_event), shares.event[mine].take(by_event),
                         end_at.take(by_event), asked_group[hits], queries[hits], work.first)
    chosen = np.flatnonzero(mine)[by_event.take(newest)]
    work.facts.add(Fact.ENDED_IN_USE, queries[hits], event=queries[hits] + work.first,
                   pfn=shares.pfn[chosen], mfn=shares.mfn[chosen], other=shares.event[chosen],
                   value=live[hits])
