"""Folding a table to a width: long texts wrap, and what is still too wide is stacked."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

GAP = 2  # blanks between columns in tabulate's "simple"
HEADER_ROOM = 2  # tabulate.MIN_PADDING: a column is this much wider than its header
NARROWEST = 16  # a wrapped column is never made narrower than this
NUMBER = "#"

Table = tuple[list[str], list[list[str]]]


def fold_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], wrap: frozenset[str], width: int
) -> Iterator[Table]:
    """The table as one or more tables, none wider than `width` if its cells allow it.

    First the widest column of those in `wrap` is broken into lines; if that does not do,
    the columns are stacked: several tables, each row numbered in all of them.
    """
    widths = _widths(headers, rows)
    excess = sum(widths) + GAP * (len(widths) - 1) - width
    if excess <= 0:
        yield list(headers), [list(row) for row in rows]
        return
    candidates = [i for i, header in enumerate(headers) if header in wrap]
    widest = max(candidates, key=widths.__getitem__, default=None)
    if widest is not None and widths[widest] - excess >= max(
            NARROWEST, len(headers[widest]) + HEADER_ROOM):
        yield list(headers), _wrapped(rows, {widest: widths[widest] - excess})
        return
    yield from _stacked(headers, rows, candidates, widths, width)


def _stacked(
    headers: Sequence[str], rows: Sequence[Sequence[str]], candidates: list[int],
    widths: list[int], width: int,
) -> Iterator[Table]:
    number_width = max(len(NUMBER) + HEADER_ROOM, len(str(len(rows) - 1)))
    room = width - number_width
    groups: list[list[int]] = [[]]
    used = 0
    for i, column_width in enumerate(widths):
        needed = GAP + min(column_width, room - GAP)
        if groups[-1] and used + needed > room:
            groups.append([])
            used = 0
        groups[-1].append(i)
        used += needed
    narrowed = _wrapped(rows, {i: room - GAP for i in candidates if widths[i] > room - GAP})
    for group in groups:
        yield ([NUMBER, *(headers[i] for i in group)],
               [[str(n), *(row[i] for i in group)] for n, row in enumerate(narrowed)])


def _widths(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max([len(header) + HEADER_ROOM, *(len(row[i]) for row in rows)])
            for i, header in enumerate(headers)]


def _wrapped(rows: Sequence[Sequence[str]], widths: dict[int, int]) -> list[list[str]]:
    """The rows with the given columns broken into lines of at most so many characters."""
    return [
        ["\n".join(textwrap.wrap(cell, widths[i], break_on_hyphens=False)) if i in widths
         else cell for i, cell in enumerate(row)]
        for row in rows
    ]
