"""All that a replay gave, in one piece and as plain rows, so that two can be compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np

from tests.build import trace_of
from xenm2p.engine import reference
from xenm2p.engine.replay import (
    Collisions,
    Counts,
    Cycles,
    Facts,
    Locks,
    Options,
    Resolutions,
    Result,
    Segment,
    Shares,
    Table,
    Transitions,
    Verdict,
)
from xenm2p.findings import Findings, findings_of
from xenm2p.kernels import MODELS, KernelModel
from xenm2p.trace import INVALID, format_frame

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Outcome:
    """The segments of one replay put together, with the findings made of them."""

    result: list[int]
    warnings: list[int]
    resolutions: Resolutions
    transitions: Transitions
    shares: Shares
    locks: Locks
    collisions: Collisions
    facts: Facts
    cycles: Cycles
    findings: Findings
    counts: Counts

    @classmethod
    def of(cls, segments: Iterable[Segment], model: KernelModel) -> Outcome:
        """Everything that `segments` say."""
        parts = list(segments)
        return cls(
            np.concatenate([part.result for part in parts]).tolist(),
            np.concatenate([part.warnings for part in parts]).tolist(),
            Resolutions.concat([part.resolutions for part in parts]),
            Transitions.concat([part.transitions for part in parts]),
            Shares.concat([part.shares for part in parts]),
            Locks.concat([part.locks for part in parts]),
            Collisions.concat([part.collisions for part in parts]),
            Facts.concat([part.facts for part in parts]),
            Cycles.concat([part.cycles for part in parts]),
            Findings.concat([findings_of(part, model) for part in parts]),
            sum((part.counts for part in parts), Counts()),
        )

    def rows(self) -> dict[str, Rows]:
        """Every table as rows, by name."""
        return {
            "result": [(result,) for result in self.result],
            "warnings": [(warnings,) for warnings in self.warnings],
            "counts": [astuple(self.counts)],
        } | {
            name: rows_of(getattr(self, name))
            for name in ("resolutions", "transitions", "shares", "locks", "collisions",
                         "facts", "cycles", "findings")
        }

    @property
    def results(self) -> list[Result]:
        """What the kernel's function returned, one a event."""
        return [Result(result) for result in self.result]

    def changes(self, event: int) -> list[tuple[str, str, str]]:
        """The p2m entries that an event changed: (pfn, old, new), written as text."""
        return [
            (format_frame(pfn), format_frame(old), format_frame(new))
            for number, pfn, old, new, _ in rows_of(self.transitions) if number == event
        ]

    def resolved(self, event: int) -> str | None:
        """The page that a lookup, gup_fast or direct I/O found, written as text."""
        at = self.resolutions.event.tolist().index(event)
        page = int(self.resolutions.resolved[at])
        return None if page == INVALID else format_frame(page)

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdict of each collision window, in order."""
        return [Verdict(verdict) for verdict in self.collisions.verdict.tolist()]


def rows_of(table: Table) -> Rows:
    """A table's rows as tuples of plain numbers and lists."""
    columns = [getattr(table, column.name).tolist() for column in fields(table)]
    plain = [[cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in column]
             for column in columns]
    return list(zip(*plain, strict=True))


def outcome_of(
    rows: list[dict[str, Any]], model: str, options: Options | None = None, **trace: Any
) -> Outcome:
    """What the reference engine makes of a small trace, written as `tests.build` writes them."""
    return Outcome.of(
        reference.replay(trace_of(rows, **trace), MODELS[model], options), MODELS[model])
