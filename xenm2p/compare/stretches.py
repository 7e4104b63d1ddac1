"""An alignment as stretches: what is missing, inserted, moved or changed, in order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from xenm2p.compare.alignment import Alignment, Run
from xenm2p.compare.anchors import longest_increasing
from xenm2p.compare.identity import unlike_attributes, unlike_kinds
from xenm2p.compare.stories import Index, Mask
from xenm2p.engine.replay import Table
from xenm2p.trace import I64


class Op(IntEnum):
    """What became of a stretch of events from A to B; the first ones matter most."""

    MISSING = 0  # in A only
    INSERTED = 1  # in B only
    CHANGED = 2  # at its place, with another status, user, domain or sort of entry
    MOVED = 3  # in both, also among events of its own kind in another order
    INTERLEAVED = 4  # in both, but before or after other events of other kinds


@dataclass(frozen=True, slots=True)
class Stretches(Table):
    """Runs of events that go together, ordered by where they begin in A.

    `a` and `b` are rows of the two runs: where the stretch begins, or, where a run does not
    have it, before which row it would stand.
    """

    op: NDArray[np.uint8]
    a: I64
    b: I64
    count: I64

    dtypes: ClassVar[dict[str, str]] = {"op": "u1", "a": "i8", "b": "i8", "count": "i8"}


def stretches_of(a: Run, b: Run, alignment: Alignment) -> Stretches:
    """The stretches of an alignment of `a` and `b`."""
    stayed = ~alignment.moved
    anchors = alignment.a[stayed], alignment.b[stayed]
    only_a, only_b = _others(alignment.a, len(a)), _others(alignment.b, len(b))
    # Where what one run lacks would stand in it: behind what stayed before.
    place_b = _after(anchors[0], anchors[1], only_a)
    place_a = _after(anchors[1], anchors[0], only_b)
    op = _ops_of_pairs(a, b, alignment)
    told = np.flatnonzero(op != _SAME)
    ops = np.concatenate([np.full(len(only_a), Op.MISSING), np.full(len(only_b), Op.INSERTED),
                          op[told]])
    rows_a = np.concatenate([only_a, place_a, alignment.a[told]])
    rows_b = np.concatenate([place_b, only_b, alignment.b[told]])
    order = np.lexsort((rows_b, ops, rows_a))
    # What is inserted has one place in A, but its rows of B follow each other.
    return _joined(ops[order], rows_a[order], rows_b[order])


_SAME = 255


def _ops_of_pairs(a: Run, b: Run, alignment: Alignment) -> NDArray[np.int64]:
    rows_a, rows_b = a.events.rows(alignment.a), b.events.rows(alignment.b)
    changed = unlike_kinds(rows_a, rows_b)
    for _, unlike in unlike_attributes(rows_a, a.trace.domain, rows_b, b.trace.domain):
        changed |= unlike
    op = np.full(len(alignment.a), _SAME)
    op[changed] = Op.CHANGED
    moved_alone = _moved_among_their_kind(rows_a.kind, alignment)
    op[alignment.moved] = Op.INTERLEAVED
    op[moved_alone] = Op.MOVED
    return op


def _moved_among_their_kind(kind: NDArray[np.uint8], alignment: Alignment) -> Mask:
    """Which moved pairs are out of order also if only their own kind is looked at."""
    found = np.zeros(len(kind), bool)
    for code in np.unique(kind[alignment.moved]):
        rows = np.flatnonzero(kind == code)
        b, moved = alignment.b[rows], alignment.moved[rows]
        # Between which of those that stayed it stands in A, and in B.
        in_a = np.cumsum(~moved)[moved]
        in_b = np.searchsorted(b[~moved], b[moved])
        fits = in_a == in_b
        at = rows[moved]
        in_order = np.zeros(len(at), bool)
        kept = np.flatnonzero(fits)
        in_order[kept[longest_increasing(b[moved][kept])]] = True
        found[at[~in_order]] = True
    return found


def _others(rows: Index, length: int) -> Index:
    is_other = np.ones(length, bool)
    is_other[rows] = False
    return np.flatnonzero(is_other)


def _after(anchors: Index, partners: Index, rows: Index) -> Index:
    """Behind the partner of the last anchor before each row."""
    place = np.searchsorted(anchors, rows)
    return np.append(0, partners + 1)[place]


def _joined(op: Index, a: Index, b: Index) -> Stretches:
    if not len(op):
        return Stretches.of([])
    has_a, has_b = op != Op.INSERTED, op != Op.MISSING
    goes_on = op[1:] == op[:-1]
    goes_on &= a[1:] == a[:-1] + has_a[1:]
    goes_on &= b[1:] == b[:-1] + has_b[1:]
    first = np.flatnonzero(np.append(True, ~goes_on))
    return Stretches(op[first].astype(np.uint8), a[first], b[first],
                     np.diff(np.append(first, len(op))))
