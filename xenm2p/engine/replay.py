"""Replay: what a trace did under a kernel model, segment by segment, as numpy tables.

An engine is a function ``(trace, model, options) -> Iterator[Segment]``. A segment covers
one chunk of events; the last one covers none and closes what is still open. Rows of a
table appear in the segment of the event that decides them, so that the rows of all
segments together do not depend on the chunk size.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xenm2p.trace import I64, U64, Column, Events

if TYPE_CHECKING:
    from typing_extensions import Self

NO_EVENT = -1  # absent event number
NO_TIME = -(1 << 63)  # absent time


class Result(IntEnum):
    """What the kernel's function returned for one event (column `result`, uint8)."""

    NONE = 0  # nothing to return: not a map or unmap, or the hypercall failed
    OK = 1  # 0
    EINVAL = 2  # -22
    SKIP_LIST = 3  # would corrupt the override list: left out as if never called
    SKIP_KMAP = 4  # would follow a wild kmap_op pointer: left out as if never called
    ABORTED = 5  # not done, an earlier unmap of the call had failed


class Warn(IntEnum):
    """Bits of the column `warnings` (uint8)."""

    PAGE_PRIVATE = 1  # WARN_ON(PagePrivate(page)) in map
    NOT_PAGE_PRIVATE = 2  # WARN_ON(!PagePrivate(page)) in unmap
    NOT_BALLOONED = 4  # "page must be ballooned", set_foreign_p2m_mapping, 4.0 on


WARNING_NAMES = {
    Warn.PAGE_PRIVATE: "PagePrivate",
    Warn.NOT_PAGE_PRIVATE: "!PagePrivate",
    Warn.NOT_BALLOONED: "not-ballooned",
}


class Side(IntEnum):
    """Whose p2m entry a transition changed."""

    BACKEND = 0  # the page that the event maps or unmaps
    FRONTEND = 1  # the owner's page, marked or un-marked FOREIGN
    WRITE = 2  # set_p2m


class Verdict(IntEnum):
    """What a collision window means."""

    DEADLOCK = 0
    CONTENTION = 1
    PRONE = 2
    UNKNOWN = 3


class Ending(IntEnum):
    """How a share ended."""

    LIVE = 0  # not at all: live at the end of the trace
    UNMAP = 1
    REPLACED = 2  # another frame was mapped over it


@dataclass(frozen=True, slots=True)
class Table:
    """A struct of arrays: every field is a column, all of one length."""

    dtypes: ClassVar[dict[str, str]] = {}

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def rows(self, where: slice | Column) -> Self:
        """The rows at `where`, a slice, mask or index array."""
        return type(self)(*(getattr(self, f.name)[where] for f in fields(self)))

    @classmethod
    def of(cls, rows: list[tuple[Any, ...]]) -> Self:
        """A table from row tuples in the order of the fields."""
        if not rows:
            return _empty(cls)  # type: ignore[arg-type,return-value]
        columns = list(zip(*rows, strict=True))
        return cls(*(np.array(column, dtype=dtype)
                     for column, dtype in zip(columns, cls.dtypes.values(), strict=True)))

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """All rows of `parts` in order."""
        if not parts:
            return cls.of([])
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts])
                     for f in fields(cls)))


@cache
def _empty(table: type[Table]) -> Table:
    """The table without rows; most segments have several."""
    return table(*(np.zeros(0, dtype) for dtype in table.dtypes.values()))


@dataclass(frozen=True, slots=True)
class Transitions(Table):
    """p2m entries that changed: net per event, the event's own page first, then by pfn."""

    event: I64
    pfn: U64
    old: U64
    new: U64
    side: NDArray[np.uint8]

    dtypes: ClassVar[dict[str, str]] = {
        "event": "i8", "pfn": "u8", "old": "u8", "new": "u8", "side": "u1"}


@dataclass(frozen=True, slots=True)
class Resolutions(Table):
    """Answers of mfn_to_pfn, one row for each lookup, gup_fast and dio event.

    `resolved` is the page found, INVALID for none. `frontend` is the frame's own local
    frontend page x = m2p[mfn] where p2m[x] is mfn or F(mfn), else INVALID. `marked` says
    that p2m[x] is F(mfn). `map_event` is the map of the share that the override search
    found, NO_EVENT where the override list was not asked or had nothing.
    For lookup, mfn is the event's; for gup_fast(pfn) it is the frame of p2m[pfn]; for
    direct I/O it is the frame of the page's live share.
    """

    event: I64
    mfn: U64
    resolved: U64
    frontend: U64
    marked: NDArray[np.uint8]
    map_event: I64

    dtypes: ClassVar[dict[str, str]] = {
        "event": "i8", "mfn": "u8", "resolved": "u8", "frontend": "u8", "marked": "u1",
        "map_event": "i8"}


