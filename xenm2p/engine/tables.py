"""The vector engine's state: struct-of-arrays tables of pages and frames, one row a slot.

A slot is the row of a pfn or mfn that was touched; the tables are as large as what was
touched, not as the machine. Slot 0 is no page and no frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.memory import Intervals, m2p_rows, p2m_rows
from xenm2p.engine.order import distinct
from xenm2p.engine.replay import NO_EVENT, NO_TIME
from xenm2p.kernels import BUCKET_BITS, GOLDEN_RATIO_PRIME
from xenm2p.trace import FOREIGN, INVALID, NO_DOMID, NO_HANDLE, NO_REF, U64, Trace

Slot = NDArray[np.int64]

# Frame numbers below this are found through a plain array (committed by the kernel only
# where it is touched), larger ones through a dict: 2**27 frames are 512 GiB.
DENSE_LIMIT = 1 << 27

_PAGE_COLUMNS: dict[str, tuple[str, int]] = {
    "pfn": ("u8", INVALID),
    "p2m": ("u8", INVALID),
    "index": ("u8", 0),  # page->index
    "private": ("?", 0),  # PG_private
    "private_mfn": ("u8", 0),  # page->private
    "bucket": ("i2", -1),  # the override list it is on
    "listed_at": ("i8", NO_EVENT),  # the map that put it there
    "map_user": ("?", 0),
    "odd": ("?", 0),  # neither plainly unmapped nor plainly mapped: left to the rules
    "left": ("?", 0),  # free, with the mark of a frame whose m2p entry names another page
    "target": ("?", 0),  # the m2p entry of a frame that has a slot names it
    # the live share; map_event is NO_EVENT where there is none
    "map_event": ("i8", NO_EVENT),
    "mfn": ("u8", INVALID),
    "frame": ("i8", 0),
    "domid": ("u2", NO_DOMID),
    "ref": ("u4", NO_REF),
    "handle": ("u4", NO_HANDLE),
    "user": ("?", 0),
    "listed": ("?", 0),
    "resolvable": ("?", 0),
    "aliased": ("?", 0),
    "first_time": ("i8", NO_TIME),
    "last_handle": ("u4", NO_HANDLE),  # of the share that ended last
    "failed_map": ("i8", NO_EVENT),
    "anchored": ("i8", NO_EVENT),
    # the model's last transition that the machine was not yet seen to write
    "unwritten": ("i8", NO_EVENT),
    "unwritten_old": ("u8", 0),
    "unwritten_new": ("u8", 0),
    "unwritten_task": ("i4", -1),
    "unwritten_call": ("i8", -1),
    # the lock that is held on the page
    "lock_event": ("i8", NO_EVENT),
    "lock_task": ("i4", -1),
    "lock_time": ("i8", NO_TIME),
    # the collision window that is open on the page's share, and the dio_read seen in it
    "window_first": ("i8", NO_EVENT),
    "window_dio": ("i8", NO_EVENT),
}
_FRAME_COLUMNS: dict[str, tuple[str, int]] = {
    "mfn": ("u8", INVALID),
    "m2p": ("u8", INVALID),
    "page": ("i8", 0),  # the slot of the page that m2p names
    "listed": ("i4", 0),  # live shares of it on the override list
    "stuck": ("?", 0),  # it has none, and its frontend entry is marked all the same
}


@dataclass(slots=True)
class Slots:
    """Rows of a table by frame number; `column[name][slot]` is the data."""

    specs: dict[str, tuple[str, int]]
    used: int = 1
    dense: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1 << 16, np.int32))
    sparse: dict[int, int] = field(default_factory=dict)
    column: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (dtype, absent) in self.specs.items():
            self.column[name] = np.full(1 << 10, absent, dtype)

    def find(self, frames: U64) -> Slot:
        """The slots of `frames`, 0 where a frame has none."""
        if not len(frames):
            return np.zeros(0, np.int64)
        top = int(frames.max())
        if top < len(self.dense):
            return self.dense.take(frames.view(np.int64)).astype(np.int64)
        if top < DENSE_LIMIT:
            grown = np.zeros(1 << top.bit_length(), np.int32)
            grown[: len(self.dense)] = self.dense
            self.dense = grown
            return self.find(frames)
        small = frames < np.uint64(DENSE_LIMIT)
        slots = np.zeros(len(frames), np.int64)
        slots[small] = self.find(frames[small])
        distinct, back = np.unique(frames[~small], return_inverse=True)
        known = np.array([self.sparse.get(f, 0) for f in distinct.tolist()], np.int64)
        slots[~small] = known[back]
        return slots

    def add(self, frames: U64) -> Slot:
        """New slots for `frames`, which are distinct and have none yet."""
        first, last = self.used, self.used + len(frames)
        size = len(next(iter(self.column.values())))
        if last > size:
            room = max(last, 2 * size) - size
            for name, (dtype, absent) in self.specs.items():
                more = np.full(room, absent, dtype)
                self.column[name] = np.concatenate([self.column[name], more])
        slots = np.arange(first, last)
        small = frames < np.uint64(len(self.dense))
        self.dense[frames[small].view(np.int64)] = slots[small]
        for frame, slot in zip(frames[~small].tolist(), slots[~small].tolist(), strict=True):
            self.sparse[frame] = slot
        self.used = last
        return slots


@dataclass(slots=True)
class Tables:
    """Pages by pfn and frames by mfn, filled from the initial memory when first touched."""

    initial_p2m: Intervals
    initial_m2p: Intervals
    pages: Slots = field(default_factory=lambda: Slots(_PAGE_COLUMNS))
    frames: Slots = field(default_factory=lambda: Slots(_FRAME_COLUMNS))

    @classmethod
    def of(cls, trace: Trace) -> Tables:
        """The tables before the first event of `trace`."""
        return cls(Intervals.of(p2m_rows(trace)), Intervals.of(m2p_rows(trace)))

    @property
    def starts_foreign(self) -> bool:
        """Whether the initial memory has FOREIGN entries."""
        return bool(foreign(self.initial_p2m.value).any())

    def page_slots(self, pfns: U64) -> Slot:
        """The slots of `pfns`, made where they are new; slot 0 for INVALID."""
        slots = self.pages.find(pfns)
        if len(slots) and not slots.all():
            new = _new(pfns[slots == 0])
            made = self.pages.add(new)
            column = self.pages.column
            column["pfn"][made] = new
            entries = self.initial_p2m.entries(new)
            column["p2m"][made] = entries
            column["odd"][made] = foreign(entries)
            slots = self.pages.find(pfns)
        return slots

    def frame_slots(self, mfns: U64) -> Slot:
        """The slots of `mfns`, made where they are new; slot 0 for INVALID."""
        slots = self.frames.find(mfns)
        if len(slots) and not slots.all():
            new = _new(mfns[slots == 0])
            made = self.frames.add(new)
            self.frames.column["mfn"][made] = new
            self.set_m2p(made, self.initial_m2p.entries(new))
            if self.starts_foreign:
                entries = self.pages.column["p2m"][self.frames.column["page"][made]]
                self.frames.column["stuck"][made] = entries == new | np.uint64(FOREIGN)
            slots = self.frames.find(mfns)
        return slots

    def set_m2p(self, frames: Slot, pfns: U64) -> None:
        """m2p of the frame slots becomes `pfns`; these pages are targets from now on."""
        pages = self.page_slots(pfns)
        self.frames.column["m2p"][frames] = pfns
        self.frames.column["page"][frames] = pages
        self.pages.column["target"][pages[pages > 0]] = True

    def live(self) -> Slot:
        """The page slots that have a live share."""
        return np.flatnonzero(self.pages.column["map_event"][: self.pages.used] != NO_EVENT)


def _new(frames: U64) -> U64:
    """`frames` without those that come twice, and without INVALID."""
    known = frames != np.uint64(INVALID)
    new: U64 = distinct(frames if known.all() else frames.compress(known))
    return new


def buckets_of(mfns: U64) -> NDArray[np.int16]:
    """The override lists of frames, as `kernels.bucket_of`. Any shape."""
    with np.errstate(over="ignore"):
        hashed = mfns * np.uint64(GOLDEN_RATIO_PRIME) >> np.uint64(64 - BUCKET_BITS)
    return hashed.astype(np.int16)


def foreign(entries: U64) -> NDArray[np.bool_]:
    """Which p2m entries have the FOREIGN bit; INVALID does not count. Any shape."""
    marked: NDArray[np.bool_] = entries.view(np.int64) < 0
    marked &= entries != np.uint64(INVALID)
    return marked
