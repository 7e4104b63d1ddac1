"""A replay against a grant-table dump: is what Xen had mapped what the replay has live?

The dump (`xl debug-keys g`) was taken at some moment, which it does not tell. The shares that
are live after each event are counted by grant and frame; a page mapped for user space counts
twice, as gntdev maps it for the process and for the kernel. The moment is the one asked for,
or the one that differs least from the dump.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from xenm2p.compare.against_xentrace import MOST_RING_PAGES
from xenm2p.engine.replay import NO_EVENT, Shares
from xenm2p.formats.grantdump import GrantDump
from xenm2p.trace import FOREIGN, I64, INVALID, MAX_FRAME, NO_DOMID, NO_REF, U64

_FRAME_UNKNOWN = (MAX_FRAME, FOREIGN | MAX_FRAME, INVALID)


@dataclass(frozen=True, slots=True)
class Difference:
    """A grant, or where no map tells its reference a frame, that only one of the two has.

    domid and ref are None for a frame that is not in just one entry of the dump. dump,
    replay: how often it is mapped there. never: no map of the trace is of it at any time.
    """

    domid: int | None
    ref: int | None
    mfn: int
    dump: int
    replay: int
    never: bool


@dataclass(frozen=True, slots=True)
class Live:
    """What is live after `events` events, compared with the dump.

    agreed: mappings that both have. unknown: live shares whose frame nobody knows, which
    may be any. distance: mappings that only one has, `unknown` ones paired off.
    """

    events: int
    agreed: int
    unknown: int
    distance: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class GrantCheck:
    """Replay against dump. best_events: the first and last number of events after which
    they differ least; `at` is the comparison asked for. of_others: entries of the dump
    that other domains have mapped, which no trace of this one shows. by_ref: grants were
    compared, not only frames."""

    at: Live
    end: Live
    best_events: tuple[int, int]
    dump: int
    of_others: int
    by_ref: bool

    @property
    def are_rings(self) -> bool:
        """Whether all that differs may be ring pages: few, in the dump, never mapped here."""
        return 0 < self.at.distance <= MOST_RING_PAGES and all(
            each.never and not each.replay for each in self.at.differences)


def check_grants(
    shares: Shares, events: int, dump: GrantDump, domain: int, at: int | None = None
) -> GrantCheck:
    """Compare all shares of a replay with a dump, after `at` events or where it fits best.

    `shares` are those of every segment, `events` how many events were replayed.
    """
    ours = dump.rows(np.flatnonzero(dump.mapper == domain))
    is_known = ~np.isin(shares.mfn, np.array(_FRAME_UNKNOWN, np.uint64))
    by_ref = bool((shares.ref[is_known] != NO_REF).all() and is_known.any())
    keys = _Keys.of(shares, ours, by_ref)
    counts = _Counts(shares, is_known, keys, events)
    distance = counts.distances()
    best = np.flatnonzero(distance == distance.min())
    first = int(best[0])
    last = int(best[np.flatnonzero(np.append(np.diff(best), 2) > 1)[0]])
    return GrantCheck(
        at=_named(counts.live(first if at is None else at, distance), ours),
        end=counts.live(events, distance), best_events=(first, last), dump=len(ours),
        of_others=len(dump) - len(ours), by_ref=by_ref)


def _named(live: Live, dump: GrantDump) -> Live:
    """The same; a frame that is in one entry of the dump has that one's grant."""
    frames, first, count = np.unique(dump.mfn, return_index=True, return_counts=True)
    entry_of = dict(zip(frames[count == 1].tolist(), first[count == 1].tolist(), strict=True))
    differences = []
    for each in live.differences:
        entry = entry_of.get(each.mfn) if each.ref is None else None
        differences.append(each if entry is None else replace(
            each, domid=int(dump.granter[entry]), ref=int(dump.ref[entry])))
    return replace(live, differences=tuple(differences))


