"""A trace's events as two runs can be compared: without any number that differs by chance.

Frames, refs, handles, calls and tasks are numbers that the machine gave out; two runs of
one workload have others. What stays is the kind of each event, whether it is for user
space, whether it failed, what sort of p2m entry it writes, and which earlier event it
belongs to: a share's unmap belongs to its map, an unlock to its lock, an end of access to
its grant, and a grant to the first map of its frame. These belong together as a *story*;
its map (without one, its first event) is called its opener.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xenm2p.trace import FOREIGN, IDENTITY, INVALID, NO_CALL, NO_REF, U64, Column, Events, Kind

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

# How alike two events are, the strictest first: in how their stories go, to the event, and
# in what is around them; in the first alone; in the second alone; in how their stories go
# but for what is between; in themselves.
LEVELS = ("context", "spacing", "around", "shape", "token")
STRICT = LEVELS[:3]  # those that tell events in a long stream apart

RUNS = (32, 8, 1)  # lengths of the runs of such events that are looked for
CONTEXT = 8  # events on each side that tell where in the stream an event stands

# Odd constants for hashing; what they are does not matter, only that they are fixed.
_ODD = np.uint64(0x9E3779B97F4A7C15)
_STIR = np.uint64(0xBF58476D1CE4E5B9)
_SHARE_KINDS = (Kind.MAP, Kind.UNMAP, Kind.P2M_WRITE, Kind.DIO_READ, Kind.DIO_WRITE)
# What a p2m entry is: INVALID, F:frame, I:frame or a plain frame.
_WRITES = (Kind.SET_P2M, Kind.P2M_WRITE)


@dataclass(frozen=True, slots=True)
class Stories:
    """Arrays of one row an event.

    token: uint64, equal for events that are alike but for the numbers given out by chance.
    opener: the opener of the story the event belongs to; itself, if it is that.
    call: uint64 from the size of the event's call and its place there.
    shape: uint64 from the tokens of the whole story, at its opener; 0 elsewhere.
    spacing: as `shape`, but also from how many events lie between; elsewhere from how many
        lie between the event and the one before it in the story.
    context: uint64 from the tokens of the events around it in the stream.
    """

    token: U64
    opener: Index
    call: U64
    shape: U64
    spacing: U64
    context: U64

    def __len__(self) -> int:
        return len(self.token)

    @classmethod
    def of(cls, events: Events) -> Stories:
        """The stories of a trace. Time is that of a few sorts of all events."""
        token = event_tokens(events)
        chains = [
            _chain(events, _is_any(events.kind, _SHARE_KINDS), events.pfn),
            _chain(events, _is_any(events.kind, (Kind.LOCK_PAGE, Kind.UNLOCK_PAGE)), events.pfn),
            _chain(events, _has_ref(events), events.ref),
        ]
        opener = np.arange(len(events))
        shape, spacing = np.zeros_like(token), np.zeros_like(token)
        for chain in chains:
            begins, member = chain
            if not len(member):
                continue
            first = np.flatnonzero(begins)
            story = np.repeat(first, np.diff(np.append(first, len(member))))
            opener[member] = member[story]
            rank = (np.arange(len(member)) - story).astype(np.uint64)
            shape[member[first]] = np.add.reduceat(stir(token[member] + rank * _ODD), first)
            apart = stir((member - member[story]).astype(np.uint64))
            total = np.add.reduceat(stir(token[member] + apart), first)
            spacing[member[1:]] = stir(np.diff(member).astype(np.uint64))
            spacing[member[first]] = total
        _follow_maps(events, opener, spacing)
        _precede_maps(events, opener)
        call = _calls(events)
        return cls(token, opener, call, shape, spacing, _contexts(stir(token) + call))

    def tokens(self, level: str) -> U64:
        """What is equal for events that are alike at a level of `LEVELS`, or in their kind."""
        match level:
            case "context":
                return stir(self.token) + self.call + self.spacing + self.context
            case "spacing":
                return stir(self.token) + self.call + self.spacing
            case "around":
                return stir(self.token) + self.call + self.context
            case "shape":
                return stir(self.token) + self.call + self.shape
            case "token":
                return stir(self.token)
            case _:
                return stir(self.token & np.uint64(0xFF))


def stir(values: U64) -> U64:
    """A hash of each number (the finalizer of splitmix64, shortened)."""
    mixed = values * _ODD
    mixed ^= mixed >> np.uint64(29)
    mixed *= _STIR
    mixed ^= mixed >> np.uint64(32)
    return mixed


def event_tokens(events: Events) -> U64:
    """(n,) uint64: kind, user, whether it failed, what sort of entry or frame it has.

    Not the domid, which is another after each boot of a guest, nor status numbers, nor how
    many events were lost, nor which optional fields a capture could show: these are compared
    once it is known which events belong together.
    """
    invalid = np.uint64(INVALID)
    entry = events.mfn
    has_entry = _is_any(events.kind, _WRITES)
    token = events.kind.astype(np.uint64)
    token |= events.user.astype(np.uint64) << np.uint64(8)
    token |= (events.status != 0).astype(np.uint64) << np.uint64(9)
    token |= (entry == invalid).astype(np.uint64) << np.uint64(10)
    is_real = has_entry & (entry != invalid)
    token |= (is_real & (entry & np.uint64(FOREIGN) != 0)).astype(np.uint64) << np.uint64(11)
    token |= (is_real & (entry & np.uint64(IDENTITY) != 0)).astype(np.uint64) << np.uint64(12)
    token |= (events.pfn == invalid).astype(np.uint64) << np.uint64(13)
    return token


def _is_any(kind: Column, kinds: tuple[Kind, ...]) -> Mask:
    chosen = np.zeros(len(Kind), bool)
    chosen[list(kinds)] = True
    return chosen[kind]


def _has_ref(events: Events) -> Mask:
    has: Mask = _is_any(events.kind, (Kind.GRANT, Kind.END_GRANT)) & (events.ref != NO_REF)
    return has


def _chain(events: Events, among: Mask, key: Column) -> tuple[Mask, Index]:
    """The chosen events grouped by `key`, in order, and where among them stories begin."""
    member = np.flatnonzero(among)
    member = member[np.argsort(key[member], kind="stable")]
    keys, kind = key[member], events.kind[member]
    begins = np.ones(len(member), bool)
    begins[1:] = keys[1:] != keys[:-1]
    opens = _is_any(kind, (Kind.MAP, Kind.LOCK_PAGE, Kind.GRANT))
    closes = _is_any(kind, (Kind.UNMAP, Kind.UNLOCK_PAGE, Kind.END_GRANT))
    # What is closed a second time was opened before the trace: that is a story of its own.
    decisive = np.flatnonzero(opens | closes)
    again = closes[decisive].copy()
    again[1:] &= closes[decisive][:-1] & (keys[decisive][1:] == keys[decisive][:-1])
    again[:1] = False
    begins[decisive[again]] = True
    return begins | opens, member


def _follow_maps(events: Events, opener: Index, spacing: U64) -> None:
    """Let lookups belong to the story of the frame's latest map before them."""
    member = np.flatnonzero(_is_any(events.kind, (Kind.MAP, Kind.LOOKUP)))
    if not len(member):
        return
    member = member[np.argsort(events.mfn[member], kind="stable")]
    frames = events.mfn[member]
    is_map = events.kind[member] == Kind.MAP
    place = np.arange(len(member))
    first = np.ones(len(member), bool)
    first[1:] = frames[1:] != frames[:-1]
    latest = np.maximum.accumulate(np.where(is_map | first, place, 0))
    follows = ~is_map & is_map[latest]
    opener[member[follows]] = member[latest[follows]]
    spacing[member[follows]] = stir(np.diff(member, prepend=0)[follows].astype(np.uint64))


