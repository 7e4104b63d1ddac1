"""Lifetime: shares that outlive their grant, their handle, their I/O or the trace."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.replay import NO_EVENT, Facts, Result, Shares
from xenm2p.findings.rule import (
    NO_FINDINGS,
    Context,
    Findings,
    Row,
    Rule,
    Severity,
    always,
    graded,
    grant,
    page,
    share_of,
)
from xenm2p.trace import NO_DOMID, NO_REF, format_frame

LEAKED_SHARE = 401


def findings_of_leaks(facts: Facts, shares: Shares) -> Findings:
    """XM401: one row for each grant with live shares, by the event of its oldest map.

    `facts` are those of number 401, `shares` the live ones of the same segment. Shares
    without a grant reference are one row for each (domid, mfn).
    """
    if not len(facts):
        return NO_FINDINGS
    facts = facts.rows(np.argsort(facts.event, kind="stable"))
    domid = np.full(len(facts), NO_DOMID, np.uint16)
    ref = np.full(len(facts), NO_REF, np.uint32)
    by_map = np.argsort(shares.map_event, kind="stable")
    if len(shares):
        at = np.searchsorted(shares.map_event, facts.event, sorter=by_map)
        share = by_map[np.minimum(at, len(shares) - 1)]
        is_its_share = shares.map_event[share] == facts.event
        domid[is_its_share] = shares.domid[share[is_its_share]]
        ref[is_its_share] = shares.ref[share[is_its_share]]

    has_ref = ref != NO_REF
    keys = (domid, has_ref, np.where(has_ref, ref, facts.mfn))
    order = np.lexsort((facts.event, *keys))
    is_first_of_grant = np.zeros(len(order), bool)
    is_first_of_grant[:1] = True
    for key in keys:
        ranked = key[order]
        is_first_of_grant[1:] |= ranked[1:] != ranked[:-1]
    starts = np.flatnonzero(is_first_of_grant)
    oldest = order[starts]

    maps = np.empty(len(starts), dtype=object)
    for row, events in enumerate(np.split(facts.event[order], starts[1:])):
        maps[row] = events
    # One share of which the replay is sure makes the finding sure.
    unknown = np.minimum.reduceat(facts.unknown[order], starts)
    found = Findings.from_columns(
        len(starts),
        rule=np.full(len(starts), LEAKED_SHARE),
        severity=np.where(unknown != 0, Severity.INFO, Severity.WARNING),
        event=facts.event[oldest], pfn=facts.pfn[oldest], mfn=facts.mfn[oldest],
        value=facts.value[oldest], unknown=unknown,
        domid=domid[oldest], ref=ref[oldest], maps=maps,
    )
    return found.rows(np.argsort(found.event, kind="stable"))


def format_duration(ns: int) -> str:
    """Nanoseconds as a person says them: ``3.2 s``, ``410 us``."""
    for unit, length in (("h", 3600e9), ("min", 60e9), ("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= length:
            number = ns / length
            return f"{number:.1f} {unit}" if abs(number) < 9.95 else f"{number:.0f} {unit}"
    return f"{ns} ns"


def _leaked_share(row: Row, context: Context) -> str:
    if row.ref != NO_REF:
        what = grant(row.domid, row.ref)
    else:
        what = f"frame {format_frame(row.mfn)}"
        what += "" if row.domid == NO_DOMID else f" of domain {row.domid}"
    since = f"since event {row.event} ({format_duration(row.value)})"
    if len(row.maps) == 1:
        return f"{what} is still mapped at {page(row.pfn)} at the end, {since}"
    return f"{what} still has {len(row.maps)} shares at the end, the oldest {since}"


def _ended_in_use(row: Row, context: Context) -> str:
    shares = "one share of it lives" if row.value == 1 else f"{row.value} shares of it live"
    return (f"grant {row.ref} ended while {shares}, newest at {page(row.pfn)}: "
            f"\"g.e. still in use\"")


def _handle(row: Row, context: Context) -> str:
    if row.old == 1:
        return f"unmap of {page(row.pfn)} with handle {row.value}, which was unmapped already"
    told = f"unmap of {page(row.pfn)} with handle {row.value}"
    if row.other == NO_EVENT:
        # Foreign, but mapped by no event
        was_before = row.result in (Result.OK, Result.SKIP_LIST)
        return told + (", whose map was not seen" if was_before else ": nothing is mapped")
    return f"{told}, which the {share_of(row.other)} there does not have"


def _severities_of_handles(found: Findings) -> NDArray[np.uint8]:
    was_foreign = (found.result == Result.OK) | (found.result == Result.SKIP_LIST)
    is_from_before = (found.other == NO_EVENT) & was_foreign
    return graded(is_from_before, Severity.INFO, Severity.WARNING)


def _unmap_in_flight(row: Row, context: Context) -> str:
    return (f"unmap of {page(row.pfn)} while dio_read {row.other} is in flight: it reads into "
            f"a frame taken away")


RULES = (
    Rule(
        LEAKED_SHARE, "leaked-share", "lifetime",
        what="Shares of a grant that are live at the end of the trace; one finding a grant.",
        grading="warning, never error: a trace may simply end first, and persistent grants stay "
                "mapped on purpose.",
        cure="Trace until the backend has disconnected, or turn persistent grants off.",
        severity=always(Severity.WARNING), text=_leaked_share,
        proof=lambda row: list(row.maps.tolist()) if row.maps is not None else [row.event],
    ),
    Rule(
        402, "ended-in-use", "lifetime",
        what="The frontend ended access to a grant that is still mapped.",
        grading="warning: the kernel says \"g.e. still in use\" and keeps the page, which is "
                "lost if the backend never unmaps.",
        cure="End access only after the backend has answered for the page.",
        severity=always(Severity.WARNING), text=_ended_in_use, event_cells=("ref",),
    ),
    Rule(
        403, "handle", "lifetime",
        what="An unmap with a handle that the page's share does not have, or one unmapped "
             "before.",
        grading="warning: the hypercall fails or unmaps another grant, but tracers also miss "
                "handles; info for a share that was mapped before the trace began.",
        cure="Keep the handle of each map until its unmap, and forget it then.",
        severity=always(Severity.WARNING), severity_of_rows=_severities_of_handles,
        text=_handle, event_cells=("result",),
    ),
    Rule(
        404, "unmap-in-flight", "lifetime",
        what="An unmap of a page while direct I/O on it is not done.",
        grading="error: the I/O goes on to a frame that the domain no longer has.",
        cure="Wait for the I/O before gnttab_unmap_refs.",
        severity=always(Severity.ERROR), text=_unmap_in_flight,
    ),
)
