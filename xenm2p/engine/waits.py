"""Who waits for whom: the graph of tasks, page locks and shares, and cycles in it (XM102).

Two kinds of waits begin at a direct I/O event, both end when the page lock is released (or
seen taken again) or the share ends:

- *for a lock*: the task of a dio_read whose share resolves to a page other than its own
  waits for the holder of that page's lock. Where the lock was taken before the share began
  it is left out: that is a deadlock of one page by itself (XM101).
- *for I/O*: a task that has locked the frontend page of a frame before the share began
  waits for the task that does direct I/O, read or write, on the share.

A cycle of waits over two or more pages is a deadlock that none of these pages shows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Wait(NamedTuple):
    """`waiter` cannot go on before `holder`, both task indices, has.

    for_io: the waiter has locked page `pfn` and waits for direct I/O of the holder; else
    it does direct I/O itself and waits for the lock of `pfn` that the holder has.
    lock_event, map_event, dio_event: of the lock, the share and its direct I/O; the share
    is of frame `mfn`, at page `backend_pfn`.
    """

    waiter: int
    holder: int
    for_io: bool
    pfn: int
    lock_event: int
    mfn: int
    backend_pfn: int
    map_event: int
    dio_event: int

    @property
    def events(self) -> tuple[int, int, int]:
        """The events that prove it."""
        return self.lock_event, self.map_event, self.dio_event


# One lock, one share and two tasks make one wait, however often the I/O is repeated.
Key = tuple[int, int, bool, int, int]


class WaitGraph:
    """The waits that have begun and may not be over; the oldest first."""

    __slots__ = ("_waits",)

    def __init__(self) -> None:
        self._waits: dict[Key, Wait] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def waits(self) -> list[Wait]:
        """All of them."""
        return list(self._waits.values())

    def keep(self, is_alive: Callable[[Wait], bool]) -> None:
        """Take out the waits that are over."""
        over = [key for key, wait in self._waits.items() if not is_alive(wait)]
        for key in over:
            del self._waits[key]

    def extend(self, waits: Iterable[Wait]) -> None:
        """Add waits without asking for cycles."""
        for wait in waits:
            self._waits.setdefault(_key(wait), wait)

    def add(self, begun: Sequence[Wait]) -> list[Wait]:
        """Add the waits that one event began; gives the shortest cycle that they close.

        The cycle begins with a new wait and each wait's holder is the next one's waiter;
        of equally short ones it is that with the oldest waits. Empty where there is none
        over two or more pages.
        """
        new = [wait for wait in begun if wait.waiter != wait.holder and _key(wait)
               not in self._waits]
        self._waits.update((_key(wait), wait) for wait in new)
        cycles = [cycle for wait in new if (cycle := self._cycle(wait))]
        return min(cycles, key=len, default=[])

    def _cycle(self, first: Wait) -> list[Wait]:
        """The shortest way back from the holder of `first` to its waiter, behind `first`.

        A way may come to a task by waits of page `first.pfn` alone or of others too; only
        the latter makes a cycle, so that a task can be reached once in either manner.
        """
        by_waiter: dict[int, list[Wait]] = {}
        for wait in self._waits.values():
            by_waiter.setdefault(wait.waiter, []).append(wait)
        ways: list[tuple[int, bool, tuple[Wait, ...]]] = [(first.holder, False, (first,))]
        seen = {(first.holder, False)}
        for task, has_others, way in ways:  # grows while it is walked: breadth first
            if task == first.waiter:
                if has_others:
                    return list(way)
                continue
            for wait in by_waiter.get(task, ()):
                state = (wait.holder, has_others or wait.pfn != first.pfn)
                if state not in seen:
                    seen.add(state)
                    ways.append((*state, (*way, wait)))
        return []


def cycle_rows(event: int, cycle: Sequence[Wait], last_loss: int) -> list[tuple[int, ...]]:
    """Rows of `replay.Cycles` for the cycle that `event` closed."""
    # What was lost may have been a release or an unmap.
    unknown = min(min(wait.lock_event, wait.map_event) for wait in cycle) < last_loss
    return [(event, *wait, unknown) for wait in cycle]


def _key(wait: Wait) -> Key:
    return wait.waiter, wait.holder, wait.for_io, wait.lock_event, wait.map_event
