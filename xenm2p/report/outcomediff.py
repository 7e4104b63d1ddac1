"""What differs between two replays of the same events, gathered step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from xenm2p.compare.outcomes import Step
from xenm2p.compare.rows import Index
from xenm2p.compare.stories import Mask
from xenm2p.engine.replay import Resolutions, Segment, Table, Transitions
from xenm2p.findings import Context, Findings, Severity, describe, rule_of
from xenm2p.report import tables
from xenm2p.report.eventtext import event_text
from xenm2p.report.fields import Columns
from xenm2p.report.hunks import ONLY_A, ONLY_B, SAME, UNLIKE, Hunk, Line
from xenm2p.report.selection import Selection

Row = tuple[str, str, str, int | None, int | None, int, str | None, str | None]
MAX_FINDINGS = 4  # lines of findings about one event


@dataclass(slots=True)
class OutcomeDiff:
    """Totals, and the first hunks; give it every step in order.

    `kept` is how many hunks are kept (None: all), `context` how many events around each.
    """

    context_a: Context
    context_b: Context
    selection: Selection
    context: int
    kept: int | None
    events: int = 0
    first: int | None = None
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    hunks: list[Hunk] = field(default_factory=list)
    left_out: int = 0

    @property
    def same(self) -> bool:
        """Whether nothing differs so far."""
        return not self.counts

    def add(self, step: Step) -> list[Row]:
        """Take in the next step, whose segments the selection has observed; its rows."""
        self.events += len(step.a.events)
        rows = sorted(self._rows(step), key=lambda row: (
            min(each for each in row[3:5] if each is not None), row[1]))
        for op, table, *_, in rows:
            self.counts[table, op] += 1
        if rows:
            first = min(each for row in rows for each in row[3:5] if each is not None)
            self.first = first if self.first is None else min(self.first, first)
            self._add_hunks(step, rows)
        return rows

    def items(self) -> Iterator[tuple[str, str]]:
        """Counted lines: key and text."""
        yield "events", f"{self.events}, the same in both"
        if self.first is not None:
            yield "first", f"event {self.first} is the first with another outcome"
        for table in ("results", "transitions", "resolutions", "findings"):
            parts = [f"{count} {word}" for op, word in (
                ("missing", "only in A"), ("inserted", "only in B"), ("changed", "changed"))
                if (count := self.counts[table, op])]
            if parts:
                yield table, ", ".join(parts)

    def finding_rows(self) -> list[list[str]]:
        """Rows id, name, in A only, in B only, changed."""
        ids = sorted({key[:2] for key in self.findings})
        return [[id_, name, *(str(self.findings[id_, name, op] or "-")
                              for op in ("missing", "inserted", "changed"))]
                for id_, name in ids]

    # -- rows of one step --------------------------------------------------------------

    def _rows(self, step: Step) -> Iterator[Row]:
        yield from self._results(step)
        yield from self._of_table(step, "transitions")
        yield from self._of_table(step, "resolutions")
        yield from self._of_findings(step)

    def _results(self, step: Step) -> Iterator[Row]:
        rows = step.results - step.a.first_event
        rows = rows[self._mask(step.a, "events")[rows]]
        texts = [self._result_texts(segment, rows) for segment in (step.a, step.b)]
        for row, in_a, in_b in zip(rows.tolist(), *texts, strict=True):
            number = step.a.first_event + row
            yield "changed", "results", "result", number, number, 1, in_a, in_b

    @staticmethod
    def _result_texts(segment: Segment, rows: Index) -> list[str]:
        return [
            " ".join([f"result {result}", *([f"({reason})"] if reason else []),
                      *(f"warns {warning}" for warning in warnings)])
            for result, reason, warnings in zip(
                tables.spell(segment.result[rows], tables.RESULT_CELLS),
                tables.spell(segment.result[rows], tables.REASON_CELLS),
                tables.spell(segment.warnings[rows], tables.WARNING_CELLS), strict=True)]

    def _of_table(self, step: Step, name: str) -> Iterator[Row]:
        matched = getattr(step, name)
        table_a, table_b = getattr(step.a, name), getattr(step.b, name)
        shown_a, shown_b = (self._mask(each, name) for each in (step.a, step.b))
        for op, rows_a, rows_b in (("missing", matched.only_a, None),
                                   ("inserted", None, matched.only_b),
                                   ("changed", matched.both_a, matched.both_b)):
            if rows_a is not None and rows_b is not None:
                shown = shown_a[rows_a] | shown_b[rows_b]
                rows_a, rows_b = rows_a[shown], rows_b[shown]
            else:
                rows_a = None if rows_a is None else rows_a[shown_a[rows_a]]
                rows_b = None if rows_b is None else rows_b[shown_b[rows_b]]
            sides = [None if rows is None else self._texts(segment, table.rows(rows))
                     for segment, table, rows in ((step.a, table_a, rows_a),
                                                  (step.b, table_b, rows_b))]
            events = (table_a.event[rows_a] if rows_a is not None
                      else table_b.event[rows_b]).tolist()
            nothing = [None] * len(events)
            for number, in_a, in_b in zip(events, sides[0] or nothing, sides[1] or nothing,
                                          strict=True):
                yield (op, name, name[:-1], number if in_a else None,
                       number if in_b else None, 1, in_a, in_b)

    def _texts(self, segment: Segment, rows: Table) -> list[str]:
        if isinstance(rows, Resolutions):
            found = tables.spell_frames(rows.resolved)
            return [f"resolves to {'nothing' if page == 'invalid' else page}" for page in found]
        assert isinstance(rows, Transitions)
        cells = tables.transitions(
            replace(segment, transitions=rows), self.context_a, Selection())
        return [f"p2m[{pfn}] {old} -> {new} ({side}{f', FOREIGN {bit}' if bit else ''})"
                for _, _, pfn, old, new, bit, side in zip(*cells, strict=True)]

    def _of_findings(self, step: Step) -> Iterator[Row]:
        matched = step.findings
        for op, rows_a, rows_b in (("missing", matched.only_a, None),
                                   ("inserted", None, matched.only_b),
                                   ("changed", matched.both_a, matched.both_b)):
            for place in range(max(len(rows) for rows in (rows_a, rows_b) if rows is not None)):
                a = self._finding(step.findings_a, rows_a, place, self.context_a)
                b = self._finding(step.findings_b, rows_b, place, self.context_b)
                if a is None and b is None:
                    continue
                id_, name, _, _ = a or b or ("", "", 0, "")
                self.findings[id_, name, op] += 1
                yield (op, "findings", id_, a and a[2], b and b[2], 1, a and a[3], b and b[3])

    def _finding(
        self, findings: Findings, rows: Index | None, place: int, context: Context
    ) -> tuple[str, str, int, str] | None:
        if rows is None:
            return None
        row = int(rows[place])
        if not self.selection.everything and not self.selection.findings(
                findings.rows(np.array([row])))[0]:
            return None
        rule = rule_of(findings, row)
        severity = Severity(int(findings.severity[row])).name.lower()
        return (rule.id, rule.name, int(findings.event[row]),
                f"{rule.id} {severity}: {describe(findings, row, context)}")

    def _mask(self, segment: Segment, name: str) -> Mask:
        if self.selection.everything:
            return np.ones(len(getattr(segment, name)), bool)
        if name == "transitions":
            return self.selection.transitions(segment)
        shown = self.selection.events(segment)
        if name == "resolutions":
            shown = shown[segment.resolutions.event - segment.first_event]
        return shown

    # -- hunks -------------------------------------------------------------------------

    def _add_hunks(self, step: Step, rows: list[Row]) -> None:
        by_event: dict[int, list[Row]] = {}
        for row in rows:
            number = row[3] if row[3] is not None else row[4]
            assert number is not None
            by_event.setdefault(number, []).append(row)
        groups: list[list[int]] = []
        for number in sorted(by_event):
            if self.kept is not None and self._shown + sum(map(len, groups)) >= self.kept:
                self.left_out += len(by_event) - sum(map(len, groups))
                break
            if groups and number - groups[-1][-1] <= 2 * self.context + 1:
                groups[-1].append(number)
            else:
                groups.append([number])
        self.hunks += [self._hunk(step, group, by_event) for group in groups]

    @property
    def _shown(self) -> int:
        return sum(hunk.points for hunk in self.hunks)

    def _hunk(self, step: Step, group: list[int], by_event: dict[int, list[Row]]) -> Hunk:
        events, first = step.a.events, step.a.first_event
        low = max(first, group[0] - self.context)
        high = min(first + len(events) - 1, group[-1] + self.context)
        lines: list[Line] = []
        # What is decided here may be about an event of a chunk before.
        for number in sorted({*range(low, high + 1), *group}):
            if first <= number < first + len(events):
                text = event_text(events, number - first, self.context_a.trace, number)
                lines.append(Line(SAME, text, text))
            told = 0
            for op, table, _, _, _, _, in_a, in_b in by_event.get(number, ()):
                told += table == "findings"
                if table == "findings" and told > MAX_FINDINGS:
                    continue
                mark = {"missing": ONLY_A, "inserted": ONLY_B}.get(op, UNLIKE)
                lines.append(Line(mark, in_a and f"    {in_a}", in_b and f"    {in_b}"))
        what = f"event {group[0]}" if len(group) == 1 else f"events {group[0]} to {group[-1]}"
        return Hunk(what, lines, points=len(group))


def as_columns(rows: list[Row]) -> Columns:
    """Rows of the table `diff` as columns."""
    return [list(column) for column in zip(*rows, strict=True)]
