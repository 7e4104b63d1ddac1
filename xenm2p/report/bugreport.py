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

_FOLDED = 4  # how far in a folded line of YAML goes on
_LONGEST_WORD = 64
_SUBJECT_WIDTH = 72


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
        is_one = sum(isinstance(block, Title) for block in worst) == 1
        yield Lines(["The worst finding:" if is_one else "The worst findings, one of a rule:"])
        yield from worst
    if reduced is not None:
        count = "1 event" if reduced.events == 1 else f"{reduced.events} events"
        yield Lines([f"The smallest trace that shows the worst, {count} of {reduced.of} (save "
                     "it as small.yaml):"])
        yield Verbatim(list(reduced.lines), _FOLDED if _may_fold(reduced.lines) else None)
        yield Verbatim(list(reduced.command))
    for what, lines in commands.items():
        yield Lines([f"{what}:"])
        yield Verbatim(list(lines))


def _may_fold(lines: Sequence[str]) -> bool:
    """Whether YAML lines mean the same when they are broken at blanks.

    A break with its indent is read as one blank, in quotes too; so no two may stand
    together, and no word may be so long that it would be torn.
    """
    texts = [line.lstrip(" ") for line in lines]
    return not any("  " in text or max(map(len, text.split(" "))) > _LONGEST_WORD
                   for text in texts)


def subject(heading: Heading, overview: Overview) -> str:
    """One line for the subject of a mail: the worst there is and under which kernel."""
    model = heading.model
    has_own = heading.traced_kernel not in (None, model.name) and not heading.what_if
    kernel = f"(Linux {heading.traced_kernel if has_own else model.versions})"
    tally, deadlocks = overview.tally, overview.verdicts[Verdict.DEADLOCK]
    rules = tally.worst_rules()
    worst = tally.worst
    if deadlocks:
        said = [f"{deadlocks} page lock {'deadlock' if deadlocks == 1 else 'deadlocks'}"]
    elif worst is None:
        said = ["no findings"]
    else:
        grade = "" if worst is Severity.ERROR else f" ({worst.name.lower()})"
        first = f"{tally.of_rule(rules[0])[worst]} x {rules[0].id} {rules[0].name}{grade}"
        others = len(tally.rules()) - 1
        said = [f"{first} and {others} more rule{'s' * (others > 1)}", first] if others else [
            first]
    subjects = [f"{about}: {what} {kernel}" for about in ("xen grant mapping", "xen")
                for what in said]
    return next((text for text in subjects if len(text) <= _SUBJECT_WIDTH), subjects[-1])


def _versions(given: Input) -> Iterator[tuple[str, str]]:
    yield "xenm2p", (f"{__version__}, Python {platform.python_version()}, "
                     f"numpy {np.__version__}")
    if given.size is None or given.sha256 is None:
        yield "input", "standard input" if given.name == "-" else given.name
        return
    yield "input", f"{given.name}, {given.size} bytes"
    yield "sha256", given.sha256
