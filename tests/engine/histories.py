"""Random histories: traces whose events mostly hang together, with as many faults as wanted.

`tests.strategies` draws each event for itself, so that few of them meet. Here a teller
keeps in mind which pages are mapped and which locks are held, and tells the next event
from that: unmaps follow their maps, writes of the machine agree with what it did, and only
a given part of the events is wrong. All of it comes from one seed; hypothesis shrinks a
history by leaving events out, after which the others are told as they then must be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.strategies import events_of_rows
from xenm2p.trace import (
    FOREIGN,
    IDENTITY,
    INVALID,
    KINDS,
    NO_CALL,
    NO_DOMID,
    NO_HANDLE,
    NO_REF,
    Runs,
    Trace,
)

FRONTEND = 0x1000  # the domain's own pages, whose frames it grants
BACKEND = 0x8000  # pages for mapping, ballooned out at first
OWN_FRAME = 0x50000  # the frame of FRONTEND
OTHER_FRAME = 0x90000  # frames of another domain
PAGES = 8  # of each side, frames too
SHARES = ("map", "unmap")
OTHERS = tuple(kind for kind in KINDS if kind not in SHARES)
TASKS = ["mount-1042", "qemu-77", "kworker-5"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Habits:
    """What kind of history it is.

    faults: the part of the events that is ill-formed, 0 to 1.
    others: the kinds that happen beside maps and unmaps.
    users: the values that `user` may have; unmaps repeat their map's.
    foreign: whether frames of another domain are mapped too.
    several: whether a frame may have more than one share at a time.
    calls: whether events carry the call they belong to.
    handles: whether maps and unmaps carry handles.
    frontends, backends: how many pages each side uses; few meet more often.
    """

    faults: float = 0.0
    others: tuple[str, ...] = ()
    users: tuple[int, ...] = (1,)
    foreign: bool = False
    several: bool = True
    calls: bool = True
    handles: bool = True
    frontends: int = 8
    backends: int = 8

    @property
    def frames(self) -> list[int]:
        """The frames that are mapped."""
        others = range(OTHER_FRAME, OTHER_FRAME + 3 * self.foreign)
        return [*range(OWN_FRAME, OWN_FRAME + self.frontends), *others]


@dataclass
class Teller:
    """Tells one event after the other, with what it must remember for that."""

    habits: Habits
    rows: list[Row] = field(default_factory=list)
    live: dict[int, Row] = field(default_factory=dict)  # maps by backend page
    held: dict[int, int] = field(default_factory=dict)  # page locks: pfn -> task
    failed: set[int] = field(default_factory=set)  # backend pages whose map failed once
    filled: set[int] = field(default_factory=set)  # backend pages that are not ballooned out
    time: int = 0
    call: int = 0
    handle: int = 0

    def tell(self, dice: Random) -> None:
        """Add the event that `dice` choose, after all that came before."""
        self.time += dice.choice([0, 1, 100])
        self.call += dice.random() < 0.3
        is_fault = dice.random() < self.habits.faults
        kind, row = "", None
        if self.habits.others and dice.random() < 0.4:
            kind = dice.choice(self.habits.others)
            row = self._other(kind, dice, is_fault)
        elif is_fault:
            kind = dice.choice(SHARES)
            row = self._wrong_share(kind, dice)
        if row is None:
            kind, row = self._share(dice)
        assert row is not None
        shared = {"time": self.time, "kind": int(KINDS[kind].kind),
                  "cpu": dice.randrange(3) - 1, "task": dice.randrange(3)}
        self.rows.append(shared | row)

    # -- maps and unmaps ---------------------------------------------------------------

    def _share(self, dice: Random) -> tuple[str, Row | None]:
        """A map of a page that is free, or the unmap of one that is not."""
        pages = [p for p in self._backends() if p not in self.live and p not in self.filled]
        used = {row["mfn"] for row in self.live.values()}
        frames = [f for f in self.habits.frames if self.habits.several or f not in used]
        wants_map = dice.random() < 0.5
        if pages and frames and (wants_map or not self.live):
            row = self._map(dice.choice(pages), dice.choice(frames), dice)
            self.live[row["pfn"]] = row
            return "map", row
        if not self.live:
            return "set_p2m", self._balloon(dice)  # all backend pages are filled
        mapped = self.live.pop(dice.choice([*self.live]))
        return "unmap", {name: mapped[name] for name in ("pfn", "user", "handle")} | {
            "call": self._call()}

    def _wrong_share(self, kind: str, dice: Random) -> Row:
        """A map or unmap that asks nobody: of any page, failed, with any handle or `user`."""
        pages = self._backends() * 3 + self._frontends()
        row = self._map(dice.choice(pages), dice.choice(self.habits.frames), dice)
        if kind == "unmap":
            row["handle"] = dice.randrange(self.handle + 1) if self.habits.handles else NO_HANDLE
            self.live.pop(row["pfn"], None)
            return {name: row[name] for name in ("pfn", "user", "handle", "call")}
        row["status"] = dice.choice([0, 0, 0, -1])
        if dice.random() < 0.05:
            row["mfn"] = INVALID
        if row["status"] == 0:
            self.live.setdefault(row["pfn"], row)
        else:
            self.failed.add(row["pfn"])
        return row

    def _map(self, pfn: int, mfn: int, dice: Random) -> Row:
        self.handle += 1
        return {
            "pfn": pfn, "mfn": mfn, "user": dice.choice(self.habits.users),
            "domid": dice.choice([0, 0, NO_DOMID, 1]), "ref": dice.choice([8, 9, 10, NO_REF]),
            "handle": self.handle if self.habits.handles else NO_HANDLE, "call": self._call(),
        }

    # -- all other kinds ---------------------------------------------------------------

    def _other(self, kind: str, dice: Random, is_fault: bool) -> Row | None:
        """An event of another kind; None where there is nothing it could be about."""
        if kind == "lookup":
            return {"mfn": BACKEND + 2 if is_fault else dice.choice(self.habits.frames)}
        if kind == "gup_fast":
            return {"pfn": dice.choice(self._backends() if is_fault else self._frontends())}
        if kind in ("dio_read", "dio_write"):
            pages = [pfn for pfn, row in self.live.items() if row["user"]]
            pages = self._backends() if is_fault else pages
            return {"pfn": dice.choice(pages)} if pages else None
        if kind in ("lock_page", "unlock_page"):
            return self._lock(kind, dice, is_fault)
        if kind == "set_p2m":
            return self._wrong_write(dice) if is_fault else self._balloon(dice)
        if kind == "set_m2p":
            owners = [*self._frontends(), *self._backends(), INVALID]
            return {"mfn": dice.choice(self.habits.frames), "pfn": dice.choice(owners)}
        if kind == "p2m_write":
            return self._seen_write(dice, is_fault)
        if kind == "grant":
            return {"ref": dice.choice([8, 9, 10]), "domid": 0,
                    "mfn": dice.choice(self.habits.frames)}
        if kind == "end_grant":
            return {"ref": dice.choice([8, 9, 10])}
        return {"ref": dice.choice([NO_REF, 5])}  # lost

    def _lock(self, kind: str, dice: Random, is_fault: bool) -> Row:
        """Locks of pages that are free and unlocks of held ones, unless it is a fault.

        Mostly of frontend pages that are mapped.
        """
        mapped = [row["mfn"] - OWN_FRAME + FRONTEND for row in self.live.values()]
        pages = [p for p in self._frontends() if p in mapped or dice.random() < 0.2]
        pages = pages or self._backends()
        if not is_fault:
            is_free = kind == "lock_page"
            pages = [p for p in pages if (p not in self.held) == is_free] or pages
        pfn = dice.choice(pages)
        if kind == "lock_page":
            self.held[pfn] = dice.randrange(3)
            return {"pfn": pfn, "task": self.held[pfn]}
        return {"pfn": pfn, "task": self.held.pop(pfn, 0)}

    def _balloon(self, dice: Random) -> Row | None:
        """Ballooning, in or out, of a page that nobody uses."""
        free = [p for p in self._backends() if p not in self.live]
        if not free:
            return None
        pfn = dice.choice(free)
        self.filled ^= {pfn}
        return {"pfn": pfn, "mfn": 0x70000 + pfn if pfn in self.filled else INVALID}

    def _wrong_write(self, dice: Random) -> Row:
        """A write of any page with any entry."""
        frame = dice.choice(self.habits.frames)
        return {
            "pfn": dice.choice(self._frontends() * 3 + self._backends()),
            "mfn": dice.choice([INVALID, frame, frame | FOREIGN, FRONTEND | IDENTITY, 0x60000]),
        }

    def _seen_write(self, dice: Random, is_fault: bool) -> Row:
        """What the machine would write for the page as it is, unless it is a fault."""
        pfn = dice.choice(self._backends())
        entry = self.live[pfn]["mfn"] | FOREIGN if pfn in self.live else INVALID
        if is_fault:
            pfn = dice.choice([*self.failed] or [pfn])
            entry = dice.choice([INVALID, dice.choice(self.habits.frames) | FOREIGN])
        return {"pfn": pfn, "mfn": entry, "call": self._call()}

    def _frontends(self) -> list[int]:
        return [FRONTEND + i for i in range(self.habits.frontends)]

    def _backends(self) -> list[int]:
        return [BACKEND + i for i in range(self.habits.backends)]

    def _call(self) -> int:
        return self.call if self.habits.calls else NO_CALL


# What goes well with maps and unmaps, and never makes a share odd.
PEACEFUL = [
    (), ("lookup",), ("grant", "end_grant"), ("lookup", "gup_fast", "dio_write"),
    ("dio_read", "dio_write"), ("set_p2m", "lookup"),
]
SEEN_WRITES = ("p2m_write",)
LOCKS = (*["lock_page"] * 3, *["dio_read"] * 3, "unlock_page")
KINDS_TOGETHER = [
    *PEACEFUL, LOCKS, LOCKS, ("set_p2m",), ("set_p2m", "set_m2p", "lookup"), SEEN_WRITES,
    ("p2m_write", "lost"), OTHERS, OTHERS,
]
MEMORY = [(FRONTEND, OWN_FRAME, PAGES), (BACKEND, INVALID, PAGES)]
M2P = [(OTHER_FRAME, 0x200, 4)]
# What a machine that was caught in the middle of things may hold beside that.
ODD_MEMORY = [
    [(BACKEND, 0x60000, PAGES)], [(BACKEND + 1, OWN_FRAME + 2 | FOREIGN, 1)],
    [(BACKEND + 2, BACKEND + 2 | IDENTITY, 1)], [(FRONTEND + 1, OWN_FRAME + 1 | FOREIGN, 1)],
]
ODD_M2P = [[(OTHER_FRAME, BACKEND, 4)], [(OTHER_FRAME, FRONTEND, 4)]]


def habits_of(dice: Random, *, faults: float, others: tuple[str, ...]) -> Habits:
    """Habits of any kind but for the faults and the kinds of events."""
    return Habits(
        faults=faults, others=others, users=dice.choice([(1,), (0,), (0, 1)]),
        foreign=dice.random() < 0.5, several=dice.random() < 0.5, calls=dice.random() < 0.5,
        handles=dice.random() < 0.5, frontends=dice.choice([2, 4, 8]),
        backends=dice.choice([2, 4, 8]))


def history(seed: int, kept: Sequence[bool]) -> Trace:
    """A history from well-formed to wild, of any kinds of events, on any machine.

    It has an event for each of `kept` that is true.
    """
    dice = Random(seed)
    habits = habits_of(dice, faults=dice.choice([0.0, 0.0, 0.02, 0.06, 0.35]),
                       others=dice.choice(KINDS_TOGETHER))
    memory = MEMORY + (dice.choice(ODD_MEMORY) if dice.random() < 0.2 else [])
    m2p = M2P + (dice.choice(ODD_M2P) if dice.random() < 0.4 else [])
    return _told(habits, seed, kept, memory, m2p)


def well_formed_history(
    seed: int, kept: Sequence[bool], kinds: Sequence[tuple[str, ...]] = PEACEFUL
) -> Trace:
    """A history in which nothing is wrong, with one of `kinds` beside maps and unmaps."""
    dice = Random(seed)
    habits = habits_of(dice, faults=0.0, others=dice.choice(kinds))
    return _told(habits, seed, kept, MEMORY, M2P)


def _told(
    habits: Habits, seed: int, kept: Sequence[bool], memory: list[tuple[int, int, int]],
    m2p: list[tuple[int, int, int]],
) -> Trace:
    teller = Teller(habits)
    for place, is_kept in enumerate(kept):
        if is_kept:
            teller.tell(Random(seed * 1009 + place))
    return Trace.of_events(events_of_rows(teller.rows), memory=Runs.of(memory),
                           m2p=Runs.of(m2p), tasks=list(TASKS))


seeds = st.integers(0, (1 << 32) - 1)


def events_kept(max_events: int) -> st.SearchStrategy[list[bool]]:
    """Which of up to `max_events` events are told; to shrink is to leave out more."""
    is_kept = st.sampled_from([False, True, True, True, True, True])
    many = st.lists(is_kept, min_size=max_events // 2, max_size=max_events)
    return st.one_of(st.lists(is_kept, max_size=max_events // 8), many, many, many)


def histories(max_events: int = 60) -> st.SearchStrategy[Trace]:
    """Histories as `history` tells them."""
    return st.builds(history, seeds, events_kept(max_events))


def well_formed_histories(max_events: int = 60, **how: Any) -> st.SearchStrategy[Trace]:
    """Histories as `well_formed_history` tells them."""
    return st.builds(partial(well_formed_history, **how), seeds, events_kept(max_events))
