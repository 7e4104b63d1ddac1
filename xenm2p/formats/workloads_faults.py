"""The faults of the `ill-formed` workload: what goes wrong with a few per cent of its shares.

Each fault is one entry of `FAULTS`. Most repair the tables when their share is over, so
that the rest of a long workload stays well-formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xenm2p.formats.workloads_shares import (
    END,
    GRANT,
    MAPPED,
    REPAIR,
    UNMAPPED,
    USED,
    Cost,
    Draws,
    Part,
    Shares,
    Story,
    order,
    part,
)
from xenm2p.formats.workloads_site import SPARE_PAGES, Site
from xenm2p.trace import I64, INVALID, NO_CALL, NO_HANDLE, Kind

_WRONG_HANDLE = 1 << 20  # beyond all handles in use
_SECOND_HANDLE = 1 << 24  # of a second map within a share's life


def _double_map(site: Site, shares: Shares) -> list[Part]:
    again = site.mapped(shares, order(shares.map_step, MAPPED, shares.map_place),
                        mfn=_another(site, shares), call=NO_CALL,
                        handle=_SECOND_HANDLE + shares.handle)
    return [*site.mapped_and_unmapped(shares), again]


def _unmap_twice(site: Site, shares: Shares) -> list[Part]:
    key = order(shares.unmap_step, UNMAPPED, shares.unmap_place)
    return [*site.mapped_and_unmapped(shares), site.unmapped(shares, key, call=NO_CALL)]


def _unmap_of_unmapped(site: Site, shares: Shares) -> list[Part]:
    # In the call of the share's own unmap, before it: up to 5.11 that one is not done.
    stray = site.unmapped(shares, pfn=site.spare_pfn + shares.number % SPARE_PAGES,
                          handle=NO_HANDLE)
    return [site.mapped(shares), stray, site.unmapped(shares)]


def _kmap_mismatch(site: Site, shares: Shares) -> list[Part]:
    # The other way round, 3.15-3.19 would keep the page on the override list for ever.
    key = order(shares.unmap_step, UNMAPPED, shares.unmap_place)
    return [site.mapped(shares, user=0), site.unmapped(shares),
            site.unmapped(shares, key, user=0, call=NO_CALL)]


def _unknown_handle(site: Site, shares: Shares) -> list[Part]:
    return [site.mapped(shares), site.unmapped(shares, handle=_WRONG_HANDLE + shares.handle)]


def _failed_map(site: Site, shares: Shares) -> list[Part]:
    # GNTST_general_error and GNTST_bad_gntref. gntdev unmaps such pages all the same.
    status = np.where(shares.number % 2 == 0, -1, -3)
    return [site.mapped(shares, status=status, handle=NO_HANDLE),
            site.unmapped(shares, handle=NO_HANDLE)]


def _failed_unmap(site: Site, shares: Shares) -> list[Part]:
    # GNTST_general_error; gnttab_unmap_refs does not look at it and clears the page.
    return [site.mapped(shares), site.unmapped(shares, status=-1)]


def _ended_in_use(site: Site, shares: Shares) -> list[Part]:
    return [*_granted(site, shares, order(shares.map_step, USED, shares.map_place)),
            *site.mapped_and_unmapped(shares)]


def _onto_frontend(site: Site, shares: Shares) -> list[Part]:
    return _onto(site, shares, shares.frame)


def _onto_frame(site: Site, shares: Shares) -> list[Part]:
    return _onto(site, shares, (shares.frame + 1) % site.frames)


def _onto(site: Site, shares: Shares, frame: I64) -> list[Part]:
    # A second share of the frame at a page that has a frame of its own.
    pfn = site.frontend(frame)
    handle = _SECOND_HANDLE + shares.handle
    second = site.mapped(shares, order(shares.map_step, MAPPED, shares.map_place),
                         pfn=pfn, mfn=_another(site, shares), handle=handle, call=NO_CALL)
    gone = site.unmapped(shares, order(shares.unmap_step, UNMAPPED, shares.unmap_place),
                         pfn=pfn, handle=handle, call=NO_CALL)
    repair = part(Kind.SET_P2M, order(shares.unmap_step, REPAIR, shares.unmap_place),
                  pfn=pfn, mfn=site.mfn(frame))
    return [*site.mapped_and_unmapped(shares), second, gone, repair]


def _m2p_of_live_frame(site: Site, shares: Shares) -> list[Part]:
    mfn = site.mfn(shares.frame)
    spare = (site.spare_pfn + shares.number % SPARE_PAGES).astype(np.uint64)
    wrong = np.where(shares.number % 2 == 0, np.uint64(INVALID), spare)
    key = order(shares.map_step, USED, shares.map_place)
    repair = order(shares.unmap_step, REPAIR, shares.unmap_place)
    return [*site.mapped_and_unmapped(shares), part(Kind.SET_M2P, key, mfn=mfn, pfn=wrong),
            part(Kind.SET_M2P, repair, mfn=mfn, pfn=site.frontend(shares.frame))]


def _leaked(site: Site, shares: Shares) -> list[Part]:
    # The next share at its page is then a double map.
    return [site.mapped(shares)]


def _well_formed(site: Site, shares: Shares) -> list[Part]:
    key = order(shares.unmap_step, END, shares.unmap_place)
    return [*_granted(site, shares, key), *site.mapped_and_unmapped(shares)]


def _granted(site: Site, shares: Shares, end: I64) -> list[Part]:
    begin = order(shares.map_step, GRANT, shares.map_place)
    return [site.granted(shares, begin), site.ended(shares, end)]


def _another(site: Site, shares: Shares) -> I64:
    return site.mfn((shares.frame + site.frames // 2) % site.frames)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with a share, and how many events the share then has."""

    story: Callable[[Site, Shares], list[Part]]
    events: int


FAULTS: dict[str, Fault] = {
    "double-map": Fault(_double_map, 3),
    "unmap-twice": Fault(_unmap_twice, 3),
    "unmap-of-unmapped": Fault(_unmap_of_unmapped, 3),
    "kmap-mismatch": Fault(_kmap_mismatch, 3),
    "unknown-handle": Fault(_unknown_handle, 2),
    "failed-map": Fault(_failed_map, 2),
    "failed-unmap": Fault(_failed_unmap, 2),
    "ended-in-use": Fault(_ended_in_use, 4),
    "onto-frontend": Fault(_onto_frontend, 5),
    "onto-frame": Fault(_onto_frame, 5),
    "m2p-of-live-frame": Fault(_m2p_of_live_frame, 4),
    "leaked": Fault(_leaked, 1),
}
_PER_FAULT = 200  # one share in so many has a given fault
_EVENTS = np.array([fault.events for fault in FAULTS.values()] + [4])


def fault_of(draws: Draws, number: I64) -> I64:
    """Which of `FAULTS` each share has; len(FAULTS) for none."""
    return np.minimum(draws.below("fault", _PER_FAULT, number), len(FAULTS))


def fault_cost(draws: Draws) -> Cost:
    """How many events each share has."""
    return lambda number: _EVENTS[fault_of(draws, number)]


def fault_story(site: Site, draws: Draws) -> Story:
    """The events of shares, each with its fault or none."""
    stories = [*(fault.story for fault in FAULTS.values()), _well_formed]

    def story(shares: Shares) -> list[Part]:
        fault = fault_of(draws, shares.number)
        parts: list[Part] = []
        for code, tell in enumerate(stories):
            parts += tell(site, shares.at(fault == code))
        return parts

    return story
