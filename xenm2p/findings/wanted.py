"""Which finding a user means: ``XM101``, ``lock-collision``, ``XM101@17``."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from xenm2p.errors import UsageError, unknown
from xenm2p.findings.catalogue import RULES
from xenm2p.findings.judge import proving_events
from xenm2p.findings.rule import Findings, Rule
from xenm2p.trace import I64

_SPELLING = re.compile(r"([A-Za-z0-9-]+)(?:@(\d{1,18}))?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The findings of one rule, or of these the ones that an event proves."""

    rule: Rule
    event: int | None = None

    @classmethod
    def of(cls, text: str) -> Wanted:
        """What a user typed: a rule's id or name, then perhaps @ and an event number.

        Raises UsageError, naming the nearest known rule.
        """
        match = _SPELLING.fullmatch(text)
        found = _rule_named(match[1]) if match else None
        if match is None or found is None:
            raise UsageError(unknown("finding", match[1] if match else text, _names())
                             + "; an event that proves it may follow, as XM101@17")
        return cls(found, int(match[2]) if match[2] else None)

    def __str__(self) -> str:
        return self.rule.id if self.event is None else f"{self.rule.id}@{self.event}"

    def rows(self, findings: Findings) -> I64:
        """The rows of `findings` that are meant, (r,) ascending."""
        rows = np.flatnonzero(findings.rule == self.rule.number)
        if self.event is None or not len(rows):
            return rows
        # Every proof is made of these columns, or is a list of maps: only such rows are asked.
        some = np.array([maps is not None for maps in findings.maps[rows].tolist()], np.bool_)
        for column in (findings.event, findings.other, findings.value, findings.last_event,
                       findings.lock_event):
            some |= column[rows] == self.event
        return np.array([row for row in rows[some].tolist()
                         if self.event in proving_events(findings, row)], np.int64)


def is_a_rule(text: str) -> bool:
    """Whether `text` names a rule, as `Wanted.of` takes it."""
    match = _SPELLING.fullmatch(text)
    return match is not None and _rule_named(match[1]) is not None


def _names() -> dict[str, Rule]:
    return {rule.name: rule for rule in RULES.values()} | RULES


def _rule_named(name: str) -> Rule | None:
    names = _names()
    return names.get(name) or names.get(name.upper()) or names.get(name.lower())
