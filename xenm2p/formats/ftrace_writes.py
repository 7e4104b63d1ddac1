"""ftrace text, fourth step: which call each p2m write belongs to.

A write and its call are of one *lane*: one task, or where the task is pid 0, one cpu. A write
of a page that a call shows is that call's, if no other write of the page came between. A
call with more pages than its probe fetched has its other pages from the writes that follow:
FOREIGN ones of a map, others of an unmap, until the call returns or its lane's next one.
What is left was written by nobody who maps or unmaps: ballooning.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xenm2p.formats.ftrace_calls import CallTable
from xenm2p.formats.ftrace_lines import Mask, lanes_of
from xenm2p.formats.ftrace_ops import COUNT_UNKNOWN, STATUS_UNKNOWN
from xenm2p.formats.probe_signatures import STRUCT_PAGE_SIZES, VMEMMAP_BASE
from xenm2p.trace import FOREIGN, I64, INVALID, U64

# arch/x86/mm/kaslr.c moves the base by whole puds, within the kernel's half.
_PUD = 1 << 30
_KERNEL_HALF = 0xFFFF800000000000
# The struct pages of the 64 TB that four-level page tables hold
_PFN_LIMIT = 1 << 34


@dataclass(frozen=True, slots=True)
class Sightings:
    """Events of one role, in the order of their lines.

    `source` numbers the function that was probed; `values` are its needed arguments, in
    the order of the catalogue.
    """

    place: I64
    time: I64
    cpu: NDArray[np.int16]
    task: NDArray[np.int32]
    source: I64
    values: tuple[U64, ...]

    def __len__(self) -> int:
        return len(self.place)

    def rows(self, where: Mask | I64) -> Sightings:
        """The sightings at `where`."""
        return Sightings(self.place[where], self.time[where], self.cpu[where], self.task[where],
                         self.source[where], tuple(value[where] for value in self.values))


def without_inner(seen: Sightings, idle: list[int], width: int) -> Sightings:
    """Leaves out what a second probed function, called by the first, says again.

    They say the same where their first `width` values are equal.
    """
    if len(seen) == 0 or (seen.source == seen.source[0]).all():
        return seen
    lane = lanes_of(seen.task, seen.cpu, idle)
    order = np.lexsort((seen.place, lane))
    again = (lane[order][1:] == lane[order][:-1]) & (
        seen.source[order][1:] != seen.source[order][:-1])
    for value in seen.values[:width]:
        again &= value[order][1:] == value[order][:-1]
    # Outer, inner, outer, inner: of a run of such pairs every second one is the inner.
    rank = np.arange(len(again)) - np.maximum.accumulate(
        np.where(again, 0, np.arange(len(again)) + 1))
    inner = np.zeros(len(seen), np.bool_)
    inner[order[1:]] = again & (rank % 2 == 0)
    return seen.rows(~inner)


def is_foreign_entry(entries: U64) -> Mask:
    """Which p2m entries have the FOREIGN bit and are not INVALID."""
    has_bit: Mask = (entries & np.uint64(FOREIGN)) != 0
    is_foreign: Mask = has_bit & (entries != np.uint64(INVALID))
    return is_foreign


@dataclass(frozen=True, slots=True)
class StructPages:
    """Where the kernel's struct pages begin, and how many bytes one has."""

    base: int = VMEMMAP_BASE
    size: int = STRUCT_PAGE_SIZES[0]

    def pfns(self, pages: U64) -> tuple[U64, Mask]:
        """Page frame numbers of struct page pointers, and which pointers can be such."""
        offset = pages - np.uint64(self.base)
        pfn = offset // np.uint64(self.size)
        plausible = (pages != 0) & (offset % np.uint64(self.size) == 0) & (pfn < _PFN_LIMIT)
        return pfn, plausible


@dataclass(frozen=True, slots=True)
class Governed:
    """For each of some writes, the call it falls into (-1: none) and its rank there."""

    call: I64
    rank: I64


def govern(call_place: I64, call_lane: I64, end_place: I64, end_lane: I64,
           write_place: I64, write_lane: I64) -> Governed:
    """The last call in a write's lane before it, unless the call has ended."""
    place = np.concatenate([call_place, end_place, write_place])
    lane = np.concatenate([call_lane, end_lane, write_lane])
    order = np.lexsort((place, lane))
    calls, ends = len(call_place), len(end_place)
    bounds = np.where(order < calls + ends, np.arange(len(order)), -1)
    last = np.maximum.accumulate(bounds) if len(order) else bounds
    of_lane = (last >= 0) & (lane[order] == lane[order[np.maximum(last, 0)]])
    governor = np.where(of_lane, order[np.maximum(last, 0)], -1)
    governor = np.where(governor < calls, governor, -1)
    call = np.full(len(place), -1, np.int64)
    call[order] = governor
    call = call[calls + ends :]
    by_call = np.lexsort((write_place, call))
    _, first, inverse = np.unique(call[by_call], return_index=True, return_inverse=True)
    rank = np.empty(len(call), np.int64)
    rank[by_call] = np.arange(len(call)) - first[inverse] if len(call) else 0
    return Governed(call, rank)


