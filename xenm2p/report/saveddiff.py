"""What differs between two saved replays."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xenm2p.compare.saved import RowChange, compare_rows
from xenm2p.formats.saved import SavedTable
from xenm2p.report.fields import Columns
from xenm2p.report.hunks import ONLY_A, ONLY_B, UNLIKE, Hunk, Line

Tables = Mapping[str, SavedTable]
_NUMBERS = ("event", "map_event", "lock_event", "first_event")


@dataclass(slots=True)
class SavedDiff:
    """Totals by table, and the first `kept` changes of each (None: all) as hunks."""

    kept: int | None
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    hunks: list[Hunk] = field(default_factory=list)
    left_out: int = 0
    not_compared: dict[str, list[str]] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether nothing differs so far."""
        return not any(counts.total() for counts in self.counts.values())

    def items(self) -> Iterator[tuple[str, str]]:
        """Counted lines: key and text."""
        words = (("missing", "only in A"), ("inserted", "only in B"), ("changed", "changed"))
        for table, counts in self.counts.items():
            parts = [f"{counts[op]} {word}" for op, word in words if counts[op]]
            yield table, ", ".join(parts) or "the same"
        for side, names in self.not_compared.items():
            if names:
                yield f"only in {side}", f"not compared: {', '.join(names)}"

    def compare(self, a: Tables, b: Tables) -> Iterator[Columns]:
        """Compare table by table; the rows of the table `diff` that come of it."""
        self.not_compared = {"A": [name for name in a if name not in b],
                             "B": [name for name in b if name not in a]}
        for name in a:
            if name not in b:
                continue
            counts = self.counts.setdefault(name, Counter())
            lines: list[Line] = []
            for change in compare_rows(name, a[name].rows(), b[name].rows()):
                op = ("inserted" if change.a is None else "missing" if change.b is None
                      else "changed")
                counts[op] += 1
                in_a, in_b = _text(change, change.a), _text(change, change.b)
                if self.kept is None or len(lines) < self.kept:
                    lines.append(Line({"missing": ONLY_A, "inserted": ONLY_B}.get(op, UNLIKE),
                                      in_a, in_b))
                else:
                    self.left_out += 1
                yield [[op], [name], [_what(change)], [_event(change.a)], [_event(change.b)],
                       [1], [in_a], [in_b]]
            if lines:
                self.hunks.append(Hunk(name, lines, len(lines)))


def _text(change: RowChange, row: Mapping[str, Any] | None) -> str | None:
    """A row that one side has in all its columns, others in those that differ."""
    if row is None:
        return None
    shown = change.columns or [name for name, value in row.items() if value not in (None, [])]
    event = _event(row)
    words = [] if event is None or not change.columns else [f"event {event}:"]
    return " ".join([*words, *(f"{name} {_cell(row.get(name))}" for name in shown)])


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _event(row: Mapping[str, Any] | None) -> int | None:
    found = next((row[name] for name in _NUMBERS if name in row), None) if row else None
    return found if isinstance(found, int) else None


def _what(change: RowChange) -> str:
    row = change.a or change.b or {}
    found = row.get("id") or row.get("kind") or row.get("verdict") or change.table
    return str(found)