@dataclass(frozen=True, slots=True)
class Shares(Table):
    """Shares that ended, or at the end of the trace are live.

    `map_event` is NO_EVENT for a share from before the trace, found when it was unmapped;
    `end_event` is NO_EVENT while live; times are ns, NO_TIME where absent.
    """

    map_event: I64
    end_event: I64
    mfn: U64
    pfn: U64
    domid: NDArray[np.uint16]
    ref: NDArray[np.uint32]
    handle: NDArray[np.uint32]
    user: NDArray[np.uint8]
    first_time: I64
    last_time: I64
    ending: NDArray[np.uint8]

    dtypes: ClassVar[dict[str, str]] = {
        "map_event": "i8", "end_event": "i8", "mfn": "u8", "pfn": "u8", "domid": "u2",
        "ref": "u4", "handle": "u4", "user": "u1", "first_time": "i8", "last_time": "i8",
        "ending": "u1"}


@dataclass(frozen=True, slots=True)
class Locks(Table):
    """Page locks: one row for each time one was held, when it is released or the trace ends.

    `unlock_event` is NO_EVENT where no release was seen: held to the end of the trace, or
    the lock was seen taken again.
    """

    lock_event: I64
    unlock_event: I64
    pfn: U64
    task: NDArray[np.int32]
    first_time: I64
    last_time: I64

    dtypes: ClassVar[dict[str, str]] = {
        "lock_event": "i8", "unlock_event": "i8", "pfn": "u8", "task": "i4",
        "first_time": "i8", "last_time": "i8"}


@dataclass(frozen=True, slots=True)
class Collisions(Table):
    """Collision windows: one share meeting one held page lock without interruption.

    `first_event` is the event after which the share first resolves to the locked page,
    `last_event` the event that ended it, NO_EVENT if the trace ended first. `dio_event` is
    the first dio_read seen in the window, else NO_EVENT.
    """

    verdict: NDArray[np.uint8]
    first_event: I64
    last_event: I64
    pfn: U64
    mfn: U64
    backend_pfn: U64
    map_event: I64
    lock_event: I64
    lock_task: NDArray[np.int32]
    dio_event: I64
    lock_spans_share: NDArray[np.uint8]

    dtypes: ClassVar[dict[str, str]] = {
        "verdict": "u1", "first_event": "i8", "last_event": "i8", "pfn": "u8", "mfn": "u8",
        "backend_pfn": "u8", "map_event": "i8", "lock_event": "i8", "lock_task": "i4",
        "dio_event": "i8", "lock_spans_share": "u1"}


@dataclass(frozen=True, slots=True)
class Cycles(Table):
    """Cycles of waits (XM102): one row a wait, those of a cycle one after the other.

    `event` is the direct I/O that closed the cycle, the first row's wait is one that it
    began, and each row's `holder` is the next one's `waiter` (task indices); the other
    columns are those of `waits.Wait`. `unknown` is 1 where a loss came after a lock or a
    map of the cycle.
    """

    event: I64
    waiter: NDArray[np.int32]
    holder: NDArray[np.int32]
    for_io: NDArray[np.uint8]
    pfn: U64
    lock_event: I64
    mfn: U64
    backend_pfn: U64
    map_event: I64
    dio_event: I64
    unknown: NDArray[np.uint8]

    dtypes: ClassVar[dict[str, str]] = {
        "event": "i8", "waiter": "i4", "holder": "i4", "for_io": "u1", "pfn": "u8",
        "lock_event": "i8", "mfn": "u8", "backend_pfn": "u8", "map_event": "i8",
        "dio_event": "i8", "unknown": "u1"}


class Fact(IntEnum):
    """What an engine observed that a finding is made of; the number is the finding's."""

    GUP_FAST_HAZARD = 103
    STUCK_FOREIGN = 201
    EARLY_CLEAR = 202
    LOCAL_ALIAS = 203
    MULTI_ALIAS = 204
    NOT_BALLOONED = 205
    DOUBLE_MAP = 301
    UNMAP_NOT_FOREIGN = 302
    LIST_CORRUPTION = 303
    KMAP_MISMATCH = 304
    ABORTED_CALL = 305
    FAILED_MAP_KEPT = 306
    LEAKED_SHARE = 401
    ENDED_IN_USE = 402
    HANDLE = 403
    UNMAP_IN_FLIGHT = 404
    MODEL_MISMATCH = 501
    LOST_EVENTS = 502


