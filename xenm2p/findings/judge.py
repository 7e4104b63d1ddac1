"""From the tables of a replayed segment to findings, and from a finding to its words."""

from __future__ import annotations

import numpy as np

from xenm2p.engine.replay import NO_EVENT, Fact, Facts, Result, Segment
from xenm2p.findings.catalogue import RULE_BY_NUMBER, rules_needing_event, severity_under
from xenm2p.findings.collisions import LOCK_COLLISION, findings_of_collisions
from xenm2p.findings.lifetime import LEAKED_SHARE, findings_of_leaks
from xenm2p.findings.rule import Context, Findings, Row, Rule, Severity
from xenm2p.findings.sequence import DOUBLE_MAP
from xenm2p.kernels import KernelModel
from xenm2p.trace import I64, U64, Column, Events, Kind

UNSURE = " (unsure: events were lost before it)"


def findings_of(segment: Segment, model: KernelModel) -> Findings:
    """The findings of one segment, ordered by deciding event, then id.

    The rows of all segments together do not depend on the chunk size: a row comes at the
    event that decides it, which for a collision is the release of the lock or the end of
    the share. What only the end of the trace decides comes last.
    """
    by_source = findings_by_source(segment, model)
    parts = [part for part in by_source if len(part)]
    if len(parts) <= 1:
        return parts[0] if parts else by_source[0]
    end = segment.first_event + len(segment.events)
    decided = [_deciding_events(part, segment, end) for part in parts]
    order = np.argsort(np.concatenate(decided), kind="stable")
    return Findings.concat(parts).rows(order)


def findings_by_source(
    segment: Segment, model: KernelModel
) -> tuple[Findings, Findings, Findings]:
    """The findings of collisions, of leaked shares and of all other facts, each in order.

    For those who only count: what the segment has already is not copied.
    """
    facts = segment.facts
    is_leak = facts.fact == LEAKED_SHARE
    leaks = Findings.from_columns(0)
    if is_leak.any():
        leaks = findings_of_leaks(facts.rows(is_leak), segment.shares)
        facts = facts.rows(~is_leak)
    return findings_of_collisions(segment.collisions), leaks, _of_facts(facts, segment, model)


def _of_facts(facts: Facts, segment: Segment, model: KernelModel) -> Findings:
    severity = severity_under(model)[facts.fact]
    cells = _cells_of_events(facts, segment)
    if cells:
        # A map that is left out replaces nothing, see the grading of XM301.
        is_left_out = (facts.fact == DOUBLE_MAP) & (cells["result"] == Result.SKIP_LIST)
        severity[is_left_out] = Severity.WARNING
    if facts.unknown.any():
        severity[facts.unknown != 0] = Severity.INFO
    return Findings.from_columns(
        len(facts), rule=facts.fact, severity=severity, event=facts.event, pfn=facts.pfn,
        mfn=facts.mfn, old=facts.old, new=facts.new, other=facts.other, value=facts.value,
        unknown=facts.unknown, **cells,
    )


def _cells_of_events(facts: Facts, segment: Segment) -> dict[str, Column]:
    """Cells of the events of those facts whose rules need them; none where no rule does."""
    needing = np.flatnonzero(rules_needing_event()[facts.fact])
    if not len(needing):
        return {}
    event = facts.event[needing] - segment.first_event
    is_here = (event >= 0) & (event < len(segment.events))
    needing, event = needing[is_here], event[is_here]
    sources = {name: getattr(segment.events, name)
               for name in ("kind", "user", "cpu", "domid", "ref", "task")}
    sources["result"] = segment.result
    cells: dict[str, Column] = {}
    for name, source in sources.items():
        absent = Findings.absent[name]
        cells[name] = np.full(len(facts), absent, Findings.dtypes[name])
        cells[name][needing] = source[event]
    return cells


def _deciding_events(findings: Findings, segment: Segment, end: int) -> I64:
    """The event after which each of one source's findings was known, ascending.

    `end` stands for the end of the trace, which decides all rows of the last segment.
    """
    rule = findings.rule[0]
    if not len(segment.events) or rule == LEAKED_SHARE:
        return np.full(len(findings), end, np.int64)
    if rule == LOCK_COLLISION:
        return _ends_of_collisions(segment)
    is_unwritten = (findings.rule == Fact.MODEL_MISMATCH) & (findings.value == 1)
    decided = np.where(is_unwritten, np.maximum(findings.other, findings.event), findings.event)
    return np.asarray(np.maximum.accumulate(decided), np.int64)


def _ends_of_collisions(segment: Segment) -> I64:
    """The event of this segment that decided each collision window.

    That is the first one here that ends the lock's holding (released, or seen taken again)
    or the share (unmapped, or mapped over). None before this segment did, or the row would
    be in an earlier one.
    """
    events, collisions = segment.events, segment.collisions
    ends_holding = (events.kind == Kind.LOCK_PAGE) | (events.kind == Kind.UNLOCK_PAGE)
    ends_share = (events.kind <= Kind.UNMAP) & (segment.result == Result.OK)
    first = segment.first_event
    released = _next_of_page(
        events, ends_holding, collisions.pfn, collisions.lock_event - first)
    ended = _next_of_page(
        events, ends_share, collisions.backend_pfn, collisions.map_event - first)
    return first + np.minimum(released, ended)


def _next_of_page(events: Events, mask: Column, pfn: U64, after: I64) -> I64:
    """For each pfn its first row of `events` under `mask` after row `after`, else their end."""
    pages = np.unique(pfn)
    rows = np.flatnonzero(mask & np.isin(events.pfn, pages))
    stride = len(events) + 1  # page, then row, as one number to search for
    keys = np.searchsorted(pages, events.pfn[rows]) * stride + rows
    keys = np.append(np.sort(keys), len(pages) * stride)
    page = np.searchsorted(pages, pfn)
    found = keys[np.searchsorted(keys, page * stride + np.maximum(after + 1, 0))]
    is_of_page = found // stride == page
    return np.asarray(np.where(is_of_page, found % stride, len(events)), np.int64)


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
