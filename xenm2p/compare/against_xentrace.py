"""A capture against xentrace: where does the hypervisor count more maps or unmaps?

xentrace counts every grant that is mapped or unmapped, whoever does it; a capture has those
of gnttab_map_refs and gnttab_unmap_refs that its tracer did not lose. A page mapped for user
space is two records: one for the process, one for the kernel (drivers/xen/gntdev.c:
gntdev_map_grant_pages). A failed map is none. The ring pages that xenbus maps by its own
hypercall (drivers/xen/xenbus/xenbus_client.c: __xenbus_map_ring) are in xentrace alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xenm2p.compare.clocks import Clocks, Recording, align
from xenm2p.formats.ftrace_writes import is_foreign_entry
from xenm2p.formats.xentrace import Grant, Xentrace
from xenm2p.trace import I64, NO_DOMID, NO_REF, Kind, Trace

SLICES = 20  # where the user does not say how long one is
MAX_SLICES = 10_000
MAPS, UNMAPS = int(Grant.MAP), int(Grant.UNMAP)
ANY_DOMAIN = -1
# Of two devices with the most that blkfront asks for: 16 pages (xen_blkif_max_ring_order)
MOST_RING_PAGES = 32


@dataclass(frozen=True, slots=True)
class Mapped:
    """The maps and unmaps of a trace that the hypervisor counts, in the order of the trace.

    time: (n,) ns. kind: MAPS or UNMAPS. domid: that of the grant, for an unmap that of its
    map, ANY_DOMAIN where no map tells. weight: records that the hypervisor makes of it.
    first, last: time of the trace's first and last event, of any kind. unmapped: how many
    grants, at least, the trace shows and does not map. lost: whether it has `lost` events.
    """

    time: I64
    kind: I64
    domid: I64
    weight: I64
    first: int
    last: int
    unmapped: int
    lost: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """Counts of one domain between two quiet moments, as times of the trace in ns.

    `first` is None for what comes before the trace begins, `last` for what comes after its
    end. missing: what xentrace has and the trace has not; of those outside the trace none.
    """

    first: int | None
    last: int | None
    domid: int | None
    xen_maps: int
    maps: int
    xen_unmaps: int
    unmaps: int

    @property
    def outside(self) -> bool:
        """Whether it lies before or after the trace."""
        return self.first is None or self.last is None

    @property
    def missing(self) -> int:
        """Maps and unmaps that the trace lacks."""
        if self.outside:
            return 0
        return max(self.xen_maps - self.maps, 0) + max(self.xen_unmaps - self.unmaps, 0)


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """The result: `slices` within the time of the trace where the clocks could be aligned,
    else one a domain over everything."""

    clocks: Clocks | None
    slices: tuple[Slice, ...]
    mapped: Mapped

    @property
    def missing_maps(self) -> int:
        """Maps that xentrace has and the trace has not."""
        return sum(max(each.xen_maps - each.maps, 0) for each in self.slices
                   if not each.outside)

    @property
    def missing(self) -> int:
        """Maps and unmaps that xentrace has and the trace has not."""
        return sum(each.missing for each in self.slices)

    @property
    def surplus(self) -> int:
        """Maps and unmaps that the trace has and xentrace has not."""
        return sum(max(each.maps - each.xen_maps, 0) + max(each.unmaps - each.xen_unmaps, 0)
                   for each in self.slices)

    @property
    def are_rings(self) -> bool:
        """Whether what is missing may well be nothing but the ring pages of a few devices.

        As many maps as unmaps, no more than the trace has grants that it never maps, few,
        and no loss in the trace.
        """
        maps = self.missing_maps
        return (0 < maps <= min(self.mapped.unmapped, MOST_RING_PAGES)
                and self.missing == 2 * maps and not self.mapped.lost)


def cross_check(trace: Trace, xen: Xentrace, slice_ns: int | None = None) -> CrossCheck:
    """Compare a trace with the grant records of one machine's xentrace.

    Memory is a few times that of the trace's maps and unmaps and of the records.
    """
    mapped = mapped_in(trace)
    xen = xen.in_order()
    if (mapped.domid == ANY_DOMAIN).all():
        domid_of_xen = np.full(len(xen), ANY_DOMAIN, np.int64)
    else:
        domid_of_xen = xen.domid.astype(np.int64)
    is_counted = xen.kind <= UNMAPS
    tsc, kind = xen.tsc[is_counted], xen.kind[is_counted].astype(np.int64)
    domid_of_xen = domid_of_xen[is_counted]
    domid = mapped.domid.copy()
    if len(np.unique(domid_of_xen)) == 1:  # whose unmaps no map tells of: there is but one
        domid[domid == ANY_DOMAIN] = domid_of_xen[0]
    order = np.argsort(mapped.time, kind="stable")
    clocks = align(
        Recording(tsc, kind, np.ones(len(tsc), np.int64)),
        Recording(mapped.time[order], mapped.kind[order], mapped.weight[order]))
    if clocks is None:
        edges = np.array([mapped.first, mapped.last + 1])
        times = np.full(len(tsc), mapped.first)  # whenever it was, it counts
    else:
        times = clocks.times_of(tsc)
        edges = _edges(times, mapped, clocks, slice_ns)
    slices = _count(edges, (times, kind, domid_of_xen, np.ones(len(tsc), np.int64)),
                    (mapped.time, mapped.kind, domid, mapped.weight))
    return CrossCheck(clocks, tuple(slices), mapped)


Counted = tuple[I64, I64, I64, I64]  # time, kind, domid, weight


def _edges(times: I64, mapped: Mapped, clocks: Clocks, slice_ns: int | None) -> I64:
    """Moments that part the slices: about the trace's ends, and quiet ones between.

    At a moment with nothing within the error of the clocks, doubled, on either side, no
    event can be counted on the wrong side. Where xentrace has records just before or after
    the trace, the first slice begins, or the last ends, at the next such moment inside.
    """
    guard = 2 * clocks.error_ns + 1
    first, last = mapped.first, mapped.last
    width = max(slice_ns or (last - first) // SLICES, (last - first) // MAX_SLICES, 1)
    busy = np.unique(np.concatenate([times, mapped.time, [first, last]]))
    inside = busy[(busy >= first) & (busy <= last)]
    gap = np.diff(inside)
    is_quiet = gap >= 2 * guard
    quiet = inside[:-1][is_quiet] + gap[is_quiet] // 2
    begin, end = first - guard, last + guard
    if len(quiet) and ((busy >= begin) & (busy < first)).any():
        begin = int(quiet[0])
    if len(quiet) and ((busy > last) & (busy <= end)).any():
        end = int(quiet[-1])
    # Of the quiet moments, the first one in each width.
    _, chosen = np.unique((quiet - begin) // width, return_index=True)
    inner = quiet[chosen]
    inner = inner[(inner - begin >= width // 2) & (inner < end)]
    return np.concatenate([[begin], inner, [max(end, begin)]]).astype(np.int64)


def _count(edges: I64, xen: Counted, own: Counted) -> Iterator[Slice]:
    """The counts of both in each slice and domain, in order of time.

    An edge with too many of a kind on one side and too few on the other is dropped: an
    event was held up between the two recordings for longer than most.
    """
    domids = np.unique(np.concatenate([xen[2], own[2]]))
    by_xen, by_own = (_table(edges, domids, counted) for counted in (xen, own))
    while True:
        surplus = np.sign(by_own - by_xen)[1:-1]  # of those within the trace
        is_crossed = (surplus[:-1] * surplus[1:] < 0).any(axis=(1, 2))
        if not is_crossed.any():
            break
        # Of crossed edges that follow each other, the first: it may cure the next.
        at = int(is_crossed.argmax()) + 1
        edges = np.delete(edges, at)
        by_xen, by_own = (np.delete(_joined(table, at), at + 1, axis=0)
                          for table in (by_xen, by_own))
    bounds = [None, *edges.tolist(), None]
    for i in range(len(edges) + 1):
        for j, domid in enumerate(domids.tolist()):
            if by_xen[i, j].any() or by_own[i, j].any():
                yield Slice(bounds[i], bounds[i + 1], None if domid == ANY_DOMAIN else domid,
                            int(by_xen[i, j, MAPS]), int(by_own[i, j, MAPS]),
                            int(by_xen[i, j, UNMAPS]), int(by_own[i, j, UNMAPS]))


def _table(edges: I64, domids: I64, counted: Counted) -> I64:
    """Counts, (slices, domains, kinds); the first and last slice are outside of the edges."""
    time, kind, domid, weight = counted
    at = np.searchsorted(edges, time, side="right")
    cell = (at * len(domids) + np.searchsorted(domids, domid)) * 2 + kind
    counts = np.bincount(cell, weight, (len(edges) + 1) * len(domids) * 2)
    return counts.astype(np.int64).reshape(-1, len(domids), 2)


def _joined(table: I64, at: int) -> I64:
    """The table with the counts of slice `at` + 1 also in slice `at`."""
    joined = table.copy()
    joined[at] += table[at + 1]
    return joined


def mapped_in(trace: Trace) -> Mapped:
    """What of a trace the hypervisor counts too; one pass."""
    columns: dict[str, list[NDArray[np.generic]]] = {
        name: [] for name in ("time", "kind", "pfn", "domid", "user")}
    refs: list[I64] = []
    spans: list[tuple[int, int]] = []
    has_lost = False
    for events in trace.chunks():
        is_mapped = (events.kind <= Kind.UNMAP) & (events.status == 0)
        is_undone = (events.kind == Kind.P2M_WRITE) & ~is_foreign_entry(events.mfn)
        for name, parts in columns.items():
            parts.append(getattr(events, name)[is_mapped | is_undone])
        is_grant = events.kind == Kind.GRANT
        tells = is_grant | (is_mapped & (events.kind == Kind.MAP))
        refs.append(events.ref[tells].astype(np.int64) << 1 | is_grant[tells])
        has_lost = has_lost or bool((events.kind == Kind.LOST).any())
        spans.append((int(events.time.min()), int(events.time.max())))
    joined = {name: np.concatenate(parts) if parts else np.zeros(0, np.int64)
              for name, parts in columns.items()}
    pfn, kind = joined["pfn"], joined["kind"].astype(np.int64)
    domid, happened = _domains_of_unmaps(pfn, kind, joined["domid"].astype(np.int64))
    return Mapped(
        time=joined["time"].astype(np.int64)[happened], kind=kind[happened],
        domid=domid[happened], weight=1 + joined["user"].astype(np.int64)[happened],
        first=min((first for first, _ in spans), default=0),
        last=max((last for _, last in spans), default=0),
        unmapped=_never_mapped(refs), lost=has_lost)


def _domains_of_unmaps(
    pfn: NDArray[np.generic], kind: I64, domid: I64
) -> tuple[I64, NDArray[np.bool_]]:
    """The domain of each map and unmap, and which of them happened; `kind` has p2m writes too.

    An unmap is of the domain of its page's last map. One of a page that was unmapped
    before, and not mapped since, was refused, unless the write it made shows that its map
    was lost.
    """
    domid = np.where(domid == NO_DOMID, ANY_DOMAIN, domid)
    order = np.lexsort((np.arange(len(pfn)), pfn))
    same = pfn[order][1:] == pfn[order][:-1]
    is_write = kind == Kind.P2M_WRITE
    is_written = np.zeros(len(pfn), np.bool_)
    is_written[order[:-1]] = same & is_write[order[1:]]
    of_calls = order[~is_write[order]]
    same = pfn[of_calls][1:] == pfn[of_calls][:-1]
    before = np.full(len(pfn), -1, np.int64)
    before[of_calls[1:][same]] = of_calls[:-1][same]
    is_unmap = kind == UNMAPS
    has_map = is_unmap & (before >= 0)
    has_map[has_map] = kind[before[has_map]] == MAPS
    domid[has_map] = domid[before[has_map]]
    is_first = is_unmap & (before < 0)
    happened = (kind == MAPS) | has_map | is_first | (is_unmap & is_written)
    return domid, happened


def _never_mapped(refs: list[I64]) -> int:
    """How many grants, at least, no map uses before their reference is granted again.

    `refs` are those of grants (twice the reference, plus one) and of maps (twice), in order.
    A map whose reference is not known may be of any grant.
    """
    rows = np.concatenate(refs) if refs else np.zeros(0, np.int64)
    ref, is_grant = rows >> 1, rows & 1 == 1
    is_nameless = ~is_grant & (ref == NO_REF)
    nameless = int(is_nameless.sum())
    order = np.argsort(ref[~is_nameless], kind="stable")
    ref, is_grant = ref[~is_nameless][order], is_grant[~is_nameless][order]
    is_used = np.zeros(len(ref), np.bool_)
    is_used[:-1] = (ref[1:] == ref[:-1]) & ~is_grant[1:]
    return max(int((is_grant & ~is_used).sum()) - nameless, 0)
