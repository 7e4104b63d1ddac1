"""A bug report: subject, versions, input, counts, findings, the worst in full, how to see it."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xenm2p import __version__
from xenm2p.engine.replay import Verdict
from xenm2p.findings import Severity
from xenm2p.report.markup import Block, Items, Lines, Verbatim
from xenm2p.report.markup import Heading as Title
from xenm2p.report.overview import Heading, Overview
from xenm2p.report.screen import screen
from xenm2p.trace import Trace


@dataclass(frozen=True, slots=True)
class Input:
    """The file that was replayed; size in bytes and sha256 are None for standard input."""

    name: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Reduced:
    """The smallest trace that shows the worst finding.

    Its YAML, its events and those of the whole trace, and the command that replays it.
    """

    lines: Sequence[str]
    events: int
    of: int
    command: Sequence[str]


def bug_report(
    heading: Heading, overview: Overview, trace: Trace, given: Input, worst: Iterable[Block],
    reduced: Reduced | None, commands: Mapping[str, Sequence[str]],
) -> Iterator[Block]:
    """The blocks of a report; `worst` tells the worst finding, `commands` are lines each."""
    yield Title(subject(heading, overview))
    yield Items(list(_versions(given)))
    yield from screen(heading, overview, trace, {})
    worst = list(worst)
    if worst:
        yield Lines(["The worst finding:"])
        yield from worst
    if reduced is not None:
        count = "1 event" if reduced.events == 1 else f"{reduced.events} events"
        yield Lines([f"The smallest trace that shows it, {count} of {reduced.of} (save it as "
                     "small.yaml):"])
        yield Verbatim(list(reduced.lines))
        yield Verbatim(list(reduced.command))
    for what, lines in commands.items():
        yield Lines([f"{what}:"])
        yield Verbatim(list(lines))


def subject(heading: Heading, overview: Overview) -> str:
    """One line for the subject of a mail: the worst there is, where, under which kernel."""
    kernel = (f"Linux {heading.traced_kernel}" if heading.traced_kernel and not heading.what_if
              and heading.traced_kernel != heading.model.name
              else f"{heading.model.name}, Linux {heading.model.versions}")
    deadlocks = overview.verdicts[Verdict.DEADLOCK]
    if deadlocks:
        what = f"{deadlocks} page lock {'deadlock' if deadlocks == 1 else 'deadlocks'}"
    elif not len(overview.tally):
        what = "no findings"
    else:
        worst = overview.tally.worst
        assert worst is not None, "there are findings"
        rules = [rule for rule in overview.tally.rules()
                 if worst in overview.tally.of_rule(rule)]
        count = overview.tally.of_rule(rules[0])[worst]
        others = f" and {len(rules) - 1} more rules" if len(rules) > 1 else ""
        what = f"{count} x {rules[0].id} {rules[0].name}{others}"
        if worst < Severity.ERROR:
            what += f" ({worst.name.lower()})"
    return f"xen grant mapping: {what} ({kernel})"


def _versions(given: Input) -> Iterator[tuple[str, str]]:
    yield "xenm2p", (f"{__version__}, Python {platform.python_version()}, "
                     f"numpy {np.__version__}")
    if given.size is None or given.sha256 is None:
        yield "input", "standard input" if given.name == "-" else given.name
        return
    yield "input", f"{given.name}, {given.size} bytes"
    yield "sha256", given.sha256
