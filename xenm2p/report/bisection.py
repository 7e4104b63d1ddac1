"""What `bisect` says: findings by model as a table, and what each kernel change did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xenm2p.compare.bisect import (
    Identified,
    Span,
    UnderModel,
    changes_between,
    identified,
    spans_of,
)
from xenm2p.engine.replay import Fact, Verdict
from xenm2p.findings.catalogue import RULE_BY_NUMBER
from xenm2p.findings.rule import Rule
from xenm2p.report.fields import Cell, Columns, Field, TableSpec
from xenm2p.report.markup import Block, Items, Lines, Rows, Verbatim
from xenm2p.report.markup import Heading as Title
from xenm2p.trace import format_frame

BISECTION = TableSpec("bisection", "one row for each rule, verdict and kernel model", (
    Field("id", Cell.WORD, "rule, XM101 and so on"),
    Field("name", Cell.WORD, "the rule's name"),
    Field("verdict", Cell.WORD, "of collisions: deadlock, contention, prone or unknown"),
    Field("model", Cell.WORD, "kernel model"),
    Field("versions", Cell.WORD, "the Linux versions that behave so"),
    Field("count", Cell.NUMBER, "findings; absent: not judged under this model"),
))
# A row a finding, with --all: as many columns again as there are models.
EACH = TableSpec("bisection-findings", "one row for each finding and kernel model", (
    Field("id", Cell.WORD, "rule, XM101 and so on"),
    Field("event", Cell.NUMBER, "event that it is about; of a collision the share's map"),
    Field("pfn", Cell.FRAME, "page"),
    Field("model", Cell.WORD, "kernel model"),
    Field("state", Cell.WORD, "present, or a collision's verdict; absent: not found"),
))

_STATES = {None: "-", "present": "x"}


def rules_found(found: Sequence[UnderModel]) -> list[Rule]:
    """The rules that found something under some model, by id."""
    numbers = {number for under in found for number, _ in under.counts}
    return [RULE_BY_NUMBER[number] for number in sorted(numbers)]


def bisection(
    name: str, traced: str | None, found: Sequence[UnderModel], more: Sequence[str], *,
    all_findings: bool,
) -> Iterator[Block]:
    """The blocks of one bisection; `more` is the command, as lines, that shows all of it."""
    yield Title(f"{name} under {len(found)} kernel models" if len(found) > 1
                else f"{name} under {found[0].model.name}")
    yield Items([("traced on", traced or "not known"), *(
        (under.model.name, f"Linux {under.model.versions}") for under in found)])
    rules = rules_found(found)
    if not rules:
        yield Lines(["No findings under any of them."])
        return
    headers = ("finding", *(under.model.first for under in found))
    yield Rows(headers, [_row(key, found) for key in _keys(found)], right=frozenset(headers[1:]))
    if len(found) > 1:
        yield Lines([f"{rule.id} {rule.name}: {words(rule, found)}" for rule in rules])
    if all_findings:
        yield Rows(("finding", "event", "page", *headers[1:]),
                   [_identified_row(each) for each in identified(found)],
                   right=frozenset({"event"}))
    if more:
        yield Lines(["The replay in which the first of these is found:"])
        yield Verbatim(list(more))


def _keys(found: Sequence[UnderModel]) -> list[tuple[int, Verdict | None]]:
    return sorted({key for under in found for key in under.counts},
                  key=lambda key: (key[0], -1 if key[1] is None else key[1]))


def _row(key: tuple[int, Verdict | None], found: Sequence[UnderModel]) -> list[str]:
    number, verdict = key
    rule = RULE_BY_NUMBER[number]
    kind = f" {verdict.name.lower()}" if verdict is not None else ""
    return [f"{rule.id} {rule.name}{kind}", *(
        "-" if count is None else str(count) for count in
        (_judged_count(key, under) for under in found))]


def _judged_count(key: tuple[int, Verdict | None], under: UnderModel) -> int | None:
    if key[0] == Fact.MODEL_MISMATCH and not under.judged:
        return None
    return under.counts[key]


def _identified_row(each: Identified) -> list[str]:
    return [each.rule.id, str(each.event), format_frame(each.pfn),
            *(_STATES.get(state, state or "-") for state in each.states)]


def words(rule: Rule, found: Sequence[UnderModel]) -> str:
    """What the kernels did to one rule's findings, change by change."""
    if rule.number == Fact.MODEL_MISMATCH:
        judged = next(under for under in found if under.judged)
        return (f"{judged.count(rule)} under {judged.model.name}, the traced kernel's model; the "
                "others are not judged by what this machine wrote")
    spans = spans_of(rule, found)
    if len(spans) == 1:
        return f"{spans[0].count} under all of them: no kernel change cures it"
    return "; ".join(_piece(rule, spans, i) for i in range(len(spans)))


def _piece(rule: Rule, spans: Sequence[Span], i: int) -> str:
    span = spans[i]
    if i == 0:
        return f"{span.count or 'none'} {span.versions}"
    before = spans[i - 1]
    changes = changes_between(rule, span)
    commits = " and ".join(change.commit for change in changes)
    since = ", ".join(dict.fromkeys(
        version for change in changes for version in (change.version, change.stable) if version))
    by = f"by {commits} ({since})"
    if span.count == 0:
        return f"cured {by}"
    if before.count == 0:
        word = "back" if any(earlier.count for earlier in spans[:i - 1]) else "brought in"
    elif span.count == before.count:
        word = "changed"
    else:
        word = "fewer" if span.count < before.count else "more"
    effects = " and ".join(change.effect for change in changes)
    return f"{span.count} {span.versions}, {word} {by}, since when {effects}"


def bisection_rows(found: Sequence[UnderModel]) -> Columns:
    """The rows of table `BISECTION`."""
    rows = [
        (RULE_BY_NUMBER[key[0]].id, RULE_BY_NUMBER[key[0]].name,
         None if key[1] is None else key[1].name.lower(), under.model.name,
         under.model.versions, _judged_count(key, under))
        for key in _keys(found) for under in found
    ]
    return _columns(rows, BISECTION)


def identified_rows(found: Sequence[UnderModel]) -> Columns:
    """The rows of table `EACH`."""
    rows = [(each.rule.id, each.event, format_frame(each.pfn), under.model.name, state)
            for each in identified(found)
            for under, state in zip(found, each.states, strict=True)]
    return _columns(rows, EACH)


def _columns(rows: Sequence[tuple[object, ...]], table: TableSpec) -> Columns:
    if not rows:
        return [[] for _ in table.fields]
    return [list(column) for column in zip(*rows, strict=True)]
