"""Rows read so far: columns in pieces, so that no Python object is kept for an event."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xenm2p.trace import COLUMNS, INVALID, Column, Events, Runs

_BATCH = 1 << 13  # rows held as Python numbers before they become a piece

ColumnSpecs = dict[str, tuple[Any, int]]  # name: dtype, absent value
EVENT_COLUMNS: ColumnSpecs = {name: (spec.dtype, spec.absent) for name, spec in COLUMNS.items()}
RUN_COLUMNS: ColumnSpecs = {
    "start": (np.dtype("<u8"), 0),
    "value": (np.dtype("<u8"), INVALID),
    "count": (np.dtype("<u8"), 1),
}


@dataclass(slots=True)
class Rows:
    """Growing columns: rows one at a time, or whole pieces."""

    specs: ColumnSpecs
    pieces: list[dict[str, Column]] = field(default_factory=list)
    length: int = 0
    _pending: dict[str, list[int]] = field(default_factory=dict)
    _n_pending: int = 0

    def append(self, row: dict[str, int]) -> None:
        """One row; columns it does not name are absent."""
        if not self._pending:
            self._pending = {name: [] for name in self.specs}
        for name, (_, absent) in self.specs.items():
            self._pending[name].append(row.get(name, absent))
        self.length += 1
        self._n_pending += 1
        if self._n_pending >= _BATCH:
            self.flush()

    def extend(self, columns: dict[str, Column], length: int) -> None:
        """Many rows: every column, with its own dtype."""
        self.flush()
        if length:
            self.pieces.append(columns)
            self.length += length

    def flush(self) -> None:
        """Make a piece of the rows that are still Python numbers."""
        if self._n_pending:
            piece = {
                name: np.array(self._pending[name], dtype=dtype)
                for name, (dtype, _) in self.specs.items()
            }
            self.pieces.append(piece)
            self._pending = {}
            self._n_pending = 0

    def columns(self) -> dict[str, Column]:
        """All rows, one array a column."""
        self.flush()
        return {
            name: np.concatenate([np.empty(0, dtype), *(piece[name] for piece in self.pieces)])
            for name, (dtype, _) in self.specs.items()
        }


@dataclass(slots=True)
class TaskNames:
    """Task names by number, in order of first sight."""

    names: list[str] = field(default_factory=list)
    _index: dict[str, int] = field(default_factory=dict)

    def index_of(self, name: str) -> int:
        """The number of a name, a new one for a new name."""
        if name not in self._index:
            self._index[name] = len(self.names)
            self.names.append(name)
        return self._index[name]


@dataclass(slots=True)
class Document:
    """What of one YAML trace has been read: top-level scalars, rows of the three sections."""

    source: str
    scalars: dict[str, str | int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    memory: Rows = field(default_factory=lambda: Rows(RUN_COLUMNS))
    m2p: Rows = field(default_factory=lambda: Rows(RUN_COLUMNS))
    events: Rows = field(default_factory=lambda: Rows(EVENT_COLUMNS))
    tasks: TaskNames = field(default_factory=TaskNames)

    def rows(self, section: str) -> Rows:
        """The rows of a section: memory, m2p or events."""
        rows: Rows = getattr(self, section)
        return rows

    def runs(self, section: str) -> Runs:
        """The memory or m2p rows as runs."""
        return Runs(**self.rows(section).columns())

    def event_pieces(self) -> list[Events]:
        """The events in the pieces in which they were read."""
        self.events.flush()
        return [Events(**piece) for piece in self.events.pieces]