@dataclass(frozen=True, slots=True)
class _Keys:
    """Grants, or frames, numbered: columns (k,), the number of each share and dump entry.

    pins: how often the dump has it mapped. is_mapped: whether some share is of it.
    """

    domid: I64
    ref: I64
    mfn: U64
    of_share: I64
    of_entry: I64
    pins: I64
    is_mapped: np.ndarray[tuple[int], np.dtype[np.bool_]]

    @classmethod
    def of(cls, shares: Shares, dump: GrantDump, by_ref: bool) -> _Keys:
        domid = np.concatenate([shares.domid, dump.granter]).astype(np.int64)
        ref = np.concatenate([shares.ref, dump.ref]).astype(np.int64)
        mfn = np.concatenate([shares.mfn, dump.mfn]).astype(np.uint64)
        if not by_ref:
            domid, ref = np.full(len(mfn), NO_DOMID), np.full(len(mfn), NO_REF)
        order = np.lexsort((mfn, ref, domid))
        is_new = np.ones(len(order), np.bool_)
        is_new[1:] = ((domid[order][1:] != domid[order][:-1])
                      | (ref[order][1:] != ref[order][:-1]) | (mfn[order][1:] != mfn[order][:-1]))
        number = np.empty(len(order), np.int64)
        number[order] = np.cumsum(is_new) - 1
        first = order[is_new]
        of_entry = number[len(shares):]
        pins = np.bincount(of_entry, dump.pins, len(first)).astype(np.int64)
        is_mapped = np.zeros(len(first), np.bool_)
        is_mapped[number[: len(shares)]] = True
        return cls(domid[first], ref[first], mfn[first], number[: len(shares)], of_entry, pins,
                   is_mapped)


class _Counts:
    """How often each key is mapped after each number of events."""

    def __init__(self, shares: Shares, is_known: np.ndarray[tuple[int], np.dtype[np.bool_]],
                 keys: _Keys, events: int):
        self._keys = keys
        self._events = events
        weight = 1 + shares.user.astype(np.int64)
        begin = np.where(shares.map_event == NO_EVENT, 0, shares.map_event + 1)
        end = np.where(shares.end_event == NO_EVENT, events + 1, shares.end_event + 1)
        self._key = np.tile(keys.of_share, 2)
        self._at = np.concatenate([begin, end])
        self._change = np.concatenate([weight, -weight])
        self._known = np.tile(is_known, 2)

    def _steps(self, known: bool) -> tuple[I64, I64, I64]:
        """(key, number of events, change) of shares with or without a known frame."""
        rows = self._known == known
        rows &= self._at <= self._events
        return self._key[rows], self._at[rows], self._change[rows]

    def distances(self) -> I64:
        """For 0 to all events, in how many mappings replay and dump differ."""
        key, at, change = self._steps(known=True)
        order = np.lexsort((at, key))
        key, at, change = key[order], at[order], change[order]
        total = np.cumsum(change)
        is_first = np.ones(len(key), np.bool_)
        is_first[1:] = key[1:] != key[:-1]
        before_key = np.repeat(
            (total - change)[is_first], np.diff(np.append(np.flatnonzero(is_first), len(key))))
        count = total - before_key
        pins = self._keys.pins[key]
        size = self._events + 1
        missing = self._keys.pins.sum() + self._over_time(
            at, np.maximum(pins - count, 0) - np.maximum(pins - count + change, 0), size)
        extra = self._over_time(
            at, np.maximum(count - pins, 0) - np.maximum(count - change - pins, 0), size)
        _, at, change = self._steps(known=False)
        unknown = self._over_time(at, change, size)
        distance: I64 = extra + np.abs(missing - unknown)
        return distance

    @staticmethod
    def _over_time(at: I64, change: I64, size: int) -> I64:
        total: I64 = np.cumsum(np.bincount(at, change, size)).astype(np.int64)
        return total

    def live(self, events: int, distance: I64) -> Live:
        """The comparison after `events` events."""
        key, at, change = self._steps(known=True)
        is_past = at <= events
        count = np.bincount(
            key[is_past], change[is_past], len(self._keys.pins)).astype(np.int64)
        _, at, change = self._steps(known=False)
        unknown = int(change[at <= events].sum())
        differing = np.flatnonzero(count != self._keys.pins)
        keys = self._keys
        rows = []
        for row in differing.tolist():
            domid, ref = int(keys.domid[row]), int(keys.ref[row])
            rows.append(Difference(
                None if domid == NO_DOMID else domid, None if ref == NO_REF else ref,
                int(keys.mfn[row]), int(keys.pins[row]), int(count[row]),
                not keys.is_mapped[row]))
        return Live(events, int(np.minimum(count, keys.pins).sum()), unknown,
                    int(distance[events]), tuple(rows))
