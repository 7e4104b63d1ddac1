"""Overview: what `replay` shows of a whole trace, gathered segment by segment.

Memory is bounded: totals, and the first few rows of each kind.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xenm2p.engine.replay import Collisions, Counts, Segment, Verdict
from xenm2p.findings import Severity, Tally, findings_of
from xenm2p.kernels import KernelModel
from xenm2p.report.fields import Columns
from xenm2p.report.selection import Selection

KEPT = 5  # examples of each kind


@dataclass(frozen=True, slots=True)
class Heading:
    """What was replayed, and how it came to its kernel model.

    `kernel_from` says who chose the model; `traced_kernel` is None where it is not known.
    `judged`: p2m writes seen on the machine were compared with the model (XM501). `sees`:
    what a capture could and could not see, None where the trace does not say.
    """

    name: str
    model: KernelModel
    kernel_from: str
    traced_kernel: str | None
    what_if: bool
    judged: bool
    sees: str | None = None


@dataclass(slots=True)
class Overview:
    """Totals and first examples; give it every segment in order.

    Findings and collisions are those of the selection, `counts` those of all events.
    """

    model: KernelModel
    selection: Selection
    counts: Counts = field(default_factory=Counts)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    tally: Tally = field(init=False)
    _first: dict[Verdict, list[Collisions]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tally = Tally(self.model, keep=KEPT)

    def add(self, segment: Segment) -> None:
        """Take in the next segment; the selection has observed it."""
        self.counts = self.counts + segment.counts
        if self.selection.everything:
            self.tally.add_segment(segment)
        else:
            findings = findings_of(segment, self.model)
            self.tally.add(findings.rows(self.selection.findings(findings)))
        if len(segment.collisions):
            self._add_collisions(segment)

    def _add_collisions(self, segment: Segment) -> None:
        shown = segment.collisions
        if not self.selection.everything:
            shown = shown.rows(self.selection.collisions(segment))
        for verdict in Verdict:
            rows = np.flatnonzero(shown.verdict == verdict)
            missing = KEPT - self.verdicts[verdict]
            self.verdicts[verdict] += len(rows)
            if missing > 0 and len(rows):
                self._first.setdefault(verdict, []).append(shown.rows(rows[:missing]))

    def first_collisions(self) -> Collisions:
        """At most KEPT collisions: the worst, and of these the first."""
        parts = [part for verdict in Verdict for part in self._first.get(verdict, [])]
        return Collisions.concat(parts).rows(slice(0, KEPT))

    def summary(self, heading: Heading) -> Columns:
        """The one row of the table `summary`."""
        by_severity = {severity: self.tally.count(at_least=severity) for severity in Severity}
        counts = self.counts
        row: list[Any] = [
            heading.name, heading.model.name, heading.traced_kernel, heading.what_if,
            counts.events, counts.maps, counts.unmaps, counts.failed_maps,
            counts.foreign_set, counts.foreign_cleared, counts.frontend_set,
            counts.frontend_cleared, counts.writes_foreign, counts.writes_invalid,
            counts.writes_agreed, counts.locks, counts.lost,
            *(self.verdicts[verdict] for verdict in Verdict),
            by_severity[Severity.ERROR],
            by_severity[Severity.WARNING] - by_severity[Severity.ERROR],
            by_severity[Severity.INFO] - by_severity[Severity.WARNING], heading.sees,
        ]
        return [[value] for value in row]

