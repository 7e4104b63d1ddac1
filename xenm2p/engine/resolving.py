"""Shares of kernel backends on which direct I/O is seen: they resolve from then on.

A kernel backend holds the struct page itself, so that its share, without kmap_ops, resolves
to nothing; a direct I/O event on it is taken at its word. `Work.first_io` has them.
"""

from __future__ import annotations

import numpy as np

from xenm2p.engine.looking import Looks
from xenm2p.engine.order import Mask
from xenm2p.engine.replay import Fact
from xenm2p.engine.tables import Slot
from xenm2p.engine.work import Work
from xenm2p.trace import INVALID


def watched_frames(work: Work) -> Slot:
    """The frames of such shares where they are on no list: others mark and un-mark them."""
    if not work.model.overrides_need_user:
        return work.first_io[:0]
    column, live = work.tables.pages.column, work.tables.live()
    resolvable = live[column["resolvable"][live] & ~column["user"][live]]
    asked = work.tables.frame_slots(work.owned("mfn", work.first_io))
    frames: Slot = np.concatenate([column["frame"][resolvable], asked])
    return frames


def first_io_facts(work: Work, looks: Looks) -> None:
    """XM203 where the first direct I/O on such a share reaches the frontend page.

    Leaves in `work.io_aliases` which of `work.first_io` do.
    """
    rows, answers = work.first_io, looks.resolutions
    if not len(rows):
        return
    at = np.searchsorted(looks.pos, work.pairs.pos.take(rows))
    frontend = answers.frontend.take(at)
    is_alias: Mask = (frontend != np.uint64(INVALID)) & (answers.marked.take(at) == 0)
    is_alias &= (answers.resolved.take(at) == frontend) & (frontend != work.pfns(rows))
    work.io_aliases = is_alias
    rows = rows[is_alias]
    work.facts.add(
        Fact.LOCAL_ALIAS, work.pairs.pos.take(rows), event=work.events(rows),
        pfn=frontend[is_alias], mfn=work.owned("mfn", rows), old=work.pfns(rows),
        other=work.owned("map_event", rows))


def io_alias_rows(work: Work) -> Slot:
    """The rows of `work.first_io` that reach a frontend page."""
    return work.first_io[work.io_aliases] if len(work.io_aliases) else work.first_io[:0]
