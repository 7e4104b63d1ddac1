"""Differences as text, in the manner of a unified diff or side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xenm2p.report.markup import printable
from xenm2p.report.plain import WIDTH, ascii_only

# Marks of lines: as it is in both, only in A, only in B, not the same in both, elsewhere in
# B, and lines left out.
SAME, ONLY_A, ONLY_B, UNLIKE, MOVED, LEFT_OUT = " -+|>."

_LEFT = (WIDTH - 3) // 2
_RIGHT = WIDTH - 3 - _LEFT


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what A has and what B has, None where it has nothing here."""

    mark: str
    a: str | None = None
    b: str | None = None


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines that stand together, and a title; `points` is how many differences it shows."""

    title: str
    lines: list[Line]
    points: int = 1


def unified(hunks: Iterable[Hunk]) -> Iterator[str]:
    """The hunks line by line: ``-`` for A, ``+`` for B, at most 72 columns."""
    for hunk in hunks:
        yield _cut(f"@@ {hunk.title} @@", WIDTH)
        for line in hunk.lines:
            if line.mark == UNLIKE:
                yield _cut(f"-{line.a}", WIDTH)
                yield _cut(f"+{line.b}", WIDTH)
            else:
                text = line.a if line.a is not None else line.b
                yield _cut(f"{' ' if line.mark == LEFT_OUT else line.mark}{text}", WIDTH)


def side_by_side(hunks: Iterable[Hunk]) -> Iterator[str]:
    """The hunks with A on the left and B on the right, at most 72 columns."""
    for hunk in hunks:
        yield _cut(f"@@ {hunk.title} @@", WIDTH)
        for line in hunk.lines:
            left = _cut(line.a or "", _LEFT)
            right = _cut(line.b or "", _RIGHT)
            yield f"{left:{_LEFT}} {line.mark} {right}".rstrip()


def _cut(text: str, width: int) -> str:
    """`text` in at most `width` columns of ASCII; ``~`` stands for what is cut off."""
    text = ascii_only(printable(text))
    return text if len(text) <= width else text[:width - 1] + "~"
