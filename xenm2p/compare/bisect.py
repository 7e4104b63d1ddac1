"""One trace under several kernel models: what each of them finds, and which change did it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from xenm2p.engine.replay import Fact, Segment, Verdict
from xenm2p.findings.catalogue import RULE_BY_NUMBER
from xenm2p.findings.collisions import LOCK_COLLISION
from xenm2p.findings.judge import findings_by_source
from xenm2p.findings.rule import Findings, Rule
from xenm2p.findings.wanted import Wanted
from xenm2p.kernels import MODELS, Difference, KernelModel
from xenm2p.trace import I64

# A rule, for collisions with their verdict: rule number, verdict or None.
Key = tuple[int, Verdict | None]
# What a finding is about under every model alike: the rule, the share's or event's number,
# the page, the other event, and the verdict, which may differ.
_IDENTITY = ("rule", "event", "pfn", "other", "verdict")
_WORDS = 1 << 64
_MIXER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits without a pattern: 2**64 / golden ratio


@dataclass(slots=True)
class UnderModel:
    """What a replay under one model found.

    judged: whether p2m writes were compared with the model (XM501). wanted: what is
    looked for, None for everything. keep: keep the identities of all findings, 40 bytes
    each. counts: findings by rule and verdict. marks: by rule, a number that is equal where
    the same is found. identities: (f, 5) int64, one row a finding, columns as in
    `_IDENTITY`, where they are kept.
    """

    model: KernelModel
    judged: bool
    wanted: Wanted | None = None
    keep: bool = False
    counts: Counter[Key] = field(default_factory=Counter)
    marks: Counter[int] = field(default_factory=Counter)
    identities: list[I64] = field(default_factory=list)

    def add(self, segment: Segment) -> None:
        """Take in the next segment of the replay."""
        if not segment.has_findings:
            return
        for findings in findings_by_source(segment, self.model):
            if self.wanted is not None:
                findings = findings.rows(self.wanted.rows(findings))
            if len(findings):
                _count(self.counts, findings)
                identities = _identities(findings)
                _mark(self.marks, identities)
                if self.keep:
                    self.identities.append(identities)

    def mark(self, rule: Rule) -> int:
        """A number that is equal where a rule found the same."""
        return self.marks[rule.number]

    def has(self, rule: Rule) -> bool:
        """Whether anything was found by a rule."""
        return any(number == rule.number for number, _ in self.counts)

    def count(self, rule: Rule) -> int:
        """How many findings of a rule there were, whatever their verdict."""
        return sum(n for (number, _), n in self.counts.items() if number == rule.number)


def _count(counts: Counter[Key], findings: Findings) -> None:
    is_collision = findings.rule == LOCK_COLLISION
    for number, total in enumerate(np.bincount(findings.rule[~is_collision]).tolist()):
        if total:
            counts[number, None] += total
    for verdict, total in enumerate(np.bincount(findings.verdict[is_collision]).tolist()):
        if total:
            counts[LOCK_COLLISION, Verdict(verdict)] += total


def _identities(findings: Findings) -> I64:
    """What the findings are about, as rows of `_IDENTITY`."""
    is_collision = findings.rule == LOCK_COLLISION
    # When a window opens hangs on the model; which share meets which lock does not.
    event = np.where(is_collision, findings.other, findings.event)
    other = np.where(is_collision, findings.lock_event, findings.other)
    verdict = np.where(is_collision, findings.verdict.astype(np.int64), -1)
    return np.stack([findings.rule.astype(np.int64), event, findings.pfn.view(np.int64), other,
                     verdict], axis=1)


def _mark(marks: Counter[int], identities: I64) -> None:
    """Add up a hash of each finding, whatever their order."""
    hashes = np.zeros(len(identities), np.uint64)
    for column in identities.T:
        hashes = (hashes ^ column.astype(np.uint64)) * _MIXER
        hashes ^= hashes >> np.uint64(29)
    for number in np.unique(identities[:, 0]).tolist():
        total = int(np.add.reduce(hashes[identities[:, 0] == number]))
        marks[number] = (marks[number] + total) % _WORDS


@dataclass(frozen=True, slots=True)
class Identified:
    """One finding under all models: its rule, event and page, and a state under each.

    A state is the verdict's name for a collision, ``present``, or None where it is absent.
    """

    rule: Rule
    event: int
    pfn: int
    states: tuple[str | None, ...]


def identified(found: Sequence[UnderModel]) -> list[Identified]:
    """All findings of all models, each once, in the order of their events."""
    states: dict[tuple[int, int, int, int], list[str | None]] = {}
    for place, under in enumerate(found):
        for part in under.identities:
            for rule, event, pfn, other, verdict in part.tolist():
                state = states.setdefault((event, rule, pfn, other), [None] * len(found))
                state[place] = "present" if verdict < 0 else Verdict(verdict).name.lower()
    return [Identified(RULE_BY_NUMBER[rule], event, pfn & (1 << 64) - 1, tuple(state))
            for (event, rule, pfn, _), state in sorted(states.items())]


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring models under which a rule found the same; mark: see `UnderModel`."""

    first: KernelModel
    last: KernelModel
    count: int
    mark: int = 0

    @property
    def versions(self) -> str:
        """The Linux versions of the span, as a person writes them."""
        order = list(MODELS.values())
        if self.last is order[-1]:
            return f"from {self.first.first} on"
        assert self.last.last is not None
        if self.first is order[0]:
            return f"up to {self.last.last}"
        return f"in {self.first.first}-{self.last.last}"


def spans_of(rule: Rule, found: Sequence[UnderModel]) -> list[Span]:
    """What a rule found as runs of models, oldest first; unjudged models are left out."""
    spans: list[Span] = []
    for under in found:
        if rule.number == Fact.MODEL_MISMATCH and not under.judged:
            continue
        count, mark = under.count(rule), under.mark(rule)
        if spans and (spans[-1].count, spans[-1].mark) == (count, mark):
            spans[-1] = Span(spans[-1].first, under.model, count, mark)
        else:
            spans.append(Span(under.model, under.model, count, mark))
    return spans


def changes_between(rule: Rule, after: Span) -> tuple[Difference, ...]:
    """The kernel changes that begin a span: those that are known to cure the rule, or all."""
    brought = after.first.brought_by
    return tuple(change for change in brought if change in rule.cured_by) or brought
