"""The shares of a synthetic workload: when each begins and ends, and with which numbers.

Everything about share k is a function of k and the seed, never of what was drawn before,
so that shares are made in batches of any size without carrying more than the live ones.

Shares are mapped in the order of k and unmapped in an order mixed within blocks of
`Rings.block` shares. Time advances in steps: a step is one map call, then one unmap call.
Backend pages, refs and handles come from rings only just larger than what may be live, so
each is reused as soon as its share is gone; the frames come from a ring of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd
from typing import TypeAlias

import numpy as np

from xenm2p.trace import I64, NO_CALL, U64, Column, Events, Kind

CHUNK = 1 << 16
MAP_CALL = 11  # pages of one blkfront request, BLKIF_MAX_SEGMENTS_PER_REQUEST
UNMAP_CALL = 32
_BLOCK = 16
STEPS_PER_BATCH = 1 << 13
_PHASES = 1 << 4
_PLACES = 1 << 20

# The order of events inside one step.
(BALLOON_OUT, BALLOON_IN, LOCK, GRANT, MAP, MAPPED, USE, USED, UNMAP, UNMAPPED, REPAIR,
 UNLOCK, END) = range(13)


class Draws:
    """Random numbers by index: draw i of a stream is a hash of (seed, stream, i).

    The hash is splitmix64's finaliser over a Weyl sequence (Steele, Lea and Flood, "Fast
    splittable pseudorandom number generators", 2014): 64-bit integer arithmetic only, the
    same on every machine and with every numpy.
    """

    _WEYL = 0x9E3779B97F4A7C15

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def raw(self, stream: str, index: I64 | U64) -> U64:
        """64 random bits for each index."""
        start = int.from_bytes(stream.encode()[:8], "little") * self._WEYL + self._seed
        start = _finalise(np.array([start & (1 << 64) - 1], dtype=np.uint64))[0]
        return _finalise(index.astype(np.uint64) * np.uint64(self._WEYL) + start)

    def below(self, stream: str, bound: int | I64, index: I64 | U64) -> I64:
        """An integer 0 <= x < bound for each index; bound at most 2**31."""
        high = (self.raw(stream, index) >> np.uint64(32)).astype(np.int64)
        return high * bound >> 32


def _finalise(word: U64) -> U64:
    word = (word ^ word >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ word >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return word ^ word >> np.uint64(31)


@dataclass(frozen=True, slots=True)
class Rings:
    """The sizes that keep `in_flight` shares at most live, and every number of one unique.

    pages: backend pages, refs and handles; frames: frames that shares cycle through.
    Share k takes a place in block k // block of a ring. When it is mapped, at most
    `in_flight` shares are younger than the oldest live one, so the block's places of the
    round before are free if pages >= in_flight + block - 1.
    """

    block: int
    pages: int
    frames: int
    stride: int
    map_call: int
    longest_lag: int
    lag_spread: int

    @staticmethod
    def pages_for(in_flight: int) -> int:
        """How many backend pages `in_flight` shares cycle through."""
        block = _block_for(in_flight)
        return -(-(in_flight + block - 1) // block) * block

    @classmethod
    def of(cls, in_flight: int, frames: int) -> Rings:
        """The rings for at most `in_flight` live shares over `frames` frames."""
        block = _block_for(in_flight)
        frames -= frames % block
        map_call = min(MAP_CALL, in_flight - block + 1)
        longest_lag = in_flight - map_call
        return cls(
            block=block,
            pages=cls.pages_for(in_flight),
            frames=frames,
            stride=_stride(frames),
            map_call=map_call,
            longest_lag=longest_lag,
            # A lag of block - 1 has every share of a block mapped before one is unmapped;
            # a spread of UNMAP_CALL - map_call keeps each unmap call at UNMAP_CALL pages.
            lag_spread=min(UNMAP_CALL - map_call, longest_lag - (block - 1)),
        )

    def frame(self, place: I64) -> I64:
        """The frame, 0-based, of a place on the frames' ring: far from its neighbour's."""
        frame: I64 = place * self.stride % self.frames
        return frame


def _block_for(in_flight: int) -> int:
    return min(_BLOCK, 1 << max(0, (in_flight // 2).bit_length() - 1))


def _stride(frames: int) -> int:
    stride = max(1, frames * 618 // 1000)
    while gcd(stride, frames) != 1:
        stride += 1
    return stride


def mixed(draws: Draws, stream: str, index: I64, block: int) -> I64:
    """`index` with the order inside each aligned block of a power of two changed."""
    bits = draws.raw(stream, index // block).astype(np.int64)
    place = (index * (bits | 1) + (bits >> 8)) & (block - 1)
    mixed_index: I64 = index - index % block + place
    return mixed_index


@dataclass(frozen=True, slots=True)
class Shares:
    """Some shares of a workload, int64 arrays of one length.

    `number` is k; steps are counted from 0; `map_place` and `unmap_place` are the places
    in their calls; page, ref, handle and frame are 0-based.
    """

    number: I64
    map_step: I64
    map_place: I64
    unmap_step: I64
    unmap_place: I64
    page: I64
    ref: I64
    handle: I64
    frame: I64

    def at(self, where: Column) -> Shares:
        """The shares at a mask or index array."""
        return Shares(*(getattr(self, name)[where] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Part:
    """Events with their place in the order: key as made by `order`."""

    key: I64
    events: Events


def order(step: I64, phase: int, place: I64) -> I64:
    """The sort key of events: by step, then phase, then place.

    A place in a call, or the share's number where shares of several calls meet in one
    phase: live shares then have different places (unless a million of them are live).
    """
    return (step * _PHASES + phase) * _PLACES + place % _PLACES


# What the shares of a workload do: their events, and how many events each of them has.
Story: TypeAlias = Callable[[Shares], list[Part]]
Cost: TypeAlias = Callable[[I64], I64]
PlaceOfFrame: TypeAlias = Callable[[I64], I64]


@dataclass(slots=True)
class _Clock:
    """The schedule so far: steps, shares mapped and unmapped."""

    step: int = 0
    mapped: int = 0
    unmapped: int = 0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Shares that are mapped and whose unmap is not scheduled yet."""

    number: I64
    map_step: I64
    map_place: I64
    position: I64

    def at(self, where: Column) -> _Waiting:
        return _Waiting(self.number[where], self.map_step[where], self.map_place[where],
                        self.position[where])

    def joined(self, other: _Waiting) -> _Waiting:
        return _Waiting(*(np.concatenate([getattr(self, name), getattr(other, name)])
                          for name in self.__slots__))


