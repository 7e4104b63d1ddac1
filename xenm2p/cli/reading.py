"""Reading a trace file from end to end: what `info` and `check` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xenm2p.cli.progress import with_progress
from xenm2p.formats.binary import BinaryReport, Loss, scan_binary
from xenm2p.formats.detect import Extra, read_grants, read_known, read_memory
from xenm2p.report.contents import Contents
from xenm2p.trace import Trace

MAX_LOSSES = 20  # how many damaged places are told one by one


@dataclass(slots=True)
class Reading:
    """A file that was read: which format it is, its trace, its contents, what is damaged.

    `report` is there for .xm2p files that can be read twice.
    """

    name: str
    format: str
    trace: Trace
    contents: Contents = field(default_factory=Contents)
    losses: list[Loss] = field(default_factory=list)
    report: BinaryReport | None = None

    @property
    def damage(self) -> list[Loss]:
        """What is damaged inside of the file, without a missing end."""
        return [loss for loss in self.losses if not loss.cut]

    @property
    def lossy(self) -> bool:
        """Whether events were lost, by the tracer or in the file."""
        return bool(self.losses) or self.contents.has_losses

    def loss_sentences(self) -> list[str]:
        """What is damaged or missing in the file, the first places one by one."""
        told = [loss.sentence() for loss in self.losses[:MAX_LOSSES]]
        left = len(self.losses) - len(told)
        return told + [f"{left} more"] * bool(left)

    def notes(self) -> list[str]:
        """The trace's notes, without those that say again what is damaged."""
        damage = {loss.sentence() for loss in self.losses}
        return [note for note in self.trace.notes if note not in damage]

    def time_pairs(self) -> list[tuple[str, Any]]:
        """First and last time and what is between, in nanoseconds."""
        first, last = self.contents.first_time, self.contents.last_time
        if first is None or last is None:
            return []
        return [("first_time_ns", first), ("last_time_ns", last), ("span_ns", last - first)]


def read_through(
    name: str, *, progress: bool, memory: str | None = None, grants: str | None = None,
    again: bool = False, merge: Sequence[str] = (), vmemmap_base: int | None = None,
) -> Reading:
    """Read a whole trace; a damaged .xm2p file as far as it can be had. Raises InputError.

    `memory` names a p2m dump, `grants` a grant-table dump, `merge` more files of the
    capture; with `again` the trace can be iterated afterwards, whatever the input is;
    `vmemmap_base` as for `detect.read_trace`.
    """
    losses: list[Loss] = []
    extra = Extra(None if memory is None else read_memory(memory), losses, again, salvage=True,
                  grants=None if grants is None else read_grants(grants),
                  vmemmap_base=vmemmap_base)
    reading = _opened((name, *merge), extra)
    for events in with_progress(
            reading.trace.chunks(), len, reading.trace.length, wanted=progress):
        reading.contents.add(events)
    if reading.report is not None:
        reading.losses += [loss for loss in reading.report.losses
                           if loss not in reading.losses]
    return reading


def _opened(names: tuple[str, ...], extra: Extra) -> Reading:
    known = read_known(names, extra)
    is_binary = known.format.name == "xm2p"
    report = (scan_binary(known.path, names[0])
              if is_binary and known.path is not None else None)
    return Reading(names[0], known.format.name, known.trace, losses=extra.losses, report=report)