def _precede_maps(events: Events, opener: Index) -> None:
    """Let a grant, and its end, belong to the story of a map of its frame.

    The first grant of a frame belongs to its first map, and so on; a map of a frame that
    is not granted at the time has none. Refs would tell too, but not every capture has them.
    """
    member = np.flatnonzero(_is_any(events.kind, (Kind.MAP, Kind.GRANT)))
    if not len(member):
        return
    member = member[np.argsort(events.mfn[member], kind="stable")]
    frames = events.mfn[member]
    is_map = events.kind[member] == Kind.MAP
    begins = np.ones(len(member), bool)
    begins[1:] = frames[1:] != frames[:-1]
    frame = np.cumsum(begins) - 1
    # Grants that wait for a map, as if a frame began with as many as it ever lacks.
    waiting = np.cumsum(np.where(is_map, -1, 1))
    before = np.append(0, waiting)[:-1][begins]
    waiting -= before[frame]
    lowest = np.minimum.accumulate(waiting - frame * (2 * len(member) + 1))
    lowest = np.minimum(lowest + frame * (2 * len(member) + 1), 0)
    lowest_before = np.where(begins, 0, np.append(0, lowest)[:-1])
    lacks = is_map & (waiting == lowest) & (waiting < lowest_before)
    maps, grants = np.flatnonzero(is_map & ~lacks), np.flatnonzero(~is_map)
    key = len(member)
    of_map = frame[maps] * key + _place_in_group(frame[maps])
    of_grant = frame[grants] * key + _place_in_group(frame[grants])
    _, in_map, in_grant = np.intersect1d(
        of_map, of_grant, assume_unique=True, return_indices=True)
    opener[member[grants[in_grant]]] = member[maps[in_map]]
    is_end = np.flatnonzero(events.kind == Kind.END_GRANT)
    opener[is_end] = opener[opener[is_end]]


def _place_in_group(ascending: Index) -> Index:
    """For each of ascending numbers how many equal ones stand before it."""
    place: Index = np.arange(len(ascending)) - np.searchsorted(ascending, ascending)
    return place


def _calls(events: Events) -> U64:
    """From the size of each event's call and its place there, both among its own kind.

    A call ends where another of the same kind begins, whatever number they have.
    """
    order = np.argsort(events.kind, kind="stable")
    kind, call = events.kind[order], events.call[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (kind[1:] != kind[:-1]) | (call[1:] != call[:-1]) | (call[1:] == NO_CALL)
    first = np.flatnonzero(begins)
    size = np.diff(np.append(first, len(order)))
    place = np.arange(len(order)) - np.repeat(first, size)
    found = np.zeros(len(order), np.uint64)
    found[order] = stir((np.repeat(size, size) << 32 | place).astype(np.uint64))
    return found


def _contexts(values: U64) -> U64:
    """A hash of each value with the `CONTEXT` ones before and after it."""
    length = len(values)
    padded = np.zeros(length + 2 * CONTEXT, np.uint64)
    padded[CONTEXT:CONTEXT + length] = values
    total = np.zeros(length, np.uint64)
    for offset in range(2 * CONTEXT + 1):
        total *= _STIR
        total += padded[offset:offset + length]
    return total
