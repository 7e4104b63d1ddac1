"""Collisions: page locks that a share would run into, and answers that surprise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.replay import NO_EVENT, Collisions, Cycles, Verdict
from xenm2p.engine.waits import Wait
from xenm2p.findings.rule import (
    NO_FINDINGS,
    Context,
    Findings,
    Row,
    Rule,
    Severity,
    always,
    page,
    share_of,
)
from xenm2p.kernels import LOCAL_FOREIGN, P2M_ONLY
from xenm2p.trace import Kind, format_frame

LOCK_COLLISION = 101
LOCK_CYCLE = 102


def findings_of_collisions(collisions: Collisions) -> Findings:
    """XM101, a row for each collision window, in the order of the windows."""
    if not len(collisions):
        return NO_FINDINGS
    found = Findings.from_columns(
        len(collisions),
        rule=np.full(len(collisions), LOCK_COLLISION),
        severity=np.zeros(len(collisions)),
        event=collisions.first_event,
        pfn=collisions.pfn,
        mfn=collisions.mfn,
        old=collisions.backend_pfn,
        other=collisions.map_event,
        value=collisions.dio_event,
        unknown=collisions.verdict == Verdict.UNKNOWN,
        task=collisions.lock_task,
        last_event=collisions.last_event,
        lock_event=collisions.lock_event,
        verdict=collisions.verdict,
        spans=collisions.lock_spans_share,
    )
    found.severity[:] = _severities_of_collisions(found)
    return found


def _severities_of_collisions(found: Findings) -> NDArray[np.uint8]:
    severity = np.full(len(found), Severity.INFO, np.uint8)
    # With the lock held all the share's life, any direct I/O read would have deadlocked.
    is_loaded = (found.verdict == Verdict.PRONE) & (found.spans != 0)
    severity[is_loaded | (found.verdict == Verdict.CONTENTION)] = Severity.WARNING
    severity[found.verdict == Verdict.DEADLOCK] = Severity.ERROR
    return severity


def _collision(row: Row, context: Context) -> str:
    lock = (f"{context.task(row.task)} holds the lock of {page(row.pfn)} "
            f"since event {row.lock_event}")
    backend = page(row.old)
    read = (f"dio_read {row.value} of {backend}" if row.value != NO_EVENT
            else f"direct I/O on {backend}")
    if row.verdict == Verdict.DEADLOCK:
        return f"{lock}: {read} {'deadlocks' if row.value != NO_EVENT else 'would deadlock'}"
    if row.verdict == Verdict.CONTENTION:
        waits = "waits" if row.value != NO_EVENT else "would wait"
        return f"{lock}: {read} {waits} for it"
    if row.verdict == Verdict.PRONE:
        return f"{lock}: {read} would {'deadlock' if row.spans else 'wait for it'}"
    return f"{lock}: {read} may meet it"


def _collision_proof(row: Row) -> list[int]:
    return [row.lock_event, row.other, row.event, row.value, row.last_event]


def findings_of_cycles(cycles: Cycles) -> Findings:
    """XM102, a row for each cycle of waits, in the order in which they were closed."""
    if not len(cycles):
        return NO_FINDINGS
    begins = np.flatnonzero(np.diff(cycles.event, prepend=NO_EVENT))
    first = cycles.rows(begins)
    columns = zip(*(getattr(cycles, name).tolist() for name in Wait._fields), strict=True)
    waits = [Wait(*row) for row in columns]
    chains, proofs = np.empty((2, len(begins)), object)
    for row, (begin, end) in enumerate(pairwise([*begins.tolist(), len(waits)])):
        chains[row] = tuple(waits[begin:end])
        proofs[row] = np.unique([wait.events for wait in waits[begin:end]])
    return Findings.from_columns(
        len(begins),
        rule=np.full(len(begins), LOCK_CYCLE),
        severity=np.where(first.unknown != 0, Severity.INFO, Severity.ERROR),
        event=first.event,
        pfn=first.pfn,
        mfn=first.mfn,
        old=first.backend_pfn,
        other=first.map_event,
        value=first.dio_event,
        unknown=first.unknown,
        task=np.where(first.for_io != 0, first.waiter, first.holder),
        lock_event=first.lock_event,
        maps=proofs,
        cycle=chains,
    )


def _lock_cycle(row: Row, context: Context) -> str:
    told: list[str] = []
    for wait in row.cycle:
        waits = "waits" if not told else "which waits"
        what = (f"for direct I/O on locked {page(wait.pfn)} by" if wait.for_io
                else f"for the lock of {page(wait.pfn)} held by")
        told.append(f"{waits} {what} {context.task(wait.holder)}")
    return f"{context.task(row.cycle[0].waiter)} {', '.join(told)}"


def _gup_fast_hazard(row: Row, context: Context) -> str:
    asked = (f"mfn_to_pfn of {format_frame(row.mfn)}" if row.kind == Kind.LOOKUP
             else "get_user_pages_fast")
    return (f"{asked} answers backend {page(row.old)}, not frontend {page(row.pfn)} "
            f"({share_of(row.other)})")


RULES = (
    Rule(
        LOCK_COLLISION, "lock-collision", "collisions",
        what="A share resolves to a page other than its own whose page lock is held, so that "
             "direct I/O on the share asks for that lock.",
        grading="error for a deadlock, because the I/O waits for the lock and the lock for the "
                "I/O; warning for a contention, and where the lock is held as long as the share "
                "lives though no direct I/O was seen; info for other prone windows, which need a "
                "read at the wrong moment.",
        cure="A kernel that marks the frontend page FOREIGN while it is shared, or a backend "
             "that does not use direct I/O on granted pages.",
        cured_by=LOCAL_FOREIGN.brought_by,
        severity=always(Severity.ERROR), severity_of_rows=_severities_of_collisions,
        text=_collision, proof=_collision_proof,
    ),
    Rule(
        LOCK_CYCLE, "lock-cycle", "collisions",
        what="A cycle of waits over several pages: a task's direct I/O read waits for a page "
             "lock that was taken after its share began, the lock's holder waits for direct "
             "I/O on a page that it had locked and granted before, and so on back to the first.",
        grading="error: none of the tasks can go on, though none of the pages alone is a "
                "deadlock; judged as it stands when the cycle closes, whatever is seen of these "
                "tasks later. Told once, at the direct I/O that closes it; of several cycles "
                "that one event closes, the shortest.",
        cure="As for XM101; and take the locks of several pages before any of them is granted.",
        cured_by=LOCAL_FOREIGN.brought_by,
        severity=always(Severity.ERROR), text=_lock_cycle, proof=lambda row: row.maps.tolist(),
    ),
    Rule(
        103, "gup-fast-hazard", "collisions",
        what="gup_fast or lookup on a frontend page whose FOREIGN bit a share has set: the "
             "answer is the backend's page.",
        grading="warning: whoever asked for the frontend page now holds a reference to another "
                "page, which may be unmapped under it.",
        cure="Do not use get_user_pages_fast on pages that are granted; since Linux 4.0 no "
             "override can answer.",
        cured_by=P2M_ONLY.brought_by,
        severity=always(Severity.WARNING), text=_gup_fast_hazard, event_cells=("kind",),
    ),
)
