"""What a capture lacks: losses that leave no mark but show in the writes, and kinds not seen.

A p2m write that does not follow from the one before of its page proves that an event between
them is missing. clear_foreign_p2m_mapping and m2p_remove_override write only over an entry
that is FOREIGN (arch/x86/xen/p2m.c), so that two INVALID writes of calls running are proof.
Two FOREIGN writes running may also be what a faulty backend does, which maps over a page
that is mapped: they count where something else shows that the capture has losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.formats.ftrace_lines import Mask
from xenm2p.formats.ftrace_writes import is_foreign_entry
from xenm2p.trace import I64, INVALID, NO_CALL, NO_HANDLE, NO_REF, Events, Kind


@dataclass(frozen=True, slots=True)
class Gaps:
    """Events with their unmarked losses, and how many writes told of one."""

    events: Events
    writes: int


def with_proven_losses(events: Events) -> Gaps:
    """The events with a `lost` (no count, no cpu) before each call that proves one.

    The events are in their order and have their call numbers. Memory is a few times that
    of the events' p2m writes.
    """
    at, writes = _proofs(events)
    if not len(at):
        return Gaps(events, writes)
    lost = Events.from_columns(len(at), kind=np.full(len(at), Kind.LOST, np.uint8),
                               time=events.time[at])
    # A loss stands before the event of its own number.
    number = np.concatenate([at * 2, np.arange(len(events)) * 2 + 1])
    return Gaps(Events.concat([lost, events]).rows(np.argsort(number, kind="stable")), writes)


def _proofs(events: Events) -> tuple[I64, int]:
    """The events before which something is proven to be missing; how many writes are odd."""
    rows = np.flatnonzero((events.kind == Kind.P2M_WRITE) | (events.kind == Kind.SET_P2M))
    order = rows[np.lexsort((rows, events.pfn[rows]))]
    before, after = order[:-1], order[1:]
    same_page = events.pfn[before] == events.pfn[after]
    before, after = before[same_page], after[same_page]
    by_calls = (events.kind[before] == Kind.P2M_WRITE) & (events.kind[after] == Kind.P2M_WRITE)
    ends = events.mfn == np.uint64(INVALID)
    foreign = is_foreign_entry(events.mfn)
    ends_twice = by_calls & ends[before] & ends[after]
    maps_twice = foreign[before] & foreign[after]
    has_losses = bool(ends_twice.any()) or bool((events.kind == Kind.LOST).any())
    proof = ends_twice | maps_twice if has_losses else ends_twice
    at = np.unique(_first_of_call(events, before[proof], after[proof]))
    return at, int((ends_twice | maps_twice).sum())


def _first_of_call(events: Events, before: I64, after: I64) -> I64:
    """Where the call of each write `after` begins, but behind the write `before`."""
    first = after.copy()
    for kind in (Kind.MAP, Kind.UNMAP):  # of a write that no call is known of
        maps = np.flatnonzero(events.kind == kind)
        is_before = after - 1
        is_its_map = np.isin(is_before, maps) & (events.pfn[is_before] == events.pfn[after])
        first[is_its_map] = is_before[is_its_map]
    in_call = np.flatnonzero(events.call != NO_CALL)
    calls, first_rows = np.unique(events.call[in_call], return_index=True)
    has_call = events.call[after] != NO_CALL
    found = np.searchsorted(calls, events.call[after[has_call]])
    first[has_call] = in_call[first_rows[found]]
    return np.maximum(first, before + 1)


def _is_known(events: Events, column: str, absent: int) -> Mask:
    of_calls = (events.kind == Kind.MAP) | (events.kind == Kind.UNMAP)
    known: Mask = of_calls & (getattr(events, column) != absent)
    return known


MEMORY = "p2m before the capture (--memory)"
SHARES = "shares before the capture (--grants)"
_SEES, _NOT = "sees: ", "not: "


def sees(events: Events, *, has_memory: bool) -> str:
    """One line: what of a machine's doing the events of a capture show, and what they do not.

    Only what occurred can be told from what was probed: a kind with no event is not seen.
    """
    kinds = set(np.unique(events.kind).tolist())
    seen_of = {
        "maps": Kind.MAP in kinds,
        "unmaps": Kind.UNMAP in kinds,
        "refs": bool(_is_known(events, "ref", NO_REF).any()),
        "handles": bool(_is_known(events, "handle", NO_HANDLE).any()),
        "p2m writes": bool(kinds & {Kind.P2M_WRITE, Kind.SET_P2M}),
        "grants": Kind.GRANT in kinds,
        "ends of grants": Kind.END_GRANT in kinds,
        "page locks": Kind.LOCK_PAGE in kinds,
        "unlocks": Kind.UNLOCK_PAGE in kinds,
        "direct I/O": bool(kinds & {Kind.DIO_READ, Kind.DIO_WRITE}),
        MEMORY: has_memory,
    }
    return _line([name for name, is_seen in seen_of.items() if is_seen],
                 [name for name, is_seen in seen_of.items() if not is_seen])


def _line(seen: list[str], unseen: list[str]) -> str:
    return "; ".join(word + ", ".join(names)
                     for word, names in ((_SEES, seen), (_NOT, unseen)) if names)


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