@dataclass(frozen=True, slots=True)
class Matches:
    """Who wrote what: row numbers of calls, of their pages and of writes, -1 for none.

    `write_page` is the page whose entry a write is of, for pages beyond the call's array
    the one of which the rest is known; `write_call` its call; `is_beyond` marks writes
    that stand for a page the call did not show; `is_mark` writes of a frontend page that
    the call marked FOREIGN, or un-marked. `room_left` is how many pages of each call
    were never seen.
    """

    pfn: U64
    placed: Mask
    page_write: I64
    write_page: I64
    write_call: I64
    is_beyond: Mask
    is_mark: Mask
    room_left: I64


def match_writes(calls: CallTable, returns: Sightings, returns_map: Mask, writes: Sightings,
                 idle: list[int], at: StructPages) -> Matches:
    """Give each write its call; `at` is where the struct pages are."""
    pfn, placed = at.pfns(calls.page)
    write_pfn, entry = writes.values
    is_map_write = is_foreign_entry(entry)
    call_lane = lanes_of(calls.task, calls.cpu, idle)
    write_lane = lanes_of(writes.task, writes.cpu, idle)
    end_lane = lanes_of(returns.task, returns.cpu, idle)

    pages = np.flatnonzero(placed)
    page_call = calls.page_call[pages]
    place = np.concatenate([calls.place[page_call], writes.place])
    lane = np.concatenate([call_lane[page_call], write_lane])
    number = np.concatenate([pfn[pages], write_pfn])
    is_map = np.concatenate([calls.is_map[page_call], is_map_write])
    order = np.lexsort((place, number, lane))
    before, after = order[:-1], order[1:]
    belongs = ((before < len(pages)) & (after >= len(pages)) & (lane[before] == lane[after])
               & (number[before] == number[after]) & (is_map[before] == is_map[after]))
    # Nor did anybody else write the page between: that call's own write was lost.
    paged, written = before[belongs], after[belongs] - len(pages)
    is_next = _writes_before(write_pfn, writes.place)[written] < place[paged]
    belongs[belongs] = is_next
    page_write = np.full(len(calls.page), -1, np.int64)
    write_page = np.full(len(writes), -1, np.int64)
    write_page[after[belongs] - len(pages)] = pages[before[belongs]]
    page_write[pages[before[belongs]]] = after[belongs] - len(pages)
    write_call = np.where(write_page >= 0, calls.page_call[write_page], -1) if len(
        calls.page) else write_page.copy()

    shown = np.bincount(calls.page_call[placed | failed_pages(calls)], minlength=len(calls.place))
    room = np.where(calls.count == COUNT_UNKNOWN, len(writes), calls.count - shown)
    is_beyond = np.zeros(len(writes), np.bool_)
    is_mark = np.zeros(len(writes), np.bool_)
    for direction in (True, False):
        of_call = np.flatnonzero(calls.is_map == direction)
        of_end = returns_map == direction
        left = np.flatnonzero((write_page < 0) & (is_map_write == direction))
        found = govern(calls.place[of_call], call_lane[of_call], returns.place[of_end],
                       end_lane[of_end], writes.place[left], write_lane[left])
        call = np.where(found.call >= 0, of_call[found.call], -1) if len(
            of_call) else found.call
        fits = (call >= 0) & (found.rank < room[call]) if len(of_call) else call >= 0
        rows = left[fits]
        is_beyond[rows], write_call[rows] = True, call[fits]
        write_page[rows] = _unplaced(calls, placed, call[fits], found.rank[fits], entry[rows])
        room = room - np.bincount(call[fits], minlength=len(room))
        others = (call >= 0) & ~fits
        marks = _Marks(calls, is_mark, write_call, write_pfn, entry)
        marks.find(left[others], call[others], direction)
    return Matches(pfn, placed, page_write, write_page, write_call, is_beyond, is_mark,
                   np.where(calls.count == COUNT_UNKNOWN, 0, np.maximum(room, 0)))


def _writes_before(pfn: U64, place: I64) -> I64:
    """The line of the write before each one of its page, -1 for none."""
    order = np.lexsort((place, pfn))
    same = pfn[order][1:] == pfn[order][:-1]
    line = np.full(len(pfn), -1, np.int64)
    line[order[1:][same]] = place[order[:-1][same]]
    return line


def failed_pages(calls: CallTable) -> Mask:
    """Which pages the hypercall refused."""
    failed: Mask = (calls.status != 0) & (calls.status != STATUS_UNKNOWN)
    return failed