def share_events(
    story: Story, cost: Cost, place_of_frame: PlaceOfFrame,
    rings: Rings, draws: Draws, events: int,
) -> Iterator[Events]:
    """The events, at most `events`, of as many whole shares as have that many.

    Memory is a batch of steps and the live shares. All shares are unmapped at the end.
    """
    none = np.empty(0, dtype=np.int64)
    clock, waiting = _Clock(), _Waiting(none, none, none, none)
    pending: list[Part] = []
    budget, done = events, False
    longest_lag, spread, block = rings.longest_lag, rings.lag_spread, rings.block
    steps_per_batch = min(max(STEPS_PER_BATCH, rings.pages // rings.map_call), events + 1)
    while not done:
        step = np.arange(clock.step, clock.step + steps_per_batch)
        mapped = clock.mapped + np.cumsum(1 + draws.below("call", rings.map_call, step))
        number = np.arange(clock.mapped, int(mapped[-1]))
        spent = np.cumsum(cost(number))
        affordable = int(np.searchsorted(spent, budget, side="right"))
        if done := affordable < len(number):
            number = number[:affordable]
            mapped = np.minimum(mapped, clock.mapped + affordable)
            cut = int(np.searchsorted(mapped, mapped[-1])) + 1
            step, mapped = step[:cut], mapped[:cut]
        budget -= int(spent[affordable - 1]) if affordable else 0

        lag = longest_lag - draws.below("lag", spread + 1, step)
        unmapped = np.maximum.accumulate(np.maximum(mapped - lag, clock.unmapped))
        in_step = np.searchsorted(mapped, number, side="right")
        first = np.concatenate([[clock.mapped], mapped[:-1]])
        waiting = waiting.joined(_Waiting(
            number, step[in_step], number - first[in_step],
            mixed(draws, "order", number, block)))

        is_due = waiting.position < unmapped[-1]
        due, waiting = waiting.at(is_due), waiting.at(~is_due)
        in_step = np.searchsorted(unmapped, due.position, side="right")
        first = np.concatenate([[clock.unmapped], unmapped[:-1]])
        pending += _told(story, place_of_frame, rings, draws, due, step[in_step],
                         due.position - first[in_step])
        clock = _Clock(int(step[-1]) + 1, int(mapped[-1]), int(unmapped[-1]))
        if done:
            rank = np.empty(len(waiting.number), dtype=np.int64)
            rank[np.argsort(waiting.position, kind="stable")] = np.arange(len(rank))
            pending += _told(story, place_of_frame, rings, draws, waiting,
                             clock.step + rank // UNMAP_CALL, rank % UNMAP_CALL)
            horizon = None
        else:
            # Before the map of the oldest share that still waits, all is settled.
            horizon = int(waiting.map_step[0]) if len(waiting.number) else clock.step
        settled, pending = _settled(pending, horizon)
        yield settled


def _told(
    story: Story, place_of_frame: PlaceOfFrame, rings: Rings, draws: Draws,
    due: _Waiting, unmap_step: I64, unmap_place: I64,
) -> list[Part]:
    block = rings.block
    return story(Shares(
        number=due.number, map_step=due.map_step, map_place=due.map_place,
        unmap_step=unmap_step, unmap_place=unmap_place,
        page=mixed(draws, "page", due.number, block) % rings.pages,
        ref=mixed(draws, "ref", due.number, block) % rings.pages,
        handle=mixed(draws, "handle", due.number, block) % rings.pages,
        frame=rings.frame(place_of_frame(due.number) % rings.frames),
    ))


def _settled(pending: list[Part], horizon: int | None) -> tuple[Events, list[Part]]:
    """The events before step `horizon` in order, and the others."""
    key = np.concatenate([part.key for part in pending])
    events = Events.concat([part.events for part in pending])
    if horizon is None:
        return events.rows(np.argsort(key, kind="stable")), []
    is_settled = key < horizon * _PHASES * _PLACES
    order_of = np.flatnonzero(is_settled)
    order_of = order_of[np.argsort(key[order_of], kind="stable")]
    return events.rows(order_of), [Part(key[~is_settled], events.rows(~is_settled))]


def timed(source: Iterator[Events], draws: Draws) -> Iterator[Events]:
    """Chunks of `CHUNK` events with times; the pages of one call have one time.

    From one call, or other event, to the next it takes 0.5 to 4.5 microseconds.
    """
    count, now, last_call = 0, 1_000_000, NO_CALL
    for events in _rechunked(source):
        index = np.arange(count, count + len(events))
        ticks = 500 + draws.below("time", 4000, index)
        before = np.concatenate([[last_call], events.call[:-1]])
        ticks[(events.call != NO_CALL) & (events.call == before)] = 0
        time = now + np.cumsum(ticks)
        count, now, last_call = count + len(events), int(time[-1]), int(events.call[-1])
        yield Events(**(events.columns() | {"time": time}))


def _rechunked(source: Iterator[Events]) -> Iterator[Events]:
    held: list[Events] = []
    for events in source:
        held.append(events)
        if sum(map(len, held)) < CHUNK:
            continue
        joined = Events.concat(held)
        whole = len(joined) - len(joined) % CHUNK
        for begin in range(0, whole, CHUNK):
            yield joined.rows(slice(begin, begin + CHUNK))
        held = [joined.rows(slice(whole, None))]
    if rest := Events.concat(held):
        yield rest


def part(kind: Kind, key: I64, **columns: Column | int) -> Part:
    """Events of one kind; a single number stands for a whole column."""
    length = len(key)
    filled = {name: np.broadcast_to(np.asarray(value), (length,))
              for name, value in columns.items()}
    return Part(key, Events.from_columns(
        length, kind=np.full(length, kind, dtype=np.uint8), **filled))
