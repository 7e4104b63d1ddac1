"""Tally: how many findings of which kind a replay gave, and the first of each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xenm2p.engine.replay import Segment
from xenm2p.findings.catalogue import RULE_BY_NUMBER
from xenm2p.findings.judge import findings_by_source
from xenm2p.findings.rule import Findings, Rule, Severity
from xenm2p.kernels import KernelModel

_SEVERITIES = len(Severity)


@dataclass(slots=True)
class Tally:
    """Counts the findings of a replay as its segments pass, in bounded memory.

    `keep` rows of each (rule, severity) are kept, the first ones. `counts` holds how many
    there were, by (rule number, severity).
    """

    model: KernelModel
    keep: int = 5
    counts: dict[tuple[int, Severity], int] = field(default_factory=dict)
    _kept: dict[tuple[int, Severity], list[Findings]] = field(default_factory=dict)

    def add_segment(self, segment: Segment) -> None:
        """Count the findings of the next segment."""
        if segment.has_findings:
            for findings in findings_by_source(segment, self.model):
                self.add(findings)

    def add(self, findings: Findings) -> None:
        """Count these findings; of one rule, earlier ones must have been added before."""
        if not len(findings):
            return
        group = findings.rule * _SEVERITIES + findings.severity
        totals = np.bincount(group)
        for number in np.flatnonzero(totals).tolist():
            key = (number // _SEVERITIES, Severity(number % _SEVERITIES))
            missing = self.keep - self.counts.get(key, 0)
            self.counts[key] = self.counts.get(key, 0) + int(totals[number])
            if missing > 0:
                first = np.flatnonzero(group == number)[:missing]
                self._kept.setdefault(key, []).append(findings.rows(first))

    def __len__(self) -> int:
        """How many findings there were."""
        return sum(self.counts.values())

    @property
    def worst(self) -> Severity | None:
        """The worst severity that was found, None where there was no finding."""
        return max((severity for _, severity in self.counts), default=None)

    def worst_rules(self) -> list[Rule]:
        """The rules that found something, the worst first, of equals the first by id."""
        return sorted(self.rules(), key=lambda rule: -max(self.of_rule(rule)))

    def count(self, *, at_least: Severity = Severity.INFO) -> int:
        """How many findings have this severity or a worse one."""
        return sum(n for (_, severity), n in self.counts.items() if severity >= at_least)

    def rules(self) -> list[Rule]:
        """The rules that found something, by id."""
        return [RULE_BY_NUMBER[number] for number in sorted({rule for rule, _ in self.counts})]

    def of_rule(self, rule: Rule) -> dict[Severity, int]:
        """How many findings of one rule there were, the worst severity first."""
        return {severity: self.counts[rule.number, severity]
                for severity in sorted(Severity, reverse=True)
                if (rule.number, severity) in self.counts}

    def first_of(self, rule: Rule) -> Findings:
        """At most `keep` findings of one rule: the worst, and of these the first."""
        parts = [part for severity in sorted(Severity, reverse=True)
                 for part in self._kept.get((rule.number, severity), [])]
        return Findings.concat(parts).rows(slice(0, self.keep))
