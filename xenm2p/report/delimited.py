"""Reporters csv and tsv: one header line, one line a row; absent is an empty cell.

So that a row is always one line, whatever reads it, control characters of task names are
spelled out as in text tables; jsonl has the names as they are.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from xenm2p.report.fields import Cell, Columns, TableSpec
from xenm2p.report.markup import printable


def write_csv(
    out: TextIO, table: TableSpec, header: Mapping[str, Any], batches: Iterable[Columns]
) -> None:
    """RFC 4180 with bare newlines. `header` has no place in it and is left out."""
    _write(out, table, batches, "excel")


def write_tsv(
    out: TextIO, table: TableSpec, header: Mapping[str, Any], batches: Iterable[Columns]
) -> None:
    """Tab-separated; a cell that holds a tab or a quote is quoted as in csv."""
    _write(out, table, batches, "excel-tab")


def _write(out: TextIO, table: TableSpec, batches: Iterable[Columns], dialect: str) -> None:
    writer = csv.writer(out, dialect=dialect, lineterminator="\n")
    writer.writerow([field.name for field in table.fields])
    for columns in batches:
        cells = [
            _cells(column, field.cell)
            for column, field in zip(columns, table.fields, strict=True)
        ]
        writer.writerows(zip(*cells, strict=True))


def _cells(column: list[Any], cell: Cell) -> list[Any]:
    """Values as csv spells them; None becomes an empty cell in csv.writer."""
    if cell is Cell.FLAG:
        return [None if value is None else "true" if value else "false" for value in column]
    if cell is Cell.TEXT:
        spelled = {value: value if value is None else printable(value) for value in set(column)}
        return [spelled[value] for value in column]
    if cell is Cell.LIST:
        return [" ".join(map(str, values)) for values in column]
    return column
