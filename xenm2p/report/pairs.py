"""A handful of named values in any format: what `info` and `check` have to say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from xenm2p.report.delimited import write_csv, write_tsv
from xenm2p.report.fields import Cell, Field, TableSpec
from xenm2p.report.formats import MARKUPS
from xenm2p.report.markup import Heading, Items, Lines, Rows, as_text, render

PAIRS = TableSpec("pairs", "named values", (
    Field("name", Cell.WORD, "name"), Field("value", Cell.TEXT, "value")))


def write_pairs(
    out: TextIO, format_: str, title: str, header: Mapping[str, Any],
    pairs: Sequence[tuple[str, Any]],
) -> None:
    """`title` and (name, value) pairs; json and jsonl give one object, header and values.

    A list of objects of the same keys is a table: text for people has it behind the rest.
    """
    if format_ in MARKUPS:
        markup = MARKUPS[format_]
        tables = [(name, value) for name, value in pairs if _is_table(value)]
        items = [(name.replace("_", " "), _text(member)) for name, value in pairs
                 if not _is_table(value)
                 for member in (value if isinstance(value, list) else [value])
                 if member is not None]
        out.write(markup.opening)
        out.write(render(markup, [Heading(title), Items(items),
                                  *(block for table in tables for block in _table(*table))]))
        out.write(markup.closing)
    elif format_ in ("json", "jsonl"):
        indent = 1 if format_ == "json" else None
        out.write(json.dumps({**header, **dict(pairs)}, indent=indent) + "\n")
    else:
        write = write_csv if format_ == "csv" else write_tsv
        columns = [list(column) for column in zip(*_single(pairs), strict=True)]
        write(out, PAIRS, header, [columns])


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _table(name: str, rows: list[dict[str, Any]]) -> tuple[Lines, Rows]:
    headers = [key.replace("_", " ") for key in rows[0]]
    numbers = frozenset(
        header for header, key in zip(headers, rows[0], strict=True)
        if all(isinstance(row[key], int | float | None) for row in rows))
    words = frozenset(
        header for header, key in zip(headers, rows[0], strict=True)
        if any(isinstance(row[key], str) and " " in row[key] for row in rows))
    cells = [["-" if cell is None else as_text(cell) for cell in row.values()] for row in rows]
    return Lines([f"{name.replace('_', ' ')}:"]), Rows(headers, cells, wrap=words, right=numbers)


def _single(pairs: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Lists as one pair for each of their members; what is nested as its own pairs."""
    flat: list[tuple[str, Any]] = []
    for name, value in pairs:
        if isinstance(value, list):
            flat += [(name, member) for member in value]
        elif isinstance(value, dict):
            flat += [(f"{name}.{key}", member) for key, member in value.items()]
        else:
            flat.append((name, value))
    return [(name, None if value is None else _text(value)) for name, value in flat]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {member}" for name, member in value.items()) or "none"
    return as_text(value)
