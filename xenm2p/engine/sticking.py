"""Frontend marks that outlive the overrides they are for (XM201).

Since 1429d46df4c5 (3.15) clear_foreign_p2m_mapping un-marks the frontend only with
kmap_ops: a listed share that ends without them leaves its mark behind, and the end of a
share that was never listed, but with them, takes such a mark off.
"""

from __future__ import annotations

import numpy as np

from xenm2p.engine.overrides import Ends, Sharing, Strays
from xenm2p.engine.replay import Fact
from xenm2p.engine.work import Work


def ends_that_stick(work: Work, strays: Strays) -> Ends:
    """The ends of shares, in the chunk, of frames whose mark may outlive their overrides."""
    pairs, tables = work.pairs, work.tables
    is_stuck, owners = tables.frames.column["stuck"], work.owners
    if pairs.listed is None and owners is None and not len(strays.frame) and (
            not is_stuck[: tables.frames.used].any()):
        return Ends()  # no mark is there without an override, and each end un-marks
    rows = work.ended
    pos = pairs.pos.take(rows)
    was_listed = work.owned("user", rows).astype(np.bool_)
    unmarks = pairs.is_unmap.take(rows) & (work.chunk.user.take(pos) != 0)
    frame = tables.frame_slots(work.owned("mfn", rows))
    sticks = (was_listed & ~unmarks) | is_stuck.take(frame)
    if len(strays.frame):  # while the search finds one, no end un-marks
        sticks |= np.isin(frame, strays.frame)
    if owners is not None:  # m2p may name an entry that it had left marked before
        sticks |= ~unmarks & np.isin(frame, owners.frame)
    is_sticky = np.zeros(tables.frames.used, np.bool_)
    is_sticky[frame[sticks]] = True
    kept = is_sticky.take(frame)
    return Ends(pos[kept], frame[kept], rows[kept], was_listed[kept], unmarks[kept])


def stuck_facts(work: Work, shared: Sharing, ends: Ends) -> None:
    """XM201: the last share of a frame ends, and its frontend entry is still marked."""
    asked = np.flatnonzero(shared.left_marked)
    if not len(asked):
        return
    pos, frame = ends.pos[asked], ends.frame[asked]
    shares = work.shares
    of_share = work.tables.frame_slots(shares.mfn) << 18
    begun = np.sort(of_share | (shares.begin + 1))
    ended = np.sort(of_share | (shares.end + 1))
    at = (frame << 18) | (pos + 1)
    alone = np.searchsorted(begun, at, side="right") == np.searchsorted(ended, at, side="right")
    pos, frame, rows = pos[alone], frame[alone], ends.row[asked[alone]]
    page = work.frontends(frame, pos)
    work.facts.add(
        Fact.STUCK_FOREIGN, pos, event=pos + work.first,
        pfn=work.tables.pages.column["pfn"].take(page),
        mfn=work.tables.frames.column["mfn"].take(frame), other=work.owned("map_event", rows))
