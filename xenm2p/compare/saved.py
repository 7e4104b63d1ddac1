"""Two saved replays, table by table: rows with the same key, and those of one side only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

Row = dict[str, Any]
Waiting = dict[Any, list[Row]]  # rows whose like the other side has not shown yet, by key

# What says which row of a table it is; all other columns say what it is like.
KEYS: dict[str, tuple[str, ...]] = {
    "summary": (),
    "events": ("event",),
    "transitions": ("event", "pfn"),
    "collisions": ("map_event", "lock_event", "pfn", "backend_pfn"),
    "findings": ("id", "event", "pfn"),
    "shares": ("map_event", "unmap_event", "pfn"),
    "locks": ("lock_event", "pfn"),
}
# Which trace and kernel it was is what is compared, not a difference.
_NOT_COMPARED = {"summary": ("trace", "model", "traced_kernel", "what_if")}


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row that differs: None on the side that does not have it."""

    table: str
    a: Row | None
    b: Row | None

    @property
    def columns(self) -> list[str]:
        """The columns in which both rows differ."""
        if self.a is None or self.b is None:
            return []
        hidden = _NOT_COMPARED.get(self.table, ())
        return [name for name in self.a | self.b
                if name not in hidden and self.a.get(name) != self.b.get(name)]


def compare_rows(
    table: str, rows_a: Iterable[Row], rows_b: Iterable[Row]
) -> Iterator[RowChange]:
    """The rows that differ, those in one only after all others.

    Memory grows with how far apart equal rows stand and with the rows of one side only.
    """
    keys = KEYS.get(table)
    waiting_a: Waiting = {}
    waiting_b: Waiting = {}
    for row_a, row_b in zip_longest(rows_a, rows_b):
        for row, mine, others in ((row_a, waiting_a, waiting_b), (row_b, waiting_b, waiting_a)):
            if row is None:
                continue
            key = _key(row, keys)
            if key not in others:
                mine.setdefault(key, []).append(row)
                continue
            other = others[key].pop(0)
            if not others[key]:
                del others[key]
            pair = (row, other) if mine is waiting_a else (other, row)
            change = RowChange(table, *pair)
            if change.columns:
                yield change
    for rows in waiting_a.values():
        yield from (RowChange(table, row, None) for row in rows)
    for rows in waiting_b.values():
        yield from (RowChange(table, None, row) for row in rows)


def _key(row: Row, keys: tuple[str, ...] | None) -> Any:
    if keys is None:
        return tuple(sorted((name, repr(value)) for name, value in row.items()))
    return tuple(_hashable(row.get(name)) for name in keys)


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, (list, dict)) else value
