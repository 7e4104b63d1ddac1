"""Marking: FOREIGN bits that are wrong, and frames that several pages answer for."""

from __future__ import annotations

from xenm2p.findings.rule import Context, Row, Rule, Severity, always, page
from xenm2p.kernels import LOCAL_FOREIGN, P2M_ONLY, KernelModel
from xenm2p.trace import format_frame


def _stuck_foreign(row: Row, context: Context) -> str:
    return (f"frontend {page(row.pfn)} stays F:{format_frame(row.mfn)} though the last share "
            f"of the frame is gone")


def _early_clear(row: Row, context: Context) -> str:
    return (f"frontend {page(row.pfn)} went {format_frame(row.old)} -> {format_frame(row.new)} "
            f"while the share of event {row.other} lives")


def _local_alias(row: Row, context: Context) -> str:
    told = f"direct I/O on {page(row.old)} gets frontend {page(row.pfn)} of the same domain"
    if context.model.marks_frontend:
        return f"{told}, which is not marked FOREIGN"
    cure = LOCAL_FOREIGN.brought_by[0]
    return f"{told}; cured by {cure.commit} ({cure.version})"


def _multi_alias(row: Row, context: Context) -> str:
    return (f"frame {format_frame(row.mfn)} is shared at event {row.other} and again at "
            f"{page(row.pfn)}: lookup answers the newest")


def _loses_frame(model: KernelModel) -> Severity:
    # The era that maps by p2m alone also unmaps to INVALID; before it, index saves the frame.
    return Severity.INFO if model.overrides else Severity.WARNING


def _not_ballooned(row: Row, context: Context) -> str:
    told = f"map onto {page(row.pfn)}, which held {format_frame(row.old)} of its own"
    if context.model.overrides:
        return f"{told}; unmap gives it back"
    return f"{told}: that frame is lost"


RULES = (
    Rule(
        201, "stuck-foreign", "marking",
        what="The last share of a frame is gone, yet its frontend page's entry is still "
             "FOREIGN.",
        grading="error: the domain's own page is taken for another domain's for good.",
        cure="Find the unmap that was left out or came without user, before this event.",
        severity=always(Severity.ERROR), text=_stuck_foreign,
    ),
    Rule(
        202, "early-clear", "marking",
        what="A frontend page's entry lost its FOREIGN bit while a share with an override "
             "lives.",
        grading="warning: until that share ends, direct I/O on it gets the frontend page.",
        cure="End all shares of a page before its p2m entry is written.",
        severity=always(Severity.WARNING), text=_early_clear, entries=("old", "new"),
    ),
    Rule(
        203, "local-alias", "marking",
        what="A share resolves to the frontend page of its own domain, whether that page's "
             "lock is held or not.",
        grading="warning: direct I/O on the share takes the lock of the frontend page, and "
                "deadlocks as soon as somebody holds it. Under `override` that is the bug of "
                "2012; under the models that mark the frontend the mark is missing.",
        cure="A kernel that marks the frontend page FOREIGN while it is shared.",
        cured_by=LOCAL_FOREIGN.brought_by,
        severity=always(Severity.WARNING), text=_local_alias,
    ),
    Rule(
        204, "multi-alias", "marking",
        what="Two or more live shares of one frame are on the override list: lookup answers "
             "only the newest.",
        grading="info: the answer is one of the right pages, though not always the asked one.",
        cure="None needed, unless pages are told apart by what mfn_to_pfn answers.",
        cured_by=P2M_ONLY.brought_by,
        severity=always(Severity.INFO), text=_multi_alias,
    ),
    Rule(
        205, "not-ballooned", "marking",
        what="A map onto a page that holds a frame of its own.",
        grading="warning under the models of 4.0 on, where unmap leaves the entry invalid and "
                "the frame is lost; info before, where unmap restores it.",
        cure="Map grants at ballooned pages only (alloc_xenballooned_pages, gnttab_alloc_pages).",
        severity=_loses_frame, text=_not_ballooned, entries=("old",),
    ),
)
