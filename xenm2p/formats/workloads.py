"""Synthetic traces: seeded workloads of any length, made chunk by chunk.

`WORKLOADS` is the one table of their names and help texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xenm2p.errors import UsageError, unknown
from xenm2p.formats.workloads_faults import fault_cost, fault_story
from xenm2p.formats.workloads_shares import (
    BALLOON_IN,
    BALLOON_OUT,
    CHUNK,
    LOCK,
    MAP_CALL,
    UNLOCK,
    UNMAP_CALL,
    USED,
    Cost,
    Draws,
    Part,
    PlaceOfFrame,
    Rings,
    Shares,
    Story,
    mixed,
    order,
    part,
    share_events,
    timed,
)
from xenm2p.formats.workloads_site import (
    BACKEND_TASK,
    FRONTEND_TASK,
    TASKS,
    Site,
)
from xenm2p.trace import I64, INVALID, Events, Kind, Trace

MAX_FRAMES = 1 << 31
MAX_IN_FLIGHT = 1 << 20  # takes about 1.6 GB of memory


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of synthetic trace.

    `make` gives the events, in pieces of any size, at most as many as asked; where it is
    fewer, `generate` adds lookups of idle frames.
    """

    name: str
    help: str
    make: Callable[[Site, Draws, int], Iterator[Events]]
    foreign: bool = False


def _same_domain(site: Site, draws: Draws, events: int) -> Iterator[Events]:
    return _shared(site, draws, events, site.mapped_and_unmapped, _always(2))


