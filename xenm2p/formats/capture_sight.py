"""What a capture could and could not see: the first note of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xenm2p.trace import NO_HANDLE, NO_REF, Events, Kind

MEMORY = "p2m before the capture (--memory)"
SHARES = "shares before the capture (--grants)"
# The one probe of the catalogue that says that a lock is taken sees no other way to take it.
_SEEN_AS = {"page locks": "page locks (as pages enter the page cache)"}
_SEES, _NOT = "sees: ", "not: "


def sees(events: Events, *, has_memory: bool) -> str:
    """One line: what of a machine's doing the events of a capture show, and what they do not.

    Only what occurred can be told from what was probed: a kind with no event is not seen.
    """
    kinds = set(np.unique(events.kind).tolist())
    seen_of = {
        "maps": Kind.MAP in kinds,
        "unmaps": Kind.UNMAP in kinds,
        "refs": bool(is_known(events, "ref", NO_REF).any()),
        "handles": bool(is_known(events, "handle", NO_HANDLE).any()),
        "p2m writes": bool(kinds & {Kind.P2M_WRITE, Kind.SET_P2M}),
        "grants": Kind.GRANT in kinds,
        "ends of grants": Kind.END_GRANT in kinds,
        "page locks": Kind.LOCK_PAGE in kinds,
        "unlocks": Kind.UNLOCK_PAGE in kinds,
        "direct I/O": bool(kinds & {Kind.DIO_READ, Kind.DIO_WRITE}),
        MEMORY: has_memory,
    }
    return _line([_SEEN_AS.get(name, name) for name, is_seen in seen_of.items() if is_seen],
                 [name for name, is_seen in seen_of.items() if not is_seen])


def _line(seen: list[str], unseen: list[str]) -> str:
    return "; ".join(word + ", ".join(names)
                     for word, names in ((_SEES, seen), (_NOT, unseen)) if names)


def what_is_seen(notes: list[str]) -> str | None:
    """The line that `sees` made, if the notes of a trace have it."""
    return notes[0] if notes and notes[0].startswith(_SEES) else None


def now_seen(notes: list[str], what: str) -> list[str]:
    """The notes of a capture to which a dump was given later: `what` is seen as well."""
    if not notes or not notes[0].startswith(_SEES):
        return notes
    seen, _, unseen = notes[0].removeprefix(_SEES).partition(f"; {_NOT}")
    told = [name for name in seen.split(", ") if name != what]
    left = [name for name in unseen.split(", ") if name and name != what]
    gone = "no p2m dump was given" if what == MEMORY else "\0"
    return [_line([*told, what], left),
            *(note for note in notes[1:] if not note.startswith(gone))]


def is_known(events: Events, column: str, absent: int) -> NDArray[np.bool_]:
    """Which events are maps or unmaps that have a value in `column`."""
    of_calls = (events.kind == Kind.MAP) | (events.kind == Kind.UNMAP)
    known: NDArray[np.bool_] = of_calls & (getattr(events, column) != absent)
    return known