@dataclass(frozen=True, slots=True)
class Facts(Table):
    """Observations, ordered by deciding event, then fact, then pfn, then `other`.

    What the columns hold for each fact (frames are u64 entries; NO_EVENT, INVALID and -1
    stand for absent):

    ===  ==================================================================================
    103  event: the lookup or gup_fast; pfn: frontend page; mfn; old: the page it resolved
         to; other: map of the override that answered
    201  event: the unmap (or map over it) that ended the last share of mfn; pfn: frontend
         page still F(mfn); mfn; other: that share's map
    202  event: the change; pfn: frontend page; mfn; old, new: its entry; other: newest map
         of a listed live share of mfn
    203  event: after which a user share first resolves to the frontend page; pfn: frontend
         page; mfn; old: backend page; other: the share's map
    204  event: the map that made two of one listed live share of mfn; pfn: its backend
         page; mfn; other: the other share's map
    205  event: the map; pfn: backend page; mfn: frame mapped; old: the entry it held
    301  event: the map; pfn; mfn; other: map of the share that was live on the page
    302  event: the unmap; pfn; old: its p2m entry
    303  event: the map or unmap left out; pfn; mfn (of a map, else INVALID); other: map of
         the page's live share
    304  event: the unmap; pfn; mfn and other: the share's frame and map
    305  event: the unmap not done; pfn; old: its p2m entry; other: the unmap that failed
    306  event: the p2m_write; pfn; new: what it wrote; other: the failed map
    401  event: the map of a share live at the end; pfn; mfn; value: its age in ns
    402  event: the end_grant; pfn, mfn, other: page, frame, map of the newest share of the
         grant; value: how many shares of it are live
    403  event: the unmap; pfn; value: the handle; other: map of the page's live share;
         old: 1 where the page's last share, already unmapped, had this handle, else 0
    404  event: the unmap; pfn: backend page; mfn; other: the dio_read in flight
    501  event: a p2m_write the model does not explain (old: the model's entry, new: what was
         written, value 0), or a model transition the machine never wrote (old, new: the
         transition, value 1; other: the next transition of the page, which decides); pfn
    502  event: the lost event; value: how many were lost, -1 unknown; other: the last event
         seen before on the same cpu
    ===  ==================================================================================

    `unknown` is 1 where a loss before the event, not yet re-anchored by a p2m_write of the
    page, makes the observation unsure.
    """

    fact: NDArray[np.int16]
    event: I64
    pfn: U64
    mfn: U64
    old: U64
    new: U64
    other: I64
    value: I64
    unknown: NDArray[np.uint8]

    dtypes: ClassVar[dict[str, str]] = {
        "fact": "i2", "event": "i8", "pfn": "u8", "mfn": "u8", "old": "u8", "new": "u8",
        "other": "i8", "value": "i8", "unknown": "u1"}


@dataclass(frozen=True, slots=True)
class Options:
    """How to replay.

    assume_dio: every user share counts as read by direct I/O while it lives.
    judge_writes: compare p2m_write events with the model (XM501); off in a what-if replay.
    details: also fill `transitions`, `shares` and `locks`; without, only the counts are,
        and the last segment's `shares`, those that are live at the end.
    """

    assume_dio: bool = False
    judge_writes: bool = True
    details: bool = True


@dataclass(frozen=True, slots=True)
class Counts:
    """Totals of one segment, whatever the options."""

    events: int = 0
    maps: int = 0  # result 0
    unmaps: int = 0  # result 0
    failed_maps: int = 0  # status other than 0
    foreign_set: int = 0  # transitions whose new entry is foreign and the old is not
    foreign_cleared: int = 0
    frontend_set: int = 0  # of these, on the frontend side
    frontend_cleared: int = 0
    writes_foreign: int = 0  # p2m_write events with a FOREIGN entry
    writes_invalid: int = 0  # p2m_write events with INVALID
    writes_agreed: int = 0  # p2m_write events equal to the model's entry
    locks: int = 0  # lock_page events
    lost: int = 0  # events the tracer lost, where it told

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name)
                        for f in fields(Counts)))


@dataclass(frozen=True, slots=True)
class Segment:
    """One chunk replayed. `result` and `warnings` have a row for each event of `events`."""

    first_event: int
    events: Events
    result: NDArray[np.uint8]
    warnings: NDArray[np.uint8]
    resolutions: Resolutions
    transitions: Transitions
    shares: Shares
    locks: Locks
    collisions: Collisions
    facts: Facts
    counts: Counts
    cycles: Cycles = field(default_factory=partial(Cycles.of, []))

    @property
    def has_findings(self) -> bool:
        """Whether it has anything that a finding is made of."""
        return bool(len(self.facts) or len(self.collisions) or len(self.cycles))


def unreplayed(events: Events, first_event: int) -> Segment:
    """A segment of events that nothing was made of: its tables are empty."""
    nothing = np.zeros(len(events), np.uint8)
    return Segment(
        first_event, events, nothing, nothing, Resolutions.of([]), Transitions.of([]),
        Shares.of([]), Locks.of([]), Collisions.of([]), Facts.of([]), Counts())
