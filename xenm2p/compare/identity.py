"""Whether matched events of two runs name the same things: the same up to renaming.

A page, frame, ref, handle, call, task or domain of one run may be any other of the other
run, but always the same one: two runs are the same when a one-to-one renaming makes them
equal. Whoever is named for the first time has no past to compare; from then on, a name must
point back to the same earlier event in both.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xenm2p.compare.stories import Index, Mask, event_tokens
from xenm2p.trace import COLUMNS, FOREIGN, INVALID, NO_DOMID, U64, Column, Events, Kind

# What is renamed, in the words of a report. The processor is not compared at all: which one
# an event ran on is the scheduler's choice.
NAMES = {"pfn": "pages", "mfn": "frames", "ref": "refs", "handle": "handles",
         "call": "calls", "task": "tasks", "domid": "domains"}
# What is compared as it is.
ATTRIBUTES = ("status", "user", "own_domain", "lost")

_ABSENT = np.uint64(INVALID)  # of a name


def names_of(events: Events) -> Iterator[tuple[str, U64]]:
    """Each of `NAMES` with its column as uint64, `INVALID` where an event has none.

    A p2m entry names its frame whether it has the FOREIGN bit or not; the frames of
    IDENTITY entries are page numbers and so names of their own.
    """
    for name in NAMES:
        column = getattr(events, name)
        if name == "mfn":
            frame = column & np.uint64(INVALID ^ FOREIGN)
            frame[column == np.uint64(INVALID)] = _ABSENT
            yield name, frame
        elif name == "pfn":
            yield name, column
        else:
            known = column != COLUMNS[name].absent
            if name == "ref":
                known &= events.kind != Kind.LOST  # it carries their number
            yield name, np.where(known, column.astype(np.uint64), _ABSENT)


def attributes_of(events: Events, domain: int) -> Iterator[tuple[str, Column]]:
    """Each of `ATTRIBUTES` with its column; `domain` is the trace's own."""
    yield "status", events.status
    yield "user", events.user
    yield "own_domain", events.domid == domain
    yield "lost", np.where(events.kind == Kind.LOST, events.ref, 0)


def unlike_attributes(
    a: Events, domain_a: int, b: Events, domain_b: int
) -> Iterator[tuple[str, Mask]]:
    """For matched events, row by row: which differ in each of `ATTRIBUTES`."""
    for (name, column_a), (_, column_b) in zip(
            attributes_of(a, domain_a), attributes_of(b, domain_b), strict=True):
        unlike: Mask = column_a != column_b
        if name == "own_domain":  # a domain that one capture does not show is no other
            unlike = unlike & (a.domid != NO_DOMID) & (b.domid != NO_DOMID)
        yield name, unlike


def unlike_kinds(a: Events, b: Events) -> Mask:
    """Which matched events have another kind, or another sort of frame or p2m entry."""
    mask = ~np.uint64(0x300)  # without user and status, which are attributes
    unlike: Mask = (event_tokens(a) & mask) != (event_tokens(b) & mask)
    return unlike


def unlike_names(a: Events, b: Events, order_b: Index) -> Iterator[tuple[str, Mask, Mask, Mask]]:
    """For matched events, rows in the order of A: where names disagree.

    `order_b` puts the rows into the order of B. For each of `NAMES`: which rows have it in A
    only, which in B only, and which point back to another row, though the name does not
    always stand for one and the same of the other run.
    """
    for (name, of_a), (_, of_b) in zip(names_of(a), names_of(b), strict=True):
        known = (of_a != _ABSENT) & (of_b != _ABSENT)
        only_a = (of_a != _ABSENT) & (of_b == _ABSENT)
        only_b = (of_a == _ABSENT) & (of_b != _ABSENT)
        rows = np.flatnonzero(known)
        disagree = np.zeros(len(a), bool)
        disagree[rows] = _disagree(of_a[rows], of_b[rows], _places(order_b, known))
        yield name, only_a, only_b, disagree


def _places(order: Index, chosen: Mask) -> Index:
    """The order of the chosen rows alone, as places among them."""
    place = np.cumsum(chosen) - 1
    return place[order[chosen[order]]]


def _disagree(of_a: U64, of_b: U64, order_b: Index) -> Mask:
    in_order = np.arange(len(of_a))
    last_a = previous_equal(of_a, in_order)
    last_b = previous_equal(of_b, order_b)
    unlike: Mask = last_a != last_b
    if not unlike.any():
        return unlike
    # A moved event has another past, and yet each name may stand for one of the other run.
    return unlike & ~(_has_one_partner(of_a, of_b) & _has_one_partner(of_b, of_a))


def previous_equal(values: Column, order: Index) -> Index:
    """For each row the row before it in `order` that has the same value, -1 for none."""
    grouped = order[np.argsort(values[order], kind="stable")]
    previous = np.full(len(values), -1, np.int64)
    same = values[grouped[1:]] == values[grouped[:-1]]
    previous[grouped[1:][same]] = grouped[:-1][same]
    return previous


def _has_one_partner(values: U64, partners: U64) -> Mask:
    """Rows whose value has the same partner in all rows of that value."""
    order = np.argsort(values, kind="stable")
    sorted_values, sorted_partners = values[order], partners[order]
    begins = np.ones(len(order), bool)
    begins[1:] = sorted_values[1:] != sorted_values[:-1]
    first = np.flatnonzero(begins)
    group = np.cumsum(begins) - 1
    same = sorted_partners == sorted_partners[first[group]]
    is_single = np.logical_and.reduceat(same, first) if len(first) else same
    single = np.zeros(len(order), bool)
    single[order] = is_single[group]
    return single