def _multi_share(site: Site, draws: Draws, events: int) -> Iterator[Events]:
    # A block of shares maps 2, 4 or 8 times fewer frames, each that many times.
    def place_of_frame(number: I64) -> I64:
        block = site.rings.block
        times = np.minimum(2 << draws.below("times", 3, number // block), block)
        place = mixed(draws, "frame", number, block)
        shared_place: I64 = place - place % times
        return shared_place

    def is_looked_up(number: I64) -> I64:
        return draws.below("look", 2, number)

    def story(shares: Shares) -> list[Part]:
        looked_up = shares.at(is_looked_up(shares.number) == 1)
        lookups = part(Kind.LOOKUP, site.use_key(draws, looked_up), mfn=site.mfn(looked_up.frame),
                       task=BACKEND_TASK)
        return [*site.mapped_and_unmapped(shares), lookups]

    return _shared(site, draws, events, story, lambda number: 2 + is_looked_up(number),
                   place_of_frame)


def _ballooning(site: Site, draws: Draws, events: int) -> Iterator[Events]:
    # Before their shares begin, every other block of pages gives up its frames and gets
    # them back with those of each two neighbours exchanged: even blocks in the even rounds
    # over the ring of frames, odd blocks in the odd rounds.
    rings = site.rings
    pairs = rings.block > 1

    def round_and_block(number: I64) -> tuple[I64, I64]:
        return number // rings.frames, number % rings.frames // rings.block

    def has_exchange(number: I64) -> NDArray[np.bool_]:
        rounds, block = round_and_block(number)
        is_first = number % rings.block == 0
        exchange: NDArray[np.bool_] = is_first & ((rounds + block) % 2 == 0) & pairs
        return exchange

    def is_exchanged(number: I64) -> NDArray[np.bool_]:
        rounds, block = round_and_block(number)
        exchanges = (rounds + 2 - block % 2) // 2
        is_odd: NDArray[np.bool_] = (exchanges % 2 == 1) & pairs
        return is_odd

    def frame_place(number: I64) -> I64:
        return mixed(draws, "frame", number, rings.block) ^ is_exchanged(number)

    def story(shares: Shares) -> list[Part]:
        parts = site.mapped_and_unmapped(shares)
        first = shares.at(has_exchange(shares.number))
        now = is_exchanged(first.number)
        for offset in range(rings.block):
            place = (first.number + offset) % rings.frames
            pfn = site.frontend(rings.frame(place))
            mfn_before = site.mfn(rings.frame(place ^ 1 ^ now))
            mfn_now = site.mfn(rings.frame(place ^ now))
            out = order(first.map_step, BALLOON_OUT, np.full_like(place, offset))
            back = order(first.map_step, BALLOON_IN, np.full_like(place, offset))
            parts += [
                part(Kind.SET_M2P, out, mfn=mfn_before, pfn=INVALID),
                part(Kind.SET_P2M, out, mfn=INVALID, pfn=pfn),
                part(Kind.SET_P2M, back, pfn=pfn, mfn=mfn_now),
                part(Kind.SET_M2P, back, pfn=pfn, mfn=mfn_now),
            ]
        return parts

    def cost(number: I64) -> I64:
        return 2 + 4 * rings.block * has_exchange(number)

    return _shared(site, draws, events, story, cost, frame_place)


def _locks(site: Site, draws: Draws, events: int) -> Iterator[Events]:
    # Of five shares one has no lock, one a lock and no direct I/O on it (prone), one a
    # lock released while it is mapped (contention) and two one held throughout: the 2012
    # deadlock. Direct I/O is also done where there is no lock.
    free, prone, contention = 0, 1, 2

    def mix_of(number: I64) -> I64:
        return draws.below("mix", 5, number)

    def story(shares: Shares) -> list[Part]:
        mix = mix_of(shares.number)
        locked, read = shares.at(mix != free), shares.at(mix != prone)
        is_released_early = mix_of(locked.number) == contention
        page = site.frontend(locked.frame)
        unlock = np.where(
            is_released_early,
            order(locked.unmap_step, USED, locked.number),
            order(locked.unmap_step, UNLOCK, locked.unmap_place))
        return [
            *site.mapped_and_unmapped(shares),
            part(Kind.LOCK_PAGE, order(locked.map_step, LOCK, locked.map_place),
                 pfn=page, task=FRONTEND_TASK),
            part(Kind.DIO_READ, site.use_key(draws, read), pfn=site.backend(read),
                 task=BACKEND_TASK),
            part(Kind.UNLOCK_PAGE, unlock, pfn=page, task=FRONTEND_TASK),
        ]

    def cost(number: I64) -> I64:
        mix = mix_of(number)
        count: I64 = 2 + 2 * (mix != free) + (mix != prone)
        return count

    return _shared(site, draws, events, story, cost)


def _ill_formed(site: Site, draws: Draws, events: int) -> Iterator[Events]:
    return _shared(site, draws, events, fault_story(site, draws), fault_cost(draws))


def _persistent(site: Site, draws: Draws, events: int) -> Iterator[Events]:
    # In the order of time: all grants, all maps, as many uses as remain (at least half of
    # the events), all unmaps, all ends of access.
    shares = min(site.in_flight, events // 8)
    ends = np.cumsum([shares, shares, events - 4 * shares, shares, shares])
    begins = np.concatenate([[0], ends[:-1]])
    phases = _persistent_phases(site, draws, shares)
    for first in range(0, events if shares else 0, CHUNK):
        index = np.arange(first, min(first + CHUNK, events))
        phase = np.searchsorted(ends, index, side="right")
        count = index - begins[phase]
        yield Events.concat([events_of(count[phase == code])
                             for code, events_of in enumerate(phases)])


def _persistent_phases(
    site: Site, draws: Draws, shares: int
) -> list[Callable[[I64], Events]]:
    """The phases' events by their count from the phase's begin.

    Share i has frame i of the ring of frames, backend page i, ref i and handle i.
    """
    kinds_of_use = np.array([Kind.LOOKUP, Kind.GUP_FAST, Kind.DIO_WRITE], dtype=np.uint8)

    def share(count: I64) -> Shares:
        return Shares(number=count, map_step=count // MAP_CALL, map_place=count % MAP_CALL,
                      unmap_step=count // UNMAP_CALL, unmap_place=count % UNMAP_CALL,
                      page=count, ref=count, handle=count, frame=site.rings.frame(count))

    def granted(count: I64) -> Events:
        return site.granted(share(count), count).events

    def mapped(count: I64) -> Events:
        return site.mapped(share(count)).events

    def used(count: I64) -> Events:
        used = share(draws.below("which", shares, count))
        kind = kinds_of_use[draws.below("use", 3, count)]
        is_lookup, is_gup = kind == Kind.LOOKUP, kind == Kind.GUP_FAST
        no_frame = np.uint64(INVALID)
        page = np.where(is_gup, site.frontend(used.frame), site.backend(used))
        return Events.from_columns(
            len(count), kind=kind,
            mfn=np.where(is_lookup, site.mfn(used.frame).astype(np.uint64), no_frame),
            pfn=np.where(is_lookup, no_frame, page.astype(np.uint64)),
            task=np.where(is_gup, FRONTEND_TASK, BACKEND_TASK))

    def unmapped(count: I64) -> Events:
        return site.unmapped(share(count)).events

    def ended(count: I64) -> Events:
        return site.ended(share(count), count).events

    return [granted, mapped, used, unmapped, ended]


def _always(count: int) -> Cost:
    return lambda number: np.full_like(number, count)


def _shared(
    site: Site, draws: Draws, events: int, story: Story, cost: Cost,
    place_of_frame: PlaceOfFrame | None = None,
) -> Iterator[Events]:
    def frame_of_its_own(number: I64) -> I64:
        return mixed(draws, "frame", number, site.rings.block)

    return share_events(story, cost, place_of_frame or frame_of_its_own, site.rings, draws,
                        events)


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("same-domain", "dom0's own frames, mapped by a user-space backend in dom0",
                 _same_domain),
        Workload("foreign", "frames of domain 1, mapped by a backend in dom0",
                 _same_domain, foreign=True),
        Workload("multi-share", "one frame mapped at several pages at once, released in "
                 "mixed order, with lookups", _multi_share),
        Workload("persistent", "maps that stay, with many lookups, gup_fast and direct I/O "
                 "on them", _persistent),
        Workload("ballooning", "same-domain shares among pages that are ballooned out and "
                 "in again", _ballooning),
        Workload("locks", "same-domain shares of locked pages with direct I/O: the 2012 "
                 "deadlock, with and without", _locks),
        Workload("ill-formed", "same-domain shares, a few per cent of them wrong",
                 _ill_formed),
    )
}


def generate(
    workload: str, *, events: int, seed: int, in_flight: int, frames: int
) -> Trace:
    """A synthetic trace of exactly `events` events, made while it is read.

    At most `in_flight` shares are live at any time, over `frames` frames from pfn 0x1000,
    mfn 0x50000 on. The same arguments give the same trace, everywhere. Memory is bounded
    by `in_flight`, whatever `events` is.

    Raises UsageError for an unknown workload and for numbers that cannot be honoured.
    """
    if workload not in WORKLOADS:
        raise UsageError(unknown("workload", workload, WORKLOADS))
    if events < 0 or seed < 0 or seed >= 1 << 64:
        raise UsageError("events and seed must be 0 or more, seed below 2**64")
    if not 1 <= in_flight <= MAX_IN_FLIGHT:
        raise UsageError(f"{in_flight} shares in flight: must be 1 to {MAX_IN_FLIGHT}")
    if not (least := Rings.pages_for(in_flight)) <= frames <= MAX_FRAMES:
        raise UsageError(f"{frames} frames: with {in_flight} shares in flight it must be "
                         f"{least} to {MAX_FRAMES}")
    spec = WORKLOADS[workload]
    site = Site(frames, in_flight, Rings.of(in_flight, frames), spec.foreign)

    def chunks() -> Iterator[Events]:
        draws = Draws(seed)
        return timed(_filled(spec.make(site, draws, events), site, events), draws)

    return Trace(
        chunks_of=chunks, kernel="3.10", domain=0, memory=site.memory, m2p=site.m2p,
        tasks=list(TASKS), length=events,
        origin=f"xenm2p generate {workload} --events {events} --seed {seed} "
               f"--in-flight {in_flight} --frames {frames}")


def _filled(source: Iterator[Events], site: Site, events: int) -> Iterator[Events]:
    """`source` with lookups of all frames in turn, to make it `events` events."""
    count = 0
    for piece in source:
        count += len(piece)
        yield piece
    while count < events:
        frame = np.arange(min(events - count, CHUNK)) % site.frames
        yield Events.from_columns(
            len(frame), kind=np.full(len(frame), Kind.LOOKUP), mfn=site.mfn(frame),
            task=np.full(len(frame), BACKEND_TASK))
        count += len(frame)
