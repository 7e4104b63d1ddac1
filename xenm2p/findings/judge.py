"""From the tables of a replayed segment to findings, and from a finding to its words."""

from __future__ import annotations

import numpy as np

from xenm2p.engine.replay import NO_EVENT, Fact, Facts, Result, Segment
from xenm2p.findings.catalogue import (
    EVENT_CELLS,
    RULE_BY_NUMBER,
    RULES_BY_ROW,
    rules_with_event_cell,
    severity_under,
)
from xenm2p.findings.collisions import LOCK_COLLISION, findings_of_collisions, findings_of_cycles
from xenm2p.findings.lifetime import LEAKED_SHARE, findings_of_leaks
from xenm2p.findings.rule import NO_FINDINGS, Context, Findings, Row, Rule, Severity
from xenm2p.kernels import KernelModel
from xenm2p.trace import I64, U64, Column, Kind

UNSURE = " (unsure: events were lost)"


def findings_of(segment: Segment, model: KernelModel) -> Findings:
    """The findings of one segment, ordered by deciding event, then id.

    The rows of all segments together do not depend on the chunk size: a row comes at the
    event that decides it, which for a collision is the release of the lock or the end of
    the share. What only the end of the trace decides comes last.
    """
    if not segment.has_findings:
        return NO_FINDINGS
    by_source = findings_by_source(segment, model)
    parts = [part for part in by_source if len(part)]
    if len(parts) <= 1:
        return parts[0]
    end = segment.first_event + len(segment.events)
    decided = [_deciding_events(part, segment, end) for part in parts]
    order = np.argsort(np.concatenate(decided), kind="stable")
    return Findings.concat(parts).rows(order)


def findings_by_source(
    segment: Segment, model: KernelModel
) -> tuple[Findings, Findings, Findings, Findings]:
    """The findings of collisions, cycles, leaked shares and all other facts, each in order.

    For those who only count: what the segment has already is not copied.
    """
    facts = segment.facts
    is_leak = facts.fact == LEAKED_SHARE
    leaks = NO_FINDINGS
    if is_leak.any():
        leaks = findings_of_leaks(facts.rows(is_leak), segment.shares)
        facts = facts.rows(~is_leak)
    return (findings_of_collisions(segment.collisions), findings_of_cycles(segment.cycles),
            leaks, _of_facts(facts, segment, model))


def _of_facts(facts: Facts, segment: Segment, model: KernelModel) -> Findings:
    if not len(facts):
        return NO_FINDINGS
    found = Findings.from_columns(
        len(facts), rule=facts.fact, severity=severity_under(model).take(facts.fact),
        event=facts.event, pfn=facts.pfn, mfn=facts.mfn, old=facts.old, new=facts.new,
        other=facts.other, value=facts.value, unknown=facts.unknown,
        **_cells_of_events(facts, segment),
    )
    for rule in RULES_BY_ROW:
        rows = np.flatnonzero(found.rule == rule.number)
        if len(rows) and rule.severity_of_rows:
            found.severity[rows] = rule.severity_of_rows(found.rows(rows))
    if found.unknown.any():
        found.severity[found.unknown != 0] = Severity.INFO
    return found


def _cells_of_events(facts: Facts, segment: Segment) -> dict[str, Column]:
    """Cells of the events of those facts whose rules need them; none where no rule does."""
    needing = np.flatnonzero(rules_with_event_cell().take(facts.fact))
    event = facts.event[needing] - segment.first_event
    is_here = (event >= 0) & (event < len(segment.events))
    needing, event = needing[is_here], event[is_here]
    fact = facts.fact[needing]
    cells: dict[str, Column] = {}
    for name in EVENT_CELLS if len(needing) else ():
        wanted = np.flatnonzero(rules_with_event_cell(name).take(fact))
        if len(wanted):
            source = segment.result if name == "result" else getattr(segment.events, name)
            cells[name] = np.full(len(facts), Findings.absent[name], Findings.dtypes[name])
            cells[name][needing[wanted]] = source[event[wanted]]
    return cells


def _deciding_events(findings: Findings, segment: Segment, end: int) -> I64:
    """The event after which each of one source's findings was known, ascending.

    `end` stands for the end of the trace, which decides all rows of the last segment.
    """
    rule = findings.rule[0]
    if not len(segment.events) or rule == LEAKED_SHARE:
        return np.full(len(findings), end, np.int64)
    if rule == LOCK_COLLISION:
        return ends_of_collisions(segment)
    decided = findings.event.copy()
    # That a change was never written is known when the model's next one of the page comes.
    is_unwritten = (findings.rule == Fact.MODEL_MISMATCH) & (findings.value == 1)
    is_unwritten &= findings.other != NO_EVENT
    decided[is_unwritten] = findings.other[is_unwritten]
    return np.maximum.accumulate(decided)


def ends_of_collisions(segment: Segment) -> I64:
    """The event of this segment that decided each collision window.

    That is the first one here that ends the lock's holding (released, or seen taken again)
    or the share (unmapped, or mapped over). None before this segment did, or the row would
    be in an earlier one.
    """
    events, collisions = segment.events, segment.collisions
    number = segment.first_event + np.arange(len(events))
    ends_holding = (events.kind == Kind.LOCK_PAGE) | (events.kind == Kind.UNLOCK_PAGE)
    ends_share = (events.kind <= Kind.UNMAP) & (segment.result == Result.OK)
    released = _next_of_page(
        number[ends_holding], events.pfn[ends_holding], collisions.pfn,
        collisions.lock_event, segment)
    ended = _next_of_page(
        number[ends_share], events.pfn[ends_share], collisions.backend_pfn,
        collisions.map_event, segment)
    return np.minimum(released, ended)


def _next_of_page(event: I64, page: U64, pfn: U64, after: I64, segment: Segment) -> I64:
    """For each `pfn` the first `event` on that page later than `after`, else the end.

    `event` and `page` are of one length and lie in the segment, `pfn` and `after` of another.
    """
    first, stride = segment.first_event, len(segment.events) + 1
    pages = np.unique(pfn)
    is_asked = np.isin(page, pages)
    # Page and event as one number, so that one binary search finds both.
    keys = np.searchsorted(pages, page[is_asked]) * stride + event[is_asked] - first
    keys = np.append(np.sort(keys), len(pages) * stride)
    at = np.searchsorted(pages, pfn)
    found = keys[np.searchsorted(keys, at * stride + np.maximum(after + 1 - first, 0))]
    return np.asarray(first + np.where(found // stride == at, found % stride, stride - 1))


def rule_of(findings: Findings, row: int) -> Rule:
    """The rule behind one finding."""
    return RULE_BY_NUMBER[int(findings.rule[row])]


def describe(findings: Findings, row: int, context: Context) -> str:
    """One line that says what happened, to which page, by whom, and what it means."""
    cells = Row(findings, row)
    text = rule_of(findings, row).text(cells, context)
    return text + UNSURE if cells.unknown else text


def proving_events(findings: Findings, row: int) -> list[int]:
    """The numbers of the events that prove one finding, ascending."""
    proof = rule_of(findings, row).proof(Row(findings, row))
    return sorted({event for event in proof if event != NO_EVENT})


def entries_of(findings: Findings, row: int) -> tuple[int | None, int | None]:
    """The p2m entry before and after that one finding is about, None where it has none."""
    entries = rule_of(findings, row).entries
    cells = Row(findings, row)
    return (cells.old if "old" in entries else None, cells.new if "new" in entries else None)
