"""Copies of a trace in which every number given out by chance is another."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np

from xenm2p.compare.alignment import Run
from xenm2p.trace import COLUMNS, FOREIGN, IDENTITY, Column, Events, Kind, Trace

_BITS = np.uint64(FOREIGN | IDENTITY)


def renamed(events: Events, seed: int) -> Events:
    """All pages, frames, refs, handles, calls, tasks, domains and times one to one others."""
    dice = Random(seed)
    columns = events.columns()
    for name in ("pfn", "mfn", "ref", "handle", "call", "task", "domid"):
        column = columns[name].copy()
        known = column != np.array(COLUMNS[name].absent).astype(column.dtype)
        if name == "ref":
            known &= events.kind != Kind.LOST
        columns[name] = _mapped(column, known, dice)
    _, place = np.unique(events.time, return_inverse=True)
    steps = np.cumsum([dice.randrange(1, 1000) for _ in range(int(place.max(initial=-1)) + 1)])
    columns["time"] = steps.astype(np.int64)[place] if len(place) else events.time
    return Events(**columns)


def _mapped(column: Column, known: Column, dice: Random) -> Column:
    values = column[known]
    bits = np.zeros_like(values)
    if column.dtype == np.uint64:
        bits = values & _BITS
        values = values & ~_BITS
    distinct, back = np.unique(values, return_inverse=True)
    others = dice.sample(range(min(1 << 15, max(1000, 4 * len(distinct)))
                               if len(distinct) < 4000 else 4 * len(distinct)), len(distinct))
    column[known] = np.array(others).astype(column.dtype)[back] | bits if len(values) else []
    return column


def shuffled(trace: Trace, seed: int) -> Trace:
    """A renamed copy of a whole trace; the domains stay, as the trace's own is one of them."""
    events = trace.events()
    copy = replace_columns(renamed(events, seed), domid=events.domid)
    return Trace.of_events(copy, domain=trace.domain, kernel=trace.kernel)


def replace_columns(events: Events, **columns: Column) -> Events:
    """The events with some columns given anew."""
    return replace(events, **columns)


def run_of(trace: Trace) -> Run:
    """A trace as one of the two to compare."""
    return Run(trace, trace.events())


def run_of_events(events: Events, like: Trace) -> Run:
    """Other events of the same machine."""
    return Run(Trace.of_events(events, domain=like.domain, tasks=like.tasks), events)
