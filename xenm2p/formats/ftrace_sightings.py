"""ftrace text: the events of all blocks, sorted by what their probes mean."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from xenm2p.formats.ftrace_calls import CallReader
from xenm2p.formats.ftrace_fields import Classifier, Head, parse_fields
from xenm2p.formats.ftrace_lines import Lines, Mask
from xenm2p.formats.ftrace_ops import CALL_ROLES, MAP_ROLES
from xenm2p.formats.ftrace_writes import Sightings
from xenm2p.formats.probes import Role
from xenm2p.trace import I64, U64


@dataclass(slots=True)
class Sighted:
    """What was read, by role; blocks are put together at the end.

    `functions` numbers the probed places; `waits` counts tasks that waited for a page lock.
    """

    rows: dict[Role, list[Sightings]] = field(default_factory=lambda: defaultdict(list))
    returns: list[tuple[Sightings, bool]] = field(default_factory=list)
    functions: dict[str, int] = field(default_factory=dict)
    waits: int = 0

    def of(self, role: Role, width: int) -> Sightings:
        """All sightings of a role, with `width` values, in the order of their lines."""
        parts = self.rows.pop(role, [])
        return _in_order(parts, width)

    def returned(self) -> tuple[Sightings, Mask]:
        """Returns of calls, and which of them are of maps."""
        maps = [np.full(len(part), is_map) for part, is_map in self.returns]
        seen = [Sightings(part.place, part.time, part.cpu, part.task, which.astype(np.int64), ())
                for (part, _), which in zip(self.returns, maps, strict=True)]
        together = _in_order(seen, 0)
        return together, together.source == 1


def _in_order(parts: list[Sightings], width: int) -> Sightings:
    if not parts:
        none = np.zeros(0, np.int64)
        return Sightings(none, none, none.astype(np.int16), none.astype(np.int32), none,
                         (np.zeros(0, np.uint64),) * width)
    columns = [part.values for part in parts]
    whole = Sightings(
        place=np.concatenate([part.place for part in parts]),
        time=np.concatenate([part.time for part in parts]),
        cpu=np.concatenate([part.cpu for part in parts]),
        task=np.concatenate([part.task for part in parts]),
        source=np.concatenate([part.source for part in parts]),
        values=tuple(np.concatenate(column) for column in zip(*columns, strict=True)),
    )
    return whole.rows(np.argsort(whole.place, kind="stable"))


def _take(lines: Lines, rows: I64, source: int, values: list[U64]) -> Sightings:
    return Sightings(lines.place[rows], lines.time[rows], lines.cpu[rows], lines.task[rows],
                     np.full(len(rows), source, np.int64), tuple(values))


def sight(lines: Lines, classifier: Classifier, calls: CallReader, seen: Sighted,
           source: str) -> None:
    """Sort the events of one block by what they mean."""
    call_lines: list[tuple[Head, I64]] = []
    for head, rows in classifier.groups(lines):
        probe = head.probe
        if probe is None or probe.role is Role.MARKER:
            continue
        role = probe.role
        if head.returns:
            if role in CALL_ROLES:
                seen.returns.append((_take(lines, rows, 0, []), role in MAP_ROLES))
            continue
        function = seen.functions.setdefault(head.text.decode("latin-1"), len(seen.functions))
        if role in CALL_ROLES:
            call_lines.append((head, rows))
        elif role is Role.WAIT:
            seen.waits += len(rows)
        else:
            values = parse_fields(lines, rows, head, source)
            seen.rows[role].append(_take(lines, rows, function, values))
    if call_lines:
        calls.read(lines, call_lines)
