"""Minimising: the fewest items that still pass a test, and prefixes and suffixes that do.

Delta debugging after Zeller and Hildebrandt, "Simplifying and isolating failure-inducing
input" (2002), with chunks that halve: each is tried to be left out once a round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Holds = Callable[[list[Item]], bool]


def minimal(items: Sequence[Item], holds: Callable[[list[Item]], bool]) -> list[Item]:
    """A part of `items`, in order, that `holds` and of which no single item can go.

    `holds(list(items))` is taken as true. The same input gives the same answer.
    """
    kept = list(items)
    size = len(kept) // 2
    while size >= 1:
        kept, has_shrunk = _without_chunks(kept, size, holds)
        if size == 1 and has_shrunk and kept:
            continue  # what was needed before may not be any more
        size = min(size // 2, max(1, len(kept) // 2)) if size > 1 else 0
    if len(kept) == 1 and holds([]):
        return []
    return kept


def _without_chunks(
    kept: list[Item], size: int, holds: Callable[[list[Item]], bool]
) -> tuple[list[Item], bool]:
    """`kept` without the runs of `size` items that can go, the last tried first."""
    has_shrunk = False
    start = (len(kept) - 1) // size * size
    while start >= 0:
        rest = kept[:start] + kept[start + size:]
        if rest and holds(rest):
            kept, has_shrunk = rest, True
        start -= size
    return kept, has_shrunk


def shortest_prefix(length: int, holds: Callable[[int], bool]) -> int:
    """How many leading items of `length` are enough, by binary search.

    `holds(length)` is taken as true. What it gives holds, though where `holds` is not
    monotonic a shorter one may too.
    """
    low, high = 0, length
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
