"""Sequence: maps and unmaps that do not fit together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.replay import NO_EVENT, Result
from xenm2p.findings.rule import (
    Context,
    Findings,
    Row,
    Rule,
    Severity,
    always,
    graded,
    page,
    share_of,
)
from xenm2p.kernels import P2M_ONLY, P2M_ONLY_CONTINUE, KernelModel
from xenm2p.trace import FOREIGN, INVALID, Kind, format_frame


def _double_map(row: Row, context: Context) -> str:
    told = f"map of frame {format_frame(row.mfn)} over {page(row.pfn)}"
    if row.result == Result.SKIP_LIST:
        return f"{told}, where the {share_of(row.other)} lives; left out"
    return f"{told}: the {share_of(row.other)} is replaced and never unmapped"


def _severities_of_double_maps(found: Findings) -> NDArray[np.uint8]:
    return graded(found.result == Result.SKIP_LIST, Severity.WARNING, Severity.ERROR)


def _unmap_not_foreign(row: Row, context: Context) -> str:
    return (f"unmap of {page(row.pfn)}, whose entry is {format_frame(row.old)}, not FOREIGN: "
            f"-22, nothing is undone")


def _list_corruption(row: Row, context: Context) -> str:
    if row.kind == Kind.MAP:
        return (f"map at {page(row.pfn)}, which is on the override list already, would corrupt "
                f"it: left out")
    if row.other == NO_EVENT:
        return (f"unmap of {page(row.pfn)}, whose map was not seen, so that it is not on the "
                f"override list: left out")
    return (f"unmap of {page(row.pfn)}, which is not on the override list, would corrupt it: "
            f"left out")


def _severities_of_corruptions(found: Findings) -> NDArray[np.uint8]:
    is_from_before = (found.kind == Kind.UNMAP) & (found.other == NO_EVENT)
    return graded(is_from_before, Severity.WARNING, Severity.ERROR)


def _bites(model: KernelModel) -> Severity:
    if model.derefs_kmap_op or model.overrides_need_user:
        return Severity.ERROR
    return Severity.INFO


def _kmap_mismatch(row: Row, context: Context) -> str:
    how, made = ("with", "without") if row.user else ("without", "with")
    told = f"unmap {how} user of {page(row.pfn)}, mapped {made} it at event {row.other}"
    if context.model.derefs_kmap_op:
        return f"{told}: wild pointer; left out"
    if context.model.overrides_need_user:
        return f"{told}: its override stays listed for good"
    return f"{told}: harmless here"


def _severities_of_aborted(found: Findings) -> NDArray[np.uint8]:
    is_foreign = ((found.old & np.uint64(FOREIGN)) != 0) & (found.old != np.uint64(INVALID))
    return graded(is_foreign, Severity.ERROR, Severity.INFO)


def _aborted_call(row: Row, context: Context) -> str:
    return (f"unmap of {page(row.pfn)} not done, as unmap {row.other} of its call failed: "
            f"stays {format_frame(row.old)}")


def _failed_map_kept(row: Row, context: Context) -> str:
    return (f"map {row.other} of {page(row.pfn)} failed, yet the machine wrote "
            f"{format_frame(row.new)}: not its frame")


RULES = (
    Rule(
        301, "double-map", "sequence",
        what="A map at a page on which a share is live.",
        grading="error where the map is done, because the first share's entry is replaced and "
                "its grant can no longer be unmapped; warning where the map is left out, which "
                "XM303 reports as the error it is.",
        cure="Unmap a page before it is used for the next grant.",
        severity=always(Severity.ERROR), severity_of_rows=_severities_of_double_maps,
        text=_double_map, event_cells=("result",),
    ),
    Rule(
        302, "unmap-not-foreign", "sequence",
        what="An unmap of a page whose p2m entry is not FOREIGN.",
        grading="error: the kernel returns -22, and up to 5.11 ends the whole call.",
        cure="Unmap only what a map succeeded on, and once.",
        severity=always(Severity.ERROR), text=_unmap_not_foreign, entries=("old",),
        proof=lambda row: [row.event],
    ),
    Rule(
        303, "list-corruption", "sequence",
        what="A map that would list a page twice, or an unmap that would take an unlisted page "
             "off the override list; the replay leaves it out.",
        grading="error: the kernel's memory is corrupt from here on; warning for an unmap of a "
                "page that was foreign before the trace began, which the kernel may well have "
                "listed.",
        cure="Unmap before the next map, with the same user; since Linux 4.0 there is no list.",
        cured_by=P2M_ONLY.brought_by,
        severity=always(Severity.ERROR), severity_of_rows=_severities_of_corruptions,
        text=_list_corruption, event_cells=("kind",),
    ),
    Rule(
        304, "kmap-mismatch", "sequence",
        what="An unmap whose user differs from its map's.",
        grading="error under `override`, which follows a wild pointer, and under `kmap-only`, "
                "where the override stays; info elsewhere, as nothing depends on it.",
        cure="Give gnttab_unmap_refs kmap_ops exactly where gnttab_map_refs got them.",
        severity=_bites, text=_kmap_mismatch, event_cells=("user",),
    ),
    Rule(
        305, "aborted-call", "sequence",
        what="An unmap that was not done because an earlier one of its call had failed: the "
             "page stays foreign.",
        grading="error: the page keeps a frame whose grant is gone; info where the page was not "
                "foreign, so that its unmap would have failed too.",
        cure="A kernel that goes on after a failing page, or see why the earlier one failed.",
        cured_by=P2M_ONLY_CONTINUE.brought_by,
        severity=always(Severity.ERROR), severity_of_rows=_severities_of_aborted,
        text=_aborted_call, entries=("old",),
    ),
    Rule(
        306, "failed-map-kept", "sequence",
        what="A map failed, by its own status or its kmap's, yet a p2m write made the page "
             "foreign.",
        grading="error: the page names a frame that the domain was not granted.",
        cure="A kernel that checks both statuses before it writes the p2m.",
        severity=always(Severity.ERROR), text=_failed_map_kept, entries=("new",),
    ),
)