def _unplaced(calls: CallTable, placed: Mask, call: I64, rank: I64, entry: U64) -> I64:
    """The page of a call that a write beyond its placed pages is of, -1 where not known.

    A call works through its ops in order, so the n-th such write is of the n-th op without
    a page; where the op's frame is known it must be the one written.
    """
    pages = np.flatnonzero(~placed & ~failed_pages(calls))
    first = np.searchsorted(calls.page_call[pages], call)
    last = np.searchsorted(calls.page_call[pages], call, side="right")
    known = first + rank < last
    page = np.full(len(call), -1, np.int64)
    page[known] = pages[(first + rank)[known]]
    frame = np.where(page >= 0, calls.mfn[page], INVALID) if len(calls.page) else entry
    agrees = (frame == np.uint64(INVALID)) | (frame == 0) | (
        frame == (entry & np.uint64(~FOREIGN & INVALID)))
    return np.where(agrees, page, -1)


@dataclass(slots=True)
class _Marks:
    """Frontend pages that a call marked: kernels of 3.5-3.19, so these are few or none."""

    calls: CallTable
    is_mark: Mask
    write_call: I64
    write_pfn: U64
    entry: U64
    _frames: dict[int, frozenset[int]] = field(default_factory=dict)

    def find(self, writes: I64, call: I64, of_map: bool) -> None:
        """Mark those of `writes`, all within a call but of none of its pages."""
        marked = set(self.write_pfn[self.is_mark].tolist())
        if not of_map and not marked:
            return
        for write, within in zip(writes.tolist(), call.tolist(), strict=True):
            if of_map:
                # m2p_add_override: set_phys_to_machine(pfn, FOREIGN_FRAME(mfn))
                frame = int(self.entry[write]) & ~FOREIGN
                found = frame in self._frames_of(within)
            else:
                # m2p_remove_override: set_phys_to_machine(pfn, mfn)
                found = int(self.write_pfn[write]) in marked and self.entry[write] != INVALID
            if found:
                self.is_mark[write] = True
                self.write_call[write] = within

    def _frames_of(self, call: int) -> frozenset[int]:
        if call not in self._frames:
            of_call = slice(*np.searchsorted(self.calls.page_call, [call, call + 1]))
            self._frames[call] = frozenset(self.calls.mfn[of_call].tolist())
        return self._frames[call]


def find_struct_pages(calls: CallTable, writes: Sightings, idle: list[int],
                      base: int | None) -> StructPages:
    """Where the struct pages are, from calls and the first write that follows each.

    `base` is where they begin, where that is known. Else it is the default where that
    explains a write, or nothing explains the writes better; and their size likewise.
    """
    pages, pfns = _first_writes(calls, writes, idle)
    best = StructPages() if base is None else StructPages(base)
    most = len(pages) // 2
    for size in STRUCT_PAGE_SIZES:
        bases, counts = np.unique(pages - np.uint64(size) * pfns, return_counts=True)
        wanted = bases == np.uint64(VMEMMAP_BASE if base is None else base)
        if wanted.any():
            return StructPages(best.base, size)
        if base is not None:
            continue
        possible = (bases % np.uint64(_PUD) == 0) & (bases >= np.uint64(_KERNEL_HALF))
        bases, counts = bases[possible], counts[possible]
        if len(bases) and counts.max() > most:
            most, best = int(counts.max()), StructPages(int(bases[counts.argmax()]), size)
    return best


def _first_writes(calls: CallTable, writes: Sightings, idle: list[int]) -> tuple[U64, U64]:
    """Struct pages of the first pages of calls, and the pfn that each call wrote first."""
    usable = np.flatnonzero((calls.page != 0) & ~failed_pages(calls))
    _, first_of_call = np.unique(calls.page_call[usable], return_index=True)
    first_pages = usable[first_of_call]
    call_lane = lanes_of(calls.task, calls.cpu, idle)
    write_lane = lanes_of(writes.task, writes.cpu, idle)
    is_map_write = is_foreign_entry(writes.values[1])
    nothing = np.zeros(0, np.int64)
    found_pages, found_pfns = [], []
    for direction in (True, False):
        pages = first_pages[calls.is_map[calls.page_call[first_pages]] == direction]
        call = calls.page_call[pages]
        rows = np.flatnonzero(is_map_write == direction)
        found = govern(calls.place[call], call_lane[call], nothing, nothing,
                       writes.place[rows], write_lane[rows])
        is_first = (found.call >= 0) & (found.rank == 0)
        found_pages.append(calls.page[pages[found.call[is_first]]])
        found_pfns.append(writes.values[0][rows[is_first]])
    return np.concatenate(found_pages), np.concatenate(found_pfns)
