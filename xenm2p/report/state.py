"""What holds at one moment of a trace as tables, and two moments compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xenm2p.engine.replay import NO_EVENT
from xenm2p.engine.state import State
from xenm2p.report.fields import SIGN, STATE_TABLES, Cell, Columns, TableSpec
from xenm2p.report.markup import Block, Lines, Rows, as_text
from xenm2p.report.story import seconds
from xenm2p.trace import FRAME_MASK, INVALID, NO_DOMID, NO_HANDLE, NO_REF, Trace, format_frame

# What a comparison of two moments leaves out: it changes though the row does not.
_MOVES = {"overrides": ("place",)}

Row = tuple[Any, ...]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Holding:
    """Which rows to show; empty tuples ask for everything.

    A row without what is asked for, as a lock without a machine frame, is not shown.
    """

    pfns: tuple[Span, ...] = ()
    mfns: tuple[Span, ...] = ()
    domids: tuple[int, ...] = ()
    refs: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()

    def has(
        self, pfns: Sequence[int] = (), mfns: Sequence[int] = (), domid: int | None = None,
        ref: int | None = None, task: str | None = None,
    ) -> bool:
        """Whether a row of these pages, frames and so on is to be shown."""
        return (
            (not self.pfns or _any_within(pfns, self.pfns))
            and (not self.mfns or _any_within(mfns, self.mfns))
            and (not self.domids or domid in self.domids)
            and (not self.refs or ref in self.refs)
            and (not self.tasks or task in self.tasks)
        )


def _any_within(entries: Sequence[int], spans: Sequence[Span]) -> bool:
    return any(first <= entry & FRAME_MASK <= last for entry in entries if entry != INVALID
               for first, last in spans)


def state_rows(state: State, trace: Trace, holding: Holding) -> dict[str, list[Row]]:
    """The rows of each of `STATE_TABLES`, cells as the reporters want them."""
    return {name: list(_ROWS[name](state, trace, holding)) for name in STATE_TABLES}


def _p2m(state: State, trace: Trace, holding: Holding) -> Iterator[Row]:
    for each in state.p2m:
        if holding.has([each.index], [each.began, each.now]):
            yield format_frame(each.index), format_frame(each.began), format_frame(each.now)


def _m2p(state: State, trace: Trace, holding: Holding) -> Iterator[Row]:
    for each in state.m2p:
        if holding.has([each.began, each.now], [each.index]):
            yield format_frame(each.index), format_frame(each.began), format_frame(each.now)


def _overrides(state: State, trace: Trace, holding: Holding) -> Iterator[Row]:
    for each in state.overrides:
        if holding.has([each.pfn], [each.mfn]):
            yield (each.bucket, each.place, format_frame(each.pfn), format_frame(each.mfn),
                   None if each.map_event == NO_EVENT else each.map_event)


def _shares(state: State, trace: Trace, holding: Holding) -> Iterator[Row]:
    for each in state.shares:
        if holding.has([each.pfn], [each.mfn], each.domid, each.ref):
            yield (each.map_event, format_frame(each.pfn), format_frame(each.mfn),
                   _but(each.domid, NO_DOMID), _but(each.ref, NO_REF),
                   _but(each.handle, NO_HANDLE), bool(each.user), each.first_time)


def _locks(state: State, trace: Trace, holding: Holding) -> Iterator[Row]:
    for each in state.locks:
        task = trace.task_name(each.task)
        if holding.has([each.pfn], task=task):
            yield each.event, format_frame(each.pfn), task, each.time


def _grants(state: State, trace: Trace, holding: Holding) -> Iterator[Row]:
    for each in state.grants:
        task = trace.task_name(each.task)
        if holding.has((), [each.mfn], each.domid, each.ref, task):
            yield (each.event, each.ref, _but(each.domid, NO_DOMID), format_frame(each.mfn),
                   task, each.time)


_ROWS: dict[str, Callable[[State, Trace, Holding], Iterator[Row]]] = {
    "p2m": _p2m, "m2p": _m2p, "overrides": _overrides, "shares": _shares, "locks": _locks,
    "grants": _grants,
}


def _but(value: int, absent: int) -> int | None:
    return None if value == absent else value


def compared(name: str, before: Sequence[Row], after: Sequence[Row]) -> list[Row]:
    """The rows of table `name` that only one of two moments has, each behind - or +."""
    moving = [i for i, field in enumerate(STATE_TABLES[name].fields)
              if field.name in _MOVES.get(name, ())]

    def fixed(row: Row) -> Row:
        return tuple(cell for i, cell in enumerate(row) if i not in moving)

    old, new = set(map(fixed, before)), set(map(fixed, after))
    rows = [("-", *row) for row in before if fixed(row) not in new]
    rows += [("+", *row) for row in after if fixed(row) not in old]
    # A p2m entry stands under what it was; all else in the order of its first cell.
    return sorted(rows, key=lambda row: _order(row[1]))


def _order(cell: Any) -> int:
    return int(cell, 16) if isinstance(cell, str) and cell.startswith("0x") else (
        cell if isinstance(cell, int) else -1)


def with_sign(table: TableSpec) -> TableSpec:
    """The table of two moments compared."""
    return replace(table, fields=(SIGN, *table.fields))


def columns_of(rows: Sequence[Row], table: TableSpec) -> Columns:
    """Rows as columns."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [
        [] for _ in table.fields]


def moment(state: State) -> str:
    """When a state holds, in words."""
    if state.event == NO_EVENT:
        return "before the first event"
    return f"after event {state.event}, {seconds(state.time)} s"


def table_blocks(table: TableSpec, rows: Sequence[Row]) -> Iterator[Block]:
    """One table under its name; columns without any value are left out."""
    yield Lines([f"{table.help}: {len(rows)}"])
    if not rows:
        return
    used = [i for i in range(len(table.fields)) if any(row[i] is not None for row in rows)]
    fields = [table.fields[i] for i in used]
    yield Rows([field.name for field in fields],
               [[as_text(row[i]) for i in used] for row in rows],
               wrap=frozenset(field.name for field in fields if field.cell is Cell.TEXT),
               right=frozenset(field.name for field in fields if field.cell is Cell.NUMBER))
