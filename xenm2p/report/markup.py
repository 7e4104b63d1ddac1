"""Text for people: blocks of a report, and tables through tabulate, in any markup.

A markup is a row of data (`plain`, `github` and so on, one file each); what a report says
is put together once, in blocks, and rendered in whichever was asked for.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from xenm2p.report.fields import Cell, Columns, Field, TableSpec
from xenm2p.report.fold import fold_table

Cells = Sequence[Sequence[str]]
ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Heading:
    """A title of its own."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """Short keys and what is said of each."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines that belong together, each a sentence or less."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Lines to be shown as they are: commands, a listing.

    `hanging`: where a markup has a width, long lines go on so far in; None: they are left.
    """

    lines: Sequence[str]
    hanging: int | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """A table of text cells.

    `wrap` names the columns that may be broken over lines, `right` those of numbers.
    """

    headers: Sequence[str]
    rows: Cells
    wrap: frozenset[str] = frozenset()
    right: frozenset[str] = frozenset()


Block = Heading | Items | Lines | Verbatim | Rows


@dataclass(frozen=True, slots=True)
class Markup:
    """How one markup writes a block.

    tablefmt: tabulate's name of it. escape: makes any text stand for itself, in running
    text; cell_escape the same in a table cell, for what tabulate does not escape itself.
    heading, items, lines, verbatim: from (escaped, for verbatim bare) text to markup.
    opening, closing: what stands around a whole document. width: columns a line may have.
    """

    name: str
    tablefmt: str
    escape: Callable[[str], str]
    cell_escape: Callable[[str], str]
    heading: Callable[[str], str]
    items: Callable[[Sequence[tuple[str, str]]], str]
    lines: Callable[[Sequence[str]], str]
    verbatim: Callable[[Sequence[str]], str]
    opening: str = ""
    closing: str = ""
    width: int | None = None


def printable(text: str) -> str:
    """`text` without control characters, which could steer a terminal or break a line.

    What is not printable comes out as Python spells it: ``\\n``, ``\\x1b``, ``\\u202e``.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def render(markup: Markup, blocks: Iterable[Block]) -> str:
    """The blocks as text in a markup, an empty line between them."""
    return "\n\n".join(_render_block(markup, block) for block in blocks) + "\n"


def _render_block(markup: Markup, block: Block) -> str:
    match block:
        case Heading(text):
            return markup.heading(markup.escape(printable(text)))
        case Items(items):
            return markup.items([(markup.escape(printable(key)), markup.escape(printable(text)))
                                 for key, text in items])
        case Lines(lines):
            return markup.lines([markup.escape(printable(line)) for line in lines])
        case Verbatim(lines, hanging):
            shown = [printable(line) for line in lines]
            if markup.width is not None and hanging is not None:
                shown = [piece for line in shown
                         for piece in _wrapped(markup.escape(line), markup.width, hanging)]
            return markup.verbatim(shown)
        case Rows():
            return render_table(markup, block)


def _wrapped(line: str, width: int, hanging: int) -> list[str]:
    """A line of a listing in pieces that leave room for the listing's own indent of two."""
    return textwrap.wrap(line, width - 2, subsequent_indent=" " * hanging,
                         break_on_hyphens=False)


def render_table(markup: Markup, table: Rows) -> str:
    """One table; where the markup has a width, folded to it."""
    rows = [[markup.cell_escape(printable(cell)) for cell in row] for row in table.rows]
    folded = ([(list(table.headers), rows)] if markup.width is None
              else fold_table(table.headers, rows, table.wrap, markup.width))
    return "\n\n".join(
        _tabulated([markup.cell_escape(header) for header in headers], some_rows,
                   ["right" if header in table.right else "left" for header in headers],
                   markup.tablefmt)
        for headers, some_rows in folded)


def _tabulated(
    headers: Sequence[str], rows: Cells, alignment: Sequence[str], tablefmt: str
) -> str:
    """A table through tabulate, lines without trailing blanks."""
    from tabulate import tabulate  # a slow import, which the machine formats never need

    # disable_numparse: else tabulate takes the frame 12e4 for the number 120000.
    text = tabulate(rows, headers, tablefmt=tablefmt, disable_numparse=True,
                    colalign=alignment if rows else None)
    return "\n".join(line.rstrip() for line in text.split("\n"))


def write_markup(
    out: TextIO, markup: Markup, table: TableSpec, header: Mapping[str, Any],
    batches: Iterable[Columns],
) -> None:
    """A table of a replay as a document; columns without any value are left out.

    The whole table is held in memory: its column widths depend on all of it. A table of
    one row stands upright, a line a column.
    """
    rows = [row for columns in batches for row in zip(*columns, strict=True)]
    used = [i for i, field in enumerate(table.fields)
            if any(_says_something(row[i], field) for row in rows)] or range(len(table.fields))
    headers = [table.fields[i].name for i in used]
    cells = [[as_text(row[i]) for i in used] for row in rows]
    if table.name == "summary":
        names_and_values = [pair for row in cells for pair in zip(headers, row, strict=True)]
        block = Rows(("name", "value"), names_and_values, wrap=frozenset({"value"}))
    else:
        wrap = frozenset(table.fields[i].name for i in used
                         if table.fields[i].cell in (Cell.TEXT, Cell.LIST))
        right = frozenset(table.fields[i].name for i in used
                          if table.fields[i].cell is Cell.NUMBER)
        block = Rows(headers, cells, wrap, right)
    out.write(markup.opening)
    out.write(render(markup, [block]))
    out.write(markup.closing)


def _says_something(value: Any, field: Field) -> bool:
    return not (value is None or value == [] or (field.rare and value is False))


def as_text(value: Any) -> str:
    """A cell's value as people read it."""
    if value is None or value == []:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)
